"""The checks of `doctor()`, and what they share."""
