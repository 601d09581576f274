"""The loopback HTTP server before a function, on the package's background loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from cloudtasks_nb import _loop
from cloudtasks_nb.handlers.address import Address
from cloudtasks_nb.handlers.call import Outcome
from cloudtasks_nb.handlers.guard import LARGEST_BODY, METHODS, request_refusal

__all__ = ["Received", "Server"]

#: Seconds to read on after a refusal, so that the client sees the answer and no reset. aiohttp's own ten would hold up
#: `close`: once it shuts down it drops what comes, and then waits for an end of the body that it cannot see.
_LINGER = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What the function's side needs of a request."""

    time: dt.datetime
    body: bytes
    authorization: str | None
    task: str | None
    queue: str | None
    attempt: int | None


class Server:
    """Answers at one address; the work is done elsewhere.

    Parameters
    ----------
    address : Address
        Requests for anything else are refused.
    sock : socket
        Bound to it, listening; closed by `close`.
    receive : callable
        Takes a request and returns the future of its outcome; called on the loop, so it must not block.
    grace : float
        Seconds that requests have to end when the server closes.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        receive: Callable[[Received], Future[Outcome]],
        *,
        grace: float,
    ) -> None:
        self._address = address
        self._receive = receive
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{rest:.*}", self._answer)
        # aiohttp waits twice for what runs: for its end, then for its end after the connection's.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=grace / 2, lingering_time=_LINGER)
        try:
            _loop.run(self._start(sock))
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Stop listening, let requests end for a while, then cut them off."""
        _loop.run(self._runner.cleanup())

    async def _start(self, sock: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def _answer(self, request: web.Request) -> web.Response:
        refusal = request_refusal(self._address, request.method, request.path, request.headers)
        if refusal is not None:
            headers = {"Allow": ", ".join(METHODS)} if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED else None
            return web.Response(status=refusal.status, text=refusal.reason, headers=headers)
        received = _received(request, await request.read())
        outcome = await asyncio.wrap_future(self._receive(received))
        content, kind = outcome.content()
        return web.Response(status=outcome.status, body=content, content_type=kind, charset="utf-8")


def _received(request: web.Request, body: bytes) -> Received:
    headers = request.headers
    retries = headers.get("X-CloudTasks-TaskRetryCount", "")
    return Received(
        time=dt.datetime.now(dt.UTC),
        body=body,
        authorization=headers.get("Authorization"),
        task=headers.get("X-CloudTasks-TaskName"),
        queue=headers.get("X-CloudTasks-QueueName"),
        attempt=int(retries) + 1 if retries.isascii() and retries.isdigit() and len(retries) <= 9 else None,  # noqa: PLR2004 - what an Int64 holds, and more than any queue tries
    )
