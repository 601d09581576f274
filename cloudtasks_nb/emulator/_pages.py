"""Tokens that lead from page to page."""

from __future__ import annotations

import base64
import binascii

from cloudtasks_nb.emulator._refusal import RefusedError

__all__ = ["page_token", "read_number", "read_token"]


def page_token(position: str, query: str = "") -> str:
    """Return the token of the page after `position`; `query` is what must stay the same over all pages."""
    return base64.urlsafe_b64encode(f"{position}\n{query}".encode()).decode()


def read_token(token: str, query: str = "") -> str:
    """Return the position that a token holds.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is none, or belongs to another query.
    """
    try:
        position, _, asked = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("\n")
    except (binascii.Error, ValueError) as error:
        raise RefusedError("INVALID_ARGUMENT", "The page token is invalid.") from error
    if asked != query or not position:
        raise RefusedError("INVALID_ARGUMENT", "The page token is invalid: it belongs to another request.")
    return position


def read_number(token: str, query: str = "") -> int:
    """Return the position that a token holds where positions are numbers; 0 for the first page, without a token.

    Raises
    ------
    RefusedError
        ``INVALID_ARGUMENT`` if it is none, or belongs to another query.
    """
    position = read_token(token, query) if token else "0"
    if not position.isdigit():
        raise RefusedError("INVALID_ARGUMENT", "The page token is invalid.")
    return int(position)
