"""Requests are kept before they are sent, and what became of them.

Knows rows, keys, tries, states and requests, SQLite, and that other processes share the file. Does not know pandas,
protobuf, the network, or why a row is in a state.
"""
