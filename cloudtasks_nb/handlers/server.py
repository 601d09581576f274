"""The HTTP server on the loopback interface that receives the tasks of a handler, on the background loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from aiohttp import web

from cloudtasks_nb import _loop
from cloudtasks_nb.handlers.address import Address
from cloudtasks_nb.handlers.answer import LARGEST_BODY, Answer, method_refusal, refuse
from cloudtasks_nb.handlers.history import TaskRequest

__all__ = ["Server"]

#: Seconds to read on after a refusal, so that the client receives the answer and no reset. aiohttp's default of ten
#: would delay `close`: while it shuts down it drops what arrives, and then waits for the end of the body all the same.
_LINGER = 0.5


class Server:
    """Receives requests at one address and sends the answers, which `submit` computes in other threads.

    Parameters
    ----------
    address : Address
        Requests for anything else are refused.
    sock : socket
        Bound to it, listening; closed by `close`.
    submit : callable
        Takes a request and returns the future of its answer; called on the loop, so it must not block.
    grace : float
        Seconds that requests have to end when the server closes.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        submit: Callable[[TaskRequest], Future[Answer]],
        *,
        grace: float,
    ) -> None:
        self._address = address
        self._submit = submit
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_route("*", "/{rest:.*}", self._respond)
        # aiohttp waits twice for running requests: before and after it closes their connections.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=grace / 2, lingering_time=_LINGER)
        try:
            _loop.run(self._start(sock))
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Stop listening, give requests `grace` seconds to end, then close their connections."""
        _loop.run(self._runner.cleanup())

    async def _start(self, sock: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def _respond(self, request: web.Request) -> web.Response:
        answer = _refusal(self._address, request.method, request.path, request.headers)
        if answer is None:
            answer = await asyncio.wrap_future(self._submit(_task_request(request, await request.read())))
        content, kind = answer.content()
        headers = answer.headers()
        return web.Response(status=answer.status, body=content, content_type=kind, charset="utf-8", headers=headers)


def _refusal(address: Address, method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
    """Return the refusal of a request that is not for the function at this address; None: it is.

    A browser sends an Origin header with the requests of a web page, and a foreign Host header if the DNS name of the
    page points to this machine: neither may reach a function of the notebook.
    """
    if "Origin" in headers:
        return refuse(403, "requests from web pages are not answered")
    if headers.get("Host", "").lower() not in address.hosts:
        return refuse(403, "only requests to this machine by its loopback name are answered")
    if not hmac.compare_digest(path.encode("utf-8", "replace"), address.path.encode()):
        return refuse(404, "there is no function at this path")
    return method_refusal(method)


def _task_request(request: web.Request, body: bytes) -> TaskRequest:
    headers = request.headers
    retries = headers.get("X-CloudTasks-TaskRetryCount", "")
    return TaskRequest(
        time=dt.datetime.now(dt.UTC),
        body=body,
        authorization=headers.get("Authorization"),
        task=headers.get("X-CloudTasks-TaskName"),
        queue=headers.get("X-CloudTasks-QueueName"),
        attempt=int(retries) + 1 if retries.isascii() and retries.isdigit() and len(retries) <= 9 else None,  # noqa: PLR2004 - what an Int64 holds, and more than any queue tries
    )
