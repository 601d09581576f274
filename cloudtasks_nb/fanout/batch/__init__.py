"""What became of each row, what can be done about it, and all of that in the analyst's hand.

Knows the rooms before it, the outcome rule and the snapshots of the one watcher. Does not know how the log is read, how
requests are kept, or how they are sent.
"""
