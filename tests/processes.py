"""Run a command as a test does: without input, with a time limit, and with its output as text; and run services."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PATIENCE = 240.0  # seconds


def run(
    *command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the caller checks the exit code."""
    usual: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    return subprocess.run(command, cwd=cwd, env=environment, check=False, timeout=timeout, **usual)


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Give a socket that listens on loopback: connections wait there until a service accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        yield sock


@contextmanager
def serving(
    *command: str | Path, cwd: Path, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service, and end it."""
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, pass_fds=pass_fds)
    try:
        yield process
    finally:
        end(process)


def ready_line(process: subprocess.Popen[str], within: float) -> dict[str, Any]:
    """Return the JSON line that a process prints when it is ready; nothing if it ends before, or is not so in time."""
    assert process.stdout is not None
    timer = threading.Timer(within, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    timer.join()
    return dict(json.loads(line)) if line else {}


def end(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> None:
    """End a process, by force if it does not end in time."""
    with process:  # closes its pipes, and waits
        process.send_signal(how)
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


@contextmanager
def free_port() -> Iterator[int]:
    """Give a port on which nobody listens. It is bound, so the system gives it to no one else; a server may take it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
