"""Fixtures of the emulator's unit tests: a clock that stands still, a store on a file, an engine without a network."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloudtasks_nb.emulator.api.rpcs import all_calls
from cloudtasks_nb.emulator.frontends.parts import Parts
from cloudtasks_nb.emulator.model.apis import beta, call_messages, v2
from cloudtasks_nb.emulator.model.clock import Clock
from cloudtasks_nb.emulator.model.queues import configured
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.model.tasks import NewTask, accept_task
from cloudtasks_nb.emulator.store.database import TaskDatabase
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.strict.state import GoogleState

#: 2026-01-02 03:04:05.678901 UTC in microseconds since 1970.
NOW = 1_767_323_045_678_901
QUEUE = "projects/p/locations/us-central1/queues/q"
LOCATION = QUEUE.rpartition("/queues/")[0]
URL = "http://127.0.0.1:9/run"

LOG_ALL = beta.StackdriverLoggingConfig(sampling_ratio=1.0)

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


def put(store: Store, queue: QueueState, *tasks: str | NewTask, now: int = NOW) -> None:
    """Put tasks, which may be given by their ids, into a queue, and commit them."""
    for task in tasks:
        store.add(queue, new_task(task, now) if isinstance(task, str) else task, now)
    commit(store)


def commit(store: Store) -> None:
    """Commit what was put into the store's database."""
    store.apply()
    store.database.commit()
    store.committed()


@contextmanager
def refused(code: str = "INVALID_ARGUMENT", text: str = ".") -> Iterator[pytest.ExceptionInfo[RefusedError]]:
    """Expect a refusal with a code, and with a text, which is a regular expression."""
    with pytest.raises(RefusedError, match=text) as caught:
        yield caught
    assert caught.value.code == code


@pytest.fixture
def state(tmp_path: Path) -> GoogleState:
    """Give a state of Google's access control without principals."""
    return GoogleState(tmp_path / "google.json")


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
            database = stack.enter_context(closing(TaskDatabase(tmp_path / file, durable=False)))
            return Store(database, clock, Settings(**settings))

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """Give an empty store."""
    return make_store()


@pytest.fixture
def queue(store: Store) -> QueueState:
    """Give an empty queue."""
    return new_queue(store)


@dataclass(kw_only=True)
class Service:
    """All calls of an engine without a network."""

    engine: Parts
    calls: dict[str, Callable[[Any], Coroutine[Any, Any, bytes]]] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = dict(all_calls(self.engine))  # type: ignore[arg-type]  # every call is a coroutine function

    async def call(self, method: str, /, *, api: str = "v2", **fields: Any) -> Any:
        """Call a method by its name, a short one of Cloud Tasks or a full one, with the fields of its request."""
        full = method if method.startswith("/") else f"/google.cloud.tasks.{api}.CloudTasks/{method}"
        request, response = call_messages(full)
        return response.FromString(await self.calls[full](request(**fields)))

    async def refused(self, method: str, /, **fields: Any) -> tuple[str | None, str]:
        """Return code and text with which a call is refused; the parameters are those of `call`."""
        with pytest.raises(RefusedError) as caught:
            await self.call(method, **fields)
        return caught.value.code, caught.value.message

    async def create_queue(self, name: str = QUEUE) -> Any:
        """Make a queue that is paused."""
        await self.call("CreateQueue", parent=LOCATION, queue={"name": name})
        return await self.call("PauseQueue", name=name)

    async def create_task(self, task_id: str = "") -> Any:
        """Make a task."""
        return await self.call("CreateTask", parent=QUEUE, task=http_task(task_id))


def with_settings(fixture: str, **settings: Any) -> pytest.MarkDecorator:
    """Give settings to the fixture of a test."""
    return pytest.mark.parametrize(fixture, [settings], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test in the event loop of its fixtures."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    runner: Any = pyfuncitem.funcargs.get("runner")
    (runner.run if runner else asyncio.run)(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Give the event loop of an async test and of its fixtures."""
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture
def service(
    request: pytest.FixtureRequest, runner: asyncio.Runner, make_store: MakeStore, clock: Clock, tmp_path: Path
) -> Iterator[Service]:
    """Give the calls of an engine; `with_settings` changes its settings."""
    settings = getattr(request, "param", {})

    async def start() -> Service:
        return Service(engine=Parts(Settings(**settings), tmp_path, make_store(**settings), clock))

    yield (started := runner.run(start()))
    runner.run(started.engine.close())
