"""Results of tasks: how fast they are stored, in how many objects, and how much room they take in a folder."""

import datetime as dt
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cloudtasks_nb.store.results import ResultWriter, StoredResult, tag_of
from cloudtasks_nb.store.store import Store
from tests.benchmarks.figures import Bench, case

_RATED = 20_000  # results that are written to measure a rate
_WORKERS = 8  # as many as a handler has
_CALLS = 80  # as many as an instance of Cloud Run may have
_BUCKETED = 4_000  # results that are written to a bucket
_PUT = 0.05  # seconds of a write to a bucket
_MB = 1_000_000


class _Bucket(Store):
    """A bucket in memory that takes its time for each write."""

    def create(self, path: str, data: bytes) -> None:
        """Write an object."""
        time.sleep(_PUT)  # as a bucket does
        super().create(path, data)


def _measure(bench: Bench) -> None:
    for number, folder in enumerate(bench.rounds()):
        store = Store(folder)
        bench.report("write", _RATED / _write(store, f"{number:08x}", _RATED, workers=1))
        bench.report("write in threads", _RATED / _write(store, f"{number:07x}a", _RATED, workers=_WORKERS))
        bucket = _Bucket(f"memory://{folder.name}")
        seconds = _write(bucket, f"{number:08x}", _BUCKETED, workers=_CALLS)
        bench.report("bucket", _BUCKETED / seconds)
        bench.report("objects", _BUCKETED / sum(map(len, bucket.pages("results/"))))
    folder = bench.folder / "large"
    _write(Store(folder), "0000000f", bench.size.stored, workers=_WORKERS)
    disk = sum(path.stat().st_blocks * 512 for path in folder.rglob("*")) / _MB
    bench.report("disk", disk)
    bench.note(f"Many are {bench.size.stored:,} results.")


def _write(store: Store, batch: str, count: int, *, workers: int) -> float:
    """Write results as a handler does, and return the seconds."""
    started, writer = dt.datetime.now(dt.UTC), ResultWriter(store)
    succeeded = partial(StoredResult, attempt=1, status=200, started=started, duration=0.1, error=None)

    def write(numbers: Sequence[int]) -> None:
        for number in numbers:
            task, value = f"{number:020x}-{batch}-1", {"day": "2013-01-01", "rows": number, "delay": 0.5}
            writer.put(succeeded(task=task, result=value, tag=tag_of(b"key", task)))

    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(write, [range(first, count, workers) for first in range(workers)]))
    return time.perf_counter() - begun


STORE = case(
    "store",
    "Results in a store",
    _measure,
    f"Results of about 250 bytes are stored as a handler stores them: {_RATED:,} in a folder, then {_BUCKETED:,} in a "
    f"bucket in memory whose writes take {1000 * _PUT:g} ms, by {_CALLS} calls at a time; then many in a folder, whose "
    "room on the disk is measured.",
    f"""
    write            | written to a folder by one thread              | results/s | ≥ 2,000
    write in threads | written to a folder by {_WORKERS} threads      | results/s
    bucket           | written to a bucket, {_CALLS} at a time        | results/s
    objects          | in an object of a bucket, {_CALLS} at a time   | results   | ≥ 30
    disk             | many in a folder                               | MB        | ≤ 100
    """,
)
