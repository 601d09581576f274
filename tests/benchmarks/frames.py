"""Listing into a DataFrame, and what the import costs."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable

import pandas as pd
from google.cloud import tasks_v2

from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, Case, Figure
from tests.benchmarks.servers import connected

__all__ = ["IMPORT", "LISTING"]

_TIMED = "import pandas, time; start = time.perf_counter(); {}; print(1000 * (time.perf_counter() - start))"


def _listing(bench: Bench) -> None:
    bodies = flights.bodies(bench.size.listed)
    with connected() as (emulator, tasks), callers.google_client(emulator.grpc) as client:
        queue = tasks.queue("listed", create=True).pause()
        callers.by_batches(emulator.grpc, callers.batch_requests(queue.name, flights.URL, bodies, "listed"))

        def theirs() -> pd.DataFrame:
            pages = client.list_tasks(request={"parent": queue.name, "page_size": 1000})
            return pd.DataFrame([tasks_v2.Task.to_dict(task) for task in pages])

        for _ in bench.rounds():
            their_cpu, their_wall = _cost(theirs, len(bodies))
            our_cpu, our_wall = _cost(lambda: queue.tasks(limit=None), len(bodies))
            bench.note("x", their_cpu / our_cpu)
            bench.note("ours", our_cpu)
            bench.note("theirs", their_cpu)
            bench.note("our wall", our_wall)
            bench.note("their wall", their_wall)


def _cost(listing: Callable[[], pd.DataFrame], expected: int) -> tuple[float, float]:
    """Return the seconds of CPU, of all threads, and by the clock that a listing takes."""
    gc.collect()
    start, cpu = time.perf_counter(), time.process_time()
    found = listing()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    if len(found) != expected:
        raise AssertionError(f"{len(found):,} tasks were listed and not {expected:,}")
    return cpu, wall


def _import(bench: Bench) -> None:
    for _ in bench.rounds():
        bench.note("ours", _milliseconds("import cloudtasks_nb"))
        bench.note("google", _milliseconds("import google.cloud.tasks_v2"))
        bench.note("first", _milliseconds("import cloudtasks_nb; cloudtasks_nb.connect"))


def _milliseconds(statement: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statement)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


LISTING = Case(
    name="listing",
    title="Listing 100,000 tasks into a DataFrame",
    how="`queue.tasks(limit=None)`, pages of 1,000 in BASIC view; CPU of the listing process, all its threads.",
    figures=(
        Figure(
            key="x",
            what="CPU, how many times less",
            against="`Task.to_dict` over `client.list_tasks`",
            unit="x",
            low=10,
        ),
        Figure(key="ours", what="CPU of `queue.tasks`", unit="s"),
        Figure(key="theirs", what="CPU of `Task.to_dict`", unit="s"),
        Figure(key="our wall", what="`queue.tasks` by the clock", unit="s"),
        Figure(key="their wall", what="`Task.to_dict` by the clock", unit="s"),
    ),
    run=_listing,
)

IMPORT = Case(
    name="import",
    title="Import",
    how="Each in a fresh interpreter that has imported pandas.",
    figures=(
        Figure(
            key="ours",
            what="`import cloudtasks_nb`",
            against="`import google.cloud.tasks_v2`",
            unit="ms",
            high=150,
        ),
        Figure(key="first", what="the same and the first `cloudtasks_nb.connect`, which loads the rest", unit="ms"),
        Figure(key="google", what="`import google.cloud.tasks_v2`", unit="ms"),
    ),
    run=_import,
)
