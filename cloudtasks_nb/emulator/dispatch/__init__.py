"""Sends due tasks as HTTP requests and records the results.

Handles targets, tokens, and each queue's rate and concurrency limits; independent of the API's calls.
"""
