"""Which effects follow which events of a batch, without an event loop, a clock or an outbox."""

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import pytest

from cloudtasks_nb.fanout.batch import state as machine
from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.state import BatchState, Step, rows_changed, rows_sent, time_passed
from cloudtasks_nb.fanout.states import State

HOUR = dt.timedelta(hours=1)
MARGIN = dt.timedelta(minutes=5)
LOOK_BACK = dt.timedelta(minutes=10)
_Event: TypeAlias = Callable[[BatchState], Step]


def counts(**rows: int) -> dict[State, int]:
    """Return so many rows in each state, as `sent=3`."""
    return dict.fromkeys(State, 0) | {State[name.upper()]: count for name, count in rows.items()}


def started(*, sending: bool = False, limit: FailureLimit | None = None, **rows: int) -> _Event:
    """Take a batch up."""
    return partial(machine.start, counts=counts(**rows), sending=sending, limit=limit or FailureLimit())


def counted(at: float, *, behind: int = 0, limit: FailureLimit | None = None, **rows: int) -> _Event:
    """Count the rows; `behind` changes are not included."""
    return lambda state: machine.rows_counted(
        state, at=at, number=state.changes - behind, counts=counts(**rows), limit=limit or FailureLimit()
    )


def working(*, sending: bool = False, cancelling: bool = False) -> _Event:
    """Change what runs."""
    return partial(machine.work_changed, sending=sending, cancelling=cancelling)


def play(state: BatchState, events: Sequence[_Event]) -> tuple[BatchState, list[str]]:
    """Handle events one after the other; return the last state, and the effects of each event."""
    effects = []
    for event in events:
        state, made = event(state)
        effects.append(" ".join(effect.name for effect in made))
    return state, effects


LIMIT = FailureLimit(limit=2)
SECOND = FailureLimit(limit=2, round=2, failed=2)

#: Events, and the effects of each.
_Story: TypeAlias = list[tuple[_Event, str]]

#: How several stories begin.
ONE_FAILED: _Story = [(started(sent=1), "WATCH COUNT"), (counted(1, failed=1), "NOTIFY SAVE PUBLISH")]
COUNTING_AGAIN: _Story = [
    (started(sent=1), "WATCH COUNT"),
    (counted(1, sent=1), "SAVE PUBLISH"),
    (rows_changed, "COUNT"),
]

STORIES: dict[str, _Story] = {
    "a batch is sent and succeeds": [
        (started(sending=True, unsent=2), "BEGIN_SENDING WATCH COUNT"),
        (counted(0, unsent=2), "SAVE PUBLISH"),
        (partial(rows_sent, at=1, count=2), "PUBLISH"),
        (working(), "REFRESH COUNT"),
        (counted(2, sent=2), "PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(3, succeeded=2), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "the last outcome is counted while the batch is still being sent": [
        (started(sending=True, unsent=2), "BEGIN_SENDING WATCH COUNT"),
        (rows_changed, "COUNT"),
        (counted(1, succeeded=2), "SAVE PUBLISH"),
        (working(), "REFRESH COUNT"),
        (counted(2, succeeded=2), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "the sending ends while the last outcome is being counted": [
        (started(sending=True, unsent=2), "BEGIN_SENDING WATCH COUNT"),
        (rows_changed, "COUNT"),
        (working(), "REFRESH COUNT"),
        (counted(1, behind=1, succeeded=2), "SAVE PUBLISH"),
        (counted(2, succeeded=2), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "a count is one snapshot behind": [
        (started(sent=2), "WATCH COUNT"),
        (rows_changed, "COUNT"),
        (counted(1, behind=1, sent=2), "SAVE PUBLISH"),
        (counted(2, succeeded=2), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
        (counted(3, behind=1, sent=2), ""),
    ],
    "the outbox is locked: a count is made several changes later": [
        (started(sent=2), "WATCH COUNT"),
        (rows_changed, "COUNT"),
        (rows_changed, "COUNT"),
        (partial(time_passed, at=500), ""),
        (counted(600, succeeded=2), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "a log entry comes late, after the end": [
        *ONE_FAILED,
        (rows_changed, "COUNT"),
        (counted(50, succeeded=1), "STOP_WATCHING SAVE PUBLISH"),
    ],
    "no log entry comes after the end": [
        *ONE_FAILED,
        (partial(time_passed, at=60.9), ""),
        (partial(time_passed, at=61), "STOP_WATCHING PUBLISH"),
    ],
    "snapshots go on to come after the end": [
        *ONE_FAILED,
        (rows_changed, "COUNT"),
        (partial(time_passed, at=61), "STOP_WATCHING PUBLISH"),
        (counted(62, failed=1), "SAVE PUBLISH"),
    ],
    "snapshots come faster than rows are counted": [
        (started(sent=1), "WATCH COUNT"),
        (rows_changed, "COUNT"),
        (rows_changed, "COUNT"),
        (counted(1, behind=1, succeeded=1), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "rows are tried again after the end": [
        *ONE_FAILED,
        (started(sending=True, unsent=1), "BEGIN_SENDING COUNT"),
        (counted(30, behind=1, failed=1), ""),
        (counted(31, unsent=1), "SAVE PUBLISH"),
        (partial(time_passed, at=61), ""),
        (partial(rows_sent, at=62, count=1), "PUBLISH"),
        (working(), "REFRESH COUNT"),
        (counted(63, succeeded=1), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "rows are tried again while they are being counted": [
        *COUNTING_AGAIN,
        (started(sending=True, unsent=1), "BEGIN_SENDING COUNT"),
        (working(), "REFRESH COUNT"),
        (counted(2, behind=2, failed=1), "SAVE PUBLISH"),
        (counted(3, sent=1), "PUBLISH"),
    ],
    "rows are tried again elsewhere while they are being counted": [
        *COUNTING_AGAIN,
        (started(unsent=1), "COUNT"),
        (counted(2, behind=1, succeeded=1), "SAVE PUBLISH"),
        (counted(3, unsent=1), "PUBLISH"),
    ],
    "rows are tried again when the watching has ended": [
        (started(sent=1), "WATCH COUNT"),
        (counted(1, succeeded=1), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
        (started(sending=True, unsent=1), "BEGIN_SENDING WATCH COUNT"),
    ],
    "another process tries rows again": [
        *ONE_FAILED,
        (rows_changed, "COUNT"),
        (counted(2, unsent=1), "PUBLISH"),
        (partial(time_passed, at=61), ""),
        (rows_changed, "COUNT"),
        (counted(62, succeeded=1), "NOTIFY STOP_WATCHING SAVE PUBLISH"),
    ],
    "a URL is registered after the end": [
        (started(succeeded=1), "COUNT"),
        (counted(1, succeeded=1), "NOTIFY SAVE PUBLISH"),
        (started(succeeded=1), "COUNT"),
        (counted(2, succeeded=1), "NOTIFY SAVE PUBLISH"),
    ],
    "a batch is cancelled": [
        (started(sent=2), "WATCH COUNT"),
        (working(cancelling=True), "REFRESH COUNT"),
        (rows_changed, "COUNT"),
        (counted(1, cancelled=2), "SAVE PUBLISH"),
        (working(), "REFRESH COUNT"),
        (counted(2, cancelled=2), "NOTIFY SAVE PUBLISH"),
        (partial(time_passed, at=62), "STOP_WATCHING PUBLISH"),
    ],
    "too many rows fail, in each of two rounds": [
        (started(limit=LIMIT, sent=9), "WATCH COUNT"),
        (counted(1, limit=LIMIT, failed=1, sent=8), "SAVE PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(2, limit=LIMIT, failed=2, sent=7), "BEGIN_CANCEL PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(3, limit=LIMIT, failed=3, sent=6), "PUBLISH"),
        (working(), "REFRESH COUNT"),
        (counted(4, limit=LIMIT, failed=2, sent=7), "PUBLISH"),
        (started(sending=True, limit=SECOND, failed=2, unsent=7), "BEGIN_SENDING COUNT"),
        (counted(5, limit=SECOND, failed=3, sent=6), "PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(5.5, limit=SECOND, failed=4, sent=5), "BEGIN_CANCEL PUBLISH"),
    ],
    "another process has begun a round": [
        (started(limit=LIMIT, sent=9), "WATCH COUNT"),
        (counted(1, limit=SECOND, failed=3, sent=6), "SAVE PUBLISH"),
    ],
    "the last rows fail": [
        (started(limit=LIMIT, sent=2), "WATCH COUNT"),
        (counted(1, limit=LIMIT, failed=2), "NOTIFY SAVE PUBLISH"),
    ],
    "more and more rows are gone": [
        (started(sent=3), "WATCH COUNT"),
        (counted(0, gone=1, sent=2), "REREAD SAVE PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(1, gone=1, sent=2), "PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(2, gone=3), "NOTIFY REREAD SAVE PUBLISH"),
        (rows_changed, "COUNT"),
        (counted(3, succeeded=1, gone=2), "SAVE PUBLISH"),
        (partial(time_passed, at=61.9), ""),
        (partial(time_passed, at=62), "STOP_WATCHING PUBLISH"),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_effects(story: str) -> None:
    """Each event has these effects, in this order."""
    events, effects = zip(*STORIES[story], strict=True)
    assert play(BatchState(counts=counts()), events)[1] == list(effects)


def test_the_limit_is_read_again_before_it_is_stored_that_it_is_reached() -> None:
    """The note on the rows that were cancelled stays, and so does what is stored."""
    many = counted(1, limit=LIMIT, failed=2, sent=7)
    state, effects = play(BatchState(counts=counts()), [started(limit=LIMIT, sent=9), many, rows_changed, many])
    assert effects[1:] == ["BEGIN_CANCEL SAVE PUBLISH", "COUNT", "PUBLISH"]
    assert state.limit.note(cancelled=7) == "cancelled the remaining 7 rows: stop_after_failures=2"
    state, _ = play(state, [started(limit=SECOND, failed=2, unsent=7)])
    assert state.limit.note(cancelled=0) is None


def test_rows_that_were_counted_before_they_were_reported() -> None:
    """No count is ever negative."""
    state, _ = play(BatchState(counts=counts()), [started(unsent=2), counted(0, unsent=1, sent=1)])
    state, _ = play(state, [partial(rows_sent, at=1, count=2)])
    assert (state.counts[State.UNSENT], state.counts[State.SENT]) == (0, 2)


@pytest.mark.parametrize(
    ("local", "effects", "every"), [(True, "REFRESH PUBLISH", 0.2), (False, "PUBLISH", 1.0)], ids=["here", "Google"]
)
def test_an_emulator_is_read_more_often_near_the_end(*, local: bool, effects: str, every: float) -> None:
    """Google's service has a quota of reads; with no row left, an emulator is read as before."""
    state, _ = play(BatchState(counts=counts(), local=local), [started(sent=100), counted(0, sent=100)])
    state, made = play(state, [rows_changed, counted(1, sent=50, failed=50)])
    assert (made[1], state.every) == (effects, every)
    state, _ = play(state, [rows_changed, counted(2, failed=100)])
    assert state.every == 1.0


@pytest.mark.parametrize("event", [partial(rows_changed, dispatching=False), working(cancelling=True)])
def test_nothing_is_estimated_while_nothing_is_dispatched(event: _Event) -> None:
    """What was done before a pause or a cancellation says nothing of what comes after it."""
    state, _ = play(BatchState(counts=counts()), [started(sent=9), counted(0, sent=9), rows_changed])
    state, _ = play(state, [counted(1, sent=5, failed=4)])
    assert state.rate.per_second() == 4.0
    state, _ = play(state, [event, counted(2, sent=5, failed=4)])
    assert state.rate.per_second() is None


def test_progress_is_stored_now_and_then() -> None:
    """Every five seconds, and at each count after the end."""
    state, _ = play(BatchState(counts=counts()), [started(sent=1)])
    saved = []
    for at in range(12):
        state, (made, _) = play(state, [counted(at, sent=1), rows_changed])
        saved += [at] if "SAVE" in made else []
    assert saved == [0, 5, 10]


@pytest.mark.parametrize(
    ("age", "read", "back"),
    [
        (10 * HOUR, None, 10 * HOUR + MARGIN),
        (10 * HOUR, HOUR, HOUR + LOOK_BACK + MARGIN),
        (10 * HOUR, 10 * HOUR, 10 * HOUR + MARGIN),
        (10 * HOUR, -HOUR, 10 * HOUR + MARGIN),
    ],
    ids=["never read", "read until an hour ago", "read when it was made", "read when the clock was ahead"],
)
def test_the_log_is_read_on_from_where_it_was_read(
    age: dt.timedelta, read: dt.timedelta | None, back: dt.timedelta
) -> None:
    """A retry of yesterday's batch does not read its whole log again, only what may have come late."""
    micro, now = dt.timedelta(microseconds=1), 2_000_000_000_000_000
    until = None if read is None else now - read // micro
    assert machine.unread_since(now - age // micro, until, now) == now - back // micro
