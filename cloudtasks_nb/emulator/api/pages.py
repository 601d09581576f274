"""Page tokens: the position of the next page of a list, tied to its request."""

from __future__ import annotations

import base64
import binascii
import re

from cloudtasks_nb.emulator.model.clock import HOUR
from cloudtasks_nb.emulator.model.refusal import invalid_argument

__all__ = ["page_token", "read_number", "read_token"]

_VALID = 2 * HOUR
_NUMBER = re.compile(r"[0-9]{1,18}")  # a row of the database has no key with more digits


def page_token(position: str, query: str = "", *, now: int = 0) -> str:
    """Return the token of the page after `position`.

    Parameters
    ----------
    position : str
        The end of the previous page.
    query : str
        The part of the request that must be the same for all pages.
    now : int
        Microseconds since 1970; the token is valid for two hours from then. 0 for a token without an end.
    """
    return base64.urlsafe_b64encode(f"{position}\n{now}\n{query}".encode()).decode()


def read_token(token: str, query: str = "", *, now: int = 0) -> str:
    """Return the position of a token.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is malformed, belongs to another query, or is too old.
    """
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("The page token is invalid.") from error
    position, _, rest = text.partition("\n")
    made, _, asked = rest.partition("\n")
    if asked != query or not position or _NUMBER.fullmatch(made) is None:
        raise invalid_argument("The page token is invalid: it belongs to another request.")
    if now - int(made) > _VALID and int(made):
        raise invalid_argument("The page token is invalid: it has expired.")
    return position


def read_number(token: str, query: str = "", *, now: int = 0) -> int:
    """Return the position of a token as a number; 0 without a token, for the first page.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is malformed, belongs to another query, or is too old.
    """
    position = read_token(token, query, now=now) if token else "0"
    if _NUMBER.fullmatch(position) is None:
        raise invalid_argument("The page token is invalid.")
    return int(position)
