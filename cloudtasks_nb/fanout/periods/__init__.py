"""Split a range of dates into periods in one time zone; each row is a period, optionally crossed with other values.

Handles frequencies, time zones and boundaries; independent of batches, tasks and templates.
"""
