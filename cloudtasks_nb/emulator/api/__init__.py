"""The calls of the API by their names: bytes of a request in, bytes of an answer or a refusal out.

Knows the rooms before it, as one engine, and both versions of the API. Does not know over which protocol it is called:
neither gRPC nor HTTP.
"""
