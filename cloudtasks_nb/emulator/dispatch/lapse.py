"""Move the clock from one dispatch to the next, after the attempts before it have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.model.clock import LAST_NOW, Clock

__all__ = ["TimeLapse"]


@dataclass(slots=True, kw_only=True)
class TimeLapse:
    """Moves the clock; a move never skips a dispatch.

    Without it, an advance of an hour would make one attempt of a task that is retried every minute.
    """

    dispatcher: Dispatcher
    clock: Clock
    moved: Callable[[], None]  #: called after each move
    _moving: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, until: int, seconds: float, *, idle: bool) -> bool:
        """Move the clock to `until`, or for as long as it takes in `seconds`; return whether it is done.

        Parameters
        ----------
        until : int
            Microseconds since 1970.
        seconds : float
            After this time it returns between two moves, or while it waits for attempts in flight.
        idle : bool
            Stop when nothing is left to be dispatched before `until`; False: then move on to `until`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with self._moving:
            while await self.dispatcher.settle(end - loop.time()):
                due = self.dispatcher.next_dispatch()
                if due is None or due > until:
                    if not idle:
                        self._move(until)
                    return True
                self._move(due)
                if loop.time() >= end:
                    return False
        return False

    def _move(self, to: int) -> None:
        duration = min(to, LAST_NOW) - self.clock.now()
        if duration > 0:
            self.clock.advance(duration)
            self.moved()
