"""A certificate authority and the certificates of servers on this machine, for tests of TLS."""

import ssl
from pathlib import Path

import grpc
import trustme


class Authority:
    """An authority with one server certificate, for ``127.0.0.1``, ``localhost`` and `hosts`; `ca` is to be trusted."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self._server = authority.issue_cert("127.0.0.1", "localhost", *hosts)

    def grpc(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server."""
        chain = b"".join(certificate.bytes() for certificate in self._server.cert_chain_pems)
        return grpc.ssl_server_credentials([(self._server.private_key_pem.bytes(), chain)])

    def context(self) -> ssl.SSLContext:
        """Return the context of an HTTPS server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        return context
