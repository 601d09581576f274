"""The one watcher of a connection, over a service that lives in this file."""

import queue as queues
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from google.cloud import tasks_v2beta3
from google.cloud.logging_v2.types import LogEntry
from google.cloud.logging_v2.types import logging as logging_types
from google.cloud.tasks_v2 import types

from cloudtasks_nb import _loop, errors
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import (
    EndpointError,
    PermissionDeniedError,
    QueueNotFoundError,
    ServiceError,
    TaskNotFoundError,
)
from cloudtasks_nb.service.clock import ServiceClock
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.oplog import Wanted
from cloudtasks_nb.service.watch import Pending, Snapshot, Watcher
from tests.unit.service.conftest import raw_entry

PATIENCE = 240.0
SECOND = 1_000_000
QUEUE = QueueName(project="p", location="l", queue="q")
OTHER = QueueName(project="p", location="l", queue="other")
Answerer = Callable[..., Any]


class Service:
    """A transport whose calls are answered by functions of a test."""

    endpoint: Endpoint
    logs_at_once = False

    def __init__(self, **answers: Answerer | Exception) -> None:
        self.answers: dict[str, Answerer | Exception] = {"GetQueueStats": queue_stats, **answers}
        self.calls: list[str] = []
        self.service_clock = ServiceClock(lambda: "")

    async def call(self, rpc: str, **fields: Any) -> Any:
        """Answer a call, or raise the given error."""
        self.calls.append(rpc)
        answer = self.answers[rpc]
        if isinstance(answer, Exception):
            raise answer
        fields.pop("resource_name", None)
        return answer(**fields)


class Heard:
    """A listener that keeps snapshots for the test's own thread."""

    def __init__(self) -> None:
        self._snapshots: queues.Queue[Snapshot] = queues.Queue()

    def __call__(self, snapshot: Snapshot) -> None:
        """Take a snapshot, on the watcher's thread."""
        self._snapshots.put(snapshot)

    def next(self) -> Snapshot:
        """Wait for the next snapshot."""
        return self._snapshots.get(timeout=PATIENCE)

    def until(self, condition: Callable[[Snapshot], bool]) -> Snapshot:
        """Wait for the first snapshot that is as wanted."""
        end = time.monotonic() + PATIENCE
        while not condition(found := self.next()):
            assert time.monotonic() < end, f"waited {PATIENCE} s in vain; the last snapshot was {found}"
        return found


def queue_stats(name: str, **_: Any) -> Any:
    """Answer with a running queue that has statistics."""
    made = tasks_v2beta3.Queue.pb()(name=name, state=1)
    made.stats.tasks_count = 7
    return made


def log(*inserts: str) -> Answerer:
    """Answer with entries of these ids."""
    entries = [raw_entry(one, (1000 + n) * SECOND, (1003 + n) * SECOND) for n, one in enumerate(inserts)]
    return lambda **_: logging_types.ListLogEntriesResponse.pb()(entries=entries)


def inserts(snapshot: Snapshot) -> list[str]:
    """List the entries of a snapshot."""
    return [entry.insert_id for entry in snapshot.entries]


def start(service: Service, **budgets: Any) -> Watcher:
    """Make a watcher of a service."""
    transport: Any = service
    return Watcher(transport, **budgets)


@pytest.fixture
def watch() -> Iterator[Callable[..., Heard]]:
    """Subscribe to a queue of a service, or of a watcher; the watchers are closed after the test."""
    watchers: list[Watcher] = []

    def subscribe(of: Service | Watcher, queue: QueueName = QUEUE, listener: Any = None, **how: Any) -> Heard:
        heard = Heard()
        watchers.append(start(of, log_reads=100_000) if isinstance(of, Service) else of)
        watchers[-1].subscribe(queue, listener or heard, **{"every": 0.001, **how})
        return heard

    yield subscribe
    for watcher in watchers:
        _loop.run(watcher.close(), PATIENCE)


Watch = Callable[..., Heard]
DENIED = PermissionDeniedError("no", code="PERMISSION_DENIED")
MISSING = QueueNotFoundError("no", code="NOT_FOUND")


def test_the_log_of_an_emulator_that_does_not_answer_is_not_waited_for(watch: Watch) -> None:
    """It is at the same address: the wait for a connection is not made twice until the user is told."""
    service = Service(GetQueueStats=EndpointError("nothing answers"))
    service.endpoint = Endpoint(project="p", location="l", target="127.0.0.1:1", local=True)
    snapshot = watch(service, since=0).next()
    assert (service.calls[0], len(snapshot.errors)) == ("GetQueueStats", 1)
    assert "ListLogEntries" not in service.calls


def test_snapshots_arrive(watch: Watch) -> None:
    """Settings and statistics come again and again; the log is not read unless a subscriber asks for it."""
    watcher = start(service := Service())
    heard = watch(watcher)
    first, second = heard.next(), heard.next()
    assert (first.queue, first.gone, first.errors, first.log_until, first.entries) == (QUEUE, False, (), None, ())
    assert first.values is not None
    assert (first.values["tasks"], first.values["state"]) == (7, "RUNNING")
    assert second.at >= first.at
    assert set(service.calls) == {"GetQueueStats"}


def test_entries_come_once(watch: Watch) -> None:
    """However often the log delivers an entry, only one snapshot has it; `lag` is how late it arrived."""
    service = Service(ListLogEntries=log("a", "b"))
    heard = watch(service, since=1_000_000_000)
    first = heard.next()
    assert inserts(first) == ["a", "b"]
    assert (first.entries[0].task, first.lag) == ("a", 3_000_000)
    assert first.log_until is not None
    service.answers["ListLogEntries"] = log("a", "b", "c")
    assert inserts(heard.until(lambda snapshot: bool(snapshot.entries))) == ["c"]


def test_a_later_subscriber_gets_all(watch: Watch) -> None:
    """The log is read further back than was asked for; a subscriber gets every entry since the time that it gave."""
    watcher = start(Service(ListLogEntries=log("a", "b")), log_reads=100_000)
    assert inserts(watch(watcher, since=1_001_000_000).next()) == ["b"]
    late = watch(watcher, since=1_000_000_000)
    assert inserts(late.until(lambda snapshot: bool(snapshot.entries))) == ["a", "b"]


def test_a_listener_that_fails(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged; it and the others get the next snapshots."""
    fails = Mock(side_effect=RuntimeError("a bug of a panel"))
    watcher = start(Service())
    watch(watcher, listener=fails)
    heard = watch(watcher)
    heard.next()
    heard.next()
    assert fails.call_count >= 2
    assert "a listener of queue projects/p/locations/l/queues/q failed" in {r.getMessage() for r in caplog.records}


def test_what_may_not_be_read(watch: Watch) -> None:
    """The snapshot has the error, and what may be read all the same; that there is no queue is a fact of it."""
    found = watch(Service(ListLogEntries=DENIED), since=0).next()
    assert (found.errors, found.log_until, found.entries, found.values is None) == ((DENIED,), None, (), False)
    found = watch(Service(GetQueueStats=DENIED, ListLogEntries=log("a")), since=0).next()
    assert (found.errors, found.values, found.gone, inserts(found)) == ((DENIED,), None, False, ["a"])
    assert watch(Service(GetQueueStats=MISSING)).next().gone


def test_an_endpoint_without_statistics(watch: Watch) -> None:
    """Where v2beta3 is not served, v2 gives the settings, and the depth is not known."""
    queue = types.Queue.pb()(name=str(QUEUE), state=2)
    unknown = ServiceError("no", code="UNIMPLEMENTED")
    found = watch(Service(GetQueueStats=unknown, GetQueue=lambda **_: queue)).next()
    assert found.errors == ()
    assert found.values is not None
    assert (found.values["state"], found.values.get("tasks")) == ("PAUSED", None)


def test_an_unknown_enum_value_is_unknown(watch: Watch) -> None:
    """A state that a newer service has is shown as no state; the queue is watched on."""
    heard = watch(Service(GetQueueStats=lambda name, **_: tasks_v2beta3.Queue.pb()(name=name, state=99)))
    for snapshot in (heard.next(), heard.next()):
        assert snapshot.values is not None
        assert (snapshot.values["state"], snapshot.errors) == ("STATE_UNSPECIFIED", ())


FAILING = [("GetQueueStats", "reading queue q"), ("ListLogEntries", "reading the log of queue q")]


@pytest.mark.parametrize(("rpc", "what"), FAILING)
def test_subscribers_hear_of_any_failing_read(watch: Watch, rpc: str, what: str) -> None:
    """An exception of our own code is an error in the snapshot, and the queue is watched on."""
    works: dict[str, Answerer | Exception] = {"GetQueueStats": queue_stats, "ListLogEntries": log("a")}
    heard = watch(service := Service(**works | {rpc: IndexError("ours")}), since=1_000_000_000)
    assert [str(error) for error in heard.next().errors] == [f"{what} failed with IndexError: ours"]
    service.answers |= works
    found = heard.until(lambda snapshot: not snapshot.errors)
    assert (found.values is None, found.log_until is None) == (False, False)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on the background loop."""
    return _loop.run(work, PATIENCE)


def test_one_read() -> None:
    """A queue can be read without a subscription; an error is raised."""
    assert run(start(Service()).read_queue(QUEUE))["tasks"] == 7
    with pytest.raises(QueueNotFoundError):
        run(start(Service(GetQueueStats=MISSING)).read_queue(QUEUE))


def task(name: str, **fields: Any) -> Any:
    """Make a raw task."""
    return types.Task.pb()(name=f"{QUEUE}/tasks/{name}", **fields)


FAILED = {"dispatch_time": {"seconds": 5}, "response_status": {"code": 13, "message": "INTERNAL(13)"}}


async def listing(watcher: Watcher) -> list[dict[str, Pending]]:
    """Return the tasks in the queue, a page each."""
    return [page async for page in watcher.pages(QUEUE)]


def test_a_listing() -> None:
    """Every task of every page, with what a batch wants to know of it."""
    pages = {
        "": types.ListTasksResponse.pb()(tasks=[task("a", schedule_time={"seconds": 9})], next_page_token="more"),  # noqa: S106 - no password
        "more": types.ListTasksResponse.pb()(tasks=[task("b", dispatch_count=2, last_attempt=FAILED)]),
    }
    watcher = start(Service(ListTasks=lambda page_token, **_: pages[page_token]))
    failed: dict[str, Any] = {"last_status": "INTERNAL", "last_message": "INTERNAL(13)"}
    assert run(listing(watcher)) == [
        {"a": Pending(state="ready", attempts=0, schedule_time=9_000_000, last_status=None, last_message=None)},
        {"b": Pending(state="retrying", attempts=2, schedule_time=0, **failed)},
    ]


def test_a_lookup() -> None:
    """Tasks by name, in their order; None for those that are not in the queue."""

    def get(name: str) -> Any:
        short = name.rpartition("/")[2]
        if short == "b":
            raise TaskNotFoundError("no")
        return task(short, dispatch_count=1, last_attempt={"dispatch_time": {"seconds": 5}})

    found = run(start(Service(GetTask=get)).lookup(QUEUE, ["c", "b", "a"]))
    assert list(found) == ["c", "b", "a"]
    assert found["b"] is None
    assert (found["a"].state, found["a"].last_status) == ("running", None)


def test_whether_the_log_has_an_entry() -> None:
    """An empty page with a token is not the end of the search; entries of every kind count."""
    created = LogEntry.pb()(insert_id="a")
    created.json_payload.update({"task": f"{QUEUE}/tasks/t", "taskCreationLog": {"status": "OK"}})
    pages: dict[str, dict[str, Any]] = {"": {"next_page_token": "more"}, "more": {"entries": [created]}}
    sizes: list[int] = []

    def answer(page_token: str, page_size: int, **_: Any) -> Any:
        sizes.append(page_size)
        return logging_types.ListLogEntriesResponse.pb()(**pages[page_token])

    assert run(start(Service(ListLogEntries=answer)).is_logged(QUEUE, Wanted(since=0)))
    assert sizes == [1, 1]
    assert not run(start(Service(ListLogEntries=log())).is_logged(QUEUE, Wanted(since=0)))


@pytest.mark.parametrize("work", ["listing", "lookup"])
def test_what_cannot_be_looked_up(work: str) -> None:
    """An error is not an answer."""
    broken = errors.UnavailableError("down")
    watcher = start(Service(ListTasks=broken, GetTask=broken))
    with pytest.raises(errors.UnavailableError):
        run(listing(watcher) if work == "listing" else watcher.lookup(QUEUE, ["a"]))
