"""What a batch sees of the service: a connection whose snapshots are made by the test, and traces of its tasks."""

import asyncio
import datetime as dt
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.longrunning import operations_pb2

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import TASK_STATES
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.fanout.batch.progress import Facts, Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.stored_results import own_key
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.clock import ServiceClock, now_micros
from cloudtasks_nb.service.oplog import Entry, Wanted
from cloudtasks_nb.service.watch import Pending, Snapshot
from cloudtasks_nb.store.store import Store
from tests.log_entry import log_entry
from tests.stored import store_result
from tests.unit.fanout.conftest import PLACE, FakeClock, FakeWatcher, Service, all_rows

QUEUE = QueueName(project=PLACE.project, location=PLACE.location, queue=PLACE.queue)
VALUES = {"state": "RUNNING", "max_attempts": 1, "log_sampling_ratio": 1.0}


def counts(**rows: int) -> dict[State, int]:
    """Return so many rows in each state, as `sent=3`."""
    return dict.fromkeys(State, 0) | {State[name.upper()]: count for name, count in rows.items()}


def progress(**fields: Any) -> Progress:
    """Return the progress of a batch with these counts of rows, and none in the other states."""
    total = sum(fields.get(name) or 0 for name in TASK_STATES)
    usual: dict[str, Any] = {"total": total, **dict.fromkeys(TASK_STATES, 0)}
    return Progress(**{**usual, **fields})


def report(words: Mapping[str, Any] | None = None, known: Mapping[str, Any] | None = None, **fields: Any) -> Report:
    """Return a report on a batch that has come so far, of which these facts are known."""
    usual: dict[str, Any] = {"batch": "a91f03c2", "name": None, "queue": "reports", "badge": "LOCAL"}
    facts = Facts(**{"now": dt.datetime.now(dt.UTC), "counts": {}, **(known or {})})
    return Report(facts=facts, progress=progress(**fields), **{**usual, **(words or {})})


PAGE = 1000
SECOND = 1_000_000
_numbers = itertools.count()


@dataclass(eq=False)
class Traces:
    """The log, the queue and the store as they show the tasks of a batch; `asked` has how they were read."""

    outbox: Outbox
    batch: str
    clock: FakeClock = field(default_factory=FakeClock)
    log: list[tuple[float, Entry]] = field(default_factory=list)  #: entries, and from when on they can be read
    there: dict[str, Pending] = field(default_factory=dict)
    store: Store = field(default_factory=lambda: Store(f"memory://{next(_numbers)}"))
    values: Mapping[str, Any] = field(default_factory=lambda: VALUES)
    immediate: bool = False  #: entries can be read as soon as they are written
    denied: bool = False  #: the log may not be read
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        own_key(self.outbox, self.batch)  # else nobody has sent the batch, and there are no results

    def put(self, tasks: str | Sequence[str], attempt: int = 1, error: str | None = None, **words: Any) -> None:
        """Store a result of each task as the handler does, with the error's text if it failed."""
        for task in [tasks] if isinstance(tasks, str) else tasks:
            store_result(self.outbox, self.store, task, attempt=attempt, error=error, **words)

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each state, zeros left out."""
        return {
            state.name.lower(): count for state, count in self.outbox.batches.counts(whole(self.batch)).items() if count
        }

    def now(self) -> int:
        """Return the time of the service in microseconds since 1970."""
        return round(self.clock.now() * SECOND)

    async def read_queue(self, _: QueueName) -> Mapping[str, Any]:
        """Return the settings of the queue."""
        return self.values

    async def log_is_immediate(self) -> bool:
        """Return what an emulator says, or Google."""
        return self.immediate

    async def pages(self, _: QueueName) -> AsyncIterator[Mapping[str, Pending]]:
        """Yield the tasks in the queue."""
        self.asked.append("pages")
        yield self.there

    async def lookup(self, _: QueueName, tasks: Iterable[str]) -> Mapping[str, Pending | None]:
        """Return the named tasks."""
        self.asked.append("lookup")
        return {task: self.there.get(task) for task in tasks}

    async def task_log(self, _: QueueName, wanted: Wanted) -> AsyncIterator[Sequence[Entry]]:
        """Yield the entries that can be read by now, page by page."""
        if self.denied:
            raise PermissionDeniedError("no right to read the log")
        found = self.entries(wanted)
        for start in range(0, max(len(found), 1), PAGE):
            self.asked.append("log")
            yield found[start : start + PAGE]

    def entries(self, wanted: Wanted) -> list[Entry]:
        """Return the entries that are wanted and can be read by now."""
        return [
            one
            for at, one in self.log
            if at <= self.clock.now()
            and one.time >= wanted.since
            and (str(wanted.batch) in one.task if wanted.tasks is None else one.task in wanted.tasks)
        ]


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
        self.called: list[str] = []
        self.errors: dict[str, list[Exception]] = {}  # what the next calls of an RPC raise
        self.watcher = FakeWatcher()
        self.clock = ServiceClock(lambda: self.endpoint.target)
        self.store = Store(f"memory://fake-{next(_numbers)}")

    def absent_handlers(self, queue: str) -> list[str]:  # noqa: ARG002 - as the connection has it
        """Miss no handler."""
        return []

    async def _call(self, rpc: str, **_: Any) -> Any:
        """Delete tasks; fail as the test wants."""
        assert rpc == "BatchDeleteTasks"
        self.called.append(rpc)
        if errors := self.errors.get(rpc):
            raise errors.pop(0)
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

    async def send(self) -> None:
        """Send what is unsent."""
        await self.tracker.start(sending=True)
        await self.until(lambda: not self.tracker.sending)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, which is checked after each change."""
        changed = asyncio.Event()
        end = self.tracker.listen(changed.set)
        async with asyncio.timeout(240):
            while not condition():
                await changed.wait()
                changed.clear()
        end()


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the coroutine of a test on the background loop, as the trackers run there."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    _loop.run(test(**{name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}), 240)
    return True


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Outbox]:
    """Give the outbox of another home."""
    with Outbox(tmp_path / "theirs" / "outbox.sqlite3") as made:
        yield made


@pytest.fixture
def store() -> Store:
    """Give a store that is empty."""
    return Store(f"memory://{next(_numbers)}")


@pytest.fixture
def tracked(outbox: Outbox, batch: str) -> Iterator[Tracked]:
    """Track a batch of 250 rows, none sent."""
    made = Tracked(outbox, batch)
    yield made
    _loop.run(made.tracker.close())
