"""What is kept in memory of a queue: names, due times, attempts and what runs; rebuilt from the journal at start."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.due import DueTimes
from cloudtasks_nb.emulator.model.queues import RUNNING, QueueConfig

__all__ = ["LAST_NUMBER", "Claim", "QueueState", "StoredTask", "sequence"]

# A task's key is its queue's number and its own: the tasks of a queue lie side by side, in the order of creation.
_NUMBER_BITS = 36
LAST_NUMBER = (1 << _NUMBER_BITS) - 1
_MINUTE = 60


def sequence(q: int, number: int) -> int:
    """Return the key of a queue's task in the journal."""
    return q << _NUMBER_BITS | number


class StoredTask(NamedTuple):
    """A task as it lies in the journal."""

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


@dataclass(slots=True, kw_only=True, eq=False)
class QueueState:
    """A queue and its tasks."""

    q: int  #: never used again, not even by a queue of the same name
    name: str
    message: Any  #: the v2beta3 `Queue`
    config: QueueConfig
    usable_at: int  #: microseconds since 1970; before that the service does not know the queue yet
    base: int = field(init=False)  #: what a task's number is added to for its key in the journal
    next_number: int = 1
    floor: int = 0  #: tasks up to this number were purged
    live: dict[str, int] = field(default_factory=dict)  #: id -> number of every task
    tombs: dict[str, int] = field(default_factory=dict)  #: id -> when the name is free again
    due: DueTimes = field(default_factory=DueTimes)
    attempts: dict[int, Attempts] = field(default_factory=dict)  #: of the tasks that were tried
    running: dict[int, int] = field(default_factory=dict)  #: number -> attempts in flight
    in_flight: int = 0
    _executed: deque[tuple[int, int]] = field(default_factory=deque)  # second, answers in it

    def __post_init__(self) -> None:
        self.base = sequence(self.q, 0)

    @property
    def dispatching(self) -> bool:
        """Whether the queue is neither paused nor disabled."""
        return bool(self.message.state == RUNNING)

    def started(self, number: int) -> None:
        """Count an attempt in flight."""
        self.running[number] = self.running.get(number, 0) + 1
        self.in_flight += 1

    def stopped(self, number: int) -> None:
        """Take an attempt in flight off the count."""
        left = self.running.pop(number, 1) - 1
        if left:
            self.running[number] = left
        self.in_flight -= 1

    def count_execution(self, now: int) -> None:
        """Count an attempt that got its reply."""
        second = now // SECOND
        if self._executed and self._executed[-1][0] == second:
            self._executed[-1] = (second, self._executed[-1][1] + 1)
        else:
            self._executed.append((second, 1))
            while self._executed[0][0] <= second - _MINUTE:
                self._executed.popleft()

    def executed_last_minute(self, now: int) -> int:
        """Return how many attempts got a reply in the last sixty seconds."""
        return sum(count for second, count in self._executed if second > now // SECOND - _MINUTE)
