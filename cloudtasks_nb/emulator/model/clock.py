"""The clock of the emulator, which tests and `/admin/clock` can move forward."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["CLOCK_SETTING", "DAY", "HOUR", "LAST_INSTANT", "LAST_NOW", "SECOND", "Clock"]

#: Instants and durations inside the emulator are whole microseconds, as Cloud Tasks keeps them.
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
#: The key of the setting in which a folder keeps how far its clock was advanced.
CLOCK_SETTING = "clock_offset"
#: The end of the year 9999: no `google.protobuf.Timestamp` is later.
LAST_INSTANT = 253_402_300_800 * SECOND - 1
#: The end of the year 8999: the due times of later tasks could be after the year 9999.
LAST_NOW = 221_845_392_000 * SECOND - 1


class Clock:
    """Wall-clock time that can be advanced, and that never runs backwards when the system's clock is set back.

    Parameters
    ----------
    source : callable, optional
        Returns nanoseconds since 1970; the system's clock by default.
    advanced : int
        Microseconds by which it was advanced earlier.
    """

    def __init__(self, source: Callable[[], int] = time.time_ns, advanced: int = 0) -> None:
        self._source = source
        #: microseconds by which `advance` moved it; the source may have been set back besides
        self.advanced = advanced
        self._set_back = 0
        self._latest = 0
        self._listeners: list[Callable[[int], None]] = []

    def now(self) -> int:
        """Return microseconds since 1970."""
        reading = self._source() // 1000 + self.advanced + self._set_back
        if reading < self._latest:
            self._set_back += self._latest - reading
            return self._latest
        self._latest = reading
        return reading

    def reset(self) -> None:
        """Return to the time of the source, even if that is earlier."""
        self.advanced = self._set_back = self._latest = 0

    def advance(self, duration: int) -> None:
        """Move forward by `duration` microseconds and call the listeners with it.

        Raises
        ------
        ValueError
            If it is negative, or leads beyond the year 8999.
        """
        if duration < 0:
            raise ValueError("the clock can only be moved forward")
        if self.now() + duration > LAST_NOW:
            raise ValueError("the clock cannot be moved beyond the year 9000")
        self.advanced += duration
        for listener in self._listeners:
            listener(duration)

    def subscribe(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the microseconds of every advance; the latest subscriber is called first."""
        self._listeners.insert(0, listener)
