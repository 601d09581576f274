"""Reading the operations log: the filter that is asked with, and entries taken apart."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from google.cloud.logging_v2.types import LogEntry
from google.cloud.logging_v2.types import logging as logging_types
from google.protobuf import json_format

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import QuotaError
from cloudtasks_nb.service.oplog import Entry, LogReader, Wanted, entries_in, pages, read
from cloudtasks_nb.service.quota import CallBudget
from tests.log_entry import log_entry

QUEUE = QueueName(project="p", location="us-central1", queue="q")
TASK = f"{QUEUE}/tasks/t"


def entry(number: int = 1, **payload: Any) -> Any:
    """Make a raw log entry as Cloud Tasks writes it."""
    text = {
        "insertId": f"id-{number}",
        "timestamp": "2026-01-01T00:00:01.000005Z",
        "receiveTimestamp": "2026-01-01T00:00:03Z",
        "jsonPayload": {"task": TASK, **payload},
    }
    return json_format.ParseDict(text, LogEntry.pb()())


ATTEMPT: dict[str, Any] = {"attemptDuration": "0.001250s", "dispatchCount": "2", "maxAttempts": 5, "responseCount": "1"}
ATTEMPT |= {"retryTime": "2026-01-01T00:01:00.123456789Z", "scheduleTime": "2026-01-01T00:00:00Z"}
ATTEMPT |= {"status": "INTERNAL", "targetAddress": "POST http://127.0.0.1:8080/run", "targetType": "HTTP"}


class Log:
    """A transport whose log has these pages."""

    def __init__(self, *pages: list[Any]) -> None:
        self.pages = pages
        self.asked: list[dict[str, Any]] = []
        self.left = 0  #: refusals before the next answer

    async def call(self, rpc: str, **fields: Any) -> Any:
        """Answer with the page that the token names."""
        assert rpc == "ListLogEntries"
        if self.left:
            self.left -= 1
            raise QuotaError("busy")
        self.asked.append(fields)
        at = int(fields["page_token"] or 0)
        token = str(at + 1) if at + 1 < len(self.pages) else ""
        return logging_types.ListLogEntriesResponse.pb()(entries=self.pages[at], next_page_token=token)


def only(message: Any) -> list[Entry]:
    """Read a log of one entry."""
    return entries_in(logging_types.ListLogEntriesResponse.pb()(entries=[message]))


def where(**wanted: Any) -> str:
    """Return the one filter for what is wanted."""
    (found,) = Wanted(**wanted).filters(QUEUE)
    return found


def test_the_filter() -> None:
    """One queue, attempts and deletions, from a time on; the time of receipt only when it is known."""
    assert where(since=1_767_225_600_000_001) == (
        'resource.type="cloud_tasks_queue" AND resource.labels.queue_id="q"'
        ' AND resource.labels.location="us-central1"'
        ' AND logName="projects/p/logs/cloudtasks.googleapis.com%2Ftask_operations_log"'
        " AND (jsonPayload.attemptResponseLog:* OR jsonPayload.taskDeletionLog:*)"
        ' AND timestamp>="2026-01-01T00:00:00.000001Z"'
    )
    since = ' AND timestamp>="1970-01-01T00:00:00Z"'
    received = where(since=0, received_from=1_767_225_600_000_000)
    assert received.endswith(f'{since} AND receiveTimestamp>="2026-01-01T00:00:00Z"')
    of_tasks = where(since=0, tasks=["a-1", "b-1"], every_kind=True)
    assert of_tasks.endswith(f'{since} AND jsonPayload.task=("{QUEUE}/tasks/a-1" OR "{QUEUE}/tasks/b-1")')
    assert where(since=0, batch="abcdef01").endswith(f'{since} AND jsonPayload.task:"-abcdef01-"')
    assert "attemptResponseLog" not in of_tasks
    of_statuses = where(since=0, statuses=["INTERNAL", "UNAVAILABLE"])
    assert ' AND jsonPayload.attemptResponseLog.status=("INTERNAL" OR "UNAVAILABLE") AND ' in of_statuses
    assert "taskDeletionLog" not in of_statuses


class Budget(CallBudget):
    """Sixty reads a minute, on a clock that only passes while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        super().__init__(60, burst=5)
        self.clock = lambda: self.now
        self.sleep = self.pass_by

    async def pass_by(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds


def test_many_pages_are_read_within_the_quota() -> None:
    """300 pages of the log take five minutes or a little more, as there are 60 reads a minute, and none is left out."""
    budget = Budget()
    log: Any = Log(*([entry(number, attemptResponseLog=ATTEMPT)] for number in range(300)))

    async def read_all() -> list[str]:
        return [one.insert_id async for page in pages(log, QUEUE, "filter", budget) for one in entries_in(page)]

    assert asyncio.run(read_all()) == [f"id-{number}" for number in range(300)]
    assert len(log.asked) == 300
    assert 295 / 55 * 60 <= budget.now - 100 <= 340


def test_a_long_log_is_delivered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held in memory does not grow with the log; it is read to the end before the log counts as read."""
    monkeypatch.setattr("cloudtasks_nb.service.oplog._MOST", 10)
    log: Any = Log(*([entry(5 * at + i, attemptResponseLog=ATTEMPT) for i in range(5)] for at in range(7)))
    reader, budget = LogReader(0), CallBudget(1_000_000, burst=1_000)
    parts, until = list[int](), list[int | None]()
    for now in range(4):
        parts.append(len(asyncio.run(reader.read(log, QUEUE, budget, now=1_800_000_000_000_000 + now))))
        until.append(reader.until)
    assert parts == [10, 10, 10, 5]
    assert until == [None, None, None, 1_800_000_000_000_000]


@pytest.mark.parametrize(("refusals", "found"), [(3, True), (99, False)], ids=["for a while", "for ever"])
def test_a_read_that_is_refused_is_repeated(refusals: int, found: bool) -> None:  # noqa: FBT001 - a case of the table
    """The quota may be used up by others; after many refusals that is an error."""
    log: Any = Log([entry(attemptResponseLog=ATTEMPT)])
    log.left = refusals

    async def first() -> Any:
        return await anext(pages(log, QUEUE, "filter", Budget()))

    with nullcontext() if found else pytest.raises(QuotaError):
        assert asyncio.run(first()).entries


def test_an_attempt() -> None:
    """Counts that come as text, durations with a unit, times to the microsecond."""
    known = {"insert_id": "id-1", "received": 1_767_225_603_000_000, "attempt": 2, "status": "INTERNAL"}
    times = {"duration": 0.00125, "retry_time": 1_767_225_660_123_456, "due": 1_767_225_600_000_000}
    expected = log_entry("t", 1_767_225_601_000_005, **known, **times, url="http://127.0.0.1:8080/run")
    assert only(entry(attemptResponseLog=ATTEMPT)) == [expected]


NAMES = {"retryTime": "retry_time", "scheduleTime": "due", "attemptDuration": "duration", "maxAttempts": "max_attempts"}
NAMES |= {"status": "status", "targetAddress": "url", "dispatchCount": "attempt"}
LEFT_OUT = {"maxAttempts": 0, "dispatchCount": 0, "status": "", "targetAddress": ""}


@pytest.mark.parametrize("left_out", NAMES)
def test_what_an_entry_leaves_out(left_out: str) -> None:
    """A field that is not there is not known, and nothing fails."""
    facts = {key: text for key, text in ATTEMPT.items() if key != left_out}
    assert getattr(only(entry(attemptResponseLog=facts))[0], NAMES[left_out]) == LEFT_OUT.get(left_out)


OTHER_FORMS = [
    *((field, value, count) for field in ("dispatchCount", "maxAttempts") for value, count in (("7", 7), (7, 7))),
    *((field, value, 0) for field in ("dispatchCount", "maxAttempts") for value in ("many", None)),
    ("retryTime", "soon", None),
    ("attemptDuration", "soon", None),
]


@pytest.mark.parametrize(("field", "value", "read"), OTHER_FORMS)
def test_other_forms_of_a_field(field: str, value: Any, read: Any) -> None:
    """A count is text or a number; a text of another form is not known, and does not stop the reading."""
    assert getattr(only(entry(attemptResponseLog={**ATTEMPT, field: value}))[0], NAMES[field]) == read


@pytest.mark.parametrize("key", ["taskDeletionLog", "taskDeleteLog"])
def test_a_deletion(key: str) -> None:
    """The deletion of a task is not taken for an attempt; creations and dispatches say nothing about an outcome."""
    found = only(entry(1, **{key: {"status": "OK"}}))[0]
    assert (found.deleted, found.attempt, found.task) == (True, 0, "t")
    assert only(entry(taskCreationLog={"status": "OK"})) == []


def test_the_newest_come_first() -> None:
    """`read` asks backwards, for no more than is wanted, and stops when it has that."""
    attempts = [entry(number, attemptResponseLog=ATTEMPT) for number in range(4)]
    deletion = entry(9, taskDeletionLog={})
    log: Any = Log([attempts[0], deletion], attempts[1:3], attempts[3:])
    found = asyncio.run(read(log, QUEUE, Wanted(since=0), 2))
    assert [one.insert_id for one in found] == ["id-0", "id-1"]
    assert {(one["order_by"], one["page_size"]) for one in log.asked} == {("timestamp desc", 2)}
    assert [one["page_token"] for one in log.asked] == ["", "1"]


def test_the_attempts_on_named_tasks() -> None:
    """Many names are asked for in several reads, each with a filter that the log takes."""
    log: Any = Log([entry(1, attemptResponseLog=ATTEMPT)])
    named = Wanted(since=0, tasks=["t", *(f"x{number}" for number in range(300)), *"yz" * 250, "y" * 500])
    found = asyncio.run(read(log, QUEUE, named, 5))
    assert {one.insert_id for one in found} == {"id-1"}
    asked = [one["filter"] for one in log.asked]
    assert [f'jsonPayload.task=("{QUEUE}/tasks/t" OR "{QUEUE}/tasks/x0"' in one for one in asked][:2] == [True, False]
    assert sum(one.count("/tasks/") for one in asked) == 802
    assert max(map(len, asked)) <= 20_000
    assert asyncio.run(read(log, QUEUE, Wanted(since=0, tasks=[]), 5)) == []


def test_all_of_it() -> None:
    """`limit=None` reads to the end, a thousand a page."""
    log: Any = Log(*([entry(number, attemptResponseLog=ATTEMPT)] for number in range(3)))
    assert len(asyncio.run(read(log, QUEUE, Wanted(since=0), None))) == 3
    assert {one["page_size"] for one in log.asked} == {1000}
    assert log.asked[0]["resource_names"] == ["projects/p"]
