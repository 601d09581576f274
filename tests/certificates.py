"""A certificate authority and the certificate of a server on this machine, for tests of TLS."""

from __future__ import annotations

from pathlib import Path

import grpc

from cloudtasks_nb.emulator.access.certificates import server_certificate

__all__ = ["Authority"]


class Authority:
    """An authority with one server certificate, for this machine and `hosts`, as an emulator makes; trust `ca`."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._files = server_certificate(folder, hosts)
        self.ca = self._files.ca
        self.context = self._files.context

    def grpc(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server."""
        return grpc.ssl_server_credentials([(self._files.key.read_bytes(), self._files.certificate.read_bytes())])
