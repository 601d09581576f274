"""The services of Cloud Run: those whose URLs lead to servers on this machine, and who may call them.

https://cloud.google.com/run/docs/authenticating/service-to-service says whom it lets in, by which of two headers, and
https://cloud.google.com/run/docs/troubleshooting#signature-removed what the container gets of the token.
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
#: Cloud Run checks the first that is there, and no other.
_TOKENS = ("x-serverless-authorization", "authorization")
_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"

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
