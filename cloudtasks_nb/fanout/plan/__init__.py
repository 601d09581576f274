"""Turn the rows of a DataFrame into requests.

Handles the data, the templates, and the service's limits on one task. Independent of the clock (the time is given),
the disk, the network, and earlier batches.
"""
