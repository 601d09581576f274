"""The certificate authority of a strict emulator, and the certificate of its servers."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudtasks_nb.emulator.dispatch.tokens import private_pem

__all__ = ["ServerCertificate", "server_certificate"]

_NAMES = ("localhost", "127.0.0.1", "::1")
# Certificates are valid at every time: the clock of the machine may be moved, and a test may move the emulator's.
_FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(2049, 12, 31, tzinfo=UTC)
#: What the key of the authority is not for.
_OTHER_USES = (
    *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """The files of a server certificate."""

    ca: Path  #: certificate of the authority, which clients trust
    certificate: Path
    key: Path

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
    """
    files = ServerCertificate(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server-key.pem")
    ca_key_file = folder / "ca-key.pem"
    if not (files.ca.exists() and ca_key_file.exists()):
        _make_authority(files.ca, ca_key_file)
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{ca_key_file} has no key of an elliptic curve")
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys((*_NAMES, *hosts))])
    builder = (
        _builder("cloudtasks-nb emulator", ca.subject, key.public_key(), ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
    )
    _write_key(files.key, key)
    files.certificate.write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return files


def _make_authority(file: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = "cloudtasks-nb emulator CA"
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        **dict.fromkeys(_OTHER_USES, False),
    )
    builder = (
        _builder(name, _subject(name), key.public_key(), key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    _write_key(key_file, key)
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, issuer_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FIRST_DAY)
        .not_valid_after(_LAST_DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    file.touch(mode=0o600)
    file.write_bytes(private_pem(key))
