"""Sending what is unsent of one batch, in the background: begun again as often as rows come to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import (
    CloudTasksError,
    EndpointError,
    PreconditionError,
    QueueNotFoundError,
    ServiceError,
)
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.sender.sender import send
from cloudtasks_nb.service.transport import Transport

__all__ = ["Sending"]

_LOGGER = logging.getLogger(__name__)


class Sending:
    """Sends one batch as long as somebody asks for it. Lives on the background loop.

    Parameters
    ----------
    transport : Transport
    outbox : Outbox
    record : BatchRecord
    lookup : coroutine function
        Asked about tasks that may have been created long ago and are not in the queue.
    sent : callable
        Hears how many more rows are sent.
    heard : callable
        Called with each error after which it tries again, and with None when nothing is tried any more.
    ended : coroutine function
        What is to be done when nothing is sent any more; meanwhile it may begin again.
    """

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        record: BatchRecord,
        *,
        lookup: Callable[[Sequence[str]], Awaitable[Mapping[str, bool | None]]],
        sent: Callable[[int], None],
        heard: Callable[[CloudTasksError | None], None],
        ended: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._transport = transport
        self._outbox = outbox
        self._batch = record.id
        self._queue = record.place.queue_name
        self._lookup, self._sent, self._heard, self._ended = lookup, sent, heard, ended
        self._sending: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._asked = False
        self._rival: Mapping[str, Any] | None = None
        self.unanswered = False  #: nothing answers at the endpoint
        self.stopped: CloudTasksError | None = None  #: what ended it before its end

    @property
    def active(self) -> bool:
        """Whether this process sends the batch, or will as soon as it can."""
        return any(task is not None and not task.done() for task in (self._sending, self._ending))

    @property
    def rival(self) -> str | None:
        """Who sends the batch while this sending waits."""
        if self._rival is None or not self.active:
            return None
        pid, target = self._rival.get("pid"), self._rival.get("target")
        if pid is None:
            who = "another process"
        elif pid == os.getpid():
            who = f"another connection of this kernel ({target})"
        else:
            who = f"process {pid} ({target})"
        return f"{who} sends the rest; when it ends, or nothing answers there, this connection goes on"

    def begin(self, send_rate: float | None = None) -> None:
        """Send what is unsent; a sending that is just ending begins again."""
        self._asked = True
        if self._sending is None or self._sending.done():
            self._sending = _loop.spawn(self._send(send_rate))

    async def settle(self) -> None:
        """Wait until nothing is sent any more."""
        if self._sending is not None:
            await asyncio.wait({self._sending})

    async def check(self, unsent: int) -> None:
        """Make sure that somebody sends so many rows.

        Raises
        ------
        CloudTasksError
            What ended the sending before its end.
        PreconditionError
            If no process sends the batch.
        """
        if self.active or not unsent:
            return
        if self.stopped is not None:
            raise self.stopped
        if await self._outbox.run(self._is_idle):
            raise PreconditionError(
                f"{unsent:,} rows of batch {self._batch} are unsent, and nobody sends them",
                resource=self._batch,
                hint="batch.resume() sends them",
            )

    async def close(self) -> None:
        """Stop sending; it can be taken up again from the outbox."""
        for task in (self._sending, self._ending):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def _is_idle(self) -> bool:
        """Tell whether no process sends the batch."""
        hold = self._outbox.requests.lock(self._batch)
        if hold is not None:
            hold.release()
        return hold is not None

    async def _send(self, send_rate: float | None) -> None:
        while self._asked:
            self._asked = False
            await self._send_once(send_rate)
        self._ending = _loop.spawn(self._ended())

    async def _send_once(self, send_rate: float | None) -> None:
        self.stopped = None
        try:
            report = await send(
                self._outbox,
                self._batch,
                _Channel(self._transport, self._queue),
                send_rate=send_rate,
                on_sent=self._sent,
                on_trouble=self._heard_trouble,
                on_wait=self._wait,
                lookup=self._lookup,
                also_retry=self._is_new,
                who={"pid": os.getpid(), "target": self._transport.endpoint.target},
            )
            if report.already_there:
                await self._outbox.run(self._outbox.batches.set_setting, self._batch, "already", report.already_there)
        except CloudTasksError as error:
            self.stopped = error
        except Exception as error:
            _LOGGER.exception("sending batch %s failed", self._batch)
            self.stopped = ServiceError(f"sending ended with {type(error).__name__}: {error}", resource=self._batch)
        finally:
            self._rival, self.unanswered = None, False
            self._heard(None)

    def _heard_trouble(self, error: CloudTasksError) -> None:
        self.unanswered = isinstance(error, EndpointError)
        self._heard(error)

    def _wait(self, rival: Mapping[str, Any] | None) -> None:
        """Note who sends instead; None: this sending begins, so that it was answered."""
        changed = rival != self._rival or self.unanswered
        self._rival, self.unanswered = rival, False
        if changed:
            self._heard(None)

    def _is_new(self, error: CloudTasksError) -> bool:
        """Tell whether the queue is only not known yet, as we have just made it."""
        return isinstance(error, QueueNotFoundError) and self._transport.is_new(self._queue)


class _Channel:
    """The transport as the sender wants it: errors about a queue that is not there name the queue."""

    def __init__(self, transport: Transport, queue: str) -> None:
        self.google = transport.google
        self._transport, self._queue = transport, queue

    async def raw(self, method: str, request: bytes, *, timeout: float | None = 20.0) -> bytes:
        return await self._transport.raw(method, request, timeout=timeout, resource_name=self._queue)
