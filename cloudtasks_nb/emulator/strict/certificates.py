"""The certificate authority of a strict emulator, and the certificate of its servers."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from cloudtasks_nb.errors import InvalidInputError

__all__ = ["ServerCertificate", "server_certificate", "write_key"]

_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """The files of a server certificate."""

    ca: Path  #: certificate of the authority, which clients trust
    certificate: Path
    key: Path

    def credentials(self) -> grpc.ServerCredentials:
        """Return the TLS settings of a gRPC server."""
        return grpc.ssl_server_credentials([(self.key.read_bytes(), self.certificate.read_bytes())])

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings of an HTTPS server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        return context


def server_certificate(folder: Path, hosts: Iterable[str]) -> ServerCertificate:
    """Sign a certificate for these hosts and the names of this machine; the authority is made if there is none.

    Parameters
    ----------
    folder : Path
        Has ``ca.pem`` and ``ca-key.pem`` afterwards, and ``server.pem`` and ``server-key.pem``.
    hosts : iterable of str
        Names or addresses.

    Raises
    ------
    InvalidInputError
        If a certificate cannot have one of the names, such as one with an underscore.
    """
    files = ServerCertificate(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server-key.pem")
    ca_key = folder / "ca-key.pem"
    if files.ca.exists() and ca_key.exists():
        authority = trustme.CA.from_pem(files.ca.read_bytes(), ca_key.read_bytes())
    else:
        authority = trustme.CA(organization_name="cloudtasks-nb emulator CA")
        write_key(ca_key, authority.private_key_pem.bytes())
        files.ca.write_bytes(authority.cert_pem.bytes())
    # The certificates of trustme are valid for centuries: the clock of the machine may be moved.
    names = list(dict.fromkeys((*_NAMES, *hosts)))
    try:
        server = authority.issue_cert(*names, organization_name="cloudtasks-nb emulator")
    except UnicodeError as error:
        raise InvalidInputError(f"a certificate cannot be for {', '.join(names)}: {error}") from error
    write_key(files.key, server.private_key_pem.bytes())
    files.certificate.write_bytes(b"".join(part.bytes() for part in server.cert_chain_pems))
    return files


def write_key(file: Path, key: bytes) -> Path:
    """Write a file that only its owner can read, and return it."""
    file.touch(mode=0o600)
    file.write_bytes(key)
    return file
