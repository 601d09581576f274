"""Fakes for panels: a context that records calls, a connection to a fake Cloud Tasks, and the user who clicks."""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from google.cloud.tasks_v2 import types
from ipywidgets.widgets import widget

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ACTION_RESULTS, QUEUES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.queue import Queue
from cloudtasks_nb.errors import CloudTasksError, ServiceError, TaskNotFoundError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.row_query import RowQuery
from cloudtasks_nb.panels import BatchPanel, Panel, PanelContext, fan_out
from cloudtasks_nb.panels.forms import notebook
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.clock import ServiceClock
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.transport import Transport
from cloudtasks_nb.service.watch import Pending, Snapshot
from tests.log_entry import log_entry
from tests.unit.fanout import conftest as fakes
from tests.unit.fanout.conftest import Service

MakeContext = Callable[..., "FakeContext"]
PATIENCE = 240.0  # seconds
NOW = 1_767_312_000_000_000  # 2026-01-02 00:00 UTC, microseconds since 1970


def open_widgets() -> dict[str, Any]:
    """Return the open widgets by their ids; ipywidgets 7 keeps them in the class."""
    found: dict[str, Any] = widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets
    return found


class FakeWatcher(fakes.FakeWatcher):
    """A fake watcher that publishes on the background loop, as the real one does."""

    def publish(self, seen: Snapshot) -> None:
        """Call the listeners of a queue with a snapshot."""

        async def hand() -> None:
            fakes.FakeWatcher.publish(self, seen)

        _loop.run(hand())


@dataclass
class FakeQueue:
    """A fake queue that records its calls."""

    name: str
    calls: list[tuple[Any, ...]]

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def record(*args: Any, **words: Any) -> Any:
            self.calls.append((verb, self.name, *args, *([words] if words else [])))
            if verb in {"run", "delete_tasks"}:
                tasks = list(args[0])
                return frame(ACTION_RESULTS, {"task": tasks, "ok": [True] * len(tasks), "error": [None] * len(tasks)})
            return self

        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeContext(PanelContext):
    """A context whose queues are `FakeQueue`."""

    calls: list[tuple[Any, ...]]


def queue_values(name: str, **changes: Any) -> dict[str, Any]:
    """Return the values of a snapshot of a queue."""
    return {
        "queue": name,
        "state": "RUNNING",
        "tasks": 2_000,
        "oldest_due": NOW,
        "running": 3,
        "done_last_minute": 40,
        "effective_rate": 12.5,
        "rate": 50.0,
        "burst": 10,
        "max_concurrent": 8,
        "max_attempts": 5,
        "max_retry_duration": 0.0,
        "min_backoff": 0.1,
        "max_backoff": 3600.0,
        "max_doublings": 16,
        "log_sampling_ratio": 1.0,
        "target": None,
        "purge_time": None,
        "name": f"projects/p/locations/l/queues/{name}",
        **changes,
    }


def queues_frame(names: Iterable[str]) -> pd.DataFrame:
    """Return `tasks.queues()` for these queues."""
    rows = [queue_values(name) for name in names]
    return frame(QUEUES, {word: [row[word] for row in rows] for word in QUEUES}, index="queue")


def snapshot(name: str, *errors: CloudTasksError, entries: tuple[Entry, ...] = (), **changes: Any) -> Snapshot:
    """Return a snapshot of a queue."""
    queue = QueueName(project="p", location="l", queue=name)
    values = None if errors else queue_values(name, **changes)
    gone = any(error.code == "NOT_FOUND" for error in errors)
    return Snapshot(queue=queue, at=NOW, values=values, entries=entries, errors=errors, gone=gone)


def entry(number: int, task: str, **changes: Any) -> Entry:
    """Return a line of the log."""
    facts = {"insert_id": f"i{number}", "queue": "reports", "duration": 0.25, "url": "https://example.com/run"}
    return log_entry(task, NOW + number, **facts | changes)


def pending(state: str = "ready", attempts: int = 0) -> Pending:
    """Return a task that is in its queue."""
    return Pending(state=state, attempts=attempts, schedule_time=NOW, last_status=None, last_message=None)


class FakeTransport(Transport):
    """A fake Cloud Tasks that creates tasks; its log cannot be read."""

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

    async def ask(self) -> None:
        """Answer, without a date."""
        self._heard({}, 0.0)

    async def raw(self, rpc: str, request: bytes, **options: Any) -> bytes:
        """Answer a call of the sender, as soon as it is open."""
        await _loop.loop().run_in_executor(None, self.open.wait, PATIENCE)
        return await self.service.raw(rpc, request, **options)

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
        Publishes the snapshots of the test.
    """

    def __init__(self, watcher: FakeWatcher) -> None:
        self.watcher = watcher
        self.transport = FakeTransport()
        made: Any = Connection(self.transport.endpoint, Auth())
        made.transport, made.watcher = self.transport, watcher
        self.connection: Connection = made
        self.catalog = Catalog(self.connection, self.batch_panel)
        self._numbers = iter(range(10_000))

    def context(self, *names: str, read_only: bool = False) -> PanelContext:
        """Return a context with these queues."""
        return PanelContext(
            connection=self.connection,
            catalog=self.catalog,
            open_queue=self.open_queue,
            queues=lambda: queues_frame(names or ("reports",)),
            read_only=read_only,
        )

    def open_queue(self, name: QueueName) -> Queue:
        """Return a queue by its full name."""
        return Queue(self.connection, self.catalog, name)

    def batch_panel(self, batch: Batch, **options: Any) -> BatchPanel:
        """Return the panel of a batch."""
        name = QueueName(project="p", location="l", queue=batch.queue)
        context = PanelContext.of_queue(
            name, connection=self.connection, catalog=self.catalog, open_queue=self.open_queue, **options
        )
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
        """Wait until a condition holds; it is checked whenever the batch has changed."""
        changed = threading.Event()
        end = batch_view(batch).listen(changed.set)
        try:
            while not condition():
                assert changed.wait(PATIENCE), f"in vain: {batch!r}"
                changed.clear()
        finally:
            end()

    def finish(self, batch: Batch, *failed: int) -> None:
        """Let all tasks in the queue end: rows at these positions fail, the others succeed."""
        reader = batch_view(batch).reader
        rows = reader.frame(reader.refs(RowQuery()))
        rows = rows[~rows["state"].isin(["succeeded", "failed", "rejected", "cancelled", "unsent"])]
        bad = {"attempt": 5, "status": "NOT_FOUND"}
        entries = [
            entry(next(self._numbers), task, **(bad if row in failed else {})) for row, task in rows["task"].items()
        ]
        self.publish(batch.queue, entries)
        self.until(batch, lambda: batch.progress().finished)

    def publish(self, queue: str, entries: Iterable[Any] = (), **changes: Any) -> None:
        """Publish a snapshot of a queue."""
        self.watcher.publish(snapshot(queue, entries=tuple(entries), **changes))

    def close(self) -> None:
        """End all background work."""
        self.transport.open.set()
        self.transport.refuse()
        _loop.run(self.catalog.close())


class FakeShell:
    """A fake notebook with these variables; the test ends its cells."""

    def __init__(self, **variables: Any) -> None:
        self.user_ns = variables
        self.listeners: list[Callable[[Any], object]] = []
        self.events = self

    def register(self, event: str, listener: Callable[[Any], object]) -> None:
        """Subscribe to the ends of cells."""
        assert event == "post_run_cell"
        self.listeners.append(listener)

    def unregister(self, _event: str, listener: Callable[[Any], object]) -> None:
        """Unsubscribe."""
        self.listeners.remove(listener)

    def cell(self, **variables: Any) -> None:
        """Run a cell that sets variables."""
        self.user_ns |= variables
        for listener in list(self.listeners):
            listener(None)


def _queue_message(name: str, *, paused: bool) -> Any:
    return types.Queue.pb()(
        name=name,
        rate_limits={"max_dispatches_per_second": 50, "max_concurrent_dispatches": 8},
        retry_config={"max_attempts": 5},
        stackdriver_logging_config={"sampling_ratio": 1.0},
        state=2 if paused else 1,
    )


@pytest.fixture
def watcher() -> FakeWatcher:
    """Return the watcher of the context."""
    return FakeWatcher()


@pytest.fixture
def make_context(watcher: FakeWatcher) -> Callable[..., FakeContext]:
    """Make contexts with these queues: ``make_context("reports", local=False, read_only=True)``."""

    def make(*names: str, local: bool = True, read_only: bool = False) -> FakeContext:
        endpoint = Endpoint(project="p", location="l", target="127.0.0.1:1", local=local)
        connection: Any = SimpleNamespace(
            endpoint=endpoint,
            watcher=watcher,
            transport=None,
            message=lambda *_: None,
            restart=None,
            clock=ServiceClock(lambda: endpoint.target),
        )
        catalog: Any = SimpleNamespace(row_names=lambda _tasks: {})
        calls: list[tuple[Any, ...]] = []
        return FakeContext(
            connection=connection,
            catalog=catalog,
            open_queue=lambda name: FakeQueue(name=name.queue, calls=calls),
            queues=lambda: queues_frame(names),
            read_only=read_only,
            create=lambda name: calls.append(("create", name)),
            calls=calls,
        )

    return make


@pytest.fixture
def context(make_context: Callable[..., FakeContext]) -> FakeContext:
    """Return a context with the queues emails and reports."""
    return make_context("emails", "reports")


def close_panels() -> None:
    """Close the panels that are open, as soon as their work is done."""
    for panel in [one for one in open_widgets().values() if isinstance(one, Panel)]:
        try:
            panel.settle()
        finally:  # one test fails, and not each later one too
            panel.close()


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    """Leave no panel open after a test."""
    yield
    close_panels()


@pytest.fixture
def harness(watcher: FakeWatcher) -> Iterator[Harness]:
    """Give a connection to a fake Cloud Tasks."""
    made = Harness(watcher)
    yield made
    close_panels()
    made.close()


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> FakeShell:
    """Give a notebook without variables, whose forms show their first tasks without a pause."""
    made = FakeShell()
    monkeypatch.setattr(notebook, "_shell", lambda: made)
    monkeypatch.setattr(fan_out, "_PAUSE", 0)
    return made
