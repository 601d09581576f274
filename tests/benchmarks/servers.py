"""What the measurements talk to: emulators and targets, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import cloudtasks_nb as ct
from tests.benchmarks.machine import cpu_seconds, resident_mb

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LOCATION", "Emulator", "Target", "connected"]

#: Where the queues are.
LOCATION = "projects/bench/locations/us-central1"

_READY = 60.0  # seconds for a start
_END = 10.0  # seconds for a graceful stop


class _Child:
    """A process of ours that prints one JSON line when it is ready; ended with the block."""

    def __init__(self, module: str, *arguments: str) -> None:
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        try:
            self.ready = self._ready()
        except BaseException:
            self.end()
            raise
        self.ready_after = time.perf_counter() - start  #: seconds, from the start of the interpreter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process, if need be by force."""
        with self.process:
            self.process.send_signal(how)
            try:
                self.process.wait(_END)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        timer = threading.Timer(_READY, self.process.kill)
        timer.daemon = True
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not line:
            raise RuntimeError(f"{self.process.args!r} did not get ready")
        return dict(json.loads(line))


class Emulator(_Child):
    """An emulator.

    Parameters
    ----------
    *arguments : str
        Command line behind ``--port 0``; with ``--data-dir`` it is durable.
    """

    def __init__(self, *arguments: str) -> None:
        super().__init__("cloudtasks_nb.emulator", "--port", "0", *arguments)
        self.grpc: str = self.ready["grpc"]

    @property
    def cpu(self) -> float:
        """CPU time used so far, in seconds."""
        return cpu_seconds(self.pid)

    @property
    def memory(self) -> float:
        """Memory that it holds, in MB."""
        return resident_mb(self.pid)

    def kill(self) -> None:
        """End it as a crash would."""
        self.end(signal.SIGKILL)


class Target(_Child):
    """An HTTP server that answers 200 and notes when each request came."""

    def __init__(self) -> None:
        super().__init__("tests.benchmarks.target")
        self.url: str = self.ready["url"]
        self._connection = HTTPConnection(self.url.removeprefix("http://"), timeout=_READY)

    def arrivals(self) -> dict[str, list[int]]:
        """Return for each path when its requests came, in nanoseconds of `time.monotonic_ns`."""
        return dict(self._get("/arrivals"))

    def arrival(self, path: str) -> int:
        """Wait for the first request to a path and return when it came."""
        return int(self._get(f"/arrival?path={urllib.parse.quote(path)}"))

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process."""
        if hasattr(self, "_connection"):
            self._connection.close()
        super().end(how)

    def _get(self, path: str) -> Any:
        self._connection.request("GET", path)
        return json.loads(self._connection.getresponse().read())


@contextmanager
def connected(*arguments: str, folder: Path | None = None) -> Iterator[tuple[Emulator, ct.Client]]:
    """Run an emulator, on a folder if one is given, and connect to it."""
    place = [] if folder is None else ["--data-dir", str(folder)]
    with ExitStack() as stack:
        emulator = stack.enter_context(Emulator(*place, *arguments))
        _, project, _, location = LOCATION.split("/")
        yield emulator, stack.enter_context(ct.connect(project, location, endpoint=emulator.grpc))
