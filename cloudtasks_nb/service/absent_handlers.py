"""Handlers on this machine that do not listen. The embedded emulator keeps their tasks and spends no attempt."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from http.client import HTTPConnection, HTTPException
from typing import Any

__all__ = ["AbsentHandlers", "describe_absent", "get_json"]

_TIMEOUT = 1.0  # seconds
_FRESH = 2.0  # seconds for which an answer is used again


class AbsentHandlers:
    """Asks an emulator which handlers on this machine its tasks wait for, at most once in two seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._targets: list[dict[str, Any]] = []

    def addresses(self, http: str, queue: str) -> list[str]:
        """Return ``host:port`` of the handlers that tasks of a queue (full name) wait for.

        `http` is the emulator's ``http://127.0.0.1:PORT``. An emulator that does not answer has none.
        """
        with self._lock:
            if time.monotonic() > self._read_at + _FRESH:
                self._targets = get_json(http, "/admin/waiting", timeout=_TIMEOUT).get("targets", [])
                self._read_at = time.monotonic()
        return [target["address"] for target in self._targets if target["queue"] == queue]


def get_json(http: str, path: str, *, timeout: float) -> dict[str, Any]:
    """Return the JSON object that an emulator answers at a path; empty if it does not answer with one."""
    connection = HTTPConnection(http.removeprefix("http://"), timeout=timeout)
    try:
        connection.request("GET", path)
        found = json.loads(connection.getresponse().read())
    except (OSError, HTTPException, ValueError):
        return {}
    finally:
        connection.close()
    return found if isinstance(found, dict) else {}


def describe_absent(address: str, url: str | None) -> tuple[str, str | None]:
    """Describe a handler that does not listen; return also the line of Python that starts it, if that is known.

    The path of a `url` at that address begins with the handler's name.
    """
    parts = urllib.parse.urlsplit(url or "")
    name = urllib.parse.unquote(parts.path.strip("/").partition("/")[0]) if parts.netloc == address else ""
    if not name.isidentifier():
        return f"no handler listens at {address}: its tasks wait, and no attempt is spent", None
    return f"no handler listens at {address} ({name})", f"ct.serve({name})"
