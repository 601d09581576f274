"""Kept requests are sent in the background.

Knows requests and acknowledgements, errors, backoff and pace. Does not know what a row means, or what became of a task
after it was created.
"""
