"""The watcher of a connection, against the emulator's statistics and log."""

import queue as queues
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import cloudtasks_nb as ct
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.watch import Snapshot
from tests.integration.conftest import PATIENCE, Target

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True


def test_every_attempt_is_heard_once(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """While tasks are made, tried, tried again and deleted, each entry comes once."""
    snapshots: queues.Queue[Snapshot] = queues.Queue()
    entries: list[Any] = []

    def until(condition: Callable[[], bool]) -> Snapshot:
        end = time.monotonic() + PATIENCE
        while True:
            snapshot = snapshots.get(timeout=PATIENCE)
            entries.extend(snapshot.entries)
            if condition():
                return snapshot
            assert time.monotonic() < end, f"waited {PATIENCE} s in vain; the last snapshot was {snapshot}"

    queue.update(min_backoff="0.1s", max_backoff="0.1s", max_concurrent=3)
    target.script(*[200, 500, 404] * 4)
    name, since = QueueName.parse(queue.name), now_micros() - 1_000_000
    with closing(tasks._connection.watcher.subscribe(name, snapshots.put, every=0.02, since=since)):
        for number in range(12):
            queue.enqueue(target.url, task_id=f"t-{number}")
        done = {f"t-{number}" for number in range(12)}
        until(lambda: {entry.task for entry in entries if entry.status == "OK"} == done)
        queue.pause().enqueue("http://127.0.0.1:9/never", task_id="deleted")
        queue.delete_tasks("deleted")
        last = until(lambda: any(entry.deleted for entry in entries))
    assert max(Counter(entry.insert_id for entry in entries).values()) == 1
    statuses = Counter(entry.status for entry in entries if not entry.deleted)
    assert statuses == {"OK": 12, "INTERNAL": 4, "NOT_FOUND": 4}
    assert [entry.task for entry in entries if entry.deleted] == ["deleted"]
    assert last.log_until is not None
    assert last.lag is not None
