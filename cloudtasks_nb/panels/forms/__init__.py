"""The input fields of panels, and the parameters and Python source that they stand for."""
