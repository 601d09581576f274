"""The input fields of panels, which become parameters and Python source."""
