"""How soon `wait()` returns after the last task of a batch was answered, and how far `progress()` is behind."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

import cloudtasks_nb as ct
from tests.benchmarks.fan_out import home
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import Target, connected

_RATE = 500  # dispatches a second
_SECOND = 1_000_000_000
_BUSY = 8  # processes that need a core each, or workers of the handler
_TURNS = 60_000  # of a loop: a few milliseconds of pure Python
_LOOK = 0.1  # seconds between two calls of `progress()`


def _wait(bench: Bench) -> None:
    rows = pd.DataFrame({"row": range(bench.size.waited)})
    folder = bench.folder
    with home(folder / "home"), Target() as target, connected(folder=folder / "emulator") as (_, tasks):
        queue = tasks.queue("wait", create=True, rate=_RATE, max_concurrent=1_000)
        delays = [_delay(target, queue, rows, f"noop{number}") for number in range(bench.size.waits)]
    bench.report("median", statistics.median(delays))
    bench.report("worst", max(delays))


def _delay(target: Target, queue: ct.Queue, rows: pd.DataFrame, name: str) -> float:
    """Send a batch, and return the seconds from its last answer until `wait` has returned."""
    progress = queue.fan_out(rows, url=f"{target.url}/{name}", name=name, progress=False).wait()
    returned = time.monotonic_ns()
    if progress.succeeded != len(rows):
        raise AssertionError(f"not all rows succeeded: {progress!r}")
    return (returned - max(target.arrivals()[f"/{name}"])) / _SECOND


def _one(bench: Bench) -> None:
    with home(bench.folder / "home"), connected(folder=bench.folder / "emulator") as (_, tasks):
        queue = tasks.queue("one", create=True, rate=_RATE)
        taken = []
        for number in range(bench.size.pages):
            began = time.perf_counter()
            queue.map(_same, [number], progress=False)
            taken.append(time.perf_counter() - began)
    median, late = statistics.median(taken), statistics.quantiles(taken, n=100)[-1]
    bench.report("median", median)
    bench.report("99th percentile", late)
    bench.report("ratio", late / median)


def _same(value: int) -> int:
    return value


def _age(bench: Bench) -> None:
    with home(bench.folder / "home"), connected(folder=bench.folder / "emulator") as (_, tasks):
        queue = tasks.queue("age", create=True, rate=_RATE)
        for load, processes, turns in (("idle", 0, 0), ("processes", _BUSY, 0), ("python", 0, _TURNS)):
            with _busy(processes):
                worst = [_behind(queue, bench.size.waited, turns, f"{load}-{i}") for i in range(bench.size.waits // 2)]
            bench.report(f"{load} median", statistics.median(worst))
            bench.report(f"{load} worst", max(worst))


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Run processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _behind(queue: ct.Queue, rows: int, turns: int, name: str) -> float:
    """Send a batch; return for how many seconds at most `progress()` did not know of an attempt that had ended."""
    ended, worst = list[float](), 0.0

    def work(row: int) -> int:
        for number in range(turns):
            row += number
        ended.append(time.monotonic())
        return row

    with ct.serve(work, workers=_BUSY) as handler:
        batch = queue.fan_out([{"row": row} for row in range(rows)], url=handler, name=name, progress=False)
        while not (progress := batch.progress()).finished:
            known = progress.succeeded
            worst = max(worst, time.monotonic() - ended[known] if known < len(ended) else 0.0)
            time.sleep(_LOOK)  # `progress()` returns at once, and its age is what is measured
    return worst


WAIT = case(
    "wait",
    "From the last answer to the end of `wait()`",
    _wait,
    "`queue.fan_out(…).wait()`: 2,000 rows whose target does nothing, dispatched at 500 a second, 20 times; "
    "emulator on a folder, the target in its own process, which answers each request as it arrives.",
    """
    median | median | s | ≤ 0.3
    worst  | worst  | s | ≤ 1
    """,
    seconds=300,
)

ONE = case(
    "one",
    "A `map` of one row",
    _one,
    "`queue.map(f, [n])` in turn, 200 times, with a function that returns its argument; emulator and store in "
    "folders, at 500 a second.",
    """
    median          | median          | s |
    99th percentile | 99th percentile | s |
    ratio           | their ratio     | | ≤ 2
    """,
    seconds=300,
)

AGE = case(
    "age",
    "How far `progress()` is behind a served function",
    _age,
    "Batches of 2,000 rows at 500 a second, ten for each load: for how long `batch.progress()` did not know of an "
    "attempt that had ended, at most; asked ten times a second. The loads: none, eight processes that need a core "
    "each, and a function of some milliseconds of pure Python in eight workers.",
    """
    idle median      | nothing else runs, median of the worst in a batch | s | ≤ 3
    idle worst       | nothing else runs, worst                          | s | ≤ 3
    processes median | eight busy processes, median                      | s | ≤ 3
    processes worst  | eight busy processes, worst                       | s | ≤ 3
    python median    | a function that keeps the interpreter busy, median | s | ≤ 3
    python worst     | a function that keeps the interpreter busy, worst | s | ≤ 3
    """,
    seconds=600,
)
