"""What a queue, a task and an attempt are, and the arithmetic of their times.

Knows the API's messages, limits and defaults, and which requests are refused. Does not know the disk, the network, or
what else there is besides the queue or task in hand.
"""
