"""Send one batch in the background, begin again when rows are added, and read what others did with it.

Before a verb answers, this reads what rows others have sent, later tries, and how all ended. The first reading of a
batch that was opened reads what this home has missed. While rows are open the loop of the batch reads on by itself.
After the end each reading looks whether there is something new, which costs little.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import (
    CloudTasksError,
    EndpointError,
    OutboxError,
    PermissionDeniedError,
    PreconditionError,
    StoreError,
)
from cloudtasks_nb.fanout.batch.adoption import LATE, READING, Adoption
from cloudtasks_nb.fanout.batch.gate import Cancels, Gate, read_batch
from cloudtasks_nb.fanout.batch.outcome_tracker import unread_since
from cloudtasks_nb.fanout.batch.owner import BatchOwner
from cloudtasks_nb.fanout.batch.report import RENDER
from cloudtasks_nb.fanout.batch.stored_results import claim, is_claimed, own_key
from cloudtasks_nb.fanout.outbox.database import Hold
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.sender.sender import Report, Sender
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.oplog import Wanted
from cloudtasks_nb.store.ownership import Purpose
from cloudtasks_nb.store.store import answer_of

__all__ = ["Reading", "Sending"]

_LOGGER = logging.getLogger(__name__)
_WORK = "sending"
_FOLLOWING_OWNER = "following who sends"
_PATIENCE = 5.0  # seconds for which the first rows wait for the store
_STORE_POLL = 2.0  # seconds before another try to own the batch
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
        owner = BatchOwner(self.outbox, self.connection.store, self.record.id, self.changed)
        self.owner = owner if self.cancels.shared else None  #: None: no other home can send the batch
        self.gate = Gate()  #: what holds rows back, as it was read last
        self.trouble: CloudTasksError | None = None  #: the last error that is being retried
        self.error: CloudTasksError | None = None  #: the error that ended the sending early
        self.prepared = False  #: this process owns the batch, and has read what was sent of it before
        self._requested = False
        self._only_doubtful = False  # no row is sent that is not in a request of a sender that has ended
        self._stopping = False
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
    def follows(self) -> bool:
        """Whether another home sends the batch, as this process sees."""
        seen = self.owner is not None and self.owner.other is not None
        return seen and (self.active or self.supervisor.running(_FOLLOWING_OWNER))

    @property
    def other_sender_note(self) -> str | None:
        """A sentence about the other sender that this one waits for."""
        if self.owner is not None and self.owner.note is not None and self.active:
            return self.owner.note
        if self.owner is not None and self.owner.other is not None and self.follows:
            return f"{self.owner.other.person} {self.owner.other.purpose} this batch"
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

    def has_begun(self) -> bool:
        """Return whether this process sends the batch, or does not for now: another one does, or nothing answers."""
        waits = self._other is not None or self.trouble is not None or self.error is not None
        return not self.active or self.prepared or waits or (self.owner is not None and self.owner.note is not None)

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
        if self.active or not (unsent or doubtful) or await self.follow():
            return
        if self.error is not None:
            raise self.error
        for _ in range(_LOOKS):  # a process that has just stored rows is about to send them
            if self.active or not await self.outbox.run(self._is_idle):
                return
            await self.clock.sleep(_LOOK_PAUSE)
        if self.gate.unrendered:
            raise PreconditionError(self.gate.unrendered, resource=self.record.id, hint=RENDER)
        rows, are = (unsent, "are unsent") if unsent else (doubtful, "may have been sent by a process that has ended")
        raise PreconditionError(
            f"{rows:,} rows of batch {self.record.id} {are}, and no process sends them",
            resource=self.record.id,
            hint="batch.resume() sends them",
        )

    async def follow(self) -> bool:
        """Follow another home that sends the batch, until that stops; return whether one does.

        Raises
        ------
        StoreError
            If the store does not answer.
        """
        if self.owner is None or self.active:
            return False
        if not self.supervisor.running(_FOLLOWING_OWNER):
            await self.owner.look()
            if self.owner.other is None:
                return False
            self.supervisor.start(_FOLLOWING_OWNER, partial(self._follow_owner, self.owner), again=False)
        return True

    async def _follow_owner(self, owner: BatchOwner) -> None:
        with suppress(StoreError):
            await owner.until_free(lambda: self.active)
        if not self.active:
            owner.other = None
            self.adoption.stale = True  # before anybody hears that rows are unsent which it has sent
            await self.adoption.run(self.will_retry)
            await self.adoption.finish()
        self.changed()

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
                elif self.owner is not None and isinstance(self.error, PreconditionError | StoreError):
                    await self._wait_for_owner(self.owner)
        finally:
            self.leave()
        self.ended()

    def leave(self) -> None:
        """Tell other processes that this one does not send the batch any more."""
        if self._announced is not None:
            self._announced.release()
            self._announced = None
        if self.owner is not None:
            self.owner.sending = False

    async def stop(self) -> None:
        """Send no more rows of a shared store; other homes go on at once if all requests are answered soon."""
        if self.owner is not None and self.owner.owns:
            self._stopping, self._requested = True, False
            await self.owner.leave()

    def _announce(self) -> None:
        if self.owner is not None:
            self.owner.sending = True
        if self._announced is None:
            self._announced = self.outbox.requests.announce_sender(self.record.id)

    async def _prepare(self) -> int:
        """Record what was sent of the batch before, by another home too; return the newest row that may be sent now."""
        adoption, facts = self.adoption, await self.outbox.run(self.outbox.batches.facts, self.record.id)
        before = facts.owned_before
        adoption.others = None if self.owner is not None and self.owner.is_first else before is not None
        adoption.stale |= before is not None
        slow = await adoption.run()
        if before is not None:
            await self.cancels.take()
            if self.owner and self.owner.previous and self.owner.previous.purpose is Purpose.CANCELS:
                await self.outbox.run(self.cancels.finish, self.connection.clock.micros())
            await adoption.finish()
            await adoption.hold_for_answer(*before)
            await self.cancels.share_again()
            change = self.outbox.batches.change
            await self.outbox.run(change, self.record.id, lambda facts: replace(facts, owned_before=None))
        elif slow:
            self.supervisor.start("reading the log for", adoption.finish)
        _, gate = await self.outbox.run(read_batch, self.outbox, self.record.id)
        self.apply_gate(gate)
        self.prepared = True
        self.changed()
        return adoption.newest

    async def _look_again(self) -> None:
        """While rows are held back, look those up once more of which the log may tell later whether they were sent."""
        if self.adoption.known_later and self.gate.until is not None and not self._requested:
            self._gate_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE):
                    await self._gate_changed.wait()
            self.adoption.known_later, self._requested = False, True

    async def _wait_for_owner(self, owner: BatchOwner) -> None:
        """Wait until the batch can be sent from here: the store answers, or the home that owns it has stopped."""
        silent = self.error if isinstance(self.error, StoreError) else None
        self.error, self.trouble = None, owner.silence or silent
        self.changed()
        with suppress(StoreError):
            await owner.until_free(lambda: self._requested)
        if not owner.over:
            await self.clock.sleep(_STORE_POLL)
        self._requested |= await self.outbox.run(self.outbox.requests.waiting, self.record.whole)

    async def _wait_for_canary(self) -> None:
        """Wait for the end of the canary, and have the other rows sent if it has succeeded."""
        while not self._requested and self.gate.running:
            self._gate_changed.clear()
            await self._gate_changed.wait()
        self._requested |= self.gate.until is None

    async def _send_once(self) -> None:
        self.error, self.prepared = None, False
        try:
            await self._claim()
            _, gate = await self.outbox.run(read_batch, self.outbox, self.record.id)
            self.apply_gate(gate)

            def changed() -> bool:
                return self.gate.send_rate != gate.send_rate

            sender = Sender(
                outbox=self.outbox,
                record=self.record,
                key=await self.outbox.run(own_key, self.outbox, self.record.id),
                transport=self.connection.transport,
                report=self._note,
                until=lambda: 0 if self._only_doubtful or self._stopping or changed() else self.gate.until,
                were_created=self.adoption.seen,
                send_rate=gate.send_rate,
                owner={"pid": os.getpid(), "target": self.connection.endpoint.target},
                lease=self.owner,
                prepare=self._prepare,
                clock=self.clock,
            )
            already = await sender.run()
            # The next sending first reads what was sent from elsewhere meanwhile, or has the other rate.
            self._requested |= sender.gap or changed()
            if already:
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
        store, new = self.connection.store, self.owner is not None and self.owner.is_first
        try:
            await answer_of(store, _PATIENCE, partial(claim, self.outbox, store, self.record.id, new=new))
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


_FOLLOWING = "reading what others did with"
_ADOPTING = "reading before the cancel of"
_SILENCE = 30.0  # seconds before the next look into a log that did not answer
_PAUSE = 5.0  # seconds between two looks into a log whose entries come late anyway


@dataclass(eq=False)
class Reading:
    """Reads what is new of one batch. Runs on the background loop, one reading at a time."""

    sending: Sending
    record: Callable[[], BatchRecord]  #: returns the batch as it was read last
    unanswered: Callable[[], EndpointError | None]  #: returns that nothing answers
    turn: Callable[[], Awaitable[BatchRecord]]  #: reads the batch from the outbox, and watches it if rows are open
    listen: Callable[[Callable[[], None]], Callable[[], None]]  #: as `Tracker.listen`
    search: Callable[[], Awaitable[None]]  #: finds out what became of rows that have left the queue

    def __post_init__(self) -> None:
        self.adoption, self.supervisor = self.sending.adoption, self.sending.supervisor
        self.outcomes = self.adoption.outcomes
        self.outbox, self.batch = self.outcomes.outbox, self.outcomes.batch
        self._done = False  # the batch was read since it was opened
        self._problems: list[str] = []  # why something could not be read the last time
        self._new = False  # no row was sent when the batch was opened
        self._since = 0  # from when on the log may have what this home has not read, of the service
        self._silent = 0.0, ""  # until when nothing is asked that does not answer, and what it is
        self._looked = 0.0  # when it was looked into the log last

    async def load(self, read_until: dt.datetime | None) -> None:
        """Read the batch as it is opened, the log of which was read up to a time."""
        record = await self.outbox.run(self.outbox.batches.get, self.batch)
        states = {state for state, rows in record.counts.items() if rows}
        self._new = states <= {State.UNSENT, State.REJECTED} and not record.doubtful
        self._since = unread_since(record.created, read_until, self.outcomes.watcher.now())

    def begin(self, *, results: bool = True) -> None:
        """Read in the background, unless that is under way."""
        self.supervisor.start(_FOLLOWING, lambda: self._read(results=results), again=False)

    @property
    def adopts(self) -> bool:
        """Whether the batch is read for the first time, so that open rows may have been sent from elsewhere."""
        return self.supervisor.running(_FOLLOWING) and not (self._done or self.record().done)

    async def wait(self, seconds: float | None = None, *, results: bool = True) -> None:
        """Read what is new, if something answers.

        Parameters
        ----------
        seconds : float, optional
            The longest wait; the reading goes on.
        results : bool
            False: the results were just read.
        """
        self.begin(results=results)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended(_FOLLOWING)

    async def adopt(self, *, others: bool) -> EndpointError | None:
        """Read which rows were sent, before unsent rows count as cancelled; again if `others` may have sent some.

        Return that nothing answers then.
        """
        self.adoption.stale |= others
        facts = await self.outbox.run(self.outbox.batches.facts, self.batch)
        if not self.adoption.stale and facts.log_read is not None:
            return None
        self.supervisor.start(_ADOPTING, self._adopt, again=False)
        await self._ended(_ADOPTING)
        silent = self.unanswered() if self.supervisor.running(_ADOPTING) else None
        return silent if others else None

    @property
    def unread(self) -> Sequence[str]:
        """What is not read yet, a sentence each."""
        if not self.supervisor.running(_FOLLOWING):
            return self._problems
        silent = self.unanswered()
        return [self.adoption.reading or READING if silent is None else silent.message]

    async def _read(self, *, results: bool) -> None:
        self._problems = []
        if self.sending.owner is not None:  # a sending reads what others did before its first row
            await _loop.until(self.listen, self.sending.has_begun)
        if not (self.sending.prepared and self.sending.active):
            await self._adopt()
        new = first = not self._done
        if self._new and first and not await self._was_adopted():
            new = False  # nobody else has sent a row
        elif (await self.turn()).done:
            new = await self._read_log()
        later = await self._read_results() if results else await self.outcomes.record_results()
        if new or later:
            await self._find_out(later=later)
        await self._try("cancel", self._take_cancel)
        if not self.record().done:
            await self._try("owner", self.sending.follow)
        self._done = True
        if first:
            self.sending.ended()

    async def _adopt(self) -> None:
        """Adopt the rows that others have sent, as far as they can be read."""
        if await self.adoption.run(self.sending.will_retry):
            await self.adoption.finish()
        self.adoption.changed()

    async def _find_out(self, *, later: bool) -> None:
        """Find out what became of open rows that others may have sent, or that ended while nobody watched them."""
        if (await self.turn()).done:
            return
        await _loop.until(self.listen, self._was_watched)
        values = self.outcomes.limit.values
        incomplete = values.get("log_sampling_ratio", 0) < 1
        sent, tasks = (await self.turn()).counts[State.SENT], values.get("tasks")
        missing = tasks is not None and tasks < sent  # an entry comes a moment after its task has left the queue
        if sent and (later or incomplete or missing or await self._was_adopted()):
            await self._try("queue", self.search)
        await self.turn()

    def _was_watched(self) -> bool:
        """Return whether the watcher has read the log, or it is known why it cannot be read."""
        found = self.outcomes.snapshot
        return self.record().done or (found is not None and (found.log_until is not None or bool(found.errors)))

    async def _ended(self, work: str) -> None:
        """Wait until some work has ended, or nothing answers."""
        await _loop.until(self.listen, lambda: not self.supervisor.running(work) or self.unanswered() is not None)

    async def _was_adopted(self) -> bool:
        return (await self.outbox.run(self.outbox.batches.facts, self.batch)).sent_by_others

    async def _read_log(self) -> bool:
        """Read the log of a batch that is not watched; return whether it may have something new."""
        outcomes, queue = self.outcomes, self.outcomes.queue
        log, now = outcomes.witnesses.log, asyncio.get_running_loop().time()
        if now < self._silent[0]:
            self._problems.append(self._silent[1])
            return False
        if self._done and now - self._looked < _PAUSE and not await outcomes.watcher.log_is_immediate():
            return False
        self._looked = now
        since, new = max(self._since, log.read_until + 1), False

        async def read() -> None:
            nonlocal new
            await outcomes.learn_queue()
            # Of every kind: the tasks of later tries may not have been attempted yet.
            if not await outcomes.watcher.is_logged(queue, Wanted(since=since, batch=self.batch)):
                return
            new = True
            async for evidence in log.read(None, since):
                await outcomes.tell(evidence)
            await outcomes.explain()

        await self._try("log", read)
        return new or not self._done

    async def _read_results(self) -> bool:
        """Read new results; return whether they are of later tries."""
        later = False

        async def read() -> None:
            nonlocal later
            unreadable = await _loop.to_thread(self.outcomes.stored.sync)
            later = await self.outcomes.record_results()
            if unreadable is not None:
                raise unreadable

        await self._try("results", read)
        return later

    async def _take_cancel(self) -> None:
        owner = self.sending.owner
        if owner is not None and not owner.owns:
            await self.sending.cancels.take()
            await self.turn()  # the sending may have taken it up
            await _loop.until(self.listen, lambda: not ((cancel := self.record().facts.cancel) and cancel.has_remote))
        if (record := self.record()).facts.cancelled_by and record.counts[State.GONE]:  # rows that came later
            await self.outbox.run(self.outbox.deletions(record.whole).leave, deleted=True)
            await self.turn()

    async def _try(self, what: str, read: Callable[[], Awaitable[object]]) -> None:
        try:
            await read()
        except OutboxError:
            raise
        except PermissionDeniedError:
            pass  # it never could be read, as a note says
        except CloudTasksError as error:
            self._problems.append(f"the {what} could not be read: {error.message}")
            if isinstance(error, EndpointError):
                self._silent = asyncio.get_running_loop().time() + _SILENCE, self._problems[-1]
