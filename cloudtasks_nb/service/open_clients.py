"""Remember the open connections: handlers and magics use the newest one by default."""

from __future__ import annotations

import weakref

__all__ = ["add", "newest", "remove"]

_open: list[weakref.ref[object]] = []  # oldest first; weak, so that unused connections are collected
_held: list[object] = []  # a strong reference to the newest connection, which must stay available


def add(connection: object) -> None:
    """Remember a connection as the newest."""
    _open.append(weakref.ref(connection))
    _held[:] = [connection]


def remove(connection: object) -> None:
    """Forget a closed connection. The newest of the others that still exist becomes the newest."""
    _open[:] = [ref for ref in _open if ref() is not None and ref() is not connection]
    _held[:] = [last for ref in _open[-1:] if (last := ref()) is not None]


def newest() -> object | None:
    """Return the connection that was made last and is not closed."""
    return _held[0] if _held else None
