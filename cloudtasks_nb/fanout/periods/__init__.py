"""A range of dates becomes rows: its periods on the clock of one time zone, each also with other values.

Knows frequencies, zones and boundaries. Does not know batches, tasks or templates: its rows are those of any DataFrame.
"""
