"""A fan-out of every flight, against what one writes with Google's client alone."""

import queue as queues
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.wire import CreateEncoder
from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import Cost, Emulator, connected

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
    moments: queues.Queue[float] = queues.Queue()

    def check() -> None:
        if tracker.error is not None or not tracker.progress.unsent:
            moments.put(time.perf_counter())

    stop = tracker.listen(check)
    check()
    try:
        moment = moments.get(timeout=_STUCK)
    finally:
        stop()
    if tracker.error is not None:
        raise tracker.error
    return moment


def home(folder: Path) -> AbstractContextManager[Any]:
    """Use a home, and so an outbox, of its own inside the block."""
    return patch.dict("os.environ", CLOUDTASKS_NB_HOME=str(folder))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Times and CPU of one fan-out."""

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
    cost, start = Cost(), time.perf_counter()
    batch = queue.fan_out(rows, url=flights.URL, progress=False)
    planned, sending = time.perf_counter(), Cost(emulator)
    sent = until_sent(batch)
    times = {"planning": planned - start, "sending": sent - planned}
    run = _Run(batch=batch, rows=len(rows), **times, client_cpu=cost.cpu, emulator_cpu=sending.emulator_cpu)
    _check(tasks, "fan-out", len(rows))
    return run


def _check(tasks: ct.Client, queue: str, expected: int) -> None:
    found = int(tasks.queues()["tasks"][queue])
    if found != expected:
        raise AssertionError(f"{found} tasks are in {queue} and not {expected}")


def _queue(tasks: ct.Client, name: str) -> str:
    """Make a paused queue and return its resource name."""
    return tasks.queue(name, create=True).pause().name


def _again(tasks: ct.Client, batch: ct.Batch, queue: str) -> list[bytes]:
    """Return the calls that create the tasks of a batch in another queue."""
    encoder, calls = CreateEncoder(queue, b"key"), []
    for page in tasks._catalog.outbox.rows.pages(whole(batch.id), wire=True):
        for first in range(0, len(page.tasks), callers.BATCH):
            part = slice(first, first + callers.BATCH)
            calls.append(encoder.batch([str(task) for task in page.tasks[part]], page.wire[part], str(uuid.uuid4())))
    return calls


def _compare(bench: Bench) -> None:
    rows = flights.frame(bench.size.flights)
    few = flights.bodies(bench.size.compared)
    many = flights.bodies(3 * bench.size.compared)
    for folder in bench.rounds():
        with home(folder / "home"), connected(folder=folder / "emulator") as (emulator, tasks):
            loop = callers.by_loop(emulator.grpc, _queue(tasks, "loop"), flights.URL, few)
            threads = callers.by_threads(emulator.grpc, _queue(tasks, "threads"), flights.URL, few)
            client = callers.by_async_client(emulator.grpc, _queue(tasks, "async"), flights.URL, many)
            ours = _fan_out(emulator, tasks, rows)
            requests = _again(tasks, ours.batch, _queue(tasks, "bare"))
            moments = callers.by_batches(emulator.grpc, requests)
            _check(tasks, "bare", len(rows))
        bare = len(rows) / (moments[-1] - moments[0])
        for key, rate in (("loop", loop), ("threads", threads), ("async", client)):
            bench.report(key, rate)
            bench.report(f"x {key}", ours.rate / rate)
        bench.report("bare", bare)
        bench.report("share", 100 * ours.rows / ours.sending / bare)
        bench.report("seconds", ours.planning + ours.sending)
        bench.report("planning", ours.planning)
        bench.report("sending", ours.sending)
        bench.report("emulator busy", 100 * ours.emulator_cpu / ours.sending)
        _report(bench, ours)


def _report(bench: Bench, ours: _Run) -> None:
    bench.report("rate", ours.rate)
    bench.report("client cpu", 1e6 * ours.client_cpu / ours.rows)
    bench.report("emulator cpu", 1e6 * ours.emulator_cpu / ours.rows)


def _compare_without_batch(bench: Bench) -> None:
    rows = flights.frame(bench.size.without_batch)
    few = flights.bodies(bench.size.compared)
    bench.note(f"The fan-out had {len(rows):,} rows, the loop {len(few):,}.")
    for folder in bench.rounds():
        with home(folder / "home"), connected("--no-batch", folder=folder / "emulator") as (emulator, tasks):
            loop = callers.by_loop(emulator.grpc, _queue(tasks, "loop"), flights.URL, few)
            ours = _fan_out(emulator, tasks, rows)
        bench.report("loop", loop)
        bench.report("x loop", ours.rate / loop)
        _report(bench, ours)


FAN_OUT = case(
    "fan-out",
    "Fan-out of 336,776 flights",
    _compare,
    "`queue.fan_out(flights, url=…)`: 19 columns as JSON, about 310 bytes a row, outbox on, emulator on a folder, "
    "queue paused; from the call to the last acknowledgement, which is written down by then. The other ways get "
    "ready bodies, fewer rows and their own queues on the same emulator; only their rate counts. The bare loop "
    "sends the same tasks from memory, 16 calls in flight, over `grpc.aio`.",
    """
    x loop | fan-out, how many times as fast | x | ≥ 50 | loop of `client.create_task`
    x async | fan-out, how many times as fast | x | ≥ 15 | `CloudTasksAsyncClient`, 64 in flight
    x threads | fan-out, how many times as fast | x |  | `client.create_task` in 64 threads
    share | sending from the outbox | % of its rows/s | ≥ 70 | serialized batch calls in a bare loop
    seconds | fan-out, whole | s
    rate | fan-out, whole | rows/s
    planning | of that in the call: planned and safe in the outbox | s
    sending | of that in the background: sent and acknowledged | s
    client cpu | CPU of the process that fans out | µs a row
    emulator cpu | CPU of the emulator | µs a row
    emulator busy | CPU of the emulator while rows are sent | % of a core
    bare | bare loop of serialized batch calls | rows/s
    loop | loop of `client.create_task` | rows/s
    threads | `client.create_task` in 64 threads | rows/s
    async | `CloudTasksAsyncClient`, 64 in flight | rows/s
    """,
    seconds=300,
)

WITHOUT_BATCH = case(
    "no-batch",
    "Fan-out without batch calls",
    _compare_without_batch,
    "The same with an emulator that answers batch calls with UNIMPLEMENTED, as endpoints did before 2026.",
    """
    x loop       | fan-out, how many times as fast  | x        | ≥ 4 | loop of `client.create_task`
    rate         | fan-out, whole                   | rows/s
    loop         | loop of `client.create_task`     | rows/s
    client cpu   | CPU of the process that fans out | µs a row
    emulator cpu | CPU of the emulator              | µs a row
    """,
    full_seconds=900,
)
