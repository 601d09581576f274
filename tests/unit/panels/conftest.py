"""A connection that only remembers what was asked of it, and a panel's other side: the person who looks and clicks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ACTION_RESULTS, QUEUES, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.panels import Panel, PanelContext
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Pending, Snapshot

__all__ = [
    "NOW",
    "CloseLater",
    "FakeContext",
    "FakeQueue",
    "FakeWatcher",
    "MakeContext",
    "entry",
    "pending",
    "show",
    "snapshot",
]

MakeContext = Callable[..., "FakeContext"]
CloseLater = Callable[[Any], Any]
NOW = 1_767_312_000_000_000  # 2026-01-02 00:00 UTC, microseconds since 1970


@dataclass
class FakeWatcher:
    """A watcher that watches nothing; a test hands out its snapshots."""

    subscribed: list[Any] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    there: dict[str, Pending | None] = field(default_factory=dict)  # what a lookup finds
    asked: list[str] = field(default_factory=list)  # what was looked up

    def subscribe(
        self, queue: QueueName, listener: Callable[[Snapshot], None], *, since: int | None = None, every: float = 1.0
    ) -> Any:
        """Remember a subscription until it is closed."""
        one = SimpleNamespace(queue=queue, listener=listener, since=since, every=every)
        one.close = lambda: self.subscribed.remove(one)
        self.subscribed.append(one)
        return one

    def refresh(self, queue: QueueName) -> None:
        """Remember the wish."""
        self.looks.append(queue.queue)

    async def lookup(self, _queue: QueueName, tasks: list[str]) -> dict[str, Pending | None]:
        """Find what the test put there."""
        self.asked += tasks
        return {task: self.there.get(task) for task in tasks}

    async def listing(self, _queue: QueueName) -> dict[str, Pending]:
        """Find all that the test put there."""
        return {task: one for task, one in self.there.items() if one is not None}

    def publish(self, seen: Snapshot) -> None:
        """Hand a snapshot to those who watch its queue, on the background loop as the real one does."""

        async def hand() -> None:
            for one in [one for one in self.subscribed if one.queue == seen.queue]:
                one.listener(seen)

        _loop.run(hand())


@dataclass
class FakeQueue:
    """A queue that only records its calls; `refuses` is raised instead."""

    name: str
    calls: list[tuple[Any, ...]]
    refuses: list[Exception]

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def record(*args: Any, **words: Any) -> Any:
            if self.refuses:
                raise self.refuses.pop()
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
    refuses: list[Exception]


def queue_values(name: str, **changes: Any) -> dict[str, Any]:
    """Return what the watcher knows of a queue."""
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


def snapshot(name: str, *errors: CloudTasksError, entries: tuple[Entry, ...] = (), **changes: Any) -> Snapshot:
    """Return what the watcher saw of a queue."""
    queue = QueueName(project="p", location="l", queue=name)
    values = None if errors else queue_values(name, **changes)
    gone = any(error.code == "NOT_FOUND" for error in errors)
    return Snapshot(queue=queue, at=NOW, values=values, entries=entries, errors=errors, gone=gone)


def entry(number: int, task: str, **changes: Any) -> Entry:
    """Return a line of the log."""
    facts: dict[str, Any] = {
        "insert_id": f"i{number}",
        "time": NOW + number,
        "received": NOW + number,
        "task": task,
        "queue": "reports",
        "deleted": False,
        "attempt": 1,
        "status": "OK",
        "duration": 0.25,
        "retry_time": None,
        "max_attempts": 5,
        "url": "https://example.com/run",
    }
    return Entry(**facts | changes)


def pending(state: str = "ready", attempts: int = 0) -> Pending:
    """Return a task that is in its queue."""
    return Pending(state=state, attempts=attempts, schedule_time=NOW, last_status=None, last_message=None)


def show(panel: Panel, *, visible: bool = True) -> None:
    """Bring a panel into sight, or out of it, as the browser tells."""
    panel.footer._on_message(None, {"do": "visible", "visible": visible}, None)
    panel.settle()


@pytest.fixture
def watcher() -> FakeWatcher:
    """Return the watcher of the context."""
    return FakeWatcher()


@pytest.fixture
def make_context(watcher: FakeWatcher) -> Callable[..., FakeContext]:
    """Make scenes with these queues: ``make_context("reports", local=False, read_only=True)``."""

    def make(*names: str, local: bool = True, read_only: bool = False) -> FakeContext:
        endpoint = Endpoint(project="p", location="l", target="127.0.0.1:1", local=local)
        connection: Any = SimpleNamespace(endpoint=endpoint, watcher=watcher, transport=None, message=lambda *_: None)

        def queues() -> pd.DataFrame:
            rows = [queue_values(name) for name in names]
            return frame(QUEUES, {word: [row[word] for row in rows] for word in QUEUES}, index="queue")

        catalog: Any = SimpleNamespace()
        calls: list[tuple[Any, ...]] = []
        refuses: list[Exception] = []
        return FakeContext(
            connection=connection,
            catalog=catalog,
            open_queue=lambda name: FakeQueue(name=name.queue, calls=calls, refuses=refuses),
            queues=queues,
            read_only=read_only,
            calls=calls,
            refuses=refuses,
        )

    return make


@pytest.fixture
def context(make_context: Callable[..., FakeContext]) -> FakeContext:
    """Return a context with the queues emails and reports."""
    return make_context("emails", "reports")


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Close what it is called with at the end of the test, and return it."""
    made: list[Any] = []

    def keep(panel: Any) -> Any:
        made.append(panel)
        return panel

    yield keep
    for panel in made:
        panel.settle()
        panel.close()
