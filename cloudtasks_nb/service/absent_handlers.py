"""Handlers of this machine that tasks wait for: the embedded emulator spends no attempt while nobody listens."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from http.client import HTTPConnection, HTTPException
from typing import Any

__all__ = ["AbsentHandlers", "describe_absent"]

_TIMEOUT = 1.0  # seconds
_FRESH = 2.0  # seconds for which an answer is good


class AbsentHandlers:
    """Tells for which handlers an emulator's tasks wait.

    Parameters
    ----------
    http : str, optional
        ``http://127.0.0.1:PORT`` of the emulator; None: nothing is known of any.
    """

    def __init__(self, http: str | None) -> None:
        self._http = http
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._targets: list[dict[str, Any]] = []

    def addresses(self, queue: str) -> list[str]:
        """Return ``host:port`` of the handlers that tasks of a queue (full name) wait for."""
        if self._http is None:
            return []
        with self._lock:
            if time.monotonic() > self._asked + _FRESH:
                self._targets = self._ask(self._http)
                self._asked = time.monotonic()
        return [target["address"] for target in self._targets if target["queue"] == queue]

    def _ask(self, http: str) -> list[dict[str, Any]]:
        connection = HTTPConnection(http.removeprefix("http://"), timeout=_TIMEOUT)
        try:
            connection.request("GET", "/admin/waiting")
            found: list[dict[str, Any]] = json.loads(connection.getresponse().read())["targets"]
        except (OSError, HTTPException, ValueError, KeyError):
            return []
        finally:
            connection.close()
        return found


def describe_absent(address: str, url: str | None) -> str:
    """Say who does not listen; a `url` at that address tells the handler's name, with which its path begins."""
    parts = urllib.parse.urlsplit(url or "")
    name = urllib.parse.unquote(parts.path.strip("/").partition("/")[0]) if parts.netloc == address else ""
    if not name.isidentifier():
        return f"nobody listens at {address}: no attempt is spent until somebody does"
    return f"nobody listens at {address} ({name}): run ct.serve({name})"
