"""The connection that was made last: what handlers and magics use when none is named."""

from __future__ import annotations

import weakref

__all__ = ["add", "newest", "remove"]

_open: list[weakref.ref[object]] = []  # oldest first; who is not held elsewhere may go
_held: list[object] = []  # the newest of them stays, so that it is found by those who were not given it


def add(connection: object) -> None:
    """Remember a connection as the newest."""
    _open.append(weakref.ref(connection))
    _held[:] = [connection]


def remove(connection: object) -> None:
    """Forget a connection that was closed; the one made before it, if it is still used, is the newest again."""
    _open[:] = [ref for ref in _open if ref() is not None and ref() is not connection]
    _held[:] = [left for ref in _open[-1:] if (left := ref()) is not None]


def newest() -> object | None:
    """Return the connection that was made last and is not closed."""
    return _held[0] if _held else None
