"""Which tasks of a queue are due, in memory only: a few bytes a task."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

__all__ = ["DueTimes"]

# A time and a task number packed into one integer need half the memory of a tuple.
_NUMBER_BITS = 36
_NUMBER = (1 << _NUMBER_BITS) - 1


class DueTimes:
    """Task numbers by the time they are due.

    An entry may be out of date (the task was deleted, run by hand or put off): whoever takes one compares it with the
    task. That is cheaper than to find and remove entries.
    """

    def __init__(self) -> None:
        self._ready: deque[int] = deque()
        self._later: list[int] = []

    def __len__(self) -> int:
        return len(self._ready) + len(self._later)

    def add(self, number: int, due: int, now: int) -> None:
        """Enter a task that is due at `due`."""
        if due <= now:
            self._ready.append(number)
        else:
            heapq.heappush(self._later, due << _NUMBER_BITS | number)

    def add_all(self, numbers: Sequence[int], dues: Sequence[int], now: int) -> None:
        """Enter many tasks at once."""
        if max(dues) <= now:
            self._ready.extend(numbers)
            return
        for number, due in zip(numbers, dues, strict=True):
            self.add(number, due, now)

    def take(self, now: int) -> int | None:
        """Remove and return the next task that is due, or None."""
        self._collect(now)
        return self._ready.popleft() if self._ready else None

    def put_back(self, number: int) -> None:
        """Enter a task again that was taken and could not be dispatched; it is the next one."""
        self._ready.appendleft(number)

    def first(self, now: int) -> tuple[int, int] | None:
        """Return number and due time of the entry that comes first; `now` for one that is due already."""
        self._collect(now)
        if self._ready:
            return self._ready[0], now
        return (self._later[0] & _NUMBER, self._later[0] >> _NUMBER_BITS) if self._later else None

    def drop_first(self) -> None:
        """Remove the entry that `first` returned."""
        if self._ready:
            self._ready.popleft()
        else:
            heapq.heappop(self._later)

    def next_due(self, now: int) -> int | None:
        """Return when the next task is due: `now` for one that is due already, None without tasks."""
        if self._ready:
            return now
        return self._later[0] >> _NUMBER_BITS if self._later else None

    def clear(self) -> None:
        """Forget all tasks."""
        self._ready.clear()
        self._later.clear()

    def _collect(self, now: int) -> None:
        limit = now << _NUMBER_BITS | _NUMBER
        while self._later and self._later[0] <= limit:
            self._ready.append(heapq.heappop(self._later) & _NUMBER)
