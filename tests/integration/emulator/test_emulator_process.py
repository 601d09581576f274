"""The emulator as a process: ready line, folder, port, lease, end, and what it writes to its standard error."""

import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from uuid import UUID

import pytest
import requests
from google.api_core.exceptions import ServiceUnavailable

from cloudtasks_nb.client.emulator_process import hold
from tests.cases import cases
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, StartEmulator, Target
from tests.integration.emulator.conftest import QUICK
from tests.processes import run

QUEUE = f"{LOCATION}/queues/seeded"


def lease(emulator: Emulator, stack: ExitStack) -> HTTPConnection:
    """Take a lease."""
    connection = HTTPConnection(emulator.http, timeout=PATIENCE)
    stack.callback(connection.close)
    connection.request("GET", "/lease")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("X-Instance")) == (200, emulator.ready["instance"])
    return connection


def test_the_ready_line(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """The ready line is JSON with both addresses, the process, the folder and the instance."""
    emulator = start_emulator("--data-dir", str(tmp_path))
    ready = emulator.ready
    assert set(ready) == {"grpc", "http", "pid", "data_dir", "instance"}
    assert (ready["pid"], ready["data_dir"]) == (emulator.process.pid, str(tmp_path))
    assert str(UUID(ready["instance"])) == ready["instance"]
    assert [ready[name].rpartition(":")[0] for name in ("grpc", "http")] == ["127.0.0.1", "http://127.0.0.1"]
    assert json.loads((tmp_path / "endpoint.json").read_text()) == ready
    assert emulator.request("GET", "/health") == {"status": "ok", "instance": ready["instance"]}


def test_a_temporary_folder_goes_with_the_emulator(start_emulator: StartEmulator) -> None:
    """Without `--data-dir` nothing stays behind after a graceful stop."""
    emulator = start_emulator()
    folder = Path(emulator.ready["data_dir"])
    assert folder.is_dir()
    assert emulator.stop() == 0
    assert not folder.exists()


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_stop(start_emulator: StartEmulator, tmp_path: Path, signal_: signal.Signals) -> None:
    """SIGTERM and SIGINT end the process with status 0, without a traceback, and keep the folder's contents."""
    emulator = start_emulator("--data-dir", str(tmp_path), "--queue", QUEUE)
    emulator.process.send_signal(signal_)
    assert emulator.process.wait(PATIENCE) == 0
    assert "Traceback" not in emulator.errors()
    assert emulator.process.stdout is not None
    assert emulator.process.stdout.read() == ""
    again = start_emulator("--data-dir", str(tmp_path))
    assert again.client.get_queue(name=QUEUE).name == QUEUE


def test_a_folder_in_use(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """A second emulator on a folder ends, names the folder and leaves the first one alone."""
    first = start_emulator("--data-dir", str(tmp_path), "--queue", QUEUE)
    second = run(sys.executable, "-m", "cloudtasks_nb.emulator", "--port", "0", "--data-dir", tmp_path)
    assert (second.returncode != 0, second.stdout, "Traceback" in second.stderr) == (True, "", False)
    assert str(tmp_path) in second.stderr
    assert "in use" in second.stderr
    assert first.client.get_queue(name=QUEUE).name == QUEUE
    assert json.loads((tmp_path / "endpoint.json").read_text()) == first.ready


def test_the_lease_is_held_by_the_last_one(start_emulator: StartEmulator, stack: ExitStack) -> None:
    """With `--lease` the emulator ends soon after its last holder has gone; who comes within the grace keeps it."""
    emulator = start_emulator("--lease", "--queue", QUEUE, "--single-port")
    lease(emulator, stack).close()
    first, second = lease(emulator, stack), lease(emulator, stack)
    first.close()
    with pytest.raises(subprocess.TimeoutExpired):
        emulator.process.wait(3)
    assert emulator.client.get_queue(name=QUEUE).name == QUEUE
    second.close()
    assert emulator.process.wait(PATIENCE) == 0
    assert "Traceback" not in emulator.errors()


def stops(emulator: Emulator) -> bool:
    """Ask whether the emulator has got the signal to stop."""
    with closing(requests.get(f"http://{emulator.http}/lease", stream=True, timeout=PATIENCE)) as answer:
        return answer.status_code == 503


def slow_queue(emulator: Emulator, target: Target) -> list[str]:
    """Make a queue that sends one task at a time, with two tasks, and wait until the first one is being sent."""
    queue = {"name": QUEUE, "rate_limits": {"max_concurrent_dispatches": 1}}
    emulator.client.create_queue({"parent": LOCATION, "queue": queue})
    task = {"http_request": {"url": target.url}}
    names = [emulator.client.create_task({"parent": QUEUE, "task": task}).name for _ in range(2)]
    target.wait()
    return names


def test_attempts_in_flight_may_end(start_emulator: StartEmulator, tmp_path: Path, target: Target) -> None:
    """After a signal to stop no attempt starts, and the result of those in flight is kept."""
    arguments = ("--data-dir", str(tmp_path), "--grace", "600")
    emulator = start_emulator(*arguments)
    answer = target.hold()
    target.script(answer)
    done, left = slow_queue(emulator, target)
    emulator.process.terminate()
    emulator.until(lambda: stops(emulator))
    with pytest.raises(ServiceUnavailable, match="stopping"):
        emulator.client.run_task(name=left)
    assert hold(emulator.ready) is None, "no lease is given any more"
    answer.release()
    assert emulator.process.wait(PATIENCE) == 0
    assert len(target.received) == 1
    again = start_emulator(*arguments)
    assert "existed recently" in again.gone(done)
    again.gone(left)
    assert len(target.received) == 2


@pytest.mark.parametrize(("grace", "signals"), [("0", 1), ("600", 2)])
def test_attempts_in_flight_are_cancelled(
    start_emulator: StartEmulator, tmp_path: Path, target: Target, grace: str, signals: int
) -> None:
    """When the grace period is over, or after a second signal, the emulator ends; the task is due at the next start."""
    emulator = start_emulator("--data-dir", str(tmp_path), "--grace", grace)
    target.script(target.hold(), target.hold())
    first, second = slow_queue(emulator, target)
    emulator.process.terminate()
    if signals > 1:
        emulator.until(lambda: stops(emulator))
        emulator.process.send_signal(signal.SIGINT)
    assert emulator.process.wait(PATIENCE) == 0
    assert len(target.received) == 1
    again = start_emulator("--data-dir", str(tmp_path))
    target.wait(2)
    assert {task.name for task in again.client.list_tasks(parent=QUEUE)} == {first, second}


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


@cases(((503, 200), ["UNAVAILABLE(14): HTTP status code 503; next attempt 20"]), ((404, 500), ["404; next", "500; no"]))
def test_a_line_for_each_failed_attempt(
    start_emulator: StartEmulator, target: Target, statuses: Sequence[int], reasons: Sequence[str]
) -> None:
    """A failed attempt is one line that names task, target, reason and what follows; a success is none."""
    emulator = start_emulator()
    name = fail(emulator, target, *statuses)
    emulator.until(lambda: emulator.errors().count("\n") > len(reasons))
    _, *lines = emulator.errors().splitlines()  # the first says who can call it
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
    emulator = start_emulator("--queue", QUEUE, "--quiet")
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
