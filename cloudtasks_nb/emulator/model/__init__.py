"""Queues, tasks and attempts as values, and the arithmetic of their times.

Knows the API's messages, limits and defaults, and which requests are refused. Does not know the disk, the network or
other queues and tasks than the given one.
"""
