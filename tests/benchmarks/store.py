"""Results of tasks in a folder: how fast they are written and read, and the memory of reading a million of them."""

import datetime as dt
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from cloudtasks_nb.store.results import StoredResult, read_results, write_result
from cloudtasks_nb.store.store import Store
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.machine import peak_mb

_RATED = 20_000  # results that are written and read to measure a rate
_PAGE = 1000
_WORKERS = 8  # as many as a handler has


def _measure(bench: Bench) -> None:
    for number, folder in enumerate(bench.rounds()):
        store = Store(folder)
        bench.report("write", _RATED / _write(store, f"{number:08x}", _RATED, workers=1))
        bench.report("write in threads", _RATED / _write(store, f"{number:07x}a", _RATED, workers=_WORKERS))
        bench.report("read", _RATED / _read(store, f"{number:08x}", _RATED))
    folder = bench.folder / "large"
    peaks = []
    for batch, count in zip(("0000000f", "000000ff"), bench.size.stored, strict=True):  # once: that takes minutes
        _write(Store(folder), batch, count, workers=_WORKERS)
        peak, seconds = _pages(folder, batch, count)
        peaks.append(peak)
    bench.report("pages", bench.size.stored[1] / seconds)
    bench.report("few", peaks[0])
    bench.report("more", peaks[1] - peaks[0])
    bench.note(f"Few are {bench.size.stored[0]:,} results, many {bench.size.stored[1]:,}, in one directory.")


def _task(batch: str, number: int) -> str:
    return f"{number:020x}-{batch}-1"


def _write(store: Store, batch: str, count: int, *, workers: int) -> float:
    """Write results as handlers do, and return the seconds."""
    started = dt.datetime.now(dt.UTC)
    succeeded = partial(StoredResult, attempt=1, status=200, started=started, duration=0.1, error=None)

    def write(numbers: Sequence[int]) -> None:
        for number in numbers:
            value = {"day": "2013-01-01", "rows": number, "delay": 0.5}
            write_result(store, succeeded(task=_task(batch, number), result=value))

    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write, [range(first, count, workers) for first in range(workers)]))
    return time.perf_counter() - begun


def _read(store: Store, batch: str, count: int) -> float:
    """Read results by the ids of their tasks, a page at a time, and return the seconds."""
    begun = time.perf_counter()
    for first in range(0, count, _PAGE):
        found = read_results(store, batch, [_task(batch, number) for number in range(first, first + _PAGE)])
        if None in found:
            raise AssertionError("a result that was written is missing")
    return time.perf_counter() - begun


def _pages(folder: Path, batch: str, count: int) -> tuple[float, float]:
    """Read all results of a batch in a process of its own; return its peak of memory in MB, and the seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.store", str(folder), batch, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    peak, seconds = json.loads(done.stdout.splitlines()[-1])
    return peak, seconds


def main() -> None:
    """Read all results of a batch page by page; print the peak of memory in MB, and the seconds."""
    folder, batch, count = sys.argv[1:]
    seconds = _read(Store(folder), batch, int(count))
    sys.stdout.write(json.dumps([peak_mb(), seconds]) + "\n")


STORE = case(
    "store",
    "Results in a folder",
    _measure,
    f"Results of about 200 bytes: {_RATED:,} are written as handlers do and read by the ids of their tasks; then "
    "many are read page by page in a process of its own, with the peak of its resident memory (`VmHWM`).",
    f"""
    write            | written by one thread                                    | results/s | ≥ 2,000
    write in threads | written by {_WORKERS} threads                             | results/s
    read             | read by the ids of tasks                                 | results/s | ≥ 2,000
    pages            | many, read page by page                                  | results/s
    few              | peak with few results, interpreter and libraries included | MB
    more             | peak with many results less that with few                | MB        | ≤ 20
    """,
    seconds=900,
)


if __name__ == "__main__":
    main()
