"""Count the rows of a batch by state, and compute their rate and the time that is left, without a clock or I/O."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.states import State

__all__ = ["FINAL", "PENDING", "SNAPSHOT", "Progress", "Rate", "unpack"]

#: The setting of a batch that is its progress, as the process saw it that watched the batch last.
SNAPSHOT = "progress"

_WINDOW = 30.0  # seconds that a rate looks back
_DENSITY = 0.25  # seconds between two points that a rate keeps

#: States that no attempt of Cloud Tasks will change any more.
FINAL = ("rejected", "succeeded", "failed", "cancelled", "gone")

#: States of a task that is in its queue.
PENDING = ("scheduled", "ready", "running", "retrying")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How many rows of a batch are in each state. What is not known is None, never 0.

    Examples
    --------
    >>> progress = batch.progress()
    >>> progress
    3 rows: 2 succeeded, 1 failed
    >>> progress.failed / progress.total > 0.05
    True
    """

    total: int  #: rows of the batch
    unsent: int  #: safe in the outbox, not yet acknowledged by the service
    rejected: int  #: never created, `batch.tasks()` has the reason
    scheduled: int | None  #: due later, never tried
    ready: int | None  #: due, waiting for the queue's limits
    running: int | None  #: an attempt is in flight
    retrying: int | None  #: at least one attempt failed, another will come
    succeeded: int  #: the log or a stored result has an attempt that was answered with 2xx
    failed: int  #: given up: the last attempt failed, by the log or a stored result
    cancelled: int  #: deleted by `cancel()`
    gone: int  #: no longer in the queue, outcome unknown
    settling: int = 0  #: not final: no longer in the queue, and the log entry with the outcome is awaited
    done_per_second: float | None = None  #: rows that succeeded or failed a second, lately; None while paused
    eta: dt.datetime | None = None  #: when the last row is final at that rate
    sources: Mapping[str, dt.datetime] = field(default_factory=dict)  #: what was read, and up to when
    at: dt.datetime | None = None  #: when this was seen; None: not yet

    @classmethod
    def of(cls, counts: Mapping[State, int], **more: Any) -> Self:
        """Return the progress of a batch by its number of rows in each state; `more` are the other fields."""
        names: dict[str, Any] = {
            state.name.lower(): count for state, count in counts.items() if state is not State.SENT
        }
        return cls(total=sum(counts.values()), **names, **more)

    @property
    def done(self) -> int:
        """Rows that are final.

        Examples
        --------
        >>> batch.progress().done
        3
        """
        return self.rejected + self.succeeded + self.failed + self.cancelled + self.gone

    @property
    def pending(self) -> int:
        """Rows that are in the queue, or are settling.

        Examples
        --------
        >>> batch.progress().pending
        0
        """
        return self.total - self.done - self.unsent

    @property
    def unknown(self) -> int:
        """Rows that are in the queue and of which nothing more is known.

        Examples
        --------
        >>> batch.progress().unknown
        0
        """
        return max(0, self.pending - self.settling - sum(getattr(self, name) or 0 for name in PENDING))

    @property
    def finished(self) -> bool:
        """Whether every row is final.

        Examples
        --------
        >>> batch.progress().finished
        True
        """
        return self.done == self.total

    def counts(self) -> dict[str, int | None]:
        """Return the count of each state, in the order in which frames sort them.

        Examples
        --------
        >>> batch.progress().counts()["succeeded"]
        2
        """
        names = ("unsent", "rejected", *PENDING, "succeeded", "failed", "cancelled", "gone")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        parts = [f"{count:,} {name}" for name, count in self.counts().items() if count]
        if self.settling:
            parts.append(f"{self.settling:,} settling")
        if self.unknown:
            parts.append(f"{self.unknown:,} in the queue")
        rows = counted(self.total, "rows")
        text = f"{rows}: {', '.join(parts)}" if parts else rows if not self.total else f"{rows}: none seen yet"
        if self.done_per_second and not self.finished:
            text += f"; {self.done_per_second:,.1f}/s"
        if self.eta is not None and not self.finished:
            text += f", done about {self.eta:%Y-%m-%d %H:%M:%S} UTC"
        return text


@dataclass(frozen=True, slots=True)
class Rate:
    """How many rows a second succeeded or failed over the last half minute."""

    points: tuple[tuple[float, int], ...] = ()  #: times (seconds), and how many rows were done

    def note(self, at: float, done: int) -> Rate:
        """Return the rate with one more point (`at` in seconds, any origin, never going back)."""
        points = self.points
        if points and (at < points[-1][0] or done < points[-1][1]):
            points = ()  # a clock set back, or a new round of tries
        if len(points) > 1 and at - points[-2][0] < _DENSITY:
            points = points[:-1]
        start = max((number for number, point in enumerate(points) if point[0] <= at - _WINDOW), default=0)
        return Rate((*points[start:], (at, done)))

    def per_second(self) -> float | None:
        """Return the rate; None before there are two points apart."""
        if not self.points:
            return None
        (start, first), (end, last) = self.points[0], self.points[-1]
        return (last - first) / (end - start) if end > start else None

    def seconds_left(self, left: int, *, waiting: int = 0) -> float | None:
        """Return how long `left` more rows take at this rate; None when nothing moves.

        None too if all of them are `waiting` for the time of their schedule or their next try: no rate brings them.
        """
        rate = self.per_second()
        return left / rate if rate and (left > waiting or not waiting) else None


def unpack(stored: Mapping[str, Any]) -> Progress:
    """Return a progress that is stored as a setting, by its JSON values."""
    moments = {name: stored[name] and dt.datetime.fromisoformat(stored[name]) for name in ("eta", "at")}
    sources = {name: dt.datetime.fromisoformat(at) for name, at in stored["sources"].items()}
    return Progress(**{**stored, **moments, "sources": sources})
