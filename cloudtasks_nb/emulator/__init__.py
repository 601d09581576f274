"""A complete local Cloud Tasks: ``python -m cloudtasks_nb.emulator``."""
