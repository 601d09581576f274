"""A sweep of a function over many rows, against joblib, and the results of a large batch."""

import datetime as dt
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import pandas as pd

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.store.results import ResultWriter, StoredResult, tag_of
from cloudtasks_nb.store.store import Store
from tests.benchmarks.fan_out import home, until_sent
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.flights import URL
from tests.benchmarks.machine import resident_mb
from tests.benchmarks.servers import Cost, connected

_WORKERS = 16
_THREADS = 8  # for results as they come
_RATE = 500  # dispatches a second
_WORK = 0.045  # seconds of a task
_PAGE = 20_000
_MILLION = 1_000_000


def _work(x: int) -> dict[str, int]:
    time.sleep(_WORK)  # the work that is measured
    return {"y": x * x}


def _nothing(x: int) -> dict[str, int]:
    return {"y": x * x}


def _sweep(bench: Bench) -> None:
    rows = pd.DataFrame({"x": range(bench.size.swept)})
    with home(bench.folder / "home"), connected(folder=bench.folder / "emulator") as (_, tasks):
        queue = tasks.queue("sweep", create=True, rate=_RATE, max_concurrent=2 * _WORKERS)
        with ct.serve(_work, workers=_WORKERS) as work, ct.serve(_nothing, workers=_WORKERS) as nothing:
            _ours(queue, rows.head(100), work, "warm")
            for folder in bench.rounds():
                before = _result_files(work)
                ours, reading = _ours(queue, rows, work, folder.name)
                bench.report("file", len(rows) / (_result_files(work) - before))
                theirs = _joblib(_work, rows)
                bench.report("x", 100 * (ours / theirs - 1))
                bench.report("ours", ours)
                bench.report("reading", reading)
                bench.report("joblib", theirs)
                bench.report("noop", 1000 * _ours(queue, rows, nothing, f"{folder.name}-noop")[0] / len(rows))
                bench.report("noop joblib", 1000 * _joblib(_nothing, rows) / len(rows))
        with ct.serve(_work, name="come", workers=_THREADS) as work:
            for folder in bench.rounds():
                ours, theirs = _come(queue, rows, work, f"{folder.name}-come"), _come_joblib(rows)
                bench.report("come", ours)
                bench.report("come joblib", theirs)
                bench.report("come x", 100 * (ours / theirs - 1))


def _ours(queue: ct.Queue, rows: pd.DataFrame, handler: ct.Handler, name: str) -> tuple[float, float]:
    """Return the seconds from the call to the results, and those of `results()` alone."""
    start = time.perf_counter()
    batch = queue.fan_out(rows, url=handler, name=name, progress=False)
    batch.wait()
    waited = time.perf_counter()
    found = batch.results()
    end = time.perf_counter()
    if found["y"].isna().any():
        raise AssertionError(f"{found['y'].isna().sum():,} results are missing")
    return end - start, end - waited


def _come(queue: ct.Queue, rows: pd.DataFrame, handler: ct.Handler, name: str) -> float:
    """Return the seconds from the call until every result has come."""
    start = time.perf_counter()
    batch = queue.fan_out(rows, url=handler, name=name, progress=False)
    if sum(int(part["y"].notna().sum()) for part in batch.as_completed()) != len(rows):
        raise AssertionError("results are missing")
    return time.perf_counter() - start


def _come_joblib(rows: pd.DataFrame) -> float:
    start = time.perf_counter()
    calls = (joblib.delayed(_work)(x) for x in rows["x"])
    pool = joblib.Parallel(n_jobs=_THREADS, prefer="threads", return_as="generator_unordered")
    if sum(1 for _ in pool(calls)) != len(rows):
        raise AssertionError("results are missing")
    return time.perf_counter() - start


def _result_files(handler: ct.Handler) -> int:
    return len(list(Path(handler.store).rglob("*.jsonl")))


def _joblib(function: Callable[[int], dict[str, int]], rows: pd.DataFrame) -> float:
    start = time.perf_counter()
    calls = (joblib.delayed(function)(x) for x in rows["x"])
    found = joblib.Parallel(n_jobs=_WORKERS, prefer="threads")(calls)
    rows.join(pd.DataFrame(found))
    return time.perf_counter() - start


SWEEP = case(
    "sweep",
    "A sweep of 2,000 rows on 16 workers",
    _sweep,
    f"`queue.fan_out(rows, url=handler).wait()` and `batch.results()` with a function that sleeps {1000 * _WORK:g} "
    "ms, dispatched at 500 a second, 32 at a time, so that each of the 16 workers finds a next request; handler in "
    "the same process, emulator and store in folders; "
    '`joblib.Parallel(16, prefer="threads")` and a join of its results in the same run. Then the same with a '
    "function that does nothing, where the rate of the queue allows no less than 2 ms a task.",
    """
    x | more time than joblib | % | ≤ 15 | joblib, 16 threads
    ours | from the call of `fan_out` to the frame of `results()` | s
    reading | of that `results()` | s
    file | results in a file | results | ≥ 1,000
    joblib | joblib, 16 threads | s
    noop | a task that does nothing | ms a task | | joblib, 16 threads
    noop joblib | the same with joblib | ms a task
    come x | results as they come, more time than joblib | % | ≤ 15 | joblib, a generator of 8 threads
    come | `for part in batch.as_completed()`, 8 workers | s
    come joblib | `joblib.Parallel(8, return_as="generator_unordered")` | s
    """,
)


def _results(bench: Bench) -> None:
    for size in bench.size.results:
        folder = bench.folder / f"{size}"
        with home(folder / "home"), connected() as (_, tasks):
            rows = pd.DataFrame({"x": range(size), "name": "a name"})
            batch = tasks.queue("results", create=True).pause().fan_out(rows, url=URL, progress=False)
            until_sent(batch)
            cost = Cost()
            store_results(batch, folder / "home" / "store")
            if size >= _MILLION:
                bench.report("large paged", _paged(batch, size))
                continue
            bench.report("puts", size / cost.wall)
            cost = Cost()
            bench.report("paged", _paged(batch, size))
            bench.report("first", cost.wall)
            for _ in bench.rounds():
                gc.collect()
                cost = Cost()
                batch.tasks()
                alone = cost.cpu
                bench.report("tasks", cost.wall)
                cost = Cost()
                found = batch.results()
                bench.report("results", cost.wall)
                bench.report("cpu", cost.cpu)
                bench.report("share", cost.cpu / alone)
                if found["y"].isna().any():
                    raise AssertionError("results are missing")


def store_results(batch: ct.Batch, folder: os.PathLike[str]) -> None:
    """Store a result for each task as its handler does, and record that it has succeeded."""
    writer, key = ResultWriter(Store(folder)), bytes.fromhex(batch._outbox.batches.facts(batch.id).keys[0])
    about: dict[str, Any] = {"attempt": 1, "status": 200, "started": dt.datetime.now(dt.UTC), "duration": 0.1}
    tasks = batch.tasks()["task"].tolist()
    for number, task in enumerate(tasks):
        value = {"y": number / 2, "label": f"row {number}"}
        writer.put(StoredResult(**about, task=task, result=value, error=None, tag=tag_of(key, task)))
    answered = partial(Evidence, source=Source.LOG, fact=Fact.ANSWERED, status=0, attempts=1)
    for start in range(0, len(tasks), _PAGE):
        batch._outbox.outcomes.record(batch.id, [answered(task=task) for task in tasks[start : start + _PAGE]])


def _paged(batch: ct.Batch, size: int) -> float:
    """Read the results page by page, and return by how many MB the memory grows."""
    gc.collect()
    before, most, seen = resident_mb(os.getpid()), 0.0, 0
    for page in batch.results(page=_PAGE):
        seen += int(page["y"].notna().sum())
        most = max(most, resident_mb(os.getpid()))
    if seen != size:
        raise AssertionError(f"{seen:,} of {size:,} results were read")
    return most - before


STORED = case(
    "results",
    "`batch.results()` of 100,000 rows",
    _results,
    "Two columns of input, two fields a result, stored in a folder by the function that handlers use; read by the "
    "process that sent the batch, whose rows have all succeeded. "
    f"Page by page: `batch.results(page={_PAGE:,})`, the growth of resident memory.",
    """
    share | CPU of `batch.results()` once they were read, against `batch.tasks()` | times | ≤ 1.5
    first | `batch.results(page=…)`, which reads the store | s
    results | `batch.results()` after that | s
    tasks | `batch.tasks()`, the same rows without results | s
    cpu | CPU of `batch.results()`, all threads | s
    puts | results stored by one thread | results/s
    paged | growth of memory, page by page | MB | ≤ 150
    large paged | the same with 1,000,000 rows | MB | ≤ 150 | | --full
    """,
    full_seconds=1800,
)
