"""Compute how fast to send: calls in flight, pauses after errors, rows a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Concurrency", "Meter", "ramp"]

_RAMP_START = 500.0  # rows a second on a queue that was idle
_RAMP_GROWTH = 1.5
_RAMP_STEP = 300.0  # seconds


class Concurrency:
    """Limits the calls in flight: one more after each answer, half after a failure, then one more per round of answers.

    Each call is made within `async with`, which waits for its place.

    Parameters
    ----------
    ceiling : int
        The highest limit.
    start : int
        The first limit.
    """

    def __init__(self, ceiling: int, start: int = 2) -> None:
        self._ceiling = float(ceiling)
        self._limit = float(min(start, ceiling))
        self._careful = False
        self.epoch = 0  #: how often the limit was halved; a call passes the value at its start to `failed`
        self._places = asyncio.Semaphore(self.limit)
        self._made = self.limit  # places, free or taken

    async def __aenter__(self) -> int:
        """Wait until one more call may be in flight, and return `epoch`."""
        await self._places.acquire()
        while self._made > self.limit:  # this place is no longer there
            self._made -= 1
            await self._places.acquire()
        return self.epoch

    async def __aexit__(self, *_: object) -> None:
        self._made -= 1
        while self._made < self.limit:
            self._made += 1
            self._places.release()

    @property
    def limit(self) -> int:
        """Calls that may be in flight, at least one."""
        return int(self._limit)

    def succeeded(self) -> None:
        """Note an answer."""
        self._limit = min(self._ceiling, self._limit + (1 / self._limit if self._careful else 1))

    def failed(self, epoch: int) -> None:
        """Note the failure of a call that began in `epoch`; calls that were in flight together halve the limit once."""
        if epoch == self.epoch:
            self.epoch += 1
            self._careful = True
            self._limit = max(1.0, self._limit / 2)


def ramp(elapsed: float) -> float:
    """Return rows a second after `elapsed` seconds: 500, and half as much again every five minutes.

    The service asks for this on a queue that was idle (https://cloud.google.com/tasks/docs/manage-cloud-task-scaling).
    """
    return _RAMP_START * _RAMP_GROWTH ** int(max(0.0, elapsed) / _RAMP_STEP)


class Meter:
    """Computes when the next rows may be sent at a given rate; idle time does not allow a burst later.

    Parameters
    ----------
    rate : callable
        Rows a second, by the seconds since the start.
    now : float
        The start, in seconds of any clock that does not jump.
    """

    def __init__(self, rate: Callable[[float], float], now: float) -> None:
        self._rate = rate
        self._start = now
        self._free = now

    def wait(self, now: float) -> float:
        """Return the seconds to wait before anything is sent; 0 if it may be sent now."""
        return max(0.0, self._free - now)

    def spend(self, rows: int, now: float) -> None:
        """Note that rows are sent now."""
        self._free = max(self._free, now) + rows / self._rate(now - self._start)
