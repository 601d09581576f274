"""The HTTP server: health, leases, OpenID documents, REST and the endpoints for tests."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from cloudtasks_nb.emulator.api.engine import Call
from cloudtasks_nb.emulator.api.replies import LARGE
from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.frontends.bodies import JsonErrorRunner, answer_in_json, json_response
from cloudtasks_nb.emulator.frontends.callers import KEYS
from cloudtasks_nb.emulator.frontends.firebase import Firebase
from cloudtasks_nb.emulator.frontends.guard import guard
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.frontends.rest import Rest
from cloudtasks_nb.errors import EmulatorError, PortInUseError

__all__ = ["HttpServer", "Leases", "cannot_listen", "host_and_port", "listen"]

# A client that disconnects, or does not speak HTTP, is no error of the emulator.
_FAULTS_OF_CLIENTS = (ConnectionError, HttpProcessingError, web.RequestPayloadError)
_log = logging.getLogger(__name__)
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], _FAULTS_OF_CLIENTS)))

_MAX_BODY = 128 << 20  # a batch of a hundred tasks of one MiB, in base64
# Seconds.
_READ_WITHIN = 60.0
_KEPT_FOR = 6 * 3600  # about as long as Google lets clients keep its keys


class HttpServer:
    """The HTTP server of an emulator.

    Parameters
    ----------
    engine : Parts
        The emulator.
    calls : mapping
        The calls of the API by their full names, for REST.
    leases : Leases
        Answers ``GET /lease``.
    instance : str
        The emulator's id, a header of every answer.
    """

    def __init__(self, engine: Parts, calls: Mapping[str, Call], leases: Leases, instance: str) -> None:
        self._engine = engine
        self._instance = instance
        issuer = engine.settings.own_issuer
        known = [engine.settings.host, *engine.settings.allow_hosts, *engine.hosts]
        if issuer is not None:
            known.append(str(issuer.hostname))
        admit = () if engine.callers.token is None else (engine.callers.admit,)
        middlewares = (*engine.middlewares, guard(known, engine.forms), *admit, self._send)
        self._app = web.Application(client_max_size=_MAX_BODY, middlewares=middlewares)
        self._app.on_response_prepare.append(answer_in_json)
        self._app.on_response_prepare.append(self._date)
        add = self._app.router.add_get
        add("/health", self._health)
        add("/lease", leases.hold)
        tokens = engine.tokens
        keys, certificates = (lambda _: tokens.keys()), (lambda _: tokens.certificates())
        for path, document in zip(KEYS, (tokens.discovery, keys, keys, certificates, certificates), strict=True):
            add(path, partial(self._cached, document))
        self._app.add_routes(Admin(engine).routes())
        rest = Rest(engine, calls, instance)
        self._app.add_routes(rest.routes())
        self._app.add_routes(Firebase(engine, calls, rest).routes())
        self._app.add_routes(engine.routes(rest))
        #: serves the application, and does not wait for leases, which do not end by themselves
        self.runner = JsonErrorRunner(
            self._app, access_log=None, shutdown_timeout=0.1, logger=_log, auto_decompress=False
        )

    async def protocols(self) -> Callable[[], Any]:
        """Return what makes the protocol of a connection that was accepted elsewhere."""
        await self.runner.setup()
        protocols: Any = self.runner.server
        return protocols

    @web.middleware
    async def _send(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Send a large answer; disconnect the client if it does not read it."""
        answer = await handler(request)
        size = len(answer.body) if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else 0
        if size >= LARGE and request.transport is not None:
            release = self._engine.unread.hold(size)
            try:
                async with asyncio.timeout(_READ_WITHIN):
                    await answer.prepare(request)
                    await answer.write_eof()
            except TimeoutError:
                request.transport.abort()
            finally:
                release()
        return answer

    async def _date(self, _: web.Request, answer: web.StreamResponse) -> None:
        """Date an answer by the clock of the service."""
        answer.headers["Date"] = self._engine.date()

    async def _health(self, _: web.Request) -> web.Response:
        return json_response(200, {"status": "ok", "instance": self._instance})

    async def _cached(self, document: Callable[[str], dict[str, Any]], request: web.Request) -> web.Response:
        """Return an answer that clients keep, as Google's; that of a key which ends with the emulator they check."""
        settings, content = self._engine.settings, document(str(request.url.origin()))
        age = 0 if settings.data_dir is None and settings.openid_signing_key is None else _KEPT_FOR
        etag = hashlib.sha256(orjson.dumps(content)).hexdigest()
        known = any(tag.value == etag for tag in request.if_none_match or ())
        answer = web.Response(status=304) if known else json_response(200, content)
        answer.etag = etag
        answer.headers["Cache-Control"] = f"public, max-age={age}, must-revalidate, no-transform"
        return answer


async def listen(runner: web.AppRunner, host: str, port: int, option: str, tls: ssl.SSLContext | None = None) -> int:
    """Start to listen, and return the port; `option` is the one that sets it.

    Raises
    ------
    PortInUseError
        If another program listens there.
    """
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        raise cannot_listen(error, host, port, option) from error
    return int(runner.addresses[0][1])


# Seconds.
_FIRST_WITHIN = 10.0
_LINGER = 2.0
_CHECK_EVERY = 0.2


class Leases:
    """Counts the open `GET /lease` requests; the operating system closes those of processes that died.

    Parameters
    ----------
    stop : asyncio.Event
        Set two seconds after the last lease was closed.
    instance : str
        The emulator's id; a header of the answer, so that clients can check which emulator has answered.
    """

    def __init__(self, stop: asyncio.Event, instance: str) -> None:
        self._headers = {"Content-Type": "text/plain", "X-Instance": instance}
        self._stop = stop
        self._open = 0
        self._counting = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on stop the emulator after its last lease, or if no lease is opened within ten seconds."""
        self._counting = True
        self._stop_after(_FIRST_WITHIN)

    async def hold(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET /lease` with a response that stays open until the client closes the connection.

        An emulator that is stopping gives no lease.
        """
        if self._stop.is_set():
            return web.Response(status=503, text="the emulator is stopping\n")
        answer = web.StreamResponse(headers=self._headers)
        self._open += 1
        self._cancel_timer()
        try:
            await answer.prepare(request)
            await answer.write(b"held\n")
            while request.transport and not request.transport.is_closing():  # noqa: ASYNC110 - aiohttp has no event
                await asyncio.sleep(_CHECK_EVERY)
        except ConnectionError:
            pass
        finally:
            self._open -= 1
            if self._counting and not self._open:
                self._stop_after(_LINGER)
        return answer

    def close(self) -> None:
        """Do not stop the emulator any more, whether it has leases or not."""
        self._counting = False
        self._cancel_timer()

    def _stop_after(self, delay: float) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(delay, self._stop.set)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def host_and_port(host: str, port: int) -> str:
    """Return ``host:port``; an IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(error: OSError, host: str, port: int, option: str) -> EmulatorError:
    """Return the error for an address that cannot be listened on; `option` is the one that sets the port."""
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"port {port} is in use", resource=str(port), hint=f"choose another one: {option} 0 takes a free one"
        )
    address = host_and_port(host, port)
    return EmulatorError(f"cannot listen on {address}: {error.strerror or error}", resource=address)
