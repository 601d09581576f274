"""Keep the calls of several callers within a quota per minute."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

__all__ = ["CallBudget"]


class CallBudget:
    """At most `per_minute` calls in any minute: `burst` of them at once, the others spread over the minute."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self.per_minute = per_minute
        self._gap = 60 / (per_minute - burst)
        self._slack = self._gap * (burst - 1)
        self._free_at = 0.0
        self._waiting: dict[Hashable, None] = {}  # refused and not served since, the longest wait first
        self.clock: Callable[[], float] = lambda: asyncio.get_running_loop().time()
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def take(self, caller: Hashable = None) -> bool:
        """Take one call if there is one, and one more for each caller that has waited longer than `caller`."""
        self._waiting.setdefault(caller)
        ahead = list(self._waiting).index(caller)
        start = max(self._free_at, self.clock() - self._slack)
        if start + ahead * self._gap > self.clock():
            return False
        del self._waiting[caller]
        self._free_at = start + self._gap
        return True

    def leave(self, caller: Hashable) -> None:
        """Give up waiting for a call."""
        self._waiting.pop(caller, None)

    async def turn(self, caller: Hashable) -> None:
        """Take one call, after those of callers that have waited longer."""
        try:
            while not self.take(caller):
                await self.sleep(self._gap / 4)
        finally:
            self.leave(caller)
