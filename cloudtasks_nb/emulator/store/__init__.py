"""Keeps queues, tasks and the operations log: a state machine in memory, with SQLite behind it.

Knows every transition of a task, and when a change is on the disk. Does not know the network, the callers, or why an
attempt is made now.
"""
