"""Pages of lists and their tokens: a token holds the position of the next page and is valid for the same query only."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from typing import TypeVar

import orjson

from cloudtasks_nb.emulator.model.clock import HOUR
from cloudtasks_nb.emulator.model.protobuf import len_field
from cloudtasks_nb.emulator.model.refusal import invalid_argument

__all__ = ["page_reply", "page_token", "read_token"]

P = TypeVar("P", int, str)

_VALID = 2 * HOUR
_MOST_SECONDS = 1.0
_BETWEEN_CLOCKS = 16  # items between two looks at the clock
_MOST_BYTES = 3_500_000  # a gRPC client receives messages of up to 4 MiB, if it does not set another limit
_MOST = 10**18  # keys in the database and times are less


def page_reply(items: Iterable[tuple[int | str, bytes]], most: int, query: str, *, now: int = 0) -> bytes:
    """Return a page, and the token of the next one if more items follow: items are field 1 of a reply, the token is 2.

    Parameters
    ----------
    items : iterable of tuple
        The position of each item, and the item on the wire; empty if the filter leaves it out.
    most : int
        Most items of the page. It has fewer, or none, if they would be larger than what clients receive by default, or
        if they take longer than a second: nothing else is answered meanwhile.
    query, now : str and int
        Those of `page_token`.
    """
    page: list[bytes] = []
    size, deadline = 0, time.monotonic() + _MOST_SECONDS
    end: int | str = ""
    for number, (position, item) in enumerate(items, 1):
        size += len(item)
        late = number % _BETWEEN_CLOCKS == 0 and time.monotonic() > deadline
        if len(page) == most or late or (size > _MOST_BYTES and page):
            return b"".join((*page, len_field(2, page_token(end, query, now=now).encode())))
        end = position
        if item:
            page.append(len_field(1, item))
    return b"".join(page)


def page_token(position: int | str, query: str, *, now: int = 0) -> str:
    """Return the token of the page after `position`.

    Parameters
    ----------
    position : int or str
        The end of the previous page.
    query : str
        The part of the request that must be the same for all pages.
    now : int
        Microseconds since 1970; the token expires two hours later. With 0 it never expires.
    """
    return base64.urlsafe_b64encode(orjson.dumps([position, now, query])).decode()


def read_token(token: str, first: P, query: str, *, now: int = 0) -> P:
    """Return the position that a token holds; `first`, which is of the same type, for an empty token.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is malformed, belongs to another query, or has expired.
    """
    if not token:
        return first
    try:
        position, issued, token_query = orjson.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, TypeError) as error:
        raise invalid_argument("The page token is invalid.") from error
    is_valid = type(position) is type(first) and (isinstance(position, str) or 0 <= position < _MOST)
    if token_query != query or not is_valid or type(issued) is not int:
        raise invalid_argument("The page token is invalid: it belongs to another request.")
    if issued and now - issued > _VALID:
        raise invalid_argument("The page token is invalid: it has expired.")
    return position
