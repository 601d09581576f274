"""The RPCs by their names: each takes a serialized request, and returns a serialized response or refuses the request.

Knows the engine's parts and both versions of the API. Does not know whether a call came by gRPC or by HTTP.
"""
