"""Carries a batch from the outbox to the service: keeps requests in flight and writes answers down in groups."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, Request
from cloudtasks_nb.fanout.outbox.requests import MAX_TASKS
from cloudtasks_nb.fanout.sender.caller import Stopped, StopSignal
from cloudtasks_nb.fanout.sender.pace import Meter

__all__ = ["RequestSender", "SendLoop", "SendStats"]

_RESERVE = 4  # requests that are ready before a place is free, so that nobody waits for the disk


class RequestSender(Protocol):
    """What brings single requests to the service."""

    batch: str

    def limit(self) -> int:
        """Return how many requests may be under way."""

    async def deliver(self, request: Request) -> Ack | None:
        """Bring a request to the service and return what became of its rows; None if that is not known of all."""


class SendStats:
    """What a sending has done so far, as written down in the outbox."""

    def __init__(self) -> None:
        self.sent = 0
        self.already = 0
        self.rejected = 0

    def add(self, ack: Ack) -> None:
        """Count the rows of an answer."""
        self.sent += len(ack.sent)
        self.already += ack.already
        self.rejected += len(ack.rejected)

    def include(self, other: SendStats) -> None:
        """Count what another sending has counted."""
        self.sent += other.sent
        self.already += other.already
        self.rejected += other.rejected


class SendLoop:
    """One sending of a batch.

    Parameters
    ----------
    outbox : Outbox
    delivery : RequestSender
    stop : StopSignal
    meter : Meter, optional
        Paces the rows.
    rows : int
        In a request.
    now, ticks : callable
        Seconds since 1970; seconds of a clock that does not jump.
    on_sent : callable
        Hears how many more rows are sent, once that is written down.
    """

    def __init__(
        self,
        outbox: Outbox,
        delivery: RequestSender,
        stop: StopSignal,
        *,
        meter: Meter | None,
        rows: int = MAX_TASKS,
        now: Callable[[], float],
        ticks: Callable[[], float],
        on_sent: Callable[[int], None],
    ) -> None:
        self.stats = SendStats()
        self._outbox = outbox
        self._requests = outbox.requests.queue(delivery.batch)
        self._delivery = delivery
        self._stop = stop
        self._meter = meter
        self._rows = rows
        self._now = now
        self._ticks = ticks
        self._on_sent = on_sent
        self._reserve = _RESERVE if meter is None else 1
        self._ready: deque[Request] = deque()
        self._flying = 0
        self._acks: list[Ack] = []
        self._turning: asyncio.Future[None] | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._fault: Exception | None = None
        self._dry = False  # the outbox has no more requests
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Send until nothing is left, or the stop is turned off; either way all answers are written down."""
        try:
            async with asyncio.TaskGroup() as group:
                while not self._done():
                    self._launch(group)
                    self._turn()
                    await self._news.wait()
                    self._news.clear()
                    if self._fault is not None:
                        raise self._fault
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            # Also when the sending is cancelled: what is known must not be lost.
            await asyncio.shield(asyncio.ensure_future(self._put_away()))

    def _done(self) -> bool:
        if self._flying or self._turning is not None or self._acks:
            return False
        return self._stop.is_set or (self._dry and not self._ready)

    def _launch(self, group: asyncio.TaskGroup) -> None:
        """Send what may be sent now."""
        while self._ready and self._flying < self._delivery.limit() and not self._stop.is_set:
            if self._meter is not None:
                now = self._ticks()
                wait = self._meter.wait(now)
                if wait > 0:
                    if self._pausing is None:
                        self._pausing = group.create_task(self._pause(wait))
                    return
                self._meter.spend(len(self._ready[0].refs), now)
            self._flying += 1
            group.create_task(self._carry(self._ready.popleft()))

    async def _carry(self, request: Request) -> None:
        try:
            ack = await self._delivery.deliver(request)
            if ack is not None:
                self._acks.append(ack)
        except Stopped:
            pass
        finally:
            self._flying -= 1
            self._news.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(Stopped):
            await self._stop.sleep(seconds)
        self._pausing = None
        self._news.set()

    def _turn(self) -> None:
        """Start to write answers down and to get more requests, unless that is under way."""
        if self._turning is not None:
            return
        room = self._delivery.limit() + self._reserve - self._flying - len(self._ready)
        want = 0 if self._stop.is_set or self._dry else max(0, room)
        if self._acks or want:
            # Not a task of the group: what the outbox gives out is not to be lost when the group is cancelled.
            self._turning = asyncio.ensure_future(self._exchange(want))

    async def _exchange(self, want: int) -> None:
        acks, self._acks = self._acks, []
        try:
            requests = await self._outbox.run(self._requests.turn, acks, want, now=self._now(), size=self._rows)
        except CloudTasksError as error:
            self._stop.set(error)
        except Exception as error:  # noqa: BLE001 - raised where `run` waits; here nobody would hear of it
            self._fault = error
        else:
            self._ready.extend(requests)
            self._dry = (self._dry or len(requests) < want) and not any(ack.again for ack in acks)
            for ack in acks:
                self.stats.add(ack)
            if sent := sum(len(ack.sent) for ack in acks):
                self._on_sent(sent)
        finally:
            self._turning = None
            self._news.set()

    async def _put_away(self) -> None:
        """Write down the last answers, and hand back what was not sent."""
        while self._turning is not None:
            await asyncio.wait({self._turning})
        if self._acks:
            await self._exchange(0)
        if self._ready:
            with contextlib.suppress(CloudTasksError):
                await self._outbox.run(self._requests.hand_back, list(self._ready))


def _first(error: Exception) -> Exception:
    """Return the first single error of a group: whoever hears of it wants its own words."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
