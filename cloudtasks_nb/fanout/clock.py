"""Read the time and sleep; tests use a clock of their own instead."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Clock"]


class Clock:
    """The clocks of this machine."""

    def now(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def ticks(self) -> float:
        """Return the seconds of a clock that does not jump."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
