"""Access tokens: made for principals, and checked with each call."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from cloudtasks_nb.emulator.strict.state import CLOUD_PLATFORM, GoogleState, member_of, name_of

__all__ = ["AccessTokens", "Caller", "InvalidTokenError"]

_PREFIX = "ya29."
_LOCAL = ("localhost", "127.0.0.1", "::1")  # what clients call the emulator
_MAX_JWT = 3600 + 300  # seconds of life
_SKEW = 60  # seconds that clocks may differ: https://developers.google.com/identity/protocols/oauth2/service-account
_ANY_TIME = 10**11  # seconds: google-auth shall not check the times, because Google's clock may differ from this one


class InvalidTokenError(Exception):
    """A token is not valid; `reason` is the one of `google.api.ErrorReason`."""

    def __init__(self, message: str, reason: str = "ACCESS_TOKEN_TYPE_UNSUPPORTED") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who has sent a call."""

    member: str  #: as in policies: ``user:ann@example.com``
    scopes: frozenset[str]
    gcloud: bool = False  #: with the login that gcloud writes, whose calls count for a project that they name


class AccessTokens:
    """Makes and checks tokens.

    Parameters
    ----------
    state : GoogleState
        The principals and their keys.
    clock : callable
        Returns seconds since 1970. It is not the emulator's clock, which tests move: the clients do not know that one.
    """

    def __init__(self, state: GoogleState, clock: Callable[[], float] = time.time) -> None:
        self._state = state
        self._clock = clock

    def now(self) -> float:
        """Return the time of Google's clock in seconds since 1970."""
        return self._clock() + self._state.conditions.clock_offset_s

    def issue(
        self, member: str, scopes: Iterable[str], lifetime: int | None = None, *, gcloud: bool = False
    ) -> tuple[str, int]:
        """Return an access token of a member, and its lifetime in seconds."""
        lifetime = lifetime or self._state.conditions.token_lifetime_s
        claims = {
            "member": member,
            "scopes": sorted(scopes),
            "exp": self._clock() + lifetime,
            "generation": self._generation(member),
            "gcloud": gcloud,
        }
        body = base64.urlsafe_b64encode(orjson.dumps(claims)).decode().rstrip("=")
        return f"{_PREFIX}{body}.{self._mac(body)}", lifetime

    def caller(self, token: str, service: str) -> Caller:
        """Return who a bearer token belongs to: an access token, or a JWT that a service account has signed itself.

        Parameters
        ----------
        token : str
            The token.
        service : str
            Host of the called service at Google, which such a JWT names.

        Raises
        ------
        InvalidTokenError
            If it is not valid.
        """
        if not token.startswith(_PREFIX):
            return self._self_signed(token, service)
        body, _, mac = token.removeprefix(_PREFIX).partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(body).encode()):
            raise InvalidTokenError("not a token of this emulator")
        claims: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        member = claims["member"]
        if self._clock() >= claims["exp"] or claims["generation"] != self._generation(member):
            raise InvalidTokenError("expired or revoked", "ACCESS_TOKEN_EXPIRED")
        return Caller(member=member, scopes=frozenset(claims["scopes"]), gcloud=claims["gcloud"])

    def assertion(self, token: str) -> dict[str, Any]:
        """Return the claims of a JWT that a service account has signed.

        Raises
        ------
        InvalidTokenError
            With the text that Google answers.
        """
        try:
            claims = _decode(token, verify=False)
        except ValueError as error:
            raise InvalidTokenError("Invalid JWT: Failed audience check.") from error
        account = self._state.principals.get(str(claims.get("iss")))
        if account is None:
            raise InvalidTokenError("Invalid grant: account not found")
        try:
            _decode(token, account.keys)
            issued, expires, now = float(claims["iat"]), float(claims["exp"]), self.now()
        except (ValueError, TypeError) as error:
            raise InvalidTokenError("Invalid JWT Signature.") from error
        if issued > now + _SKEW or expires < now - _SKEW or expires - issued > _MAX_JWT:
            raise InvalidTokenError(
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
                "Check your iat and exp values in the JWT claim.",
                "ACCESS_TOKEN_EXPIRED",
            )
        return claims

    def email_of_id_token(self, token: str, certificates: dict[str, str], audiences: list[str]) -> str:
        """Return the service account of an OIDC token.

        Raises
        ------
        InvalidTokenError
            If it was not signed with the certificates, or is meant for others.
        """
        try:
            claims = _decode(token, certificates, audience=audiences)
        except (ValueError, TypeError) as error:
            raise InvalidTokenError("The access token could not be verified") from error
        return str(claims["email"])

    def _self_signed(self, token: str, service: str) -> Caller:
        """Check a self-signed JWT (https://google.aip.dev/auth/4111): it names the service, or has scopes."""
        claims = self.assertion(token)
        scopes = frozenset(str(claims.get("scope", "")).split())
        audience = urlsplit(str(claims.get("aud", ""))).hostname
        if not scopes and audience in {service, *_LOCAL}:
            scopes = frozenset({CLOUD_PLATFORM})
        return Caller(member=member_of(claims["iss"]), scopes=scopes)

    def _generation(self, member: str) -> int:
        principal = self._state.principals.get(name_of(member))
        return principal.generation if principal else -1

    def _mac(self, body: str) -> str:
        return hmac.new(self._state.secret.encode(), body.encode(), hashlib.sha256).hexdigest()


def _decode(token: str, certificates: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """Return the claims of a JWT; an invalid one is a `ValueError` or a `TypeError`."""
    import google.auth.exceptions  # noqa: PLC0415 - with --strict only, and an emulator starts sooner without it
    import google.auth.jwt  # noqa: PLC0415 - the same

    try:
        return dict(google.auth.jwt.decode(token, certificates, clock_skew_in_seconds=_ANY_TIME, **options))
    except google.auth.exceptions.GoogleAuthError as error:
        raise ValueError(str(error)) from error
