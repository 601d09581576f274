"""Follow the rows of a batch, store what became of each, and offer the verbs on a batch.

Knows the packages below it, the rule of outcomes and the snapshots of the queue watcher. Does not know how the log is
read, how requests are stored, or how they are sent.
"""
