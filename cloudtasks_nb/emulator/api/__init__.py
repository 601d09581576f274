"""The RPCs by their names: the bytes of a request in, the bytes of an answer or a refusal out.

Knows the engine's parts and both versions of the API. Does not know whether a call came by gRPC or by HTTP.
"""
