"""Access as Google controls it, for an emulator with ``--strict``.

TLS certificates, tokens, roles, and the texts of refusals.
"""
