"""The HTTP client that sends the requests of attempts."""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, TypeGuard
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs
from yarl import URL

from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, AttemptResult
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import EmulatorError

__all__ = ["Deliverer", "NoSocketError", "NotListeningError", "is_loopback"]

_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|::1)(:\d+)?")
_SENDABLE = re.compile(r"[!-~]+")
_NUMBER = re.compile(r"[0-9]{1,9}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ORIGIN = re.compile(r"(\w+://[^/?#]*)(.*)", re.DOTALL)
_NOT_QUOTED = "".join(chr(code) for code in range(ord("!"), ord("~") + 1))
# Shorter than the keep-alive of common servers (gunicorn 2 s, uvicorn 5 s): a connection that the server closes at
# the moment of its reuse would count as a failed attempt.
_KEEP_ALIVE = 1.5
_MAX_ANSWER = 1 << 20
_NOT_ADDED = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)


class NotListeningError(Exception):
    """The connection to a target was refused; its text says by which address."""


class NoSocketError(Exception):
    """No more sockets can be opened, by this process or at all: the target was not called."""


def is_loopback(address: str) -> bool:
    """Return whether ``host:port`` is this machine."""
    return _LOOPBACK.fullmatch(address) is not None


class Deliverer:
    """One HTTP client for all queues.

    Parameters
    ----------
    settings : Settings
        Which certificates to trust.
    """

    def __init__(self, settings: Settings) -> None:
        config = aiohttp.TraceConfig()
        config.on_connection_create_end.append(_connected)
        config.on_connection_reuseconn.append(_reused)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=_tls(settings)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=_NOT_ADDED,
            trace_configs=[config],
        )

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Send a request and wait for the whole answer; the caller sets the time limit.

        Parameters
        ----------
        call : HttpCall
            The request.
        connected : callable, optional
            Called when the connection is open.

        Raises
        ------
        NotListeningError
            If the connection to the call's own address was refused.
        NoSocketError
            If no socket can be opened.
        """
        try:
            return await self._send(call, connected)
        except aiohttp.TooManyRedirects as error:
            return AttemptResult(http_status=error.history[-1].status)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if getattr(error, "errno", None) in {errno.EMFILE, errno.ENFILE}:
                raise NoSocketError from error
            cause = _cause_of(error, call)
            # After a redirect to an address that refuses connections it is an attempt: the target was called.
            if _refused(error) and call.address == f"{error.host}:{error.port}":
                raise NotListeningError(cause) from error
            return AttemptResult(http_status=NO_ANSWER, cause=cause)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        # The event loop closes the transports in its next iteration.
        await asyncio.sleep(0)

    async def _send(self, call: HttpCall, connected: Callable[[], None] | None) -> AttemptResult:
        trace = SimpleNamespace(connected=connected, reused=False)
        try:
            return await self._request(call, trace)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            # The server had closed the idle connection before it read the request: send it again.
            if not trace.reused or isinstance(error, aiohttp.ClientConnectorError):
                raise
            return await self._request(call, trace)

    async def _request(self, call: HttpCall, trace: SimpleNamespace) -> AttemptResult:
        async with self._session.request(
            call.method,
            _url(call.url),
            headers=call.headers,
            data=call.body or None,
            allow_redirects=not call.app_engine,
            trace_request_ctx=trace,
        ) as answer:
            # Only a connection whose answer was read to the end can be used again; longer answers are not worth it.
            await answer.content.read(_MAX_ANSWER)
            return AttemptResult(http_status=answer.status, retry_after=0 if call.app_engine else _retry_after(answer))


def _retry_after(answer: aiohttp.ClientResponse) -> int:
    """Return the microseconds that the target asks to wait: seconds, or a date. It is considered with 429 and 503.

    https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks#HttpRequest
    """
    if answer.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0
    text = answer.headers.get(hdrs.RETRY_AFTER, "").strip()
    if _NUMBER.fullmatch(text):
        return int(text) * SECOND
    try:
        return max(0, round((parsedate_to_datetime(text).timestamp() - time.time()) * SECOND))
    except (ValueError, OverflowError):  # it is neither
        return 0


def _url(url: str) -> URL:
    """Return a URL as it is sent: what cannot stand in one is quoted, and all else stays as it is."""
    if _SENDABLE.fullmatch(url) and not _BAD_ESCAPE.search(url):
        return URL(url, encoded=True)
    start, rest = _ORIGIN.findall(url)[0]
    # yarl translates a host in another alphabet. The rest it would decode and quote anew: %2F would become a slash.
    return URL(f"{URL(start)}".rstrip("/") + quote(_BAD_ESCAPE.sub("%25", rest), safe=_NOT_QUOTED), encoded=True)


def _cause_of(error: Exception, call: HttpCall) -> str:
    """Return in a few words why a request has no answer."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            text = f"the certificate of {error.host} is not accepted: {_reason(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError():
            text = f"TLS with {error.host}:{error.port} fails: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorDNSError():
            text = f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorError():
            why = "refuses the connection" if _refused(error) else f"cannot be reached: {_reason(error)}"
            text = f"{error.host}:{error.port} {why}"
        case aiohttp.InvalidURL():
            text = f"{error.url} has no host"
        case aiohttp.ServerDisconnectedError():
            text = "the target closed the connection without an answer"
        case aiohttp.ClientResponseError():
            text = f"the answer is not HTTP: {' '.join(error.message.removesuffix('^').split())}"
        case ValueError():
            bad = next((name for name, value in call.headers.items() if _UNSENDABLE.search(name + value)), None)
            why = _reason(error) if bad is None else f"the header {bad} has a control character"
            text = f"the request cannot be sent: {why}"
        case _:
            text = _reason(error)
    return text


def _reason(error: Exception) -> str:
    """Return the system's or the library's own words for an error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refused(error: Exception) -> TypeGuard[aiohttp.ClientConnectorError]:
    is_certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)  # which is of this class, too
    if is_certificate or not isinstance(error, aiohttp.ClientConnectorError):
        return False
    number = error.os_error.errno
    # For a name with several addresses (localhost) the library reports all failures as one, without an error number.
    several = type(error) is aiohttp.ClientConnectorError and number is None and is_loopback(error.host)
    return several or number == errno.ECONNREFUSED


def _tls(settings: Settings) -> Any:
    if settings.https_insecure:
        return False
    if settings.https_ca is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(settings.https_ca)
    except OSError as error:
        raise EmulatorError(
            f"{settings.https_ca} cannot be read as certificates: {error}", resource=str(settings.https_ca)
        ) from error
    return context


async def _connected(_: Any, context: Any, __: Any) -> None:
    trace = context.trace_request_ctx
    if trace.connected is not None:
        trace.connected()
        trace.connected = None


async def _reused(session: Any, context: Any, parameters: Any) -> None:
    context.trace_request_ctx.reused = True
    await _connected(session, context, parameters)
