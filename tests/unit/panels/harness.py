"""Real batches in a real outbox, sent to a Cloud Tasks of a few lines; a test says what becomes of the tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
from google.cloud.tasks_v2 import types

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import QUEUES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.client.queue import Queue
from cloudtasks_nb.errors import ServiceError, TaskNotFoundError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.panels import BatchPanel, PanelContext
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.transport import Transport
from tests.unit.fanout.conftest import Service
from tests.unit.panels.conftest import FakeWatcher, entry, queue_values, snapshot

__all__ = ["FakeShell", "Harness", "seen"]

PATIENCE = 30.0


class FakeTransport(Transport):
    """Takes tasks, and knows its queues; its log is closed."""

    def __init__(self) -> None:
        super().__init__(Endpoint(project="p", location="l", target="127.0.0.1:1", local=True), Auth())
        self.service = Service()
        self.open = threading.Event()  # until it is set no task is taken
        self.open.set()
        self.paused = False  # its queues

    @property
    def created(self) -> dict[str, int]:
        """Tasks by id, and how often they were created."""
        return dict(self.service.created)

    async def identity(self) -> str:
        """Return which service it is."""
        return "e-1"

    async def raw(self, rpc: str, request: bytes, **_options: Any) -> bytes:
        """Answer a call of the sender, as soon as it is open."""
        await _loop.loop().run_in_executor(None, self.open.wait, PATIENCE)
        return await self.service.raw(rpc, request)

    async def call(self, rpc: str, /, **fields: Any) -> Any:
        """Answer a call of a panel."""
        if rpc == "GetQueue":
            return _queue_message(fields["name"], paused=self.paused)
        if rpc == "GetTask":
            raise TaskNotFoundError("no longer there", code="NOT_FOUND")
        if rpc == "DeleteTask":
            return None
        if rpc == "BatchDeleteTasks":
            raise ServiceError("not here", code="UNIMPLEMENTED")
        raise ServiceError("the log is closed")


class Harness:
    """A connection to `FakeTransport`, with its batches.

    Parameters
    ----------
    watcher : FakeWatcher
        Hands out what the test wants to have been seen.
    """

    def __init__(self, watcher: FakeWatcher) -> None:
        self.watcher = watcher
        self.transport = FakeTransport()
        made: Any = Connection(self.transport.endpoint, Auth())
        made.transport, made.watcher = self.transport, watcher
        self.connection: Connection = made
        self.catalog = Catalog(self.connection, lambda batch, read_only: self.batch_panel(batch, read_only=read_only))
        self._numbers = iter(range(10_000))

    def context(self, *names: str, read_only: bool = False) -> PanelContext:
        """Return a context with these queues."""

        def queues() -> pd.DataFrame:
            rows = [queue_values(name) for name in names or ("reports",)]
            return frame(QUEUES, {word: [row[word] for row in rows] for word in QUEUES}, index="queue")

        return PanelContext(
            connection=self.connection,
            catalog=self.catalog,
            open_queue=self.open_queue,
            queues=queues,
            read_only=read_only,
        )

    def open_queue(self, name: QueueName) -> Queue:
        """Return a queue by its full name."""
        return Queue(self.connection, self.catalog, name)

    def batch_panel(self, batch: Batch, *, read_only: bool = False) -> BatchPanel:
        """Return the panel of a batch."""
        name = QueueName(project="p", location="l", queue=batch.queue)
        context = PanelContext.of_queue(self.connection, self.catalog, self.open_queue, name, read_only=read_only)
        return BatchPanel(context, batch)

    def queue(self, name: str = "reports") -> Queue:
        """Return a queue."""
        return self.open_queue(QueueName(project="p", location="l", queue=name))

    def days(self, end: str = "2026-01-05", **words: Any) -> Batch:
        """Backfill days of January and wait until all are sent."""
        given: Any = {"freq": "D", "url": "https://svc/{partition}", "progress": False} | words
        return self.sent(self.queue().backfill("2026-01-01", end, **given))

    def sent(self, batch: Batch) -> Batch:
        """Wait until no row is unsent."""
        self.until(batch, lambda: not batch.progress().unsent)
        return batch

    def until(self, batch: Batch, condition: Callable[[], bool]) -> None:
        """Wait until something is so of a batch; looked at whenever the batch has changed."""
        changed = threading.Event()
        leave = batch_view(batch).listen(changed.set)
        try:
            while not condition():
                assert changed.wait(PATIENCE), f"in vain: {batch!r}"
                changed.clear()
        finally:
            leave()

    def finish(self, batch: Batch, *failed: int) -> None:
        """Let all tasks in the queue end: rows at these positions fail, the others succeed."""
        rows = batch_view(batch).rows(None, None)
        rows = rows[~rows["state"].isin(["succeeded", "failed", "rejected", "cancelled", "unsent"])]
        bad = {"attempt": 5, "status": "NOT_FOUND"}
        entries = [
            entry(next(self._numbers), task, **(bad if row in failed else {})) for row, task in rows["task"].items()
        ]
        self.publish(batch.queue, entries)
        self.until(batch, lambda: batch.progress().finished)

    def publish(self, queue: str, entries: Iterable[Any] = (), **changes: Any) -> None:
        """Let the watcher see a queue."""
        self.watcher.publish(snapshot(queue, entries=tuple(entries), **changes))

    def close(self) -> None:
        """End all that goes on."""
        self.transport.open.set()
        _loop.run(self.catalog.close())


class FakeShell:
    """A notebook with these variables, whose cells end when the test says so."""

    def __init__(self, **variables: Any) -> None:
        self.user_ns = variables
        self.listeners: list[Callable[[Any], object]] = []
        self.events = self

    def register(self, event: str, listener: Callable[[Any], object]) -> None:
        """Tell of the ends of cells."""
        assert event == "post_run_cell"
        self.listeners.append(listener)

    def unregister(self, _event: str, listener: Callable[[Any], object]) -> None:
        """Tell no more."""
        self.listeners.remove(listener)

    def cell(self, **variables: Any) -> None:
        """Run a cell that sets variables."""
        self.user_ns |= variables
        for listener in list(self.listeners):
            listener(None)


@contextmanager
def seen(widget: Any, trait: str, wanted: Callable[[Any], bool]) -> Iterator[None]:
    """Wait, at the end of the block, until a trait is as wanted."""
    event = threading.Event()

    def show(_change: object = None) -> None:
        if wanted(getattr(widget, trait)):
            event.set()

    widget.observe(show, trait)
    try:
        yield
        show()
        assert event.wait(PATIENCE), f"{trait} is {getattr(widget, trait)!r}"
    finally:
        widget.unobserve(show, trait)


def _queue_message(name: str, *, paused: bool) -> Any:
    return types.Queue.pb()(
        name=name,
        rate_limits={"max_dispatches_per_second": 50, "max_concurrent_dispatches": 8},
        retry_config={"max_attempts": 5},
        stackdriver_logging_config={"sampling_ratio": 1.0},
        state=2 if paused else 1,
    )
