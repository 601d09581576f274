"""The task operations log, as Cloud Tasks writes it to Cloud Logging (https://cloud.google.com/tasks/docs/logging)."""

from __future__ import annotations

import random
from enum import IntEnum
from typing import NamedTuple

from cloudtasks_nb.emulator._attempts import Attempts
from cloudtasks_nb.emulator._journal import Journal, Write
from cloudtasks_nb.emulator._tasks import NewTask

__all__ = ["Kind", "OperationsLog", "Record", "Subject"]

_DELAY_SETTING = "longest_log_delay"
_random = random.Random()  # noqa: S311 - sampling, not secrets


class Kind(IntEnum):
    """The operations that are logged; each has its own part of the `TaskActivityLog`."""

    CREATION = 1
    DISPATCH = 2
    RESPONSE = 3
    DELETION = 4


_CREATION = Kind.CREATION.value


class Record(NamedTuple):
    """A row of the log; instants are microseconds since 1970, 0 where there is nothing to tell."""

    seq: int  #: the instant, moved on to the next free one: rows are in the order of time
    q: int  #: number of the queue
    kind: int
    at: int
    received: int  #: when the entry can be read
    task: str  #: short id
    target: str  #: method and URL
    target_type: str  #: ``HTTP`` or ``APP_ENGINE_HTTP``
    due: int
    code: int
    dispatches: int
    responses: int
    duration: int  #: microseconds
    retry_at: int


class Subject(NamedTuple):
    """What an entry is about."""

    q: int  #: number of the queue
    ratio: float  #: the queue's sampling ratio
    task: str  #: short id
    target: str = ""  #: method and URL
    target_type: str = ""  #: ``HTTP`` or ``APP_ENGINE_HTTP``


class OperationsLog:
    """Appends to the log what the queues' sampling ratios let through.

    Parameters
    ----------
    journal : Journal
        Where the rows go.
    delay : int
        Microseconds between an operation and its entry.
    """

    def __init__(self, journal: Journal, *, delay: int = 0) -> None:
        self._journal = journal
        self._delay = delay
        self._latest = 0
        #: the longest time, in microseconds, between an operation and its entry of any run on this folder
        self.longest_delay = delay
        self.reload()

    def reload(self) -> None:
        """Go on from what is in the journal."""
        [(latest,)] = self._journal.read("SELECT max(seq) FROM log")
        self._latest = latest or 0
        stored = self._journal.read("SELECT value FROM settings WHERE key = ?", (_DELAY_SETTING,))
        self.longest_delay = max(self._delay, *(int(value) for (value,) in stored), 0)
        if self._delay and self.longest_delay == self._delay:
            self._journal.put(Write.SETTING, (_DELAY_SETTING, str(self._delay)))

    def created(self, q: int, ratio: float, task: NewTask, now: int) -> None:
        """Log that a task was created."""
        if ratio < 1.0 and _random.random() >= ratio:
            return
        self._latest = max(self._latest + 1, now)
        row = (
            self._latest,
            q,
            _CREATION,
            now,
            now + self._delay,
            task.id,
            task.target,
            task.kind,
            task.due,
            0,
            0,
            0,
            0,
            0,
        )
        self._journal.put(Write.LOG, row)

    def deleted(self, subject: Subject, now: int) -> None:
        """Log that a task was deleted on request."""
        self._append(Kind.DELETION, subject, now, (0, 0, 0, 0, 0, 0))

    def dispatched(self, subject: Subject, attempts: Attempts, now: int) -> None:
        """Log that an attempt was sent."""
        counts = (attempts.dispatches, attempts.responses)
        self._append(Kind.DISPATCH, subject, now, (attempts.scheduled, 0, *counts, 0, 0))

    def responded(self, subject: Subject, attempts: Attempts, retry_at: int) -> None:
        """Log how an attempt ended; `retry_at` is 0 when there is no further one."""
        duration = attempts.responded - attempts.dispatched
        counts = (attempts.code, attempts.dispatches, attempts.responses)
        self._append(Kind.RESPONSE, subject, attempts.responded, (attempts.scheduled, *counts, duration, retry_at))

    def _append(self, kind: Kind, subject: Subject, now: int, rest: tuple[int, ...]) -> None:
        if subject.ratio < 1.0 and _random.random() >= subject.ratio:
            return
        self._latest = max(self._latest + 1, now)
        row = (self._latest, subject.q, kind.value, now, now + self._delay, *subject[2:], *rest)
        self._journal.put(Write.LOG, row)
