"""The network interfaces of an emulator: gRPC, REST and the other routes of its HTTP port.

Pass calls, by their names and paths, to the engine; independent of what a call does and of when a task is due.
"""
