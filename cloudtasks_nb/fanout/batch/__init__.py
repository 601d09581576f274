"""Track the rows of a batch, store the outcome of each, and offer the methods of a batch.

Uses the packages below it and the snapshots of the queue watcher. Independent of how the log is read, and of how
requests are stored and sent.
"""
