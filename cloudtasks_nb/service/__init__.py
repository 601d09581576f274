"""The service boundary: credentials, RPCs, channels, conversion, the operations log and its watcher."""
