"""Due tasks become HTTP requests, and their answers transitions.

Knows the store, targets, tokens, and each queue's rate and concurrency. Does not know the calls of the API, or who made
a task.
"""
