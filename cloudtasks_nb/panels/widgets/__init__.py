"""The widgets that panels are made of."""
