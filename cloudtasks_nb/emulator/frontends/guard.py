"""Refuses HTTP requests that a web page of another site has a browser send.

Any page can have a browser send requests to servers on the browser's machine. A page cannot change the headers that
tell where its requests come from: Host, Origin and Sec-Fetch-Site. The gRPC server needs no check: it understands only
HTTP/2 from the first byte of a connection, and browsers use HTTP/2 over TLS only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cloudtasks_nb.emulator.frontends.bodies import error_response
from cloudtasks_nb.emulator.model.settings import host_of

__all__ = ["guard"]

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_READS = {"GET", "HEAD"}
_JSON = "application/json"
_BUFFER = ":buffer"  # the body of BufferTask is that of the new task, and has its type


def guard(hosts: Iterable[str], forms: Collection[str] = ()) -> Middleware:
    """Return a middleware that answers 403 to requests of foreign web pages, and 415 to writes that are not JSON.

    Parameters
    ----------
    hosts : iterable of str
        Names of this emulator besides ``localhost``, 127.0.0.1, ::1, and the address that a connection was made to.
    forms : collection of str
        Paths that take forms.
    """
    known = _LOOPBACK.union(map(str.lower, hosts))

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (reason := _foreign(request, known)) is not None:
            return error_response(403, reason)
        if request.path not in forms and _is_simple_write(request):
            given = request.headers.get("Content-Type", "none")
            return error_response(
                415, f"The Content-Type of a write must be {_JSON}, and is {given}: send that header."
            )
        return await handler(request)

    return check


def _foreign(request: web.Request, known: frozenset[str]) -> str | None:
    """Return why a request is refused; None if it is not."""
    # The address that the client has connected to; no domain name is equal to it.
    name = request.transport.get_extra_info("sockname") if request.transport else None
    known = known | {str(name[0]) if name else ""}
    for address in request.headers.getall("Host", ()):
        if (host := host_of(address)) not in known:
            return f'"{address}" is no address of this emulator. If it is yours, {_allow(host)}.'
    origins = request.headers.getall("Origin", ())
    for origin in origins:
        if (host := host_of(origin.partition("://")[2])) not in known:
            return f'Web pages of "{origin}" cannot use this emulator. If the page is yours, {_allow(host)}.'
    # Requests with a known Origin are allowed: a page of localhost that asks 127.0.0.1 is cross-site too. So is a link
    # there to the console, which the user has clicked; the page that has the link cannot read what is opened.
    followed = request.path == "/" and request.headers.get("Sec-Fetch-Dest") == "document"
    if not (origins or followed) and request.headers.get("Sec-Fetch-Site") == "cross-site":
        return "A web page of another site has sent this request. Send it from a program, such as curl."
    return None


def _allow(host: str | None) -> str:
    return f"start the emulator with --allow-host {host or 'NAME'}"


def _is_simple_write(request: web.Request) -> bool:
    """Tell whether a request can change something, and is one that pages can send without asking the server."""
    if request.method in _READS or request.content_type == _JSON:
        return False
    if "Origin" in request.headers:  # a page of this machine sends it, which needs no body to purge a queue
        return True
    return not request.path.endswith(_BUFFER) and (request.body_exists or "Content-Type" in request.headers)
