"""The watcher's reading of the log: every entry once, within the quota, whatever comes late or in between."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from bisect import bisect_right
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from google.cloud.logging_v2.types import LogEntry
from google.cloud.logging_v2.types import logging as logging_types
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, QuotaError
from cloudtasks_nb.service import watch as watch_module
from cloudtasks_nb.service.watch import _Budget, _Reader

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
        there = sorted(
            (line.time, line.id, line)
            for line in self.lines
            if line.visible <= self.now and line.time >= since and line.received >= received
        )
        keys = [key[:2] for key in there]
        token = tuple(page_token.split("|")) if page_token else ("-1", "")
        at = bisect_right(keys, (int(token[0]), token[1])) if page_token else 0
        page = there[at : at + 3]
        more = f"{page[-1][0]}|{page[-1][1]}" if at + 3 < len(there) else ""
        return logging_types.ListLogEntriesResponse.pb()(
            entries=[entry(line) for *_, line in page], next_page_token=more
        )


def bound(where: str, name: str) -> int:
    """Read a lower bound out of a filter, in microseconds since START."""
    found = re.search(rf'\b{name}>="([^"]*)"', where)
    if found is None:
        return -(10**18)
    return (dt.datetime.fromisoformat(found[1]) - dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(
        microseconds=1
    )


def entry(line: Line) -> Any:
    """Make the raw entry of a line."""
    made = LogEntry.pb()(insert_id=line.id)
    made.timestamp.FromMicroseconds(START + line.time)
    made.receive_timestamp.FromMicroseconds(START + line.received)
    made.json_payload.update({"task": f"{QUEUE}/tasks/{line.id}", "attemptResponseLog": {"dispatchCount": "1"}})
    return made


class Allowance(_Budget):
    """A budget that a test fills."""

    def __init__(self, left: int = 1000) -> None:
        super().__init__(60, burst=5)
        self.left = left

    def take(self, asker: object = None) -> bool:  # noqa: ARG002 - nobody else asks
        """Take one, if one is left."""
        self.left -= 1
        return self.left >= 0


class Reading:
    """A reader, its log and what it has handed over."""

    def __init__(self, log: Log, since: int = 0) -> None:
        self.log = log
        self.reader = _Reader(START + since)
        self.heard: list[str] = []

    def look(self, now: float, allowance: int = 1000, ahead: float = 0) -> CloudTasksError | None:
        """Read at a time, in seconds since START; our clock may be ahead of the service's."""
        self.log.now = round(now * SECOND)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch_module, "now_micros", lambda: START + self.log.now + round(ahead * SECOND))
            transport: Any = self.log
            entries = asyncio.run(self.reader.read(transport, QUEUE, Allowance(allowance)))
        self.heard += [one.insert_id for one in entries]
        return self.reader.error


def line(name: str, time: float, received: float | None = None, visible: float | None = None) -> Line:
    """Make a line; times in seconds since START."""
    received = time if received is None else received
    times = {"time": time, "received": received, "visible": received if visible is None else visible}
    return Line(id=name, **{key: round(value * SECOND) for key, value in times.items()})


def test_a_long_log_is_read_over_several_looks() -> None:
    """When the budget is used up the next look goes on where this one stopped; only then the log is read until now."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    reading.look(10, allowance=2)
    assert (len(reading.heard), reading.reader.until) == (6, None)
    reading.look(11, allowance=2)
    assert reading.heard == [f"{n:02}" for n in range(8)]
    assert reading.reader.until == START + 10 * SECOND


def test_late_and_out_of_order() -> None:
    """An entry that comes late, before others of its time, or with an older time is handed over as well."""
    reading = Reading(
        Log(line("a", 1), line("b", 2), line("late", 1, received=300), line("unordered", 3, received=3, visible=4.9))
    )
    for now in (3, 5, 301):
        reading.look(now)
    assert reading.heard == ["a", "b", "unordered", "late"]
    assert reading.reader.lag == 299 * SECOND


def test_a_clock_that_is_set_back() -> None:
    """Our clock may run two days ahead and be put right between two looks, or between two pages: nothing is missed."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8)), line("late", 5, received=21), line("new", 30)))
    reading.look(10, allowance=2, ahead=172_800)
    for now in (11, 22, 31):
        reading.look(now)
    assert reading.heard == [*(f"{n:02}" for n in range(8)), "late", "new"]
    assert reading.reader.until == START + 31 * SECOND


def test_a_wish_of_a_time_that_is_yet_to_come() -> None:
    """Who subscribed before the clock was set back hears what happens from a little before then."""
    reading = Reading(Log(line("old", 100), line("a", 900), line("b", 1020)), since=172_800 * SECOND)
    reading.look(1000, ahead=172_800)
    assert reading.heard == []
    for now in (1001, 1030):
        reading.look(now)
    assert reading.heard == ["a", "b"]


def test_what_comes_while_a_long_read_goes_on() -> None:
    """An entry whose place is on a page that was read already is found by the next read."""
    lines = [line(f"{n:02}", n) for n in range(6)]
    reading = Reading(Log(*lines, line("between", 0.5, received=20), line("newest", 7, received=60)))
    reading.look(10, allowance=1)
    reading.look(61)
    reading.look(62)
    assert sorted(reading.heard) == sorted(one.id for one in reading.log.lines)


def test_a_page_that_fails_loses_nothing() -> None:
    """What the pages before it had is handed over, and the read goes on from there."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    quota = QuotaError("wait")
    reading.log.errors = [None, quota]
    assert reading.look(10) is quota
    assert reading.heard == ["00", "01", "02"]
    assert reading.reader.until is None
    assert reading.look(10.5, allowance=0) is quota
    assert reading.look(11) is None
    assert reading.heard == [f"{n:02}" for n in range(8)]
    assert reading.log.reads == 4


def test_a_token_that_is_too_old() -> None:
    """A page that is refused begins the read again, and hands nothing over twice."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    reading.look(10, allowance=2)
    reading.log.errors = [InvalidInputError("page_token")]
    assert isinstance(reading.look(11), InvalidInputError)
    reading.look(12)
    assert reading.heard == [f"{n:02}" for n in range(8)]


def test_what_was_seen_is_not_kept_for_ever() -> None:
    """Ids that no later read can deliver are dropped, so that a long watch does not grow."""
    reading = Reading(Log(*(line(str(n), n * 10) for n in range(200))))
    for now in range(0, 2050, 50):
        reading.look(now)
    assert len(reading.heard) == len(set(reading.heard)) == 200
    assert len(reading.reader._seen) == len(reading.reader._order) < 20


lines = st.tuples(
    st.floats(0, 60),  # time of the attempt
    st.floats(0, 590),  # how late the log took it
    st.floats(0, 1.9),  # how much out of order it is indexed
)
looks = st.tuples(st.floats(0, 30), st.integers(0, 3))  # pause, pages that the budget allows


@given(st.lists(lines, max_size=25), st.lists(looks, max_size=25))
def test_every_entry_once(made: list[tuple[float, float, float]], steps: list[tuple[float, int]]) -> None:
    """However entries and reads interleave, each entry is handed over exactly once."""
    log = Log(*(line(str(n), at, at + late, at + late + odd) for n, (at, late, odd) in enumerate(made)))
    reading = Reading(log)
    now = 0.0
    for pause, allowance in steps:
        now += pause
        reading.look(now, allowance)
    for later in (1000, 1001, 1002):
        reading.look(now + later)
    assert sorted(reading.heard) == sorted(one.id for one in log.lines)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give a clock that the test moves."""
    now = [1000.0]
    monkeypatch.setattr(watch_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize(("per_minute", "burst"), [(60, 5), (60, 10), (6, 1)])
def test_no_minute_has_more_calls_than_allowed(clock: list[float], per_minute: int, burst: int) -> None:
    """Whoever asks all the time gets a few at once, then one after the other, and never more than the quota."""
    budget = _Budget(per_minute, burst)
    taken = []
    for _ in range(3000):
        if budget.take():
            taken.append(clock[0])
        clock[0] += 0.1
    assert taken[:burst] == [1000.0] + [pytest.approx(1000 + 0.1 * n) for n in range(1, burst)]
    assert max(bisect_right(taken, at + 59.99) - n for n, at in enumerate(taken)) <= per_minute
    assert len(taken) >= 5 * (per_minute - burst)


def test_who_has_waited_longest_is_next(clock: list[float]) -> None:
    """Who asks more often does not get more; who leaves keeps nobody waiting."""
    budget = _Budget(60, 1)
    assert budget.take("quick")
    assert [budget.take(asker) for asker in ("slow", "quick", "gone")] == [False] * 3
    clock[0] += 1.1
    assert [budget.take(asker) for asker in ("quick", "gone", "slow", "quick")] == [False, False, True, False]
    clock[0] += 1.1
    assert [budget.take(asker) for asker in ("slow", "gone", "quick")] == [False, False, True]
    budget.leave("gone")
    clock[0] += 1.1
    assert budget.take("slow")


def test_a_rest_fills_the_budget_again(clock: list[float]) -> None:
    """After a quiet minute a few calls at once are allowed again, and no more than that."""
    budget = _Budget(65, 5)
    for _ in range(3):
        assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
        clock[0] += 60


def test_waiting_for_a_turn(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who must have its call waits for it, each as long as those before it need."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(watch_module, "asyncio", SimpleNamespace(sleep=sleep))
    budget = _Budget(60, 30)

    async def turns() -> None:
        for _ in range(32):
            await budget.turn()

    asyncio.run(turns())
    assert pauses == [0.0] * 30 + [pytest.approx(2.0), pytest.approx(4.0)]


def test_what_has_to_be_read_again() -> None:
    """Who joins a reader that has read for long makes nobody read more again than what may have come late."""
    reading = Reading(Log(*(line(f"{n:02}", n) for n in range(8))))
    assert reading.reader.unread_since() == START
    reading.look(10)
    assert reading.reader.unread_since() == START
    reading.look(5_000)
    assert reading.reader.unread_since() == START + (5_000 - 900) * SECOND
