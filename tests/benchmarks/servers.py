"""Emulators and targets for the measurements, each in a process of its own."""

import json
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import cloudtasks_nb as ct
from tests import processes
from tests.benchmarks import callers, flights
from tests.benchmarks.machine import cpu_seconds, resident_mb

#: Where the queues are.
LOCATION = "projects/bench/locations/us-central1"

_READY = 60.0  # seconds for a start


class _Child:
    """A process that prints one JSON line when it is ready; it ends with the block."""

    def __init__(self, module: str, *arguments: str) -> None:
        start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.ready = processes.ready_line(self.process, _READY)
        if not self.ready:
            self.end()
            raise RuntimeError(f"{self.process.args!r} did not get ready")
        self.ready_after = time.perf_counter() - start  #: seconds, from the start of the interpreter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process."""
        processes.end(self.process, how)


class Emulator(_Child):
    """An emulator.

    Parameters
    ----------
    *arguments : str
        Command line after ``--port 0``.
    folder : Path, optional
        Where it stores queues and tasks; it is temporary when left out.
    """

    def __init__(self, *arguments: str, folder: Path | None = None) -> None:
        place = [] if folder is None else ["--data-dir", str(folder)]
        super().__init__("cloudtasks_nb.emulator", "--port", "0", *place, *arguments)
        self.grpc: str = self.ready["grpc"]

    @property
    def cpu(self) -> float:
        """CPU time used so far, in seconds."""
        return cpu_seconds(self.pid)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.end(signal.SIGKILL)

    @property
    def memory(self) -> float:
        """Its resident memory, in MB."""
        return resident_mb(self.pid)


class Cost:
    """Seconds by the clock and CPU seconds since this object was made.

    Parameters
    ----------
    emulator : Emulator, optional
        Its CPU is measured too.
    """

    def __init__(self, emulator: Emulator | None = None) -> None:
        self._emulator = emulator
        self._emulator_cpu = emulator.cpu if emulator is not None else 0.0
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        """Seconds by the clock."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """CPU seconds of this process, all its threads together."""
        return time.process_time() - self._cpu

    @property
    def emulator_cpu(self) -> float:
        """CPU seconds of the emulator."""
        return (self._emulator.cpu if self._emulator is not None else 0.0) - self._emulator_cpu


class Target(_Child):
    """An HTTP server that answers 200 and records when each request arrived."""

    def __init__(self) -> None:
        super().__init__("tests.benchmarks.target")
        self.url: str = self.ready["url"]
        self._connection = HTTPConnection(self.url.removeprefix("http://"), timeout=_READY)

    def arrivals(self) -> dict[str, list[int]]:
        """Return for each path when its requests arrived, in nanoseconds of `time.monotonic_ns`."""
        return dict(self._get("/arrivals"))

    def arrival(self, path: str) -> int:
        """Wait for the first request to a path and return when it arrived."""
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
    with Emulator(*arguments, folder=folder) as emulator, client(emulator.grpc) as tasks:
        yield emulator, tasks


@contextmanager
def filled(name: str, count: int) -> Iterator[tuple[Emulator, ct.Client, ct.Queue]]:
    """Run an emulator, connect to it, and make a paused queue with so many tasks."""
    with connected() as (emulator, tasks):
        queue = tasks.queue(name, create=True).pause()
        callers.fill(emulator.grpc, queue.name, flights.bodies(count))
        yield emulator, tasks, queue


def client(target: str) -> ct.Client:
    """Connect the toolkit to an emulator."""
    _, project, _, location = LOCATION.split("/")
    return ct.connect(project, location, endpoint=target)
