"""Rows of a DataFrame become requests.

Knows the data, the templates, and the service's limits on one task. Does not know the time (it is given), the disk,
the network, or which rows were sent before.
"""
