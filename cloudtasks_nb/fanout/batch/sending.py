"""Send one batch in the background, and begin again when rows are added."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import CloudTasksError, EndpointError, PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.adoption import LATE, Adoption
from cloudtasks_nb.fanout.batch.cancels import Cancels
from cloudtasks_nb.fanout.batch.claims import claim, is_claimed, own_key
from cloudtasks_nb.fanout.batch.gate import Gate, read_batch
from cloudtasks_nb.fanout.outbox.locks import Hold
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.sender.sender import Report, Sender
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.store.store import answer_of

__all__ = ["Sending"]

_LOGGER = logging.getLogger(__name__)
_WORK = "sending"
_PATIENCE = 5.0  # seconds for which the first rows wait for the store
_LOOKS, _LOOK_PAUSE = 3, 0.5  # looks for a process that sends, and seconds after each


@dataclass(eq=False)
class Sending:
    """Sends one batch on request, and keeps the state of the sending. Runs on the background loop."""

    connection: Connection
    adoption: Adoption  #: records before a sending what was sent from elsewhere, and tells which tasks were created
    supervisor: _loop.Supervisor
    cancels: Cancels  #: what other homes have cancelled
    ended: Callable[[], None]  #: called when a sending ends

    def __post_init__(self) -> None:
        self.outbox, self.record, self.clock = self.adoption.outbox, self.adoption.record, self.adoption.clock
        self.changed = self.adoption.changed  #: called after each change
        self.gate = Gate()  #: what holds rows back, as it was read last
        self.trouble: CloudTasksError | None = None  #: the last error that is being retried
        self.error: CloudTasksError | None = None  #: the error that ended the sending early
        self._requested = False
        self._only_doubtful = False  # no row is sent that is not in a request of a sender that has ended
        self._announced: Hold | None = None
        self._gate_changed = asyncio.Event()
        self._other: Mapping[str, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether this process sends the batch, or waits to send it."""
        return self.supervisor.running(_WORK)

    @property
    def unanswered(self) -> EndpointError | None:
        """That nothing answers at the endpoint; None: something has answered since."""
        return self.trouble if isinstance(self.trouble, EndpointError) else None

    @property
    def other_sender_note(self) -> str | None:
        """A sentence about the other sender that this one waits for."""
        if self._other is None or not self.active:
            return None
        pid, target = self._other.get("pid"), self._other.get("target")
        if pid is None or _has_ended(pid):
            sender = "another process"
        elif pid == os.getpid():
            sender = f"another connection of this kernel ({target})"
        else:
            sender = f"process {pid} ({target})"
        return f"{sender} sends the remaining rows; this connection continues when that stops"

    def begin(self, *, only_doubtful: bool = False) -> None:
        """Send the unsent rows; if a sending is just ending, it begins again.

        With `only_doubtful`, only find out about the rows in requests of a sender that has ended, unless this process
        sends the batch.
        """
        self._only_doubtful = only_doubtful and (self._only_doubtful or not self.active)
        self._requested = True
        self._gate_changed.set()
        self._announce()  # at once, so that others see it
        self.supervisor.start(_WORK, self._send)

    def apply_gate(self, gate: Gate) -> None:
        """Send by this gate from now on."""
        if gate != self.gate:
            self.gate = gate
            self._gate_changed.set()

    async def join(self) -> None:
        """Wait until the sending has ended."""
        await self.supervisor.join(_WORK)

    async def check(self, record: BatchRecord) -> None:
        """Make sure that some process sends the unsent rows of the batch, as it was read last.

        Raises
        ------
        CloudTasksError
            The error that ended the sending early.
        PreconditionError
            If no process sends the batch.
        """
        unsent, doubtful = record.counts[State.UNSENT], record.doubtful
        if self.active or not (unsent or doubtful):
            return
        if self.error is not None:
            raise self.error
        for _ in range(_LOOKS):  # a process that has just stored rows is about to send them
            if self.active or not await self.outbox.run(self._is_idle):
                return
            await self.clock.sleep(_LOOK_PAUSE)
        rows, are = (unsent, "are unsent") if unsent else (doubtful, "may have been sent by a process that has ended")
        raise PreconditionError(
            f"{rows:,} rows of batch {self.record.id} {are}, and no process sends them",
            resource=self.record.id,
            hint="batch.resume() sends them",
        )

    def _is_idle(self) -> bool:
        """Return whether rows are unsent and no process sends them."""
        if self.outbox.requests.has_sender(self.record.id):
            return False
        return self.outbox.requests.waiting(self.record.whole)

    async def _send(self) -> None:
        self._announce()
        try:
            while self._requested:
                self._requested = False
                limited = self.gate.until is not None
                await self._send_once()
                if self.error is None:
                    await self._look_again()
                    if limited:
                        await self._wait_for_canary()
        finally:
            self.leave()
        self.ended()

    def leave(self) -> None:
        """Tell other processes that this one does not send the batch any more."""
        if self._announced is not None:
            self._announced.release()
            self._announced = None

    def _announce(self) -> None:
        if self._announced is None:
            self._announced = self.outbox.requests.announce_sender(self.record.id)

    async def _look_again(self) -> None:
        """While rows are held back, look those up once more of which the log may tell later whether they were sent."""
        if self.adoption.known_later and self.gate.until is not None and not self._requested:
            self._gate_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE):
                    await self._gate_changed.wait()
            self.adoption.known_later, self._requested = False, True

    async def _wait_for_canary(self) -> None:
        """Wait for the end of the canary, and have the other rows sent if it has succeeded."""
        while not self._requested and self.gate.running:
            self._gate_changed.clear()
            await self._gate_changed.wait()
        self._requested |= self.gate.until is None

    async def _send_once(self) -> None:
        self.error = None
        try:
            await self._claim()
            if await self.adoption.run(self.will_retry):
                self.supervisor.start("reading the log for", self.adoption.finish)
            with suppress(StoreError):
                await self.cancels.take()
            await self.adoption.hold_for_answer()
            record, gate = await self.outbox.run(read_batch, self.outbox, self.record.id)
            self.apply_gate(gate)
            sender = Sender(
                outbox=self.outbox,
                record=self.record,
                key=await self.outbox.run(own_key, self.outbox, self.record.id),
                transport=self.connection.transport,
                report=self._note,
                until=lambda: 0 if self._only_doubtful else self.gate.until,
                were_created=self.adoption.seen,
                send_rate=record.facts.options.get("send_rate"),
                owner={"pid": os.getpid(), "target": self.connection.endpoint.target},
                clock=self.clock,
            )
            if already := await sender.run():
                change = self.outbox.batches.change
                await self.outbox.run(change, self.record.id, lambda facts: replace(facts, existing=already))
        except Exception as error:
            if not isinstance(error, CloudTasksError):
                _LOGGER.exception("sending batch %s failed", self.record.id)
            self.error = _loop.as_toolkit_error(f"sending batch {self.record.id}", error)
        finally:
            self._other, self.trouble = None, None
            self.changed()

    async def _claim(self) -> None:
        """Claim the batch, unless that was done; without an answer of the store its rows get the key of this home."""
        store = self.connection.store
        try:
            await answer_of(store, _PATIENCE, claim, self.outbox, store, self.record.id)
        except StoreError as error:
            if not await self.outbox.run(is_claimed, self.outbox, store, self.record.id):
                notify(f"until batch {self.record.id} is claimed, its results count in this home only: {error.message}")

    def will_retry(self, error: CloudTasksError | None) -> None:
        """Keep the error until rows are sent; None: something has answered."""
        if error is not self.trouble:
            self._note(Report(error=error, other=self._other))

    def _note(self, report: Report) -> None:
        if report != Report(other=self._other) or self.trouble is not None:
            self._other, self.trouble = report.other, report.error
            self.changed()


def _has_ended(pid: int) -> bool:
    """Return whether a process is known to have ended."""
    try:
        if os.name == "posix":  # elsewhere this would end it
            os.kill(pid, 0)
    except OSError as error:  # else it is somebody else's
        return isinstance(error, ProcessLookupError)
    return False
