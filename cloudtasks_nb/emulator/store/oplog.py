"""The task operations log, as Cloud Tasks writes it to Cloud Logging (https://cloud.google.com/tasks/docs/logging)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import orjson

from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.tasks import NewTask
from cloudtasks_nb.emulator.store.database import Statement, TaskDatabase

__all__ = ["Kind", "LogRecord", "LogSubject", "OperationsLog"]

_DELAY_SETTING = "longest_log_delay"
_CHUNK = 200  # rows read at a time
_random = random.Random()  # noqa: S311 - sampling, not secrets


class Kind(IntEnum):
    """The operations that are logged; each has its own part of the `TaskActivityLog`."""

    CREATION = 1
    DISPATCH = 2
    RESPONSE = 3
    DELETION = 4


# The entries of all tasks that one call created are one row, because a row for each would make the creation of tasks a
# fifth slower. The row has the `seq` of its last entry, this kind, and the tasks as JSON in the column of the task.
_CREATIONS = 5
_MOST_CREATIONS = 100


class LogRecord(NamedTuple):
    """An entry of the log; instants are microseconds since 1970, 0 if not known."""

    seq: int  #: the instant, or the next free one after it: entries are in the order of time
    q: int  #: number of the queue
    kind: int
    at: int
    received: int  #: when the log received the entry
    task: str  #: short id
    target: str  #: method and URL
    target_type: str  #: ``HTTP`` or ``APP_ENGINE_HTTP``
    due: int
    code: int
    dispatches: int
    responses: int
    duration: int  #: microseconds
    retry_at: int
    cause: str  #: why an attempt has no answer

    @property
    def insert_id(self) -> str:
        """The entry's id; insert ids have a fixed width, so that they sort like their entries."""
        return f"{self.seq:016x}"


class LogSubject(NamedTuple):
    """The task that an entry is about."""

    q: int  #: number of the queue
    ratio: float  #: the queue's sampling ratio
    task: str  #: short id
    target: str = ""  #: method and URL
    target_type: str = ""  #: ``HTTP`` or ``APP_ENGINE_HTTP``


class OperationsLog:
    """Appends entries to the log, as many as the queues' sampling ratios allow.

    Parameters
    ----------
    database : TaskDatabase
        Gets the rows.
    delay : int
        Microseconds between an operation and its entry.
    index_delays : sequence of tuple
        Shares of the entries, each with the microseconds for which these cannot be read after they were received.
    limit : int
        How many rows of the log the sweep keeps.
    """

    def __init__(
        self, database: TaskDatabase, *, delay: int, index_delays: Sequence[tuple[float, int]], limit: int
    ) -> None:
        self._database = database
        self._delay = delay
        self._index_delays = index_delays
        self._limit = limit
        self.reload()

    def reload(self) -> None:
        """Continue after the entries that the database has."""
        [(latest, self._rows)] = self._database.read("SELECT max(seq), count(*) FROM log")
        self._latest, self._swept = latest or 0, 0
        stored = self._database.read("SELECT value FROM settings WHERE key = ?", (_DELAY_SETTING,))
        #: the longest delay in microseconds between an operation and its entry, of all runs on this folder
        self.longest_delay = max(self._delay, *(int(value) for (value,) in stored), 0)
        if self._delay and self.longest_delay == self._delay:
            self._database.put(Statement.SETTING, (_DELAY_SETTING, str(self._delay)))

    @property
    def immediate(self) -> bool:
        """Whether each entry can be read as soon as its operation is committed."""
        return not (self.longest_delay or self._index_delays)

    def created(self, q: int, ratio: float, tasks: Sequence[NewTask], now: int) -> None:
        """Log that one call created tasks, at most a hundred."""
        if ratio < 1.0:
            tasks = [task for task in tasks if _random.random() < ratio]
        if not tasks:
            return
        self._latest = max(self._latest + 1, now) + len(tasks) - 1
        if len(tasks) == 1:
            (task,) = tasks
            kind: int = Kind.CREATION.value
            entry: tuple[Any, ...] = (task.id, task.target, task.kind, task.due)
        else:
            kind, entry = _CREATIONS, (_packed(tasks), "", "", 0)
        self._put((self._latest, q, kind, now, now + self._delay, *entry, 0, 0, 0, 0, 0, ""))

    def deleted(self, subject: LogSubject, now: int) -> None:
        """Log that a task was deleted on request."""
        self._append(Kind.DELETION, subject, now, (0, 0, 0, 0, 0, 0, ""))

    def dispatched(self, subject: LogSubject, attempts: Attempts, now: int) -> None:
        """Log that an attempt was sent."""
        counts = (attempts.scheduled, 0, attempts.dispatches, attempts.responses)
        self._append(Kind.DISPATCH, subject, now, (*counts, 0, 0, ""))

    def responded(self, subject: LogSubject, attempts: Attempts, retry_at: int, cause: str) -> None:
        """Log the result of an attempt; `retry_at` is 0 when no further one follows, `cause` why it has no answer."""
        duration = attempts.responded - attempts.dispatched
        counts = (attempts.scheduled, attempts.code, attempts.dispatches, attempts.responses)
        self._append(Kind.RESPONSE, subject, attempts.responded, (*counts, duration, retry_at, cause))

    def read(
        self,
        low: int,
        high: int,
        *,
        queues: Collection[int],
        kinds: Collection[int],
        now: int,
        ascending: bool,
        text: str = "",
    ) -> Iterator[LogRecord]:
        """Yield committed entries in order of time, read in chunks so that no cursor stays open.

        Parameters
        ----------
        low, high : int
            The first and the last `LogRecord.seq`.
        queues : collection of int
            Numbers of the queues.
        kinds : collection of Kind
            The kinds of entries.
        now : int
            Microseconds since 1970; entries that cannot be read yet are left out.
        ascending : bool
            Whether the oldest entry comes first.
        text : str
            Only entries of tasks whose ids contain it, in lower case, and a few of others.
        """
        wanted = {*map(int, kinds), *([_CREATIONS] if Kind.CREATION in kinds else [])}
        sql = (
            f"SELECT * FROM log WHERE seq BETWEEN ? AND ? AND q IN ({_listed(queues)}) "  # noqa: S608 - numbers
            f"AND kind IN ({_listed(wanted)}) AND received <= ? {'AND instr(lower(task), ?) ' if text else ''}"
            f"ORDER BY seq {'ASC' if ascending else 'DESC'} LIMIT {_CHUNK}"
        )
        first, last = low, high + _MOST_CREATIONS - 1  # entries up to `high` may be in a row that ends after it
        while True:
            rows = self._database.read(sql, (first, last, now, *([text] if text else [])))
            for row in rows:
                for entry in _entries(row)[:: 1 if ascending else -1]:
                    if low <= entry.seq <= high and entry.received + self._index_delay(entry) <= now:
                        yield entry
            if len(rows) < _CHUNK:
                return
            if ascending:
                first = rows[-1][0] + 1
            else:
                last = rows[-1][0] - 1

    def sweep(self, until: int, most: int) -> bool:
        """Delete the oldest rows, at most `most`: those up to an instant, and those above the limit.

        Return whether there may be more.
        """
        excess = self._rows - self._limit
        [(oldest,)] = self._database.read("SELECT min(seq) FROM log WHERE seq > ?", (self._swept,))
        if oldest is None or (oldest > until and excess <= 0):
            return False
        rows = self._database.read("SELECT seq FROM log WHERE seq > ? ORDER BY seq LIMIT ?", (self._swept, most))
        doomed = [seq for index, (seq,) in enumerate(rows) if seq <= until or index < excess]
        self._swept = doomed[-1]
        self._rows -= len(doomed)
        self._database.put(Statement.SWEEP_LOG, (self._swept,))
        return len(doomed) == most

    def _index_delay(self, entry: LogRecord) -> int:
        """Return the microseconds for which an entry cannot be read; chosen by its insert id, so that it is stable."""
        if not self._index_delays:
            return 0
        digest = hashlib.blake2b(entry.insert_id.encode(), digest_size=8).digest()
        position = int.from_bytes(digest, "big") / (1 << 64)
        for share, delay in self._index_delays:
            if position < share:
                return delay
            position -= share
        return 0

    def _append(self, kind: Kind, subject: LogSubject, now: int, rest: tuple[Any, ...]) -> None:
        if subject.ratio < 1.0 and _random.random() >= subject.ratio:
            return
        self._latest = max(self._latest + 1, now)
        self._put((self._latest, subject.q, kind.value, now, now + self._delay, *subject[2:], *rest))

    def _put(self, row: tuple[Any, ...]) -> None:
        self._database.put(Statement.LOG, row)
        self._rows += 1


def _listed(numbers: Collection[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _packed(tasks: Sequence[NewTask]) -> bytes:
    """Encode the entries' tasks column by column; a column of equal values becomes that value."""
    ids, dues, _, _, *targets = zip(*tasks, strict=True)
    columns = [column[0] if column.count(column[0]) == len(ids) else column for column in (*targets, dues)]
    return orjson.dumps([ids, *columns])


def _entries(row: Sequence[Any]) -> list[LogRecord]:
    """Return the entries of a row of the table, in order of time."""
    record = LogRecord._make(row)
    if record.kind != _CREATIONS:
        return [record]
    ids, *shared = orjson.loads(record.task)
    columns = [column if isinstance(column, list) else [column] * len(ids) for column in shared]
    rows = enumerate(zip(ids, *columns, strict=True), record.seq - len(ids) + 1)
    head, tail = (record.q, Kind.CREATION.value, record.at, record.received), record[9:]
    return [LogRecord._make((seq, *head, *task, *tail)) for seq, task in rows]
