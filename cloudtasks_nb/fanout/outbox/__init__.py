"""Store requests before they are sent, and their outcomes.

Handles rows, keys, tries, states and requests in a SQLite file that processes share. Independent of pandas, protobuf,
the network, and the reasons for a row's state.
"""
