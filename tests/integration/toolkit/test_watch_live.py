"""The watcher of a connection, against the emulator's statistics and log."""

import queue as queues
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.watch import Snapshot, Subscription
from tests.integration.conftest import PATIENCE, Target

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

NOWHERE = "http://127.0.0.1:9/never"


class Heard:
    """What a subscriber heard."""

    def __init__(self, tasks: ct.Client, queue: ct.Queue, **how: Any) -> None:
        self._snapshots: queues.Queue[Snapshot] = queues.Queue()
        self.entries: list[Any] = []
        self.subscription: Subscription = tasks._connection.watcher.subscribe(
            QueueName.parse(queue.name), self._snapshots.put, every=0.02, **how
        )

    def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """Wait for the first snapshot that is as wanted."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            snapshot = self._snapshots.get(timeout=PATIENCE)
            self.entries += snapshot.entries
            if condition(snapshot):
                return snapshot
        pytest.fail(f"waited {PATIENCE} s in vain; the last snapshot was {snapshot}")


@pytest.fixture
def listen(tasks: ct.Client) -> Iterator[Callable[..., Heard]]:
    """Subscribe, until the test ends."""
    begun: list[Heard] = []

    def subscribe(queue: ct.Queue, **how: Any) -> Heard:
        begun.append(Heard(tasks, queue, **how))
        return begun[-1]

    yield subscribe
    for one in begun:
        one.subscription.close()


Listen = Callable[..., Heard]


def test_every_attempt_is_heard_once(queue: ct.Queue, listen: Listen, target: Target) -> None:
    """While tasks are made, tried, tried again and deleted, each entry comes once."""
    queue.update(min_backoff="0.1s", max_backoff="0.1s", max_concurrent=3)
    target.script(*[200, 500, 404] * 4)
    heard = listen(queue, since=now_micros() - 1_000_000)
    for number in range(12):
        queue.enqueue(target.url, task_id=f"t-{number}")
    done = {f"t-{number}" for number in range(12)}
    heard.until(lambda _: {entry.task for entry in heard.entries if entry.status == "OK"} == done)
    queue.pause().enqueue(NOWHERE, task_id="deleted")
    queue.delete_tasks("deleted")
    last = heard.until(lambda _: any(entry.deleted for entry in heard.entries))
    assert max(Counter(entry.insert_id for entry in heard.entries).values()) == 1
    statuses = Counter(entry.status for entry in heard.entries if not entry.deleted)
    assert statuses == {"OK": 12, "INTERNAL": 4, "NOT_FOUND": 4}
    assert [entry.task for entry in heard.entries if entry.deleted] == ["deleted"]
    assert last.log_until is not None
    assert last.lag is not None
