"""Handlers on this machine that do not listen. The embedded emulator keeps their tasks and spends no attempt."""

from __future__ import annotations

import json
import socket
import time
import urllib.parse
from collections.abc import Mapping
from functools import lru_cache
from http.client import HTTPConnection, HTTPException
from types import MappingProxyType
from typing import Any

from cloudtasks_nb.service.endpoint import Endpoint

__all__ = ["absent_handlers", "describe_absent", "get_json", "has_ended"]

_TIMEOUT = 1.0  # seconds
_FRESH = 2.0  # seconds for which an answer is used again


def absent_handlers(emulator: Endpoint, queue: str) -> list[str]:
    """Return ``host:port`` of the handlers that tasks of a queue (full name) wait for in the embedded emulator.

    One that does not answer has none; nor has another service.
    """
    targets = [] if emulator.http is None else _targets(emulator, int(time.monotonic() / _FRESH))
    return [target["address"] for target in targets if target["queue"] == queue]


@lru_cache(maxsize=8)
def _targets(emulator: Endpoint, _at: int) -> list[dict[str, Any]]:
    """Return what tasks of all queues wait for; `_at` changes every two seconds, so that this is asked anew."""
    answer = get_json(str(emulator.http), "/admin/waiting", timeout=_TIMEOUT, headers=dict(emulator.metadata))
    found: list[dict[str, Any]] = answer.get("targets", [])
    return found


def get_json(
    http: str, path: str, *, timeout: float, headers: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the JSON object that an emulator answers at a path; empty if it does not answer with one."""
    connection = HTTPConnection(http.removeprefix("http://"), timeout=timeout)
    try:
        connection.request("GET", path, headers=headers)
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


def has_ended(target: str) -> bool:
    """Return whether nothing listens any more at ``host:port`` of this machine."""
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT).close()
    except OSError as error:  # another one tells nothing
        return isinstance(error, ConnectionRefusedError)
    return False
