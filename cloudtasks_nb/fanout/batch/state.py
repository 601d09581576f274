"""Decide what happens next to a batch: a pure state machine, without an event loop, a clock or I/O.

There is a function for each event. It returns the state after that, and the effects that the tracker carries out.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.progress import Rate
from cloudtasks_nb.fanout.states import State

__all__ = [
    "BatchState",
    "Effect",
    "Step",
    "rows_changed",
    "rows_counted",
    "rows_sent",
    "start",
    "time_passed",
    "unread_since",
    "work_changed",
]

_LINGER = 60.0  # seconds after the end in which a late log entry may still correct an outcome
_NEAR_END = 2.0  # seconds before the expected end
_EVERY, _EVERY_NEAR_END = 1.0, 0.2  # seconds between two reads of the queue
_SAVE = 5.0  # seconds between two snapshots in the outbox
_CLOCK_MARGIN = 300_000_000  # microseconds by which the service's clock is known too late at most
_LATE_ENTRY = 600_000_000  # microseconds by which a log entry may arrive late


class Effect(enum.Enum):
    """What the tracker has to do; what it needs for that is in the state."""

    BEGIN_SENDING = enum.auto()
    BEGIN_CANCEL = enum.auto()  #: cancel the remaining rows, and store that the failure limit was reached
    WATCH = enum.auto()  #: subscribe to snapshots of the queue
    STOP_WATCHING = enum.auto()
    REFRESH = enum.auto()  #: have the queue read now
    COUNT = enum.auto()  #: read the counts of the rows, and call `rows_counted`
    REREAD = enum.auto()  #: read the log again for the rows that are gone, now and a few times later
    NOTIFY = enum.auto()  #: create the notifications of the end
    SAVE = enum.auto()  #: store the progress, for other processes
    PUBLISH = enum.auto()  #: compute the progress, and call the listeners


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """What is known of one batch in this process."""

    counts: Mapping[State, int]  #: rows in each state
    local: bool = False  #: the queue is an emulator's, which has no quota of reads
    sending: bool = False
    cancelling: bool = False
    watching: bool = False  #: snapshots of the queue are applied
    dispatching: bool = True  #: the queue is not paused
    changes: int = 0  #: changes of rows in the outbox, so far
    counted: int = 0  #: how many of these changes `counts` includes
    required: int = 0  #: the change that must be counted before the batch is finished: the last start, or end of work
    notified: bool = False  #: the notifications of this end were begun
    ended_at: float | None = None  #: when the batch was seen to be finished, while it is watched
    gone: int = 0  #: rows in state `gone` at the last count
    limit: FailureLimit = field(default_factory=FailureLimit)
    stopped_round: int = 0  #: the last round that was cancelled because of the failure limit
    rate: Rate = field(default_factory=Rate)
    every: float = _EVERY  #: seconds between two reads of the queue
    saved_at: float = -math.inf  #: when the progress was stored last

    @property
    def open(self) -> int:
        """Rows that are not final."""
        return self.counts[State.UNSENT] + self.counts[State.SENT]

    @property
    def working(self) -> bool:
        """Whether the batch is sent or cancelled here, or what that or a start has changed is not counted."""
        return self.sending or self.cancelling or self.counted < self.required

    @property
    def stale(self) -> bool:
        """Whether rows have changed since they were counted."""
        return self.counted < self.changes

    @property
    def finished(self) -> bool:
        """Whether every row is final, and nothing here is about to change one."""
        return not (self.open or self.working)

    @property
    def wake(self) -> float | None:
        """When `time_passed` is to be called; None: not at all."""
        return None if self.ended_at is None else self.ended_at + _LINGER


#: The state after an event, and what is to be done, in this order.
Step = tuple[BatchState, tuple[Effect, ...]]


def unread_since(created: int, read: int | None, now: int) -> int:
    """Return the time from which the log may have outcomes that are not stored.

    All times are those of the service, in microseconds since 1970.

    Parameters
    ----------
    created : int
        When the batch was created.
    read : int, optional
        Up to when the log was read; None: it was not.
    now : int

    Examples
    --------
    >>> hour = 3_600_000_000
    >>> unread_since(hour, 3 * hour, 9 * hour) / hour
    2.75
    """
    created = min(created, now)
    if read is None or read > now:  # the clock was set back
        return created - _CLOCK_MARGIN
    return max(created, read - _LATE_ENTRY) - _CLOCK_MARGIN


def start(state: BatchState, *, counts: Mapping[State, int], sending: bool, limit: FailureLimit) -> Step:
    """Begin the tracking, or go on after rows were added or tried again.

    Parameters
    ----------
    sending : bool
        Send rows: some are unsent, or in doubt.
    """
    state = _limited(replace(state, counts=counts, notified=False, ended_at=None), limit)
    state, effects = replace(state, required=state.changes + 1), list[Effect]()
    if sending:
        state = replace(state, sending=True)
        effects.append(Effect.BEGIN_SENDING)
    if state.open and not state.watching:
        state = replace(state, watching=True, every=_EVERY)
        effects.append(Effect.WATCH)
    return _changed(state, *effects)


def rows_changed(state: BatchState, *, dispatching: bool | None = None) -> Step:
    """Have the rows counted, which have changed in the outbox, or may have.

    Parameters
    ----------
    dispatching : bool, optional
        Whether the queue is not paused; None: as before.

    Examples
    --------
    >>> state, effects = rows_changed(BatchState(counts=dict.fromkeys(State, 0) | {State.SENT: 1}))
    >>> [effect.name for effect in effects]
    ['COUNT']
    >>> counts = dict.fromkeys(State, 0) | {State.SUCCEEDED: 1}
    >>> state, effects = rows_counted(state, at=1.0, number=1, counts=counts, limit=FailureLimit())
    >>> [effect.name for effect in effects]
    ['NOTIFY', 'SAVE', 'PUBLISH']
    """
    return _changed(state if dispatching is None else replace(state, dispatching=dispatching))


def rows_sent(state: BatchState, *, at: float, count: int = 0) -> Step:
    """Note that rows were acknowledged, or that the state of the sending has changed."""
    moved = min(count, state.counts[State.UNSENT])  # a count may include some of them
    sent = {State.UNSENT: state.counts[State.UNSENT] - moved, State.SENT: state.counts[State.SENT] + moved}
    return _rated(replace(state, counts={**state.counts, **sent}), at), (Effect.PUBLISH,)


def work_changed(state: BatchState, *, sending: bool, cancelling: bool) -> Step:
    """Note that the sending has ended, or that a cancellation has begun or ended."""
    state = replace(state, sending=sending, cancelling=cancelling, required=state.changes + 1)
    return _changed(state, Effect.REFRESH)


def rows_counted(
    state: BatchState, *, at: float, number: int, counts: Mapping[State, int], limit: FailureLimit
) -> Step:
    """Decide by a count of the rows, unless a newer one was handled before it.

    Parameters
    ----------
    number : int
        `BatchState.changes` when the count began.
    limit : FailureLimit
        If it is exceeded, the stored one: another process may have begun a round.
    """
    if number <= state.counted:
        return state, ()
    state, effects = _limited(_rated(replace(state, counts=counts, counted=number), at), limit), list[Effect]()
    # The notifications are begun before the listeners are called: these may end the process.
    for rule in (_notify, _linger, _set_pace, _reread, _stop_after_failures, _save):
        state, more = rule(state, at)
        effects += more
    return state, (*effects, Effect.PUBLISH)


def time_passed(state: BatchState, *, at: float) -> Step:
    """Do what is due: the time `BatchState.wake` has come."""
    state, stop = _linger(state, at)
    return state, (*stop, Effect.PUBLISH) if stop else ()


def _changed(state: BatchState, *effects: Effect) -> Step:
    """Have the rows counted."""
    return replace(state, changes=state.changes + 1), (*effects, Effect.COUNT)


def _limited(state: BatchState, limit: FailureLimit) -> BatchState:
    """Take over the failure limit; it may have been read before it was stored that it is reached."""
    stopped = limit.stopped or limit.round == state.stopped_round
    return replace(state, limit=replace(limit, stopped=stopped))


def _rated(state: BatchState, at: float) -> BatchState:
    """Note how many rows are done. Cancelled and lost rows do not tell how fast the others are done."""
    if not state.dispatching or state.cancelling:
        return replace(state, rate=Rate())
    return replace(state, rate=state.rate.note(at, state.counts[State.SUCCEEDED] + state.counts[State.FAILED]))


def _notify(state: BatchState, _at: float) -> Step:
    """Notify of each end once; rows that are open again have another end."""
    if state.open:
        return replace(state, notified=False), ()
    if state.notified or not state.finished:
        return state, ()
    return replace(state, notified=True), (Effect.NOTIFY,)


def _linger(state: BatchState, at: float) -> Step:
    """Stop watching when no outcome can change any more."""
    if not state.watching:
        return state, ()
    if not state.finished:
        return replace(state, ended_at=None), ()
    ended_at = at if state.ended_at is None else state.ended_at
    correctable = any(state.counts[one] for one in (State.FAILED, State.GONE, State.CANCELLED))
    if correctable and at < ended_at + _LINGER:
        return replace(state, ended_at=ended_at), ()
    return replace(state, watching=False, ended_at=None), (Effect.STOP_WATCHING,)


def _set_pace(state: BatchState, _at: float) -> Step:
    """Have an emulator's queue read more often near the end, so that `wait` returns soon after it."""
    left = state.rate.seconds_left(state.open) if state.local and state.open else None
    every = _EVERY if left is None or left > _NEAR_END else _EVERY_NEAR_END
    if not state.watching or every == state.every:
        return state, ()
    return replace(state, every=every), (Effect.REFRESH,) if every < state.every else ()


def _reread(state: BatchState, _at: float) -> Step:
    """Begin to read the log again when more rows are gone."""
    gone = state.counts[State.GONE]
    return replace(state, gone=gone), (Effect.REREAD,) if gone > state.gone else ()


def _stop_after_failures(state: BatchState, _at: float) -> Step:
    """Cancel the remaining rows, once in each round."""
    limit = state.limit
    if not state.open or state.cancelling or state.stopped_round == limit.round or not limit.exceeded(state.counts):
        return state, ()
    state = replace(state, limit=replace(limit, stopped=True), stopped_round=limit.round, cancelling=True)
    return state, (Effect.BEGIN_CANCEL,)


def _save(state: BatchState, at: float) -> Step:
    """Store the progress now and then, and at the end."""
    if state.open and at - state.saved_at < _SAVE:
        return state, ()
    return replace(state, saved_at=at), (Effect.SAVE,)
