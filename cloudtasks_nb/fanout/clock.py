"""Read the time and sleep; tests use a clock of their own instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Clock"]


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
