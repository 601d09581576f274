"""Sends due tasks as HTTP requests and records the results.

Knows the store, targets, tokens, and each queue's rate and concurrency limits. Does not know the calls of the API.
"""
