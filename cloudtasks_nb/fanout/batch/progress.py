"""What is known of a batch, how it is, and how many of its rows end in a second, without a clock or I/O."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cloudtasks_nb._frames import ENDS, IN_QUEUE, STATES, TASK_STATES
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import escape_controls, mask_text
from cloudtasks_nb.fanout.batch.gate import Gate
from cloudtasks_nb.fanout.states import State

__all__ = ["NOT_READ", "Facts", "Pace", "Progress", "Status", "age_text", "dated_reason", "unpack"]

#: The reason of a batch without a state.
NOT_READ = "not read yet"

_WINDOW = 30  # seconds that a rate looks back
_GAP = 5  # seconds in which no row ends, after which a rate begins anew
_BETWEEN = 3  # times as long as it takes a queue to dispatch a task, if that is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a batch is, in one word and one sentence. What is not known is None.

    While a row has not ended, the state is the first of these words that fits:

    - ``stopped``: nothing can go on. If the service does not answer, check the network or start the emulator. If no
      handler listens, run the cell with ``ct.serve`` again. If rows are unsent and no process sends them,
      ``batch.resume()`` sends them.
    - ``cancelling``: a cancel is wished, and tasks are left to delete.
    - ``held``: a canary or ``pause_at`` holds rows back: see ``batch.errors()``. Or another home may have sent them:
      ask whom the reason names. ``batch.resume()`` sends them.
    - ``paused``: the queue is paused; ``queue.resume()`` ends that.
    - ``failing``: an attempt has failed, and no row has succeeded since; ``batch.errors()`` says why.
    - ``running``: none of these. The reason may be a schedule, the queue's limit, or that nobody watches.

    When every row has ended, it is the first of these:

    - ``failed``: a row has failed; ``batch.errors()`` says why, ``batch.retry_failed()`` sends it again.
    - ``unknown``: a row is ``gone``: nobody can tell how it ended. It may have run. If it may run twice,
      ``rows = batch.tasks()``, then ``batch.resend(rows[rows["state"] == "gone"])``.
    - ``cancelled``: a row was cancelled.
    - ``rejected``: a row was never sent, because it is wrong.
    - ``succeeded``: all rows have succeeded, or there are none.

    Examples
    --------
    >>> batch.status()
    failed: 1 failed (ValueError: day …) → batch.retry_failed()
    """

    #: ``stopped``, ``cancelling``, ``held``, ``paused``, ``failing`` or ``running``; at the end ``failed``,
    #: ``unknown``, ``cancelled``, ``rejected`` or ``succeeded``; None: the batch was not read yet.
    state: str | None = None
    reason: str | None = None  #: why, as a sentence
    since: dt.datetime | None = None  #: when the state began
    at: dt.datetime | None = None  #: when the service answered last
    rate: float | None = None  #: rows that succeeded or failed a second, lately
    eta: dt.datetime | None = None  #: when the last row ends at that rate
    action: str | None = None  #: the line of Python that helps
    #: who sends it, if homes share its store and rows have not ended: "this home", or another one and when it was seen
    owner: str | None = None
    #: how many seconds old this is, if more than 5 and rows have not ended: then there is no rate and no end
    age: float | None = field(default=None, compare=False)

    @property
    def sentence(self) -> str:
        """State, reason, age and action in one line."""
        state = f"{self.state} (owner: {self.owner})" if self.owner and self.state else self.state
        words = "; ".join(filter(None, (": ".join(filter(None, (state, self.reason))), age_text(self))))
        return f"{words} → {self.action}" if self.action else words

    def __repr__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Progress(Status):
    """How a batch is, and how many of its rows are in each state. What is not known is None, never 0.

    Of a batch of another home that was not read yet, only `total` is a number.

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
    sources: Mapping[str, dt.datetime] = field(default_factory=dict)  #: what was read, and up to when

    @property
    def status(self) -> Status:
        """How the batch is, without numbers of rows.

        Examples
        --------
        >>> batch.progress().status == batch.status()
        True
        """
        return Status(**{one.name: getattr(self, one.name) for one in fields(Status)})

    @property
    def done(self) -> int:
        """Rows that are final.

        Examples
        --------
        >>> batch.progress().done
        3
        """
        return sum(getattr(self, name) or 0 for name in ENDS)

    @property
    def known(self) -> int:
        """Rows of which it is known how they ended: they succeeded, failed or were cancelled.

        Examples
        --------
        >>> batch.progress().known
        3
        """
        return sum(getattr(self, name) or 0 for name in ENDS if STATES[name].known)

    @property
    def pending(self) -> int:
        """Rows that are in the queue, or are settling.

        Examples
        --------
        >>> batch.progress().pending
        0
        """
        return 0 if self.unsent is None else self.total - self.done - self.unsent

    @property
    def unknown(self) -> int:
        """Rows that are in the queue and of which nothing more is known.

        Examples
        --------
        >>> batch.progress().unknown
        0
        """
        return max(0, self.pending - self.settling - sum(getattr(self, name) or 0 for name in IN_QUEUE))

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
        return {name: getattr(self, name) for name in TASK_STATES}

    def __repr__(self) -> str:
        parts = [f"{count:,} {name}" for name, count in self.counts().items() if count]
        if self.settling:
            parts.append(f"{self.settling:,} settling")
        if self.unknown:
            parts.append(f"{self.unknown:,} in the queue")
        rows = counted(self.total, "rows")
        text = f"{rows}: {', '.join(parts)}" if parts else f"{rows}: none seen yet"
        if not parts and (not self.total or self.unsent is None):
            text = rows
        if not self.finished and self.state not in (None, "running"):
            text += f"; {self.state}"
        elif self.state is None and self.reason:
            text += f"; {self.reason}"
        if self.rate and not self.finished:
            text += f"; {self.rate:,.1f}/s"
        if self.eta is not None and not self.finished:
            text += f", done about {self.eta:%Y-%m-%d %H:%M:%S} UTC"
        return escape_controls(mask_text("; ".join(filter(None, (text, age_text(self))))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a batch, or of a part of it, at one moment. Times are of the service.

    `status_of` and `progress_of` word it, and a `Report` shows it.
    """

    now: dt.datetime
    counts: Mapping[State, int]  #: of the rows, by state
    doubtful: int = 0  #: rows that may have been sent by a process that has ended
    owner: str | None = None  #: who owned it when that was seen last, as `Status.owner`
    changed: dt.datetime | None = None  #: when a row changed last, by the clock of the machine that changed it
    gate: Gate = field(default_factory=Gate)
    cancelling: bool = False
    unread: bool = False  #: another home has made the batch, and what it has sent was not read here
    causes: Mapping[str, int] = field(default_factory=dict)  #: cause -> rows in state `failed` that have it
    retried: Mapping[str, int] = field(default_factory=dict)  #: cause -> rows that are tried again because of it
    lost: Mapping[str | None, int] = field(default_factory=dict)  #: how rows left the queue -> rows in state `gone`
    sends: bool = False  #: a process sends the batch, or waits to send it
    at: dt.datetime | None = None  #: when the service answered last
    watched: bool = False  #: this process reads the queue; else nothing below is known
    silent: str | None = None  #: that nothing answers at the endpoint
    absent: Sequence[tuple[str, str | None]] = ()  #: handlers that do not listen: sentences, and what starts each
    error: str | None = None  #: what ended the sending
    troubles: Sequence[str] = ()  #: what else delays the batch, a sentence each
    paused: str | None = None  #: the queue, if it is paused
    failed_at: dt.datetime | None = None  #: when the last attempt failed, if no row has succeeded since
    due: dt.datetime | None = None  #: when the next attempt is due, or the first one of rows that were never tried
    rate: float | None = None  #: rows that end in a second
    limit: float | None = None  #: tasks that the queue dispatches in a second at most
    at_once: int | None = None  #: attempts that the queue makes at a time, if so many are made now
    waiting: int = 0  #: rows that wait for the time of their schedule or of their next attempt
    scheduled: int = 0  #: those of them that were never tried
    settling: int = 0  #: rows that have left the queue, and whose outcome is awaited
    notification: tuple[str, str] | None = None  #: why one of the end failed, and the line that sends it again
    #: earlier batch of its queue -> tasks that wait there or run
    ahead: Mapping[str, int] = field(default_factory=dict)
    #: rows in the queue by state; None where unknown
    split: Mapping[str, int | None] = field(default_factory=lambda: dict.fromkeys(IN_QUEUE))
    sources: Mapping[str, dt.datetime] = field(default_factory=dict)  #: what was read, and up to when
    earlier: Status | None = None  #: what was known last, by any process


class Pace:
    """How many rows ended in each of the last seconds, by the times of their attempts."""

    def __init__(self) -> None:
        self._ends: Counter[int] = Counter()
        self.last: int | None = None  #: the second in which the last row ended
        self.failed = 0  #: the second in which the last attempt failed; 0: none did
        self.succeeded = 0  #: the second in which the last row succeeded; 0: none did

    def add(self, ends: Mapping[int, int], failed: int | None, succeeded: int | None = None) -> None:
        """Add rows that have ended, by seconds since 1970, and the seconds of a failed attempt and of a success."""
        self.failed, self.succeeded = max(self.failed, failed or 0), max(self.succeeded, succeeded or 0)
        self._ends.update(ends)
        self.last = max(self._ends, default=None)
        since = (self.last or 0) - 2 * _WINDOW
        for second in [second for second in self._ends if second < since]:
            del self._ends[second]

    def per_second(self, until: float, limit: float | None) -> float | None:
        """Return how many rows end in a second; None if it is not known, or nothing has ended for some seconds.

        Parameters
        ----------
        until : float
            The time up to which is known what has ended, in seconds since 1970.
        limit : float, optional
            Tasks that the queue dispatches in a second at most.

        Examples
        --------
        >>> pace = Pace()
        >>> pace.add({0: 1_000, 200: 50, 201: 250, 202: 250}, None)
        >>> pace.per_second(203.5, limit=500.0)
        250.0
        """
        gap = max(_GAP, _BETWEEN / limit) if limit else _GAP
        seconds = sorted(second for second in self._ends if until - _WINDOW <= second < int(until))
        if not seconds or until - seconds[-1] > gap + 1:
            return None
        starts = [i for i in range(1, len(seconds)) if seconds[i] - seconds[i - 1] > gap]
        first, *others = seconds[max(starts, default=0) :]
        return sum(self._ends[second] for second in others) / (others[-1] - first) if others else None


def age_text(status: Status) -> str | None:
    """Return how old a status is, as text; None if it is recent."""
    return None if status.age is None else f"as of {duration_text(status.age)} ago"


def dated_reason(status: Status) -> str | None:
    """Return the reason of a status with its age; None if it has neither."""
    return "; ".join(filter(None, (status.reason, age_text(status)))) or None


def unpack(stored: Mapping[str, Any]) -> Progress:
    """Return a progress that is stored, by its JSON values."""
    moments = {name: stored[name] and dt.datetime.fromisoformat(stored[name]) for name in ("eta", "at", "since")}
    sources = {name: dt.datetime.fromisoformat(at) for name, at in stored["sources"].items()}
    return Progress(**{**stored, **moments, "sources": sources})
