"""What the emulator writes to its standard error: a line for each failed attempt, and no traceback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

import pytest

from tests.integration.conftest import LOCATION, Emulator, StartEmulator, Target
from tests.integration.emulator.conftest import QUICK

QUEUE = f"{LOCATION}/queues/q"
WRITE = f"POST /v2/{QUEUE}/tasks HTTP/1.1\r\nContent-Type: application/json\r\n"
#: Beginnings of requests, after which the client disconnects.
CUT = {
    "half a body": f"{WRITE}Host: HOST\r\nContent-Length: 1000\r\n\r\n{{",
    "half a chunk": f"{WRITE}Host: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{",
    "no chunk": f"{WRITE}Host: HOST\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{{",
    "no gzip": f"{WRITE}Host: HOST\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "admin": "POST /admin/clock HTTP/1.1\r\nContent-Type: application/json\r\nHost: HOST\r\nContent-Length: 9\r\n\r\n{",
    "lease": "GET /lease HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "no HTTP": "\x16\x03\x01\x02",
}


def fail(emulator: Emulator, target: Target, *statuses: int) -> str:
    """Run a task of two attempts that the target answers so, and return its name."""
    queue = {"name": QUEUE, "retry_config": {"max_attempts": 2, **QUICK}}
    emulator.client.create_queue({"parent": LOCATION, "queue": queue})
    target.script(*statuses)
    task = emulator.client.create_task({"parent": QUEUE, "task": {"http_request": {"url": target.url}}})
    emulator.gone(task.name)
    return str(task.name)


@pytest.mark.parametrize(
    ("statuses", "reasons"),
    [((503, 200), ["UNAVAILABLE(14): HTTP status code 503; next attempt 20"]), ((404, 500), ["404; next", "500; no"])],
)
def test_a_line_for_each_failed_attempt(
    start_emulator: StartEmulator, target: Target, statuses: Sequence[int], reasons: Sequence[str]
) -> None:
    """A failed attempt is one line that names task, target, reason and what follows; a success is none."""
    emulator = start_emulator()
    name = fail(emulator, target, *statuses)
    emulator.until(lambda: emulator.errors().count("\n") >= len(reasons))
    lines = emulator.errors().splitlines()
    assert len(lines) == len(reasons)
    for number, (line, reason) in enumerate(zip(lines, reasons, strict=True), 1):
        assert f" {name}: attempt {number} of POST {target.url} failed with " in line
        assert reason in line


def test_quiet(start_emulator: StartEmulator, target: Target) -> None:
    """With `--quiet` failed attempts are not written."""
    emulator = start_emulator("--quiet")
    fail(emulator, target, 500, 500)
    assert emulator.errors() == ""


@pytest.mark.parametrize("reset", [False, True])
def test_lost_connections_are_no_errors(start_emulator: StartEmulator, *, reset: bool) -> None:
    """A client that disconnects in the middle of a request, or sends none, leaves nothing on the standard error."""
    emulator = start_emulator("--queue", QUEUE)
    host, _, port = emulator.http.rpartition(":")
    for start in CUT.values():
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(start.replace("HOST", emulator.http).encode("latin-1"))
            emulator.request("GET", "/health")  # until it has read what was sent
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    emulator.request("GET", "/health")
    emulator.process.terminate()
    assert (emulator.process.wait(), emulator.errors()) == (0, "")
