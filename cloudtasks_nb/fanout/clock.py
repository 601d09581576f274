"""Read the time and sleep; tests use a clock of their own instead."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock", "seconds_since_boot"]


def seconds_since_boot() -> float:
    """Return seconds by a clock that nobody can set, and that counts the time in which the machine sleeps.

    Python's `time.monotonic` counts no sleep on Linux and macOS.

    Notes
    -----
    Linux has `CLOCK_BOOTTIME <https://man7.org/linux/man-pages/man2/clock_gettime.2.html>`_ for it. On macOS it is
    ``CLOCK_MONOTONIC`` of the system (``man clock_gettime`` there), and on Windows `GetTickCount64
    <https://learn.microsoft.com/en-us/windows/win32/sysinfo/windows-time>`_.
    """
    if sys.platform == "win32":
        ticks = ctypes.windll.kernel32.GetTickCount64
        ticks.restype = ctypes.c_ulonglong
        return float(ticks()) / 1000
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass
class Clock:
    """The clocks of a batch.

    Parameters
    ----------
    micros : callable, optional
        Returns the time of the service in microseconds since 1970. None: that of this machine counts.
    """

    micros: Callable[[], int] | None = None

    def now(self) -> float:
        """Return the seconds since 1970, by the clock of the service."""
        return time.time() if self.micros is None else self.micros() / 1_000_000

    def ticks(self) -> float:
        """Return the seconds of a clock that does not jump."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
