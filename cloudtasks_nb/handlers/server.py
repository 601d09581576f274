"""The HTTP server of a handler: it receives tasks on the loopback interface, and runs on a loop of its own."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from aiohttp import web

from cloudtasks_nb import _loop
from cloudtasks_nb.handlers.address import Address
from cloudtasks_nb.handlers.answer import LARGEST_BODY, NO_FUNCTION, Answer, method_refusal, refuse
from cloudtasks_nb.handlers.call import ReceivedRequest

__all__ = ["Server"]

#: Seconds for which the body of a refused request is still read, so that the client gets the answer instead of a
#: connection reset. With aiohttp's default, `close` would take 10 s while a client has not sent all of its body.
_LINGER = 0.5


class Server:
    """Receives requests at one address and sends the answers, which `submit` computes in other threads.

    Parameters
    ----------
    address : Address
        Requests for another host or path are refused.
    sock : socket
        A listening socket that is bound to the address; `close` closes it.
    submit : callable
        Takes a request and returns the future of its answer; it must not block, because the loop calls it.
    grace : float
        Seconds that `close` waits for running requests.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        submit: Callable[[ReceivedRequest], Future[Answer]],
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
            _loop.run(self._start(sock), name=_loop.SERVING)
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Stop listening, give requests `grace` seconds to end, then close their connections."""
        _loop.run(self._runner.cleanup(), name=_loop.SERVING)

    async def _start(self, sock: socket.socket) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def _respond(self, request: web.Request) -> web.Response:
        answer = _refusal(self._address, request.method, request.path, request.headers)
        if answer is None:
            answer = await asyncio.wrap_future(
                self._submit(ReceivedRequest.received(await request.read(), request.headers.get))
            )
        content, kind = answer.content()
        headers = answer.headers()
        return web.Response(status=answer.status, body=content, content_type=kind, charset="utf-8", headers=headers)


def _refusal(address: Address, method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
    """Return the answer that refuses a request; None if the function may be called.

    Web pages must not call a function of the notebook. A browser sends an Origin header with their requests, or the
    page's own host name in the Host header if that name resolves to this machine.
    """
    if "Origin" in headers:
        return refuse(403, "requests from web pages are not answered")
    if headers.get("Host", "").lower() not in address.hosts:
        return refuse(403, "only requests to this machine by its loopback name are answered")
    if not hmac.compare_digest(path.encode("utf-8", "replace"), address.path.encode()):
        return NO_FUNCTION
    return method_refusal(method)
