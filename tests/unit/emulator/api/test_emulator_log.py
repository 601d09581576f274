"""The operations log: its entries, how filters compare, and pages; `answers/log.toml` has what filters say."""

import asyncio
import operator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import json_format

from cloudtasks_nb.emulator.api import pages
from cloudtasks_nb.emulator.api.filter import compile_filter, parse_filter
from cloudtasks_nb.emulator.api.log_calls import LogCalls
from cloudtasks_nb.emulator.model.apis import beta, logs, v2
from cloudtasks_nb.emulator.model.attempts import AttemptResult, RetryPolicy
from cloudtasks_nb.emulator.model.clock import DAY, SECOND, Clock
from cloudtasks_nb.emulator.model.tasks import FULL, accept_task, task_wire
from cloudtasks_nb.emulator.store import oplog
from cloudtasks_nb.emulator.store.oplog import LogSubject
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.store.sweep import sweep
from tests.cases import cases
from tests.unit.emulator.conftest import LOG_ALL, NOW, QUEUE, URL, MakeStore, commit, new_queue, new_task, put

TWICE = RetryPolicy(max_attempts=2)


def logged_queue(store: Store, name: str = QUEUE) -> QueueState:
    """Make a queue that logs everything."""
    return new_queue(store, name, stackdriver_logging_config=LOG_ALL)


@pytest.fixture
def queue(store: Store) -> QueueState:
    """Give a queue that logs everything."""
    return logged_queue(store)


def read(store: Store, clock: Clock, text: str = "", **request: Any) -> tuple[list[dict[str, Any]], str]:
    """Read a page of entries as JSON, with the token of the next."""
    message = logs.ListLogEntriesRequest(**{"resource_names": ["projects/p"], "filter": text, **request})
    engine: Any = SimpleNamespace(store=store, clock=clock)
    wire = asyncio.run(LogCalls(engine).list_log_entries(message))
    page = logs.ListLogEntriesResponse.FromString(wire)
    return [json_format.MessageToDict(entry) for entry in page.entries], page.next_page_token


def read_all(store: Store, clock: Clock, **request: Any) -> list[dict[str, Any]]:
    """Read page after page to the end."""
    entries, token = read(store, clock, **request)
    while token:
        page, token = read(store, clock, page_token=token, **request)
        assert page
        entries += page
    return entries


def names(entries: list[dict[str, Any]]) -> list[str]:
    """Give the short ids of the entries' tasks."""
    return [entry["jsonPayload"]["task"].rpartition("/")[2] for entry in entries]


def fail(store: Store, clock: Clock, queue: QueueState, task_id: str, policy: RetryPolicy = TWICE) -> None:
    """Let a task fail once, by a 404 after 1.25 ms."""
    claim = store.claim_now(queue, task_id)
    subject = LogSubject(queue.q, queue.config.sampling_ratio, task_id, f"POST {URL}", "HTTP")
    store.begin_attempt(claim)
    store.log.dispatched(subject, claim.attempts, clock.now())
    clock.advance(1250)
    store.end_attempt(claim, AttemptResult(http_status=404), policy, subject)
    commit(store)


def test_a_task_that_is_deleted_before_it_is_committed(store: Store, queue: QueueState, clock: Clock) -> None:
    """The entry of a deletion before the commit has no target."""
    store.add(queue, new_task("a"), NOW)
    store.delete(queue, "a")
    commit(store)
    ((entry,), _) = read(store, clock, "jsonPayload.taskDeletionLog:*")
    assert entry["jsonPayload"]["taskDeletionLog"] == {"status": "OK"}


@pytest.mark.parametrize("order", ["timestamp asc", "timestamp desc"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_one_call_is_logged_as_many_are(make_store: MakeStore, clock: Clock, order: str, size: int) -> None:
    """Tasks that one call created have the entries that they would have alone, on pages of any size in both orders."""
    tasks = [new_task("a"), new_task("b", due=NOW + SECOND), new_task("c", url=f"{URL}/other"), new_task("d")]
    seen = []
    for together in (True, False):
        store = make_store(file=f"{together}.sqlite3")
        queue = logged_queue(store)
        store.add(queue, new_task("first"), NOW)
        if together:
            store.add_all(queue, dict(enumerate(tasks)), NOW)
        else:
            for task in tasks:
                store.add(queue, task, NOW)
        put(store, queue, "last")
        seen.append(read_all(store, clock, page_size=size, order_by=order))
        assert len(store.database.read("SELECT * FROM log")) == (3 if together else 6)
    assert seen[0] == seen[1]
    ids = ["first", "a", "b", "c", "d", "last"]
    assert names(seen[0]) == (ids if order.endswith("asc") else ids[::-1])


def test_a_call_is_sampled_task_by_task(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tasks of one call those are logged that the sampling ratio lets through, by default none."""
    put(store, new_queue(store, f"{QUEUE}-2"), "a")
    monkeypatch.setattr(oplog, "_random", SimpleNamespace(random=iter([0.2, 0.9, 0.7, 0.1, 0.6, 0.8]).__next__))
    queue = new_queue(store, stackdriver_logging_config=beta.StackdriverLoggingConfig(sampling_ratio=0.5))
    for call in ("abcd", "ef"):
        store.add_all(queue, dict(enumerate(map(new_task, call))), NOW)
    commit(store)
    entries, _ = read(store, clock)
    found = [(entry["insertId"], *names([entry])) for entry in entries]
    assert found == [(f"{NOW:016x}", "a"), (f"{NOW + 1:016x}", "d")]


def test_the_log_goes_on_behind_the_entries_of_a_call(make_store: MakeStore, clock: Clock) -> None:
    """After a restart entries follow the last one of a call that created many tasks, and are dropped with them."""
    store = make_store()
    store.add_all(logged_queue(store), dict(enumerate(map(new_task, "abc"))), NOW)
    commit(store)
    store = make_store()
    put(store, store.queue(QUEUE), "d")
    entries, _ = read(store, clock)
    assert [entry["insertId"] for entry in entries] == [f"{NOW + number:016x}" for number in range(4)]
    assert names(entries) == ["a", "b", "c", "d"]
    clock.advance(30 * DAY + 2)
    assert not sweep(store, clock.now()), "nothing is left"
    commit(store)
    assert names(read(store, clock)[0]) == ["d"]


def test_a_retry_after_all_calendars(store: Store, queue: QueueState, clock: Clock) -> None:
    """The longest backoff there is ends with the year 9999, the last that a time can show."""
    put(store, queue, "a")
    longest = 315_576_000_000 * SECOND
    fail(store, clock, queue, "a", RetryPolicy(min_backoff=longest, max_backoff=longest))
    ((entry,), _) = read(store, clock, "jsonPayload.attemptResponseLog:*")
    assert entry["jsonPayload"]["attemptResponseLog"]["retryTime"] == "9999-12-31T23:59:59.999999Z"
    task = store.task(queue, "a")
    shown = v2.Task.FromString(task_wire(task.head, task.due, queue.attempts[task.number], b"", FULL))
    assert shown.schedule_time.ToJsonString() == "9999-12-31T23:59:59.999999Z"


def test_long_reads_go_in_chunks(store: Store, queue: QueueState, clock: Clock) -> None:
    """An entry behind thousands of others is found, from both ends."""
    put(store, queue, *(f"t{number}" for number in range(2500)))
    for wanted, order in product(("t2400", "t3"), ("timestamp asc", "timestamp desc")):
        text = f'jsonPayload.task="{QUEUE}/tasks/{wanted}"'
        assert len(read(store, clock, text, order_by=order)[0]) == 1


def test_late_entries(make_store: MakeStore, clock: Clock) -> None:
    """With a delay entries are received later than they happened, and are not there before; also after a restart."""
    store = make_store(log_delay=30 * SECOND)
    put(store, logged_queue(store), "a")
    assert read(store, clock)[0] == []
    clock.advance(30 * SECOND)
    store = make_store()
    text = 'receiveTimestamp>"2026-01-02T03:04:35Z"'
    ((entry,), _) = read(store, clock, text)
    times = ("2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:35.678901Z")
    assert (entry["timestamp"], entry["receiveTimestamp"]) == times


def test_entries_that_are_indexed_late(make_store: MakeStore, clock: Clock) -> None:
    """A share of the entries is received at once and can be read only later; the choice is stable."""
    store = make_store(log_index_delays=((0.3, 45 * SECOND), (0.2, 600 * SECOND)))
    queue = logged_queue(store)
    for start in range(0, 1000, 100):
        store.add_all(queue, {n: new_task(f"t{n}") for n in range(start, start + 100)}, NOW)
    commit(store)
    seen = [set(names(read_all(store, clock)))]
    for step in (44, 1, 554, 1):
        clock.advance(step * SECOND)
        seen.append(set(names(read_all(store, clock, page_size=1000))))
    assert seen[0] == seen[1] < seen[2] == seen[3] < seen[4]
    assert [round(len(found), -2) for found in seen[::2]] == [500, 800, 1000]
    assert all(entry["receiveTimestamp"] == entry["timestamp"] for entry in read_all(store, clock))


def test_pages_of_long_entries_are_cut(store: Store, queue: QueueState, clock: Clock) -> None:
    """A page ends before it is larger than clients receive by default, and the next one goes on after it."""
    request = {"relative_uri": "/" + "\N{GRINNING FACE}" * 2000}
    for number in range(600):
        task = v2.Task(app_engine_http_request=request, name=f"{QUEUE}/tasks/t{number}")
        store.add(queue, accept_task(task, QUEUE, NOW), NOW)
    commit(store)
    first, token = read(store, clock, page_size=1000)
    rest, end = read(store, clock, page_size=1000, page_token=token)
    assert names(first) + names(rest) == [f"t{number}" for number in range(600)]
    assert (300 < len(first) < 500, end) == (True, "")


def test_a_slow_filter_is_answered_in_parts(
    store: Store, queue: QueueState, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call ends with what it has found in time, perhaps nothing, and the pages together have every entry."""
    put(store, queue, *(f"t{number}" for number in range(40)))
    monkeypatch.setattr(pages, "_MOST_SECONDS", -1)
    found, token = read(store, clock, '"t30"')
    assert (found, token != "") == ([], True)
    while token:
        more, token = read(store, clock, '"t30"', page_token=token)
        found += more
    assert names(found) == ["t30"]


OPERATORS = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip


@cases(
    ("n", [8, 9, 10], ["8", "9", "10"]),
    ("n", ["8", "9", "10"], ["8", "9", "10"]),  # numbers, though written as texts
    ("d", [0.5, 1.0, 20.0], ["0.5s", "1s", "20s"]),
    ("t", ["A", "b", "C"], ["a", "B", "c"]),  # letters of any case
    ("severity", ["DEBUG", "INFO", "ERROR"], ["DEBUG", "info", "ERROR"]),
    (
        "timestamp",
        [0, 1, 86_400 * 10**9],
        ["1970-01-01", "1970-01-01T00:00:00.000000001Z", "1970-01-02t01:00:00+01:00"],
    ),
    ("timestamp", [0, 500_000_000], ["1970-01-01T01:00:00+01:00", "1970-01-01t00:00:00.5z"]),
)
def test_operators(field: str, values: list[Any], texts: list[str]) -> None:
    """Numbers, durations, texts, severities and times are each compared in their own order, by all six operators."""
    for (at, value), (place, text), op in product(enumerate(values), enumerate(texts), OPERATORS):
        passes = compile_filter(parse_filter(f'{field}{op}"{text}"'), lambda path: operator.itemgetter(*path))
        assert passes({field: value}) is OPERATORS[op](at, place), (value, op, text)
