"""The subscription of a batch to its queue: while rows are open, and for a while after the end."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.witnesses import unread_since
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Snapshot, Subscription

__all__ = ["Subscribed"]

_LINGER = 60.0  # seconds after the end in which a late log entry may still correct an outcome
_NEAR_END = 2.0  # seconds before the expected end
_FEW = 100  # rows that are left near the end, if no rate is known
_EVERY, _EVERY_NEAR_END = 1.0, 0.2  # seconds between two reads of the queue


@dataclass(eq=False)
class Subscribed:
    """Subscribes one batch to its queue. Runs on the background loop."""

    connection: Connection
    outcomes: OutcomeTracker
    arrived: Callable[[Snapshot], None]  #: called with each snapshot
    read_until: dt.datetime | None  #: the time up to which earlier processes have read the log

    def __post_init__(self) -> None:
        self._subscription: Subscription | None = None
        self._ended_at: float | None = None  # when the batch was seen to be finished, while it is watched

    def __bool__(self) -> bool:
        return self._subscription is not None

    def begin_anew(self) -> None:
        """Count the time after the end from the next end on."""
        self._ended_at = None

    def follow(self, record: BatchRecord, rate: float | None, *, finished: bool) -> float | None:
        """Watch the queue as long as a batch needs that; return after how many seconds to call this again.

        Parameters
        ----------
        record : BatchRecord
        rate : float, optional
            Rows that end in a second.
        finished : bool
            Nothing in this process is about to change a row.
        """
        if not record.done:
            self._ended_at = None
            if self._subscription is None:
                self._subscribe(record)
            elif self._subscription.every != (every := self._pace(record, rate)):
                self._subscription.every = every
                self.connection.watcher.refresh(self.outcomes.queue)
        elif self._subscription is not None and finished:
            now = asyncio.get_running_loop().time()
            self._ended_at = now if self._ended_at is None else self._ended_at
            correctable = any(record.counts[state] for state in (State.FAILED, State.GONE, State.CANCELLED))
            if correctable and now < self._ended_at + _LINGER:
                self._subscription.every = _EVERY
                return self._ended_at + _LINGER - now
            self.end()
        return None

    def end(self) -> None:
        """Stop watching."""
        self._ended_at = None
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _subscribe(self, record: BatchRecord) -> None:
        read = self.outcomes.sources.get("log") or self.read_until
        since = unread_since(record.created, read, self.connection.clock.micros())
        watcher = self.connection.watcher
        self._subscription = watcher.subscribe(self.outcomes.queue, self.arrived, since=since, every=_EVERY)

    def _pace(self, record: BatchRecord, rate: float | None) -> float:
        """Return the seconds between two reads: fewer near the end of what an emulator runs, which has no quota."""
        opened, last = record.counts[State.UNSENT] + record.counts[State.SENT], self.outcomes.pace.last
        near = max(_FEW, _NEAR_END * (rate or 0))
        active = last is not None and self.connection.clock.micros() / 1e6 - last < _NEAR_END
        return _EVERY_NEAR_END if self.connection.endpoint.local and active and opened <= near else _EVERY
