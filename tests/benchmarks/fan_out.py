"""A fan-out of every flight, against what one writes with Google's client alone."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.wire import CreateEncoder
from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, Case, Figure
from tests.benchmarks.servers import Emulator, connected

__all__ = ["FAN_OUT", "WITHOUT_BATCH", "home", "until_sent"]

_STUCK = 1200.0  # seconds without an answer


def until_sent(batch: ct.Batch) -> float:
    """Wait until every row of a batch is acknowledged, and return when it was.

    Raises
    ------
    CloudTasksError
        What ended the sending before.
    """
    # There is no public way to wait for that: `batch.wait()` waits until the tasks are done.
    tracker = batch._tracker
    ended = threading.Event()
    moments: list[float] = []

    def hear() -> None:
        if tracker.stopped is not None or not tracker.progress.unsent:
            moments.append(time.perf_counter())
            ended.set()

    stop = tracker.listen(hear)
    hear()
    arrived = ended.wait(_STUCK)
    stop()
    if tracker.stopped is not None:
        raise tracker.stopped
    if not arrived:
        raise TimeoutError(f"{batch.progress()!r} after {_STUCK:g} s")
    return moments[0]


@contextmanager
def home(folder: Path) -> Iterator[None]:
    """Give the toolkit an outbox of its own."""
    before = os.environ.get("CLOUDTASKS_NB_HOME", "")
    os.environ["CLOUDTASKS_NB_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ["CLOUDTASKS_NB_HOME"] = before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one fan-out took."""

    batch: ct.Batch
    rows: int
    planning: float  #: seconds until the call returned
    sending: float  #: seconds from there to the last acknowledgement
    client_cpu: float
    emulator_cpu: float  #: while rows are sent

    @property
    def rate(self) -> float:
        """Rows a second, from the call to the last acknowledgement."""
        return self.rows / (self.planning + self.sending)


def _fan_out(emulator: Emulator, tasks: ct.Client, rows: pd.DataFrame) -> _Run:
    queue = tasks.queue("fan-out", create=True).pause()
    client, start = time.process_time(), time.perf_counter()
    batch = queue.fan_out(rows, url=flights.URL, progress=False)
    planned, server = time.perf_counter(), emulator.cpu
    sent = until_sent(batch)
    client, server = time.process_time() - client, emulator.cpu - server
    _check(tasks, "fan-out", len(rows))
    return _Run(
        batch=batch,
        rows=len(rows),
        planning=planned - start,
        sending=sent - planned,
        client_cpu=client,
        emulator_cpu=server,
    )


def _check(tasks: ct.Client, queue: str, expected: int) -> None:
    found = int(tasks.queues()["tasks"][queue])
    if found != expected:
        raise AssertionError(f"{found} tasks are in {queue} and not {expected}")


def _queue(tasks: ct.Client, name: str) -> str:
    """Make a paused queue and return its resource name."""
    return tasks.queue(name, create=True).pause().name


def _again(tasks: ct.Client, batch: ct.Batch, queue: str) -> list[bytes]:
    """Return the calls that create the tasks of a batch in another queue."""
    encoder = CreateEncoder(queue)
    pages = tasks._catalog.outbox.rows.pages(batch.id, wire=True)
    return [encoder.batch([str(task) for task in page.tasks], page.wire, str(uuid.uuid4())) for page in pages]


def _compare(bench: Bench) -> None:
    rows = flights.frame(bench.size.flights)
    few = flights.bodies(bench.size.compared)
    many = flights.bodies(3 * bench.size.compared)
    for number in bench.rounds():
        place = bench.folder / f"emulator-{number}"
        with home(bench.folder / f"home-{number}"), connected(folder=place) as (emulator, tasks):
            loop = callers.by_loop(emulator.grpc, _queue(tasks, "loop"), flights.URL, few)
            threads = callers.by_threads(emulator.grpc, _queue(tasks, "threads"), flights.URL, few)
            client = callers.by_async_client(emulator.grpc, _queue(tasks, "async"), flights.URL, many)
            ours = _fan_out(emulator, tasks, rows)
            requests = _again(tasks, ours.batch, _queue(tasks, "bare"))
            moments = callers.by_batches(emulator.grpc, requests)
            _check(tasks, "bare", len(rows))
        bare = len(rows) / (moments[-1] - moments[0])
        _note(bench, ours)
        bench.note("loop", loop)
        bench.note("threads", threads)
        bench.note("async", client)
        bench.note("x loop", ours.rate / loop)
        bench.note("x threads", ours.rate / threads)
        bench.note("x async", ours.rate / client)
        bench.note("bare", bare)
        bench.note("share", 100 * ours.rows / ours.sending / bare)


def _note(bench: Bench, ours: _Run) -> None:
    bench.note("seconds", ours.planning + ours.sending)
    bench.note("rate", ours.rate)
    bench.note("planning", ours.planning)
    bench.note("sending", ours.sending)
    bench.note("client cpu", 1e6 * ours.client_cpu / ours.rows)
    bench.note("emulator cpu", 1e6 * ours.emulator_cpu / ours.rows)
    bench.note("emulator busy", 100 * ours.emulator_cpu / ours.sending)


def _compare_without_batch(bench: Bench) -> None:
    rows = flights.frame(bench.size.without_batch)
    few = flights.bodies(bench.size.compared)
    bench.remark(f"The fan-out had {len(rows):,} rows, the loop {len(few):,}.")
    for number in bench.rounds():
        place = bench.folder / f"emulator-{number}"
        with home(bench.folder / f"home-{number}"), connected("--no-batch", folder=place) as (emulator, tasks):
            loop = callers.by_loop(emulator.grpc, _queue(tasks, "loop"), flights.URL, few)
            ours = _fan_out(emulator, tasks, rows)
        bench.note("loop", loop)
        bench.note("rate", ours.rate)
        bench.note("x loop", ours.rate / loop)
        bench.note("client cpu", 1e6 * ours.client_cpu / ours.rows)
        bench.note("emulator cpu", 1e6 * ours.emulator_cpu / ours.rows)


_LOOP = "loop of `client.create_task`"

FAN_OUT = Case(
    name="fan-out",
    title="Fan-out of 336,776 flights",
    how=(
        "`queue.fan_out(flights, url=…)`: 19 columns as JSON, about 310 bytes a row, outbox on, emulator on a folder, "
        "queue paused; from the call to the last acknowledgement, which is written down by then. The other ways get "
        "ready bodies, fewer rows and their own queues on the same emulator; only their rate counts. The bare loop "
        "sends the same tasks from memory, 16 calls in flight, over `grpc.aio`."
    ),
    figures=(
        Figure(key="x loop", what="fan-out, how many times as fast", against=_LOOP, unit="x", low=50),
        Figure(
            key="x async",
            what="fan-out, how many times as fast",
            against="`CloudTasksAsyncClient`, 64 in flight",
            unit="x",
            low=15,
        ),
        Figure(
            key="x threads",
            what="fan-out, how many times as fast",
            against="`client.create_task` in 64 threads",
            unit="x",
        ),
        Figure(
            key="share",
            what="sending from the outbox",
            against="serialized batch calls in a bare loop",
            unit="% of its rows/s",
            low=70,
        ),
        Figure(key="seconds", what="fan-out, whole", unit="s"),
        Figure(key="rate", what="fan-out, whole", unit="rows/s"),
        Figure(key="planning", what="of that in the call: planned and safe in the outbox", unit="s"),
        Figure(key="sending", what="of that in the background: sent and acknowledged", unit="s"),
        Figure(key="client cpu", what="CPU of the process that fans out", unit="µs a row"),
        Figure(key="emulator cpu", what="CPU of the emulator", unit="µs a row"),
        Figure(key="emulator busy", what="CPU of the emulator while rows are sent", unit="% of a core"),
        Figure(key="bare", what="bare loop of serialized batch calls", unit="rows/s"),
        Figure(key="loop", what=_LOOP, unit="rows/s"),
        Figure(key="threads", what="`client.create_task` in 64 threads", unit="rows/s"),
        Figure(key="async", what="`CloudTasksAsyncClient`, 64 in flight", unit="rows/s"),
    ),
    run=_compare,
    seconds=300,
)

WITHOUT_BATCH = Case(
    name="no-batch",
    title="Fan-out without batch calls",
    how="The same with an emulator that answers batch calls with UNIMPLEMENTED, as endpoints did before 2026.",
    figures=(
        Figure(key="x loop", what="fan-out, how many times as fast", against=_LOOP, unit="x", low=4),
        Figure(key="rate", what="fan-out, whole", unit="rows/s"),
        Figure(key="loop", what=_LOOP, unit="rows/s"),
        Figure(key="client cpu", what="CPU of the process that fans out", unit="µs a row"),
        Figure(key="emulator cpu", what="CPU of the emulator", unit="µs a row"),
    ),
    run=_compare_without_batch,
    full_seconds=900,
)
