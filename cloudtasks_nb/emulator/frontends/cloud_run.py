"""Requests that others than Cloud Tasks send to a service of Cloud Run, through the proxy of a strict emulator."""

from __future__ import annotations

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cloudtasks_nb.emulator.access.cloud_run import admitted
from cloudtasks_nb.emulator.access.control import AccessControl
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.attempts import RetryPolicy

__all__ = ["pass_on"]

#: Headers of one connection (RFC 9110, 7.6.1), and those that the next one gets anew.
_OF_ONE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding", "host"}


def pass_on(access: AccessControl, signer: TokenSigner) -> Middleware:
    """Return a middleware that passes requests for the host of a service on to its server, if the caller may invoke it.

    Parameters
    ----------
    access : AccessControl
        Has the services, and who may invoke them.
    signer : TokenSigner
        Has signed the tokens.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = f"https://{request.host}"
        if origin not in access.state.services:
            return await handler(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        call = HttpCall(
            method=request.method,
            url=f"{origin}{request.raw_path}",
            headers=headers,
            body=await request.read(),
            deadline=0,
            retry=RetryPolicy(),
            app_engine=False,
            target="",
        )
        found = admitted(call, access, signer)
        if isinstance(found, int):
            return web.Response(status=found, text="Error: the client may not invoke the service\n")
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.request(
                    found.method, found.url, headers=found.headers, data=found.body or None, allow_redirects=False
                ) as reply,
            ):
                kept = {key: value for key, value in reply.headers.items() if key.lower() not in _OF_ONE_CONNECTION}
                return web.Response(status=reply.status, headers=kept, body=await reply.read())
        except aiohttp.ClientError:
            return web.Response(status=503, text="Error: the service does not answer\n")

    return answer
