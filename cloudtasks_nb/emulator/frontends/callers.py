"""Whom an emulator with ``--token`` answers: callers that send its token, and browsers that have opened its link.

The token protects from other users of the machine. It is a header of its own, because ``Authorization`` has the tokens
of Google: those that an emulator with ``--strict`` checks.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from cloudtasks_nb._names import TOKEN_METADATA
from cloudtasks_nb.emulator.frontends.bodies import error_response

__all__ = ["KEYS", "NO_TOKEN", "Callers"]

#: Paths of the public keys of OIDC tokens, which whoever gets a token asks for.
KEYS = ("/.well-known/openid-configuration", "/oauth2/v3/certs", "/jwks", "/oauth2/v1/certs", "/certs")
#: Why a call is refused.
NO_TOKEN = (
    f"This emulator answers only calls with its token, in the header {TOKEN_METADATA}. The token is in endpoint.json "
    "of its folder, which only the user who started it can read. A browser opens the console by a link, which works "
    "once: in a notebook, tasks as the last line of a cell shows one."
)
_OPEN = frozenset(("/health", *KEYS))
_LINK = "/?open="
#: The page goes on by itself: a browser does not send the new cookie with a redirection from another site's page.
_OPENED = '<!doctype html><title>Console</title><meta http-equiv="refresh" content="0;url=/"><a href="/">Console</a>'
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class Callers:
    """Tells who may call an emulator.

    Attributes
    ----------
    token : str, optional
        What each call must come with; None: everybody may call.
    """

    def __init__(self, *, token: bool) -> None:
        self.token = secrets.token_urlsafe(32) if token else None
        self._cookie = secrets.token_urlsafe(32)  # of browsers; the token itself is in none
        self._keys: set[str] = set()

    def knows(self, token: str | bytes | None) -> bool:
        """Return whether this is the token, or none is needed."""
        return self.token is None or (isinstance(token, str) and _equal(token, self.token))

    def knows_call(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Return the same of a call over gRPC, by its metadata."""
        return self.token is None or any(self.knows(value) for name, value in metadata if name == TOKEN_METADATA)

    def console(self) -> str:
        """Return the path of the console; with a token it has a key, and works once."""
        if self.token is None:
            return "/"
        key = secrets.token_urlsafe(16)
        self._keys.add(key)
        return _LINK + key

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without the token; the cookie lets a browser use the console, and nothing else."""
        path, cookie = request.path, f"cloudtasks-emulator-{request.url.port}"
        if path == "/" and (key := request.query.get("open")) in self._keys:
            self._keys.discard(key)
            answer = web.Response(text=_OPENED, content_type="text/html", headers=_HEADERS)
            answer.set_cookie(cookie, self._cookie, httponly=True, samesite="Strict")
            return answer
        is_console = path == "/" or path.startswith("/console/")
        if (
            path in _OPEN
            or self.knows(request.headers.get(TOKEN_METADATA))
            or (is_console and _equal(request.cookies.get(cookie, ""), self._cookie))
        ):
            return await handler(request)
        return error_response(401, NO_TOKEN)


def _equal(one: str, other: str) -> bool:
    """Compare two secrets in a time that does not depend on where they differ."""
    return secrets.compare_digest(one.encode(), other.encode())
