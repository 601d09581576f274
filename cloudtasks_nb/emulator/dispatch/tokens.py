"""Signs OIDC tokens like Google's with the emulator's own key, and publishes the key that verifies them."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID

from cloudtasks_nb.errors import InvalidInputError

__all__ = ["TokenSigner", "private_pem"]

_LIFE = 3600  # seconds
# Seconds for which a cached token is used again: signing one costs more than the rest of an attempt.
_REUSED_FOR = 60
_MAX_CACHED = 1000
# The certificate is valid at every time, because the machine's clock may be moved.
# The last second of the year 9999 means that a certificate does not expire (RFC 5280, 4.1.2.5).
_FIRST_DAY = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class TokenSigner:
    """Makes the `Authorization` headers of requests.

    Parameters
    ----------
    folder : Path
        Where the key is kept, so that tokens can be verified after a restart.
    issuer : str
        The claim `iss`.
    clock : callable
        Returns seconds since 1970, for the claims `iat` and `exp`. It is not the emulator's clock, which can be moved:
        those who check tokens use the clock of the machine.
    key_file : Path, optional
        The key, in PEM, in place of the folder's own.

    Raises
    ------
    InvalidInputError
        If there is no RSA key in `key_file`.
    """

    def __init__(
        self, folder: Path, issuer: str, clock: Callable[[], float] = time.time, key_file: Path | None = None
    ) -> None:
        self._file = folder / "signing-key.pem"
        self._issuer = issuer
        self._clock = clock
        self._made: dict[tuple[str, str], tuple[int, str]] = {}  # (account, audience) -> (issued at, token)
        if key_file is not None:
            self._key = _read_key(key_file)

    def authorize(self, setting: Any, url: str) -> str | None:
        """Return the header for the `oidc_token` or `oauth_token` of a message; None if it has neither.

        Parameters
        ----------
        setting : HttpRequest or HttpTarget
            Names the service account.
        url : str
            The URL of the request; it is the audience of an OIDC token whose setting has no audience.
        """
        kind = setting.WhichOneof("authorization_header")
        if kind == "oidc_token":
            token = setting.oidc_token
            return f"Bearer {self.id_token(token.service_account_email, token.audience or url)}"
        if kind == "oauth_token":
            email, scope = setting.oauth_token.service_account_email, setting.oauth_token.scope
            # Receivers treat an access token as opaque text. The same account and scope give the same token.
            return f"Bearer ya29.{hashlib.sha256(f'{email} {scope}'.encode()).hexdigest()}"
        return None

    def id_token(self, email: str, audience: str) -> str:
        """Return an OIDC token of a service account."""
        now = int(self._clock())
        issued_at, token = self._made.get((email, audience), (0, ""))
        if 0 <= now - issued_at < _REUSED_FOR:  # a clock that was set back leaves tokens of the future
            return token
        if len(self._made) >= _MAX_CACHED:
            self._made.clear()
        token = self._signed(_claims(self._issuer, email, audience, now))
        self._made[email, audience] = now, token
        return token

    def certificates(self) -> dict[str, str]:
        """Return PEM certificates by key id, as Google does at ``/oauth2/v1/certs``."""
        return {self._key_id: self._certificate}

    def keys(self) -> dict[str, Any]:
        """Return the JSON Web Key Set, as Google does at ``/oauth2/v3/certs``."""
        public = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self._key_id}
        return {"keys": [key | {"n": _base64_number(public.n), "e": _base64_number(public.e)}]}

    def discovery(self, base: str) -> dict[str, Any]:
        """Return the OpenID configuration.

        Parameters
        ----------
        base : str
            URL of the emulator.
        """
        return {
            "issuer": self._issuer,
            "jwks_uri": f"{base}/oauth2/v3/certs",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "claims_supported": ["aud", "azp", "email", "email_verified", "exp", "iat", "iss", "sub"],
        }

    def _signed(self, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": self._key_id, "typ": "JWT"}
        signed = f"{_base64(orjson.dumps(header))}.{_base64(orjson.dumps(claims))}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    @cached_property
    def _key(self) -> rsa.RSAPrivateKey:
        if self._file.exists():
            return _read_key(self._file)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._file.touch(mode=0o600)
        self._file.write_bytes(private_pem(key))
        return key

    @cached_property
    def _key_id(self) -> str:
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(public).hexdigest()[:40]

    @cached_property
    def _certificate(self) -> str:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloudtasks-emulator")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FIRST_DAY)
            .not_valid_after(_LAST_DAY)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key in PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(file: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a private key in PEM without a password"
        raise _bad_key(file, str(why)) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _bad_key(file, "it is not an RSA key, which tokens with RS256 need")
    return key


def _bad_key(file: Path, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"the signing key {file} cannot be used: {why}",
        resource=str(file),
        hint=f"openssl genrsa -out {file} 2048 makes one",
    )


def _claims(issuer: str, email: str, audience: str, now: int) -> dict[str, Any]:
    # A service account's unique id has 21 digits; this one is derived from its e-mail address.
    unique = "1" + str(int(hashlib.sha256(email.encode()).hexdigest(), 16))[:20]
    return {
        "aud": audience,
        "azp": unique,
        "email": email,
        "email_verified": True,
        "exp": now + _LIFE,
        "iat": now,
        "iss": issuer,
        "sub": unique,
    }


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _base64_number(number: int) -> str:
    return _base64(number.to_bytes((number.bit_length() + 7) // 8, "big"))
