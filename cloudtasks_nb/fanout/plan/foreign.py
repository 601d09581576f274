"""Read tasks that another home has rendered: what this package would not write is refused.

Whoever can write to a store can have made them, so nothing that is stored beside them is believed: what identifies a
row is computed from its request, and what is shown of a task is read from the bytes that would be sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.cloud.tasks_v2 import types
from google.protobuf.message import DecodeError

from cloudtasks_nb.display.secrets import MASK
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.body import canonical, compile_body
from cloudtasks_nb.fanout.plan.recipe import check_headers, check_token
from cloudtasks_nb.fanout.plan.render import digest, read_message
from cloudtasks_nb.fanout.plan.url import literal_url
from cloudtasks_nb.service.convert import HTTP_METHODS

__all__ = ["Call", "call_of", "foreign_reader", "plain_text"]

#: What this package writes: of a task, of its request, and of its token.
_WRITTEN = (
    {"http_request", "schedule_time", "dispatch_deadline", "retry_config"},
    {"url", "http_method", "headers", "body", "oidc_token"},
    {"service_account_email", "audience"},
)
_HANDLER = "handler:"
_SHOWN = 300  # characters of a text that others have written
#: Scheme; user and password; host and port. A backslash ends the host for some readers of URLs, not for others.
_ORIGIN = re.compile(r"(https?://)([^/?#\\]*@)?([^/?#@\\]+)(?=[/?#]|\Z)")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """Who is called by a task, and with whose token."""

    origin: str  #: scheme, host and port of its URL; dots stand for a user with a password
    account: str  #: e-mail of the account whose OIDC token goes along; empty: there is no token
    audience: str  #: for whom the token is; empty: for the URL

    def __str__(self) -> str:
        given = "no token"
        if self.account:
            given = f"an OIDC token of {plain_text(self.account)} for {plain_text(self.audience) or 'its URL'}"
        return f"{self.origin} with {given}"


def plain_text(text: str) -> str:
    """Return a text that others have written in one line, so that it cannot look like another one."""
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return cut if cut.isprintable() else repr(cut)


def call_of(task: bytes) -> Call:
    """Return who is called by a task on the wire."""
    request = read_message(task).http_request
    token, found = request.oidc_token, _ORIGIN.match(request.url)
    origin = f"{found[1]}{f'{MASK}@' if found[2] else ''}{found[3]}" if found else plain_text(request.url)
    return Call(origin, token.service_account_email, token.audience)


def foreign_reader(description: Mapping[str, Any]) -> Callable[[bytes], tuple[bytes, bytes]]:
    """Return a function that checks a task on the wire, and returns it and the digest of what it sends.

    The function raises ValueError if the task has anything that this package would not write.

    Parameters
    ----------
    description : mapping
        The templates of the batch, as its record has them. They tell only what stands for the URL of a handler in the
        digest, and whether the body is JSON with typed cells: with wrong ones it is the digest of no other row.
    """
    url = str(description.get("url") or "")
    stand_in = url if url.startswith(_HANDLER) else None
    typed = compile_body(description.get("body"), "POST").typed

    def read(wire: bytes) -> tuple[bytes, bytes]:
        try:
            task = types.Task.pb().FromString(wire)
        except DecodeError as error:
            raise ValueError("it is no task") from error
        size, request = task.ByteSize(), task.http_request
        task.DiscardUnknownFields()
        for message, written in zip((task, request, request.oidc_token), _WRITTEN, strict=True):
            if strange := {field.name for field, _ in message.ListFields()} - written:
                raise ValueError(f"it has {', '.join(sorted(strange))}, which this package does not write")
        if task.ByteSize() != size:
            raise ValueError("it has fields that are not known")
        _check(request)
        checked = task.SerializeToString(deterministic=True)
        request.ClearField("oidc_token")
        request.url = stand_in or request.url
        request.body = canonical(request.body) if typed else request.body
        return checked, digest(request.SerializeToString(deterministic=True))

    return read


def _check(request: Any) -> None:
    """Raise ValueError if a request is none that a fan-out makes."""
    token = request.oidc_token
    try:
        if literal_url(request.url) != request.url:
            raise ValueError("its URL is not encoded")
        if _ORIGIN.match(request.url) is None:
            raise ValueError("its URL has a host that can be read in two ways")
        if not 0 < request.http_method < len(HTTP_METHODS):
            raise ValueError("it has no HTTP method")
        _check_headers(tuple(sorted(request.headers.items())))
        if request.HasField("oidc_token"):
            _check_token(token.service_account_email, token.audience)
    except InvalidInputError as error:
        raise ValueError(error.message) from error


@lru_cache(maxsize=4_096)
def _check_headers(headers: tuple[tuple[str, str], ...]) -> None:
    check_headers(dict(headers), json=False)


@lru_cache(maxsize=4_096)
def _check_token(account: str, audience: str) -> None:
    check_token({"url": "", "service_account": account, "audience": audience or None})
