"""Text, HTML and progress bars that objects and verbs show."""
