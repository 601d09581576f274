"""Check the OIDC token that Cloud Tasks sends with a task; google-auth verifies its signature and its claims."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
from google.auth import exceptions, jwt
from google.auth.transport.requests import Request

from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.handlers.answer import Answer, refuse

__all__ = ["GOOGLE_CERTS", "Certificates", "Verifier", "fetch_certificates"]

#: Where Google publishes the certificates of its ID tokens.
GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"

_GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
_CLOCK_SKEW = 10  # seconds between the issuer's clock and ours
_FETCH_TIMEOUT = 5.0
_LIFETIME = 3600.0  # seconds for which certificates are kept; Google's own max-age is longer
_PAUSE = 5.0  # seconds before a new fetch after a failure or an unknown key

#: What a container gets in place of the signature of a token that Cloud Run has checked:
#: https://cloud.google.com/run/docs/troubleshooting#signature-removed
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"
_EXPLAINED = (
    f"it has no signature but {_REMOVED}: Cloud Run checks the tokens of a service that is not public itself, "
    "and hands them over without it. "
)


class Certificates:
    """A cache of certificates: one thread at a time fetches them, and only if they have expired or lack a key.

    Parameters
    ----------
    fetch : callable
        Gets a URL; returns PEM certificates by key id or raises TransportError.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self, fetch: Callable[[str], Mapping[str, str]] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch or fetch_certificates
        self._clock = clock
        self._lock = threading.Lock()
        self._fetched: dict[str, tuple[float, Mapping[str, str], str]] = {}  # by URL: time, certificates, error

    def get(self, url: str, key: str | None) -> Mapping[str, str]:
        """Return the certificates; they are fetched again if `key` is not among them, since keys are rotated.

        Raises
        ------
        google.auth.exceptions.TransportError
            If they cannot be fetched. The error is kept for a few seconds: not every caller waits for a timeout.
        """
        with self._lock:
            at, certificates, reason = self._fetched.get(url, (-math.inf, {}, ""))
            usable = certificates and (key is None or key in certificates)
            if self._clock() >= at + (_LIFETIME if usable else _PAUSE):
                try:
                    certificates, reason = self._fetch(url), ""
                except exceptions.TransportError as error:
                    certificates, reason = {}, str(error) or type(error).__name__
                self._fetched[url] = self._clock(), certificates, reason
        if reason:
            raise exceptions.TransportError(reason)
        return certificates


class Verifier:
    """Accepts the tokens of one service account for some audiences.

    Parameters
    ----------
    service_account : str
        E-mail address of the only account whose tokens are accepted; any account can get a token for any audience.
    audience : list of str
        The audiences of which the token must have one.
    certs_url : callable
        Returns the URL of the issuer's certificates, None for Google's. It is called for each token, because an
        emulator may have another URL after a restart.
    certificates : Certificates, optional
        The cache of certificates.
    private : bool
        The service is on Cloud Run, and not public: a token is accepted without its signature if Cloud Run has
        removed it after its own check.
    """

    def __init__(
        self,
        *,
        service_account: str,
        audience: list[str],
        certs_url: Callable[[], str | None],
        certificates: Certificates | None = None,
        private: bool = False,
    ) -> None:
        self.service_account = service_account
        self.audience = audience
        self._certs_url = certs_url
        self._certificates = certificates or Certificates()
        self._private = private

    def check(self, authorization: str | None, serverless: str | None = None) -> Answer | None:
        """Check an Authorization header, and return the answer that refuses it; None if it is accepted. May block.

        Parameters
        ----------
        serverless : str, optional
            The header X-Serverless-Authorization: where it is, Cloud Run has checked its token, and no other.
        """
        kind, _, token = (authorization or "").strip().partition(" ")
        if kind.lower() != "bearer" or not token:
            return refuse(401, "the request has no Bearer token")
        try:
            claims, url = self._verified(token.strip(), serverless)
        except (exceptions.TransportError, CloudTasksError) as error:
            # The token may be valid, so the task must be retried; 503 would slow the whole queue down.
            return refuse(500, f"the certificates to verify the token cannot be fetched: {error}")
        except exceptions.InvalidValue as error:
            return refuse(401, f"the token is not valid: {error}")
        except Exception as error:  # noqa: BLE001 - a hostile token may cause any error
            # Without the text of the error, which may contain the token.
            return refuse(401, f"the token is malformed or not signed by the issuer ({type(error).__name__})")
        return self._check_claims(claims, url)

    def _verified(self, token: str, serverless: str | None) -> tuple[Mapping[str, Any], str]:
        """Return the claims of a token, and the URL of the certificates that verify its signature."""
        if token.endswith(f".{_REMOVED}"):
            if unchecked := self._unchecked(serverless):
                raise exceptions.InvalidValue(_EXPLAINED + unchecked)
            return self._unsigned_claims(token), GOOGLE_CERTS
        url = self._certs_url() or GOOGLE_CERTS
        # The header is not verified yet; its key id is used only to fetch the certificates again if they lack the key.
        certificates = self._certificates.get(url, jwt.decode_header(token).get("kid"))
        claims = jwt.decode(token, certificates, audience=self.audience, clock_skew_in_seconds=_CLOCK_SKEW)
        return claims, url

    def _unchecked(self, serverless: str | None) -> str | None:
        """Return why Cloud Run cannot be relied on to have checked a token without a signature; None if it can."""
        if not self._private:
            return "Such tokens are accepted with handlers.app(…, private=True) or CLOUDTASKS_NB_PRIVATE=1 only"
        if "K_SERVICE" not in os.environ:  # https://cloud.google.com/run/docs/container-contract#env-vars
            return "But this is not a service of Cloud Run: K_SERVICE is not set"
        return (
            None if serverless is None else "But it has checked the token in X-Serverless-Authorization, not this one"
        )

    def _unsigned_claims(self, token: str) -> Mapping[str, Any]:
        claims = jwt.decode(token, verify=False)
        if not claims["iat"] - _CLOCK_SKEW <= time.time() <= claims["exp"] + _CLOCK_SKEW:
            raise exceptions.InvalidValue(f"it is for {claims['iat']} to {claims['exp']}, in seconds since 1970")
        if claims.get("aud") not in self.audience:
            raise exceptions.InvalidValue(f"it has the wrong audience {claims.get('aud')}, not {self.audience}")
        return claims

    def _check_claims(self, claims: Mapping[str, Any], url: str) -> Answer | None:
        if url == GOOGLE_CERTS and claims.get("iss") not in _GOOGLE_ISSUERS:
            return refuse(401, f"the token was issued by {claims.get('iss')}, not by Google")
        if claims.get("email") != self.service_account:
            return refuse(403, f"the token is of {claims.get('email')}; only {self.service_account} may call")
        if claims.get("email_verified") is not True:
            return refuse(403, f"the e-mail of the token, {claims['email']}, is not verified")
        return None


def fetch_certificates(url: str) -> Mapping[str, str]:
    """Return the certificates that a URL publishes, by key id; none if its answer has another form.

    Raises
    ------
    google.auth.exceptions.TransportError
        If there is no answer, or one with an error.
    """
    request = Request()
    # A proxy from the environment cannot reach this machine's loopback interface.
    request.session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}
    try:
        response = request(url, method="GET", timeout=_FETCH_TIMEOUT)
    finally:
        request.session.close()
    if response.status != 200:  # noqa: PLR2004 - HTTP's OK
        raise exceptions.TransportError(f"{url} answered {response.status}")
    try:
        certificates = orjson.loads(response.data)
    except orjson.JSONDecodeError:
        return {}
    return certificates if isinstance(certificates, dict) else {}
