"""Queues, tasks and the operations log are kept: a state machine in memory, with SQLite behind it.

Knows every transition of a task, and when what was acknowledged is on the disk. Does not know the network, who calls,
or why an attempt is made now.
"""
