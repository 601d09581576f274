"""A connection whose snapshots are made by the test."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from google.longrunning import operations_pb2

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.clock import ServiceClock, now_micros
from cloudtasks_nb.service.watch import Snapshot
from cloudtasks_nb.store.store import Store
from tests.log_entry import log_entry
from tests.unit.fanout.conftest import PLACE, FakeWatcher, Service, all_rows

QUEUE = QueueName(project=PLACE.project, location=PLACE.location, queue=PLACE.queue)
VALUES = {"state": "RUNNING", "max_attempts": 1, "log_sampling_ratio": 1.0}


def counts(**rows: int) -> dict[State, int]:
    """Return so many rows in each state, as `sent=3`."""
    return dict.fromkeys(State, 0) | {State[name.upper()]: count for name, count in rows.items()}


class FakeConnection:
    """A service of a few lines, and a watcher that publishes what the test says."""

    def __init__(self, service: Service) -> None:
        self.endpoint = SimpleNamespace(target="127.0.0.1:8123", folder=None, local=True)
        self.transport = SimpleNamespace(
            google=False,
            endpoint=self.endpoint,
            check_open=lambda: None,
            is_new=lambda _: False,
            raw=service.raw,
            call=self._call,
        )
        self.watcher = FakeWatcher()
        self.clock = ServiceClock(lambda: self.endpoint.target)
        self.store = Store("memory://fake")

    def absent_handlers(self, queue: str) -> list[str]:  # noqa: ARG002 - as the connection has it
        """Miss no handler."""
        return []

    async def _call(self, rpc: str, **_: Any) -> Any:
        """Delete tasks."""
        assert rpc == "BatchDeleteTasks"
        return operations_pb2.Operation(done=True)


class Tracked:
    """A batch that is tracked, on the fake connection. Its coroutines run on the background loop."""

    def __init__(self, outbox: Outbox, batch: str) -> None:
        self.outbox, self.batch = outbox, batch
        self.service = Service()
        self.connection = FakeConnection(self.service)
        made: Any = self.connection
        self.tracker = Tracker(made, outbox, outbox.batches.get(batch))

    def publish(self, status: str = "OK", rows: slice = slice(None), **fields: Any) -> None:
        """Publish a snapshot with an attempt of each of these rows, numbered as the try."""
        now = now_micros()
        entries = [
            log_entry(task, now, queue=QUEUE.queue, status=status, max_attempts=1)
            for task in all_rows(self.outbox, self.batch, "tasks")[rows]
        ]
        values = {**VALUES, **fields}
        self.connection.watcher.publish(
            Snapshot(queue=QUEUE, at=now, values=values, entries=tuple(entries), log_until=now)
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, which is checked after each change."""
        changed = asyncio.Event()
        end = self.tracker.listen(changed.set)
        async with asyncio.timeout(30):
            while not condition():
                await changed.wait()
                changed.clear()
        end()


@pytest.fixture
def tracked(outbox: Outbox, batch: str) -> Iterator[Tracked]:
    """Track a batch of 250 rows, none sent."""
    made = Tracked(outbox, batch)
    yield made
    _loop.run(made.tracker.close())
