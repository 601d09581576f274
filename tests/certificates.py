"""A certificate authority and the certificates of servers on this machine, for tests of TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Authority"]

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass
class Authority:
    """An authority with one server certificate, for ``127.0.0.1``, ``localhost`` and `hosts`; `ca` is to be trusted."""

    folder: Path
    hosts: Sequence[str] = ()
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        """Write the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ca, self.chain, self.secret = (self.folder / name for name in ("ca.pem", "server.pem", "server.key"))
        authority = (
            x509.BasicConstraints(ca=True, path_length=None),
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()),
            x509.KeyUsage(**{**dict.fromkeys(_USAGES, False), "key_cert_sign": True}),
        )
        self.ca.write_bytes(self._signed("test authority", self.key.public_key(), *authority))
        server = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host) for host in ("localhost", *self.hosts)]
        hosts = x509.SubjectAlternativeName([*names, x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        self.chain.write_bytes(self._signed("test server", server.public_key(), hosts, issuer))
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.secret.write_bytes(server.private_bytes(*pem))

    def _signed(self, name: str, key: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        today = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("test authority"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - dt.timedelta(days=1))
            .not_valid_after(today + dt.timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def grpc(self) -> grpc.ServerCredentials:
        """Return the credentials of a gRPC server."""
        return grpc.ssl_server_credentials([(self.secret.read_bytes(), self.chain.read_bytes())])

    def context(self) -> ssl.SSLContext:
        """Return the context of an HTTPS server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.secret)
        return context
