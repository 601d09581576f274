"""The service boundary: the endpoint, credentials, RPCs, channels, conversion, the operations log and its watcher."""

import os

__all__: list[str] = []

# gRPC prepares for each fork, and prints a warning if one of its threads is busy, as behind `!command` in a notebook.
# Calls in a forked process are refused by `transport`, so nothing needs this. gRPC reads the variable once, when it is
# imported: https://github.com/grpc/grpc/blob/master/doc/fork_support.md.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
