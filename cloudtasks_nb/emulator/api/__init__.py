"""The RPCs by their names: each takes a request message, and returns a serialized response or refuses the request.

Uses the engine's parts and both versions of the API; the same for calls over gRPC and over HTTP.
"""
