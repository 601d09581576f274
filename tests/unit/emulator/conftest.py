"""Fixtures of the emulator's unit tests: a clock that stands still, and a store on a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.emulator._clock import Clock
from cloudtasks_nb.emulator._journal import Journal
from cloudtasks_nb.emulator._memory import QueueState
from cloudtasks_nb.emulator._pb import beta, v2
from cloudtasks_nb.emulator._queues import configured
from cloudtasks_nb.emulator._settings import Settings
from cloudtasks_nb.emulator._store import Store
from cloudtasks_nb.emulator._tasks import NewTask, take_in

__all__ = ["NOW", "QUEUE", "URL", "MakeStore", "commit", "http_task", "new_queue", "new_task"]

#: 2026-01-02 03:04:05.678901 UTC in microseconds since 1970.
NOW = 1_767_323_045_678_901
QUEUE = "projects/p/locations/us-central1/queues/q"
URL = "http://127.0.0.1:9/run"

MakeStore = Callable[..., Store]


def http_task(task_id: str = "", *, body: bytes = b"", url: str = URL, **fields: Any) -> Any:
    """Make a v2 `Task` with an HTTP target."""
    name = f"{QUEUE}/tasks/{task_id}" if task_id else ""
    return v2.Task(name=name, http_request=v2.HttpRequest(url=url, body=body), **fields)


def new_task(
    task_id: str = "", now: int = NOW, *, due: int | None = None, body: bytes = b"", url: str = URL
) -> NewTask:
    """Make a task that can be stored."""
    task = http_task(task_id, body=body, url=url)
    if due is not None:
        task.schedule_time.FromMicroseconds(due)
    return take_in(task, QUEUE, now)


def new_queue(store: Store, name: str = QUEUE, **settings: Any) -> QueueState:
    """Make a queue; the settings are those of a v2beta3 `Queue`."""
    queue = store.create_queue(configured(beta.Queue(name=name, **settings)))
    commit(store)
    return queue


def commit(store: Store) -> None:
    """Commit what was put into the store's journal."""
    store.journal.apply()
    store.applied()
    store.journal.commit()
    store.committed()


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands at `NOW` until a test advances it."""
    return Clock(source=lambda: NOW * 1000)


@pytest.fixture
def make_store(clock: Clock, tmp_path: Path) -> Iterator[MakeStore]:
    """Give a function that opens the store of the test's folder; an earlier one is closed first."""
    with ExitStack() as stack:

        def make(*, file: str = "tasks.sqlite3", **settings: Any) -> Store:
            stack.close()
            journal = stack.enter_context(Journal(tmp_path / file, durable=False))
            return Store(journal, clock, Settings(**settings))

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """Give an empty store."""
    return make_store()
