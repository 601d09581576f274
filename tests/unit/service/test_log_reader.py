"""The log is read forward: every entry once, within the quota, whatever comes late or in between."""

import asyncio
import datetime as dt
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import pytest
from google.cloud.logging_v2.types import logging as logging_types
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, QuotaError
from cloudtasks_nb.service.oplog import LogReader
from cloudtasks_nb.service.quota import CallBudget
from tests.unit.service.conftest import raw_entry

QUEUE = QueueName(project="p", location="l", queue="q")
SECOND = 1_000_000
START = 1_767_225_600 * SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the log; times in microseconds since START."""

    id: str
    time: int
    received: int
    visible: int  #: from when on a read finds it


class Log:
    """A transport whose log grows while it is read, in pages of three."""

    def __init__(self, *lines: Line) -> None:
        self.lines = list(lines)
        self.now = 0
        self.errors: list[CloudTasksError | None] = []
        self.reads = 0

    async def call(self, rpc: str, *, filter: str, page_token: str, **_: Any) -> Any:  # noqa: A002 - the request's field
        """Answer one page of what is visible now, behind the place that the token names."""
        assert rpc == "ListLogEntries"
        self.reads += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        since, received = (bound(filter, name) for name in ("timestamp", "receiveTimestamp"))
        visible = [line for line in self.lines if line.visible <= self.now]
        found = (line for line in visible if line.time >= since and line.received >= received)
        there = sorted(found, key=lambda line: (line.time, line.id))
        time, name = page_token.split("|") if page_token else ("-1", "")
        at = bisect_right(there, (int(time), name), key=lambda line: (line.time, line.id))
        more = f"{there[at + 2].time}|{there[at + 2].id}" if at + 3 < len(there) else ""
        entries = [raw_entry(one.id, START + one.time, START + one.received) for one in there[at : at + 3]]
        return logging_types.ListLogEntriesResponse.pb()(entries=entries, next_page_token=more)


def bound(where: str, name: str) -> int:
    """Read a lower bound out of a filter, in microseconds since START."""
    found = re.search(rf'\b{name}>="([^"]*)"', where)
    if found is None:
        return -(10**18)
    return round(dt.datetime.fromisoformat(found[1]).timestamp() * SECOND) - START


class Allowance(CallBudget):
    """A budget of a given number of calls."""

    def __init__(self, left: int) -> None:
        super().__init__(60, burst=5)
        self.left = left

    def take(self, caller: object = None) -> bool:  # noqa: ARG002 - there is one caller
        """Take one, if one is left."""
        self.left -= 1
        return self.left >= 0


class Reading:
    """A reader, its log and the entries that it returned."""

    def __init__(self, log: Log, since: int = 0) -> None:
        self.log = log
        self.reader = LogReader(START + since)
        self.entries: list[str] = []

    def read(self, now: float, allowance: int = 1000, ahead: float = 0, **options: bool) -> CloudTasksError | None:
        """Read at a time, in seconds since START; our clock may be ahead of the service's."""
        self.log.now = round(now * SECOND)
        transport: Any = self.log
        now_micros = START + self.log.now + round(ahead * SECOND)
        entries = asyncio.run(self.reader.read(transport, QUEUE, Allowance(allowance), now=now_micros, **options))
        self.entries += [one.insert_id for one in entries]
        return self.reader.error


def line(name: str, time: float, received: float | None = None, visible: float | None = None) -> Line:
    """Make a line; times in seconds since START."""
    received = time if received is None else received
    times = {"time": time, "received": received, "visible": received if visible is None else visible}
    return Line(id=name, **{key: round(value * SECOND) for key, value in times.items()})


@pytest.mark.parametrize(("immediate", "pages"), [(False, 3), (True, 1)])
def test_what_is_logged_at_once_is_read_once(*, immediate: bool, pages: int) -> None:
    """Elsewhere entries may appear in another order than they came: those of the last seconds are read again."""
    reading = Reading(Log(*(line(f"{n}", n / 6) for n in range(9))))
    reading.read(1.5)
    assert reading.log.reads == 3
    reading.read(1.6, immediate=immediate)
    assert reading.log.reads == 3 + pages


def test_a_clock_that_is_set_back() -> None:
    """Our clock may be two days ahead and be put right between two reads, or between two pages: nothing is missed."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8)), line("late", 5, received=21), line("new", 30)))
    reading.read(10, allowance=2, ahead=172_800)
    for now in (11, 22, 31):
        reading.read(now)
    assert reading.entries == [*(f"{n:02}" for n in range(8)), "late", "new"]
    assert reading.reader.until == START + 31 * SECOND


def test_a_start_in_the_future() -> None:
    """After the clock was set back, entries are returned from a little before the present on."""
    reading = Reading(Log(line("old", 100), line("a", 900), line("b", 1020)), since=172_800 * SECOND)
    reading.read(1000, ahead=172_800)
    assert reading.entries == []
    for now in (1001, 1030):
        reading.read(now)
    assert reading.entries == ["a", "b"]


def test_a_page_that_fails_loses_nothing() -> None:
    """The entries of the pages before it are returned, and the pass goes on from there."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    quota = QuotaError("wait")
    reading.log.errors = [None, quota]
    assert reading.read(10) is quota
    assert (reading.entries, reading.reader.until) == (["00", "01", "02"], None)
    assert reading.read(10.5, allowance=0) is quota
    assert reading.read(11) is None
    assert reading.entries == [f"{n:02}" for n in range(8)]
    assert reading.log.reads == 4


def test_a_token_that_is_too_old() -> None:
    """A refused page begins the pass again, and no entry is returned twice."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    reading.read(10, allowance=2)
    reading.log.errors = [InvalidInputError("page_token")]
    assert isinstance(reading.read(11), InvalidInputError)
    reading.read(12)
    assert reading.entries == [f"{n:02}" for n in range(8)]


def test_memory_is_bounded() -> None:
    """Ids that no later page can have are dropped."""
    reading = Reading(Log(*(line(str(n), n * 10) for n in range(200))))
    for now in range(0, 2050, 50):
        reading.read(now)
    assert len(reading.entries) == len(set(reading.entries)) == 200
    assert len(reading.reader._seen) < 20


# Time of the attempt, how late the log took it, how much out of order it is indexed.
lines = st.tuples(st.floats(0, 60), st.floats(0, 590), st.floats(0, 1.9))
looks = st.tuples(st.floats(0, 30), st.integers(0, 3))  # pause, pages that the budget allows


@given(st.lists(lines, max_size=25), st.lists(looks, max_size=25))
def test_every_entry_once(made: list[tuple[float, float, float]], steps: list[tuple[float, int]]) -> None:
    """However entries and reads interleave, each entry is returned exactly once."""
    log = Log(*(line(str(n), at, at + late, at + late + odd) for n, (at, late, odd) in enumerate(made)))
    reading = Reading(log)
    now = 0.0
    for pause, allowance in steps:
        now += pause
        reading.read(now, allowance)
    for later in (1000, 1001, 1002):
        reading.read(now + later)
    assert sorted(reading.entries) == sorted(one.id for one in log.lines)


def test_what_a_new_reader_has_to_read_again() -> None:
    """It is what may have arrived late, not all that the old reader has read."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    assert reading.reader.unread_since() == START
    reading.read(10)
    assert reading.reader.unread_since() == START
    reading.read(5_000)
    assert reading.reader.unread_since() == START + (5_000 - 900) * SECOND
