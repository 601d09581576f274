"""How soon `wait()` returns after the last task of a batch was answered."""

import statistics
import time

import pandas as pd

import cloudtasks_nb as ct
from tests.benchmarks.fan_out import home
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import Target, connected

_RATE = 500  # dispatches a second
_SECOND = 1_000_000_000


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
