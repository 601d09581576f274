"""The states of rows that succeeded follow from the log, and none of their results is read."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.stored_results import own_key
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.watch import Snapshot
from cloudtasks_nb.store.store import Found, Range, Store
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.outbox import send, store
from tests.log_entry import log_entry

_QUEUE = QueueName(project="p", location="l", queue="q")
_PAGE = 1_000  # entries in a snapshot
_SECOND = 1_000_000
_VALUES = {"max_attempts": 1, "max_retry_duration": 0.0, "log_sampling_ratio": 1.0}


class _Counted(Store):
    """A store that counts how often it is read, and how often it is listed."""

    reads = listings = 0

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        self.reads += len(ranges)
        return super().get_ranges(ranges)

    def found(self, prefix: str) -> Iterator[list[Found]]:
        self.listings += 1
        return super().found(prefix)


class _Watcher:
    """The time of the service, when the newest entry was written."""

    at = _SECOND

    def now(self) -> int:
        return self.at


def _measure(bench: Bench) -> None:
    rows = bench.size.ended
    with Outbox(bench.folder / "outbox.sqlite3") as outbox:
        batch = store(outbox, pd.DataFrame({"n": range(rows)}), "https://svc.example/{n}")
        own_key(outbox, batch)  # else nobody has sent the batch, and the store is not asked
        tasks = send(outbox, batch)
        results, watcher = _Counted(bench.folder / "store"), _Watcher()
        watching: Any = watcher
        tracker = OutcomeTracker(outbox, outbox.batches.get(batch), watching, results)
        start = time.process_time()
        asyncio.run(_watch(tracker, watcher, tasks))
        bench.report("cpu", 1e6 * (time.process_time() - start) / rows)
        if outbox.batches.counts(whole(batch))[State.SUCCEEDED] != rows:
            raise AssertionError("not all rows have succeeded")
        bench.report("reads", results.reads)
        bench.report("listings", 1_000 * results.listings / (rows / _PAGE))


async def _watch(tracker: OutcomeTracker, watcher: _Watcher, tasks: Sequence[str]) -> None:
    """Have the log tell of all rows that they succeeded, a snapshot a second."""
    for start in range(0, len(tasks), _PAGE):
        watcher.at += _SECOND
        entries = tuple(log_entry(task, watcher.at, status="OK") for task in tasks[start : start + _PAGE])
        seen = Snapshot(queue=_QUEUE, at=watcher.at, values=_VALUES, entries=entries, log_until=watcher.at)
        await tracker.apply(seen, sent=len(tasks) - start)


STATES = case(
    "states",
    "States of 1,000,000 rows that succeeded",
    _measure,
    f"Entries of the log, {_PAGE:,} in a snapshot, a snapshot a second; the store is a folder. A success counts after "
    "a listing of the tasks whose functions gave up.",
    """
    reads    | results that are read                    | objects | ≤ 0
    listings | listings of the store for 1,000 snapshots | listings | ≤ 1,000
    cpu      | CPU of the process for a row             | µs
    """,
)
