"""Turn the rows of a DataFrame into tasks, send them, and track their outcomes."""
