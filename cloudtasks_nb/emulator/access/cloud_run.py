"""The door of Cloud Run: services whose URLs lead to servers on this machine, and who may call them.

https://cloud.google.com/run/docs/authenticating/service-to-service
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from cloudtasks_nb.emulator.access.control import AccessControl
from cloudtasks_nb.emulator.access.state import member_of
from cloudtasks_nb.emulator.access.tokens import InvalidTokenError
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner

__all__ = ["admitted"]

_INVOKE = "run.routes.invoke"

_UNAUTHORIZED, _FORBIDDEN = 401, 403


def admitted(call: HttpCall, access: AccessControl, signer: TokenSigner) -> HttpCall | int:
    """Return the request that reaches the server behind a service's URL, or the HTTP status that refuses it.

    A request to another URL is returned as it is.
    """
    parts = urlsplit(call.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    service = access.state.services.get(origin)
    if service is None:
        return call
    if not access.state.allows("", _INVOKE, [origin]):  # nobody in particular: the service is not public
        kind, _, token = call.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return _FORBIDDEN
        try:
            email = access.tokens.email_of_id_token(token, signer.certificates(), [origin, *service["audiences"]])
        except InvalidTokenError:
            return _UNAUTHORIZED
        if not access.state.allows(member_of(email), _INVOKE, [origin]):
            return _FORBIDDEN
    headers = {**call.headers, "Host": parts.netloc, "X-Forwarded-Proto": parts.scheme}
    return replace(
        call, url=parts._replace(scheme="http", netloc=f"127.0.0.1:{service['port']}").geturl(), headers=headers
    )
