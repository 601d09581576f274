"""Keeps queues, tasks and the operations log: a state machine in memory, with SQLite behind it.

Makes every transition of a task, and reports when a change is on the disk. Independent of the network, the callers,
and the schedule of attempts.
"""
