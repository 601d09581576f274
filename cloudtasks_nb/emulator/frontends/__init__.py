"""The network interfaces of an emulator: gRPC, REST, the endpoints for tests, and leases.

Pass calls, by their names and paths, to the engine; independent of what a call does and of when a task is due.
"""
