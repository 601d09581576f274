"""What ``--strict`` adds to an emulator: access as Google controls it, and Google's other services.

TLS certificates, tokens, roles, and the texts of refusals; OAuth, IAM, the metadata server and Cloud Run. `parts` puts
them in the place of what an emulator without the option has.
"""
