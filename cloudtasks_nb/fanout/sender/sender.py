"""Send a batch from the outbox: 100 rows a call, many calls in flight, until each row's task exists once.

A task's name is derived from its row, so that a row that is sent twice creates one task: the service answers
ALREADY_EXISTS while the task exists, and for about an hour after its deletion. After that, rows are looked up before
they are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb.errors import CloudTasksError, EndpointError, UnavailableError
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.locks import Hold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, BatchRecord, Request
from cloudtasks_nb.fanout.outbox.requests import MAX_TASKS
from cloudtasks_nb.fanout.sender.pace import Meter, constant, ramp
from cloudtasks_nb.fanout.sender.request_sender import RequestSender
from cloudtasks_nb.fanout.sender.rpc_caller import RawClient, SendObserver, Stopped, StopSignal
from cloudtasks_nb.fanout.wire import name_request

__all__ = ["SendLoop", "SendStats", "send"]

_LOCK_POLL = 0.5  # seconds between two checks whether another sender has ended
_ENDPOINT_POLL = 2.0  # seconds between two checks whether the service answers again
_RESERVE = 4  # requests that are read before a call ends, so that no call waits for the disk


@dataclass(slots=True, kw_only=True)
class SendStats:
    """Counts of one sending, as stored in the outbox."""

    sent: int = 0  #: rows whose task exists
    already_there: int = 0  #: of these, the tasks that existed before the first sending, created from another outbox
    rejected: int = 0  #: rows that the service refused

    def add(self, ack: Ack) -> None:
        """Count the rows of an answer."""
        self.sent += len(ack.sent)
        self.already_there += ack.already
        self.rejected += len(ack.rejected)


async def send(
    outbox: Outbox,
    batch: str,
    client: RawClient,
    observer: SendObserver,
    *,
    send_rate: float | None = None,
    in_flight: int = 16,
    owner: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> SendStats:
    """Send the unsent rows of a batch; while another process does that, wait until it has ended.

    While nothing answers at the endpoint, another connection or process may send: its address may work.

    Parameters
    ----------
    send_rate : float, optional
        Rows a second. Without it, as fast as possible; on Google's endpoint 500 a second, more with time.
    in_flight : int
        The most batch calls at the same time.
    owner : mapping, optional
        Description of this sender for other senders; stored as JSON.

    Raises
    ------
    CloudTasksError
        The error that ended the sending early, such as a missing queue, a missing permission or an unwritable outbox.
        Rows that were not sent stay unsent.
    """
    clock = clock or Clock()
    stats = SendStats()
    while lock := await _become_sender(outbox, batch, observer, clock):
        try:
            await outbox.run(outbox.batches.set_setting, batch, "sender", owner)
            record = await outbox.run(outbox.batches.get, batch)
            loop = SendLoop(
                outbox, record, client, observer, clock=clock, stats=stats, send_rate=send_rate, in_flight=in_flight
            )
            error = await loop.run()
        finally:
            lock.release()
        if error is None:
            break
        if not isinstance(error, EndpointError):
            raise error
        await _until_answered(outbox, record, client, observer, clock)
    return stats


class SendLoop:
    """Sends the unsent rows of a batch: keeps requests in flight and stores their answers in groups.

    Parameters
    ----------
    stats : SendStats
        Rows are counted here once their answer is stored.
    send_rate : float, optional
        Rows a second.
    in_flight : int
        The most batch calls at the same time.
    """

    def __init__(
        self,
        outbox: Outbox,
        record: BatchRecord,
        client: RawClient,
        observer: SendObserver,
        *,
        clock: Clock,
        stats: SendStats,
        send_rate: float | None,
        in_flight: int,
    ) -> None:
        self._outbox = outbox
        self._requests = outbox.requests.queue(record.id)
        self._stop = StopSignal(clock)
        self._sender = RequestSender(
            outbox, record, client, self._stop, observer=observer, clock=clock, in_flight=in_flight
        )
        self._observer = observer
        self._clock = clock
        self._stats = stats
        self._meter: Meter | None = None
        self._rows = MAX_TASKS  # in a request
        if send_rate is not None:
            self._meter = Meter(constant(send_rate), clock.ticks())
            self._rows = min(MAX_TASKS, max(1, math.ceil(send_rate)))
        elif client.google:
            self._meter = Meter(ramp, clock.ticks())
        self._reserve = _RESERVE if self._meter is None else 1
        self._ready: deque[Request] = deque()
        self._flying = 0
        self._acks: list[Ack] = []
        self._exchanging: asyncio.Future[None] | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._fault: Exception | None = None
        self._exhausted = False  # the outbox has no more requests
        self._changed = asyncio.Event()

    async def run(self) -> CloudTasksError | None:
        """Send until no row is left, or until an error that retrying cannot fix; return that error.

        All answers are stored before this ends, also if it is cancelled.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while not self._done():
                    self._launch(group)
                    self._begin_exchange()
                    await self._changed.wait()
                    self._changed.clear()
                    if self._fault is not None:
                        raise self._fault
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            # Shielded: a cancelled sending also stores its answers.
            await asyncio.shield(asyncio.ensure_future(self._finish()))
        return self._stop.error

    def _done(self) -> bool:
        if self._flying or self._exchanging is not None or self._acks:
            return False
        return self._stop.is_set or (self._exhausted and not self._ready)

    def _launch(self, group: asyncio.TaskGroup) -> None:
        """Start the requests that may be sent now."""
        while self._ready and self._flying < self._sender.limit() and not self._stop.is_set:
            if self._meter is not None:
                now = self._clock.ticks()
                wait = self._meter.wait(now)
                if wait > 0:
                    if self._pausing is None:
                        self._pausing = group.create_task(self._pause(wait))
                    return
                self._meter.spend(len(self._ready[0].refs), now)
            self._flying += 1
            group.create_task(self._send(self._ready.popleft()))

    async def _send(self, request: Request) -> None:
        try:
            ack = await self._sender.send(request)
            if ack is not None:
                self._acks.append(ack)
        except Stopped:
            pass
        finally:
            self._flying -= 1
            self._changed.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(Stopped):
            await self._stop.sleep(seconds)
        self._pausing = None
        self._changed.set()

    def _begin_exchange(self) -> None:
        """Start to store answers and read more requests, unless that is running."""
        if self._exchanging is not None:
            return
        free = self._sender.limit() + self._reserve - self._flying - len(self._ready)
        want = 0 if self._stop.is_set or self._exhausted else max(0, free)
        if self._acks or want:
            # Not a task of the group: cancelling the group must not lose requests that the outbox has marked as taken.
            self._exchanging = asyncio.ensure_future(self._exchange(want))

    async def _exchange(self, want: int) -> None:
        acks, self._acks = self._acks, []
        try:
            until = self._observer.send_until()
            requests = await self._outbox.run(
                self._requests.turn, acks, want, now=self._clock.now(), size=self._rows, until=until
            )
        except CloudTasksError as error:
            self._stop.set(error)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._fault = error
        else:
            self._ready.extend(requests)
            self._exhausted = (self._exhausted or len(requests) < want) and not any(ack.again for ack in acks)
            for ack in acks:
                self._stats.add(ack)
            if sent := sum(len(ack.sent) for ack in acks):
                self._observer.rows_sent(sent)
        finally:
            self._exchanging = None
            self._changed.set()

    async def _finish(self) -> None:
        """Store the last answers, and return unsent requests to the outbox."""
        while self._exchanging is not None:
            await asyncio.wait({self._exchanging})
        if self._acks:
            await self._exchange(0)
        if self._ready:
            with contextlib.suppress(CloudTasksError):
                await self._outbox.run(self._requests.hand_back, [*self._ready])


def _first(error: Exception) -> Exception:
    """Return the first single error of a group."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _become_sender(outbox: Outbox, batch: str, observer: SendObserver, clock: Clock) -> Hold | None:
    """Wait for the lock on sending the batch; None if no row is left to send."""
    while True:
        lock = outbox.requests.lock(batch)
        try:
            waiting = await outbox.run(outbox.requests.waiting, batch)
        except BaseException:  # the sending is cancelled
            if lock is not None:
                lock.release()
            raise
        if lock is not None and waiting:
            observer.other_sender(None)
            return lock
        if not waiting:
            if lock is not None:
                lock.release()
            return None
        observer.other_sender((await outbox.run(outbox.batches.settings, batch)).get("sender") or {})
        await clock.sleep(_LOCK_POLL)


async def _until_answered(
    outbox: Outbox, record: BatchRecord, client: RawClient, observer: SendObserver, clock: Clock
) -> None:
    """Wait until the service answers again, also with an error, or another sender has sent all rows."""
    while await outbox.run(outbox.requests.waiting, record.id):
        await clock.sleep(_ENDPOINT_POLL)
        try:
            await client.raw("GetQueue", name_request(record.place.queue_name))
        except UnavailableError as error:
            observer.will_retry(error)
        except CloudTasksError:
            return
        else:
            return
