"""The services of Cloud Run: those whose URLs lead to servers on this machine, and who may call them.

https://cloud.google.com/run/docs/authenticating/service-to-service says whom it lets in, by which of two headers, and
https://cloud.google.com/run/docs/troubleshooting#signature-removed what the container gets of the token.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.attempts import RetryPolicy
from cloudtasks_nb.emulator.strict.control import AccessControl
from cloudtasks_nb.emulator.strict.state import member_of
from cloudtasks_nb.emulator.strict.tokens import InvalidTokenError

__all__ = ["admitted", "pass_on"]

_INVOKE = "run.routes.invoke"
#: Cloud Run checks the first that is there, and no other.
_TOKENS = ("x-serverless-authorization", "authorization")
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"

_UNAUTHORIZED, _FORBIDDEN = 401, 403
#: Headers of one connection (RFC 9110, 7.6.1), and those that the next one gets anew.
_OF_ONE_CONNECTION = {"connection", "content-length", "keep-alive", "transfer-encoding", "host"}


def admitted(call: HttpCall, access: AccessControl, signer: TokenSigner) -> HttpCall | int:
    """Return the request that reaches the server behind a service's URL, or the HTTP status that refuses it.

    A request to another URL is returned as it is.
    """
    parts = urlsplit(call.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    service = access.state.services.get(origin)
    if service is None:
        return call
    headers = {**call.headers, "Host": parts.netloc, "X-Forwarded-Proto": parts.scheme}
    if not (service["unchecked"] or access.state.allows("", _INVOKE, [origin])):  # not everybody may call it
        names = {name.lower(): name for name in headers}
        header = next((names[name] for name in _TOKENS if name in names), "")
        kind, _, token = headers.get(header, "").partition(" ")
        if kind.lower() != "bearer":
            return _FORBIDDEN
        try:
            email = access.tokens.email_of_id_token(token, signer.certificates(), [origin, *service["audiences"]])
        except InvalidTokenError:
            return _UNAUTHORIZED
        if not access.state.allows(member_of(email), _INVOKE, [origin]):
            return _FORBIDDEN
        if not access.state.conditions.signatures_kept:
            headers[header] = f"{kind} {token.rpartition('.')[0]}.{_REMOVED}"
    return replace(
        call, url=parts._replace(scheme="http", netloc=f"127.0.0.1:{service['port']}").geturl(), headers=headers
    )


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
        admission = admitted(call, access, signer)
        if isinstance(admission, int):
            return web.Response(status=admission, text="Error: the client may not invoke the service\n")
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.request(
                    admission.method,
                    admission.url,
                    headers=admission.headers,
                    data=admission.body or None,
                    allow_redirects=False,
                ) as reply,
            ):
                kept = {key: value for key, value in reply.headers.items() if key.lower() not in _OF_ONE_CONNECTION}
                return web.Response(status=reply.status, headers=kept, body=await reply.read())
        except aiohttp.ClientError:
            return web.Response(status=503, text="Error: the service does not answer\n")

    return answer
