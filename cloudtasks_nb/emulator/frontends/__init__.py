"""The network interfaces of an emulator: gRPC, REST, the endpoints for tests, and leases.

Knows the engine, the calls by their names, paths and ports. Does not know what a call does, or when a task is due.
"""
