"""The queues and tasks that the store keeps in memory, and how they are loaded from the database at start."""

from __future__ import annotations

import gc
import heapq
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.queues import RUNNING, QueueConfig
from cloudtasks_nb.emulator.store.database import TaskDatabase

__all__ = ["LAST_NUMBER", "Claim", "Contents", "DueTimes", "Purge", "QueueState", "StoredTask", "load", "task_key"]

# A task's key combines its queue's number and its own, so that a queue's tasks are adjacent rows in order of creation.
_NUMBER_BITS = 36
LAST_NUMBER = (1 << _NUMBER_BITS) - 1
_MINUTE = 60
_CHUNK = 10_000


def task_key(q: int, number: int) -> int:
    """Return the key of a queue's task in the database."""
    return q << _NUMBER_BITS | number


class StoredTask(NamedTuple):
    """A task as the database has it."""

    number: int
    id: str
    due: int  #: microseconds since 1970, of the first attempt
    head: bytes
    body: bytes


class Claim(NamedTuple):
    """A task that is about to be dispatched."""

    queue: QueueState
    task: StoredTask
    attempts: Attempts


@dataclass(slots=True)
class Purge:
    """Tasks of a queue that were deleted together, up to one of them; the sweep takes them out of the file."""

    first: int  #: key in the database from which the file may still have them
    until: int  #: microseconds since 1970, when their ids may be used again; 0: at once


class DueTimes:
    """The task numbers of a queue in the order in which the tasks are due; a few bytes a task.

    An entry may be out of date, because its task was deleted, rescheduled or run on request. The caller compares each
    entry with its task, because that is cheaper than finding and removing entries.
    """

    def __init__(self) -> None:
        self._ready: deque[int] = deque()
        # A time and a task number packed into one integer need half the memory of a tuple.
        self._later: list[int] = []

    def __len__(self) -> int:
        return len(self._ready) + len(self._later)

    def add(self, numbers: Sequence[int], dues: Sequence[int], now: int) -> None:
        """Add tasks that are due at these times."""
        if max(dues) <= now:
            self._ready.extend(numbers)
            return
        for number, due in zip(numbers, dues, strict=True):
            if due <= now:
                self._ready.append(number)
            else:
                heapq.heappush(self._later, due << _NUMBER_BITS | number)

    def put_back(self, number: int) -> None:
        """Put a task that could not be dispatched back; it becomes the next one."""
        self._ready.appendleft(number)

    def first(self, now: int) -> tuple[int, int] | None:
        """Return number and due time of the first entry; the time is `now` for a task that is due already."""
        limit = now << _NUMBER_BITS | LAST_NUMBER
        while self._later and self._later[0] <= limit:
            self._ready.append(heapq.heappop(self._later) & LAST_NUMBER)
        if self._ready:
            return self._ready[0], now
        return (self._later[0] & LAST_NUMBER, self._later[0] >> _NUMBER_BITS) if self._later else None

    def drop_first(self) -> None:
        """Remove the entry that `first` returned."""
        if self._ready:
            self._ready.popleft()
        else:
            heapq.heappop(self._later)

    def keep(self, numbers: Container[int]) -> None:
        """Remove all other tasks."""
        self._ready = deque(number for number in self._ready if number in numbers)
        self._later = [entry for entry in self._later if entry & LAST_NUMBER in numbers]
        heapq.heapify(self._later)


@dataclass(slots=True, kw_only=True, eq=False)
class QueueState:
    """A queue and its tasks."""

    q: int  #: number of the queue; it is never reused, not even for a new queue of the same name
    name: str
    message: Any  #: the v2beta3 `Queue`
    config: QueueConfig
    usable_at: int  #: microseconds since 1970; until then calls answer that the queue does not exist
    base: int = field(init=False)  #: key in the database of task number 0; `base + number` is the key of a task
    next_number: int = 1
    purges: dict[int, Purge] = field(default_factory=dict)  #: by the last purged number, in their order
    expired_upto: int = 0  #: the sweep of expired tasks goes on after this number
    live: dict[str, int] = field(default_factory=dict)  #: id -> number of every task
    tombstones: dict[str, int] = field(default_factory=dict)  #: id of a finished task -> when the id may be used again
    due: DueTimes = field(default_factory=DueTimes)
    attempts: dict[int, Attempts] = field(default_factory=dict)  #: by number, of the tasks that were claimed
    running: dict[int, int] = field(default_factory=dict)  #: number -> attempts in flight
    in_flight: int = 0
    _executed: dict[int, tuple[int, int]] = field(default_factory=dict)  # second -> attempts that ended in it, failed

    def __post_init__(self) -> None:
        self.base = task_key(self.q, 0)

    @property
    def floor(self) -> int:
        """The last number of a task that was purged; 0 if the file has none of these."""
        return next(reversed(self.purges), 0)

    @property
    def state(self) -> str:
        """``RUNNING``, ``PAUSED`` or ``DISABLED``."""
        return str(beta.Queue.State.Name(self.message.state))

    @property
    def dispatching(self) -> bool:
        """Whether the queue is neither paused nor disabled."""
        return bool(self.message.state == RUNNING)

    def started(self, number: int) -> None:
        """Count an attempt in flight."""
        self.running[number] = self.running.get(number, 0) + 1
        self.in_flight += 1

    def stopped(self, number: int) -> None:
        """Stop counting an attempt in flight."""
        left = self.running.pop(number, 1) - 1
        if left:
            self.running[number] = left
        self.in_flight -= 1

    def count_execution(self, now: int, *, failed: bool = False) -> None:
        """Count an attempt that ended."""
        second = now // SECOND
        ended, failures = self._executed.get(second, (0, 0))
        self._executed[second] = ended + 1, failures + failed
        if len(self._executed) > _MINUTE:
            del self._executed[next(iter(self._executed))]

    def last_minute(self, now: int) -> tuple[int, int]:
        """Return how many attempts ended in the last sixty seconds, and how many of these failed."""
        recent = [counts for second, counts in self._executed.items() if second > now // SECOND - _MINUTE]
        return sum(ended for ended, _ in recent), sum(failed for _, failed in recent)


@dataclass(slots=True, kw_only=True)
class Contents:
    """All that the store keeps in memory."""

    queues: dict[str, QueueState] = field(default_factory=dict)  #: by name
    by_number: dict[int, QueueState] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  #: by number; also of deleted queues, for entries of the log
    deleted: dict[str, int] = field(default_factory=dict)  #: name of a deleted queue -> when it may be used again
    purges: dict[int, dict[int, Purge]] = field(default_factory=dict)  #: by number; also of deleted queues
    operations: dict[str, int] = field(default_factory=dict)  #: name -> key in the database
    settings: dict[str, bytes] = field(default_factory=dict)

    def add(self, q: int, message: Any, usable_at: int, default_tombstone: int) -> QueueState:
        """Add a queue without tasks, and return it; the parameters are those of `QueueState` and `load`."""
        config = QueueConfig.of(message, default_tombstone)
        purges = self.purges.setdefault(q, {})
        queue = QueueState(q=q, name=message.name, message=message, config=config, usable_at=usable_at, purges=purges)
        self.names[q] = queue.name
        self.queues[queue.name] = self.by_number[q] = queue
        self.deleted.pop(queue.name, None)  # a queue of that name was deleted before
        return queue


def load(database: TaskDatabase, now: int, default_tombstone: int) -> Contents:
    """Read what the store keeps in memory.

    Parameters
    ----------
    database : TaskDatabase
        The store's file.
    now : int
        Microseconds since 1970; names that may be used again are left out.
    default_tombstone : int
        Microseconds, for queues that do not set their own.
    """
    # Paused, because the garbage collector would scan the growing number of new objects again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _load(database, now, default_tombstone)
    finally:
        if collecting:
            gc.enable()


def _load(database: TaskDatabase, now: int, default_tombstone: int) -> Contents:
    contents = Contents()
    contents.settings = dict(database.read("SELECT key, value FROM settings"))
    contents.operations = dict(database.read("SELECT name, seq FROM operations ORDER BY seq"))
    for q, upto, until in database.read("SELECT q, upto, until FROM purged_ranges ORDER BY q, upto"):
        contents.purges.setdefault(q, {})[upto] = Purge(task_key(q, 0), until)
    for q, name, config, usable_at, deleted_until in database.read("SELECT * FROM queues ORDER BY q"):
        if deleted_until is None:
            queue = contents.add(q, beta.Queue.FromString(config), usable_at, default_tombstone)
            _load_tasks(database, queue, now)
        else:
            contents.names[q] = name
            contents.deleted[name] = deleted_until
    for q, task, until in database.stream("SELECT q, id, until FROM tombstones WHERE until > ? ORDER BY seq", (now,)):
        if q in contents.by_number:
            contents.by_number[q].tombstones[task] = until
    return contents


def _load_tasks(database: TaskDatabase, queue: QueueState, now: int) -> None:
    _load_purged_names(database, queue, now)
    base = queue.base
    bounds = (base + queue.floor + 1, task_key(queue.q, LAST_NUMBER))
    for seq, *columns in database.stream("SELECT * FROM attempts WHERE seq BETWEEN ? AND ?", bounds):
        queue.attempts[seq - base] = Attempts(*columns)
    number, attempts = queue.floor, queue.attempts
    rows = database.stream("SELECT seq - ?, due, id FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq", (base, *bounds))
    while chunk := rows.fetchmany(_CHUNK):
        numbers, dues, ids = zip(*chunk, strict=True)
        queue.live.update(zip(ids, numbers, strict=True))
        if attempts:
            dues = tuple(attempts[n].due if n in attempts else due for n, due in zip(numbers, dues, strict=True))
        queue.due.add(numbers, dues, now)
        number = numbers[-1]
    queue.next_number = number + 1


def _load_purged_names(database: TaskDatabase, queue: QueueState, now: int) -> None:
    """Read the ids of purged tasks that the file still has, and that cannot be used again yet."""
    first = queue.base
    for upto, purge in queue.purges.items():
        if purge.until > now:
            bounds = (first, queue.base + upto)
            rows = database.stream("SELECT id FROM tasks WHERE seq BETWEEN ? AND ?", bounds)
            queue.tombstones.update((task, purge.until) for (task,) in rows)
        first = queue.base + upto + 1
