"""Fixtures of the emulator's unit tests: a clock that stands still, a store on a file, an engine without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.emulator.api.engine import Engine
from cloudtasks_nb.emulator.api.faults import Faults
from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.protobuf import beta, v2
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.model.tasks import NewTask, accept_task
from cloudtasks_nb.emulator.store.commit import Committer
from cloudtasks_nb.emulator.store.database import TaskDatabase
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store

__all__ = [
    "LOCATION",
    "NOW",
    "QUEUE",
    "URL",
    "MakeStore",
    "Run",
    "Service",
    "commit",
    "http_task",
    "new_queue",
    "new_task",
    "refusal",
]

#: 2026-01-02 03:04:05.678901 UTC in microseconds since 1970.
NOW = 1_767_323_045_678_901
QUEUE = "projects/p/locations/us-central1/queues/q"
LOCATION = QUEUE.rpartition("/queues/")[0]
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
    return accept_task(task, QUEUE, now)


def new_queue(store: Store, name: str = QUEUE, **settings: Any) -> QueueState:
    """Make a queue; the settings are those of a v2beta3 `Queue`."""
    queue = store.create_queue(configured(beta.Queue(name=name, **settings)))
    commit(store)
    return queue


def commit(store: Store) -> None:
    """Commit what was put into the store's database."""
    store.database.apply()
    store.applied()
    store.database.commit()
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
            database = stack.enter_context(TaskDatabase(tmp_path / file, durable=False))
            return Store(database, clock, Settings(**settings))

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """Give an empty store."""
    return make_store()


@dataclass(kw_only=True)
class Service:
    """All calls of an engine whose dispatcher has nobody to send to."""

    engine: Engine
    calls: dict[str, Callable[[bytes], Coroutine[Any, Any, bytes]]] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = dict(all_calls(self.engine))  # type: ignore[arg-type]  # every call is a coroutine function

    async def call(self, name: str, request: Any, response: Any, *, api: str = "v2") -> Any:
        """Call a method by its name, a short one of Cloud Tasks or a full one."""
        full = name if name.startswith("/") else f"/google.cloud.tasks.{api}.CloudTasks/{name}"
        return response.FromString(await self.calls[full](request.SerializeToString()))

    async def create_queue(self, name: str = QUEUE) -> Any:
        """Make a queue that is paused."""
        await self.call("CreateQueue", v2.CreateQueueRequest(parent=LOCATION, queue=v2.Queue(name=name)), v2.Queue)
        return await self.call("PauseQueue", v2.PauseQueueRequest(name=name), v2.Queue)

    async def create_task(self, task_id: str = "") -> Any:
        """Make a task."""
        return await self.call("CreateTask", v2.CreateTaskRequest(parent=QUEUE, task=http_task(task_id)), v2.Task)


Body = Callable[[Service], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@asynccontextmanager
async def service(make_store: MakeStore, clock: Clock, folder: Path, **settings: Any) -> AsyncIterator[Service]:
    """Put an engine together."""
    chosen = Settings(**settings)
    store = make_store(**settings)
    deliverer, tokens = Deliverer(chosen), TokenSigner(folder, "issuer", clock)
    dispatcher = Dispatcher(store, clock, deliverer, tokens.authorize, chosen)
    committer = Committer(store, dispatcher.wake)
    engine = Engine(
        store=store,
        committer=committer,
        dispatcher=dispatcher,
        clock=clock,
        settings=chosen,
        faults=Faults(),
        tokens=tokens,
    )
    try:
        yield Service(engine=engine)
    finally:
        await dispatcher.close()
        await committer.close()
        await deliverer.close()


@pytest.fixture
def run(make_store: MakeStore, clock: Clock, tmp_path: Path) -> Run:
    """Give a function that runs a test on a service."""

    def start(body: Body, **settings: Any) -> None:
        async def main() -> None:
            async with service(make_store, clock, tmp_path, **settings) as ready:
                await body(ready)

        asyncio.run(main())

    return start


async def refusal(calling: Coroutine[Any, Any, Any]) -> tuple[str | None, str]:
    """Return code and text with which a call is refused."""
    with pytest.raises(RefusedError) as refused:
        await calling
    return refused.value.code, refused.value.message
