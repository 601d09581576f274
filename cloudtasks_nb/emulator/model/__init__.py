"""Queues, tasks and attempts as values, and the arithmetic of their times.

Define the API's messages, limits and defaults, and which requests are refused. Each function handles the given queue
or task alone, without disk or network.
"""
