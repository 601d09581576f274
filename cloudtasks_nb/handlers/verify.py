"""Who may call: the OIDC token that Cloud Tasks sends along, verified by google-auth."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from google.auth import exceptions, jwt
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.handlers.guard import Refusal

__all__ = ["GOOGLE_CERTS", "Certificates", "Verifier"]

#: Where Google publishes the certificates of its ID tokens.
GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"

_GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
_CLOCK_SKEW = 10  # seconds between the issuer's clock and ours
_FETCH_TIMEOUT = 5.0
_MAX_AGE = re.compile(r"max-age=(\d+)")
_DEFAULT_AGE = 300.0  # seconds for which certificates without an expiry are kept
_REST = 5.0  # seconds between two fetches that a token with an unknown key, or a failure, may cause


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetched:
    response: Any  #: what google-auth wants: status, headers, data
    at: float
    until: float
    keys: frozenset[str]


class Certificates:
    """A memory before google-auth's HTTP transport: one thread fetches certificates, and only when they have expired.

    Parameters
    ----------
    fetch : callable
        Gets a URL; returns a `google.auth.transport.Response` or raises TransportError.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, fetch: Callable[[str], Any] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch or _get
        self._clock = clock
        self._lock = threading.Lock()
        self._fetched: dict[str, _Fetched] = {}
        self._failed: dict[str, tuple[float, str]] = {}

    def get(self, url: str, key: str | None = None) -> Any:
        """Return the answer that has the certificates; a new one if `key` is not among them, as keys are rotated.

        Raises
        ------
        google.auth.exceptions.TransportError
            If they cannot be fetched; again for a few seconds, so that callers do not wait for one timeout each.
        """
        with self._lock:
            now = self._clock()
            known = self._fetched.get(url)
            if known is not None and now < known.until:
                missing = key is not None and key not in known.keys
                if not missing or now < known.at + _REST:
                    return known.response
            at, reason = self._failed.get(url, (-math.inf, ""))
            if now < at + _REST:
                raise exceptions.TransportError(reason)
            try:
                response = self._fetch(url)
            except exceptions.TransportError as error:
                self._failed[url] = (self._clock(), str(error))
                raise
            now = self._clock()
            self._fetched[url] = _Fetched(
                response=response, at=now, until=now + _lifetime(response), keys=_key_ids(response)
            )
            return response


class Verifier:
    """Lets the tokens of one service account for one audience pass.

    Parameters
    ----------
    service_account : str
        E-mail of the account whose token it must be; any account can get a token for any audience.
    audience : str
        What the token must have been issued for.
    certs_url : callable
        Returns where the issuer publishes its certificates, None for Google. Asked each time: an emulator that was
        started again publishes them elsewhere.
    certificates : Certificates, optional
        Their memory.
    """

    def __init__(
        self,
        *,
        service_account: str,
        audience: str,
        certs_url: Callable[[], str | None],
        certificates: Certificates | None = None,
    ) -> None:
        self.service_account = service_account
        self.audience = audience
        self._certs_url = certs_url
        self._certificates = certificates or Certificates()

    def check(self, authorization: str | None) -> Refusal | None:
        """Say why the value of an Authorization header does not permit a call; None: it does. May fetch, so block."""
        kind, _, token = (authorization or "").strip().partition(" ")
        if kind.lower() != "bearer" or not token:
            return Refusal(status=401, reason="the request has no Bearer token")
        try:
            url = self._certs_url() or GOOGLE_CERTS
            claims = self._claims(token.strip(), url)
        except (exceptions.TransportError, CloudTasksError) as error:
            # Not the token's fault; 500, because 503 would slow the queue down.
            return Refusal(status=500, reason=f"the certificates to verify the token cannot be fetched: {error}")
        except exceptions.InvalidValue as error:
            return Refusal(status=401, reason=f"the token is not valid: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a hostile token provokes is a refusal
            # Without the error's text: it may repeat the token.
            return Refusal(
                status=401, reason=f"the token is malformed or not signed by the issuer ({type(error).__name__})"
            )
        return self._stranger(claims, url)

    def _claims(self, token: str, url: str) -> Any:
        # The header is not trusted yet; it only says whether our certificates are of before a change of keys.
        response = self._certificates.get(url, jwt.decode_header(token).get("kid"))
        return id_token.verify_token(
            token,
            lambda *_args, **_kwargs: response,  # type: ignore[arg-type]  # all that is asked of a Request is to be called
            audience=self.audience,
            certs_url=url,
            clock_skew_in_seconds=_CLOCK_SKEW,
        )

    def _stranger(self, claims: Any, url: str) -> Refusal | None:
        if url == GOOGLE_CERTS and claims.get("iss") not in _GOOGLE_ISSUERS:
            return Refusal(status=401, reason=f"the token was issued by {claims.get('iss')}, not by Google")
        if claims.get("email") != self.service_account:
            return Refusal(
                status=403, reason=f"the token is of {claims.get('email')}; only {self.service_account} may call"
            )
        if claims.get("email_verified") is not True:
            return Refusal(status=403, reason=f"the e-mail of the token, {claims['email']}, is not verified")
        return None


def _get(url: str) -> Any:
    request = Request()
    # A proxy of the environment does not know our loopback.
    request.session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}
    try:
        response = request(url, method="GET", timeout=_FETCH_TIMEOUT)
    finally:
        request.session.close()
    if response.status != 200:  # noqa: PLR2004 - HTTP's OK; a bad answer must not be remembered
        raise exceptions.TransportError(f"{url} answered {response.status}")
    return response


def _lifetime(response: Any) -> float:
    """Return for how many seconds an answer may be kept, by its Cache-Control and Age headers."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    control = headers.get("cache-control", "").lower()
    if "no-store" in control or "no-cache" in control:
        return 0.0
    found = _MAX_AGE.search(control)
    if found is None:
        return _DEFAULT_AGE
    age = headers.get("age", "0").strip()
    return max(0.0, float(found[1]) - (int(age) if age.isdigit() else 0))


def _key_ids(response: Any) -> frozenset[str]:
    try:
        return frozenset(orjson.loads(response.data))
    except (orjson.JSONDecodeError, TypeError):
        return frozenset()
