"""Cancel a batch: drop what is not sent, delete its tasks in the queue, and record which were deleted.

The wish is stored with the batch. The process that cancels it holds a lock; if that process ends before it is done, the
next one that has the batch open goes on. Until then no process gives out rows of the batch.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, QueueNotFoundError, StoreError
from cloudtasks_nb.fanout.batch.owner import BatchOwner
from cloudtasks_nb.fanout.batch.sending import Reading
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord, Cancel, Scope, whole
from cloudtasks_nb.fanout.outbox.requests import DeletionQueue
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.bulk import delete
from cloudtasks_nb.store.ownership import Purpose

__all__ = ["Cancellation"]

_DELETED_TOGETHER = 1000  # tasks in a call, the service's limit (https://cloud.google.com/tasks/docs/quotas)
_LOCK_POLL = 0.5  # seconds between two checks whether another process has ended to cancel the batch
_IN_FLIGHT_POLL = 0.2  # seconds between two looks whether rows in requests have come back
_RETRY, _RETRY_LONGEST = 2.0, 30.0  # seconds before another try when the service does not answer
_IN_FLIGHT = 3  # calls at the same time
_WORK = "the cancellation of"
_OURS = 2_000_000  # microseconds in which the process that wishes a cancel begins it itself


@dataclass(eq=False)
class Cancellation:
    """Cancels one batch. All of it runs on the background loop."""

    reading: Reading  #: finds the rows that others have sent, whose tasks have to be deleted too

    def __post_init__(self) -> None:
        self.sending = sending = self.reading.sending
        self.connection, self.outbox, self.supervisor = sending.connection, sending.outbox, sending.supervisor
        self.batch, self.queue, self.cancels = self.reading.batch, self.reading.outcomes.queue, sending.cancels
        self.trouble: str | None = None
        #: This connection may not cancel it: whether every row was final when it was refused; None: it was not.
        self._refused: bool | None = None
        self._owner = False  #: this process is the one that cancels it
        self._woken = asyncio.Event()

    @property
    def active(self) -> bool:
        """Whether this process cancels the batch, or waits until another one has ended to do so."""
        return self.supervisor.running(_WORK)

    @property
    def waits(self) -> bool:
        """Whether another process cancels the batch, and this one goes on if that ends before."""
        return self.active and not self._owner

    async def wish(self, rows: Scope) -> bool:
        """Store that the batch, or rows of it, are to be cancelled, and begin; return whether it is the batch."""
        at = self.connection.clock.micros()

        def change(facts: BatchFacts) -> BatchFacts:
            record = self.outbox.batches.get(self.batch)
            meant = record.whole if rows.covers(record.total) else rows
            return replace(facts, cancel=self.cancels.wished(facts.cancel, meant, at))

        _, facts = await self.outbox.run(self.outbox.batches.change, self.batch, change)
        self._refused = None
        self.begin()
        return facts.cancels_all

    def begin(self) -> None:
        """Cancel the batch in the background; if that is running and pauses after an error, it goes on at once."""
        self._woken.set()
        self.supervisor.start(_WORK, self._run)

    def take_up(self, record: BatchRecord) -> None:
        """Cancel the batch if that is wished, by whatever process, and this connection may."""
        wish = record.facts.cancel
        # What is left of a cancel that was refused may be possible at the end: then there is no task to be deleted.
        refused = self._refused is not None and (self._refused or not record.done)
        if wish is None or self.active or refused:
            return
        if wish.by == self.cancels.name or abs(self.connection.clock.micros() - wish.at) > _OURS:
            self._refused = None
            self.begin()

    async def _run(self) -> None:
        """Cancel the batch as the only process that does, until no cancel is wished any more."""
        while (lock := self.outbox.requests.lock(self.batch, "cancel")) is None:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_LOCK_POLL)
        self._owner, pause = True, _RETRY
        try:
            self._tell(await self._wish())
            while (wish := await self._wish()) is not None and self._refused is None:
                error = await self._cancel(wish)
                if error is None or isinstance(error, QueueNotFoundError):  # which has taken its tasks along
                    await self.outbox.run(self.outbox.batches.change, self.batch, partial(_without, wish))
                elif isinstance(error, PermissionDeniedError):
                    self._refused = (await self.outbox.run(self.outbox.batches.get, self.batch)).done
                else:
                    await self._pause(pause)
                    pause = min(2 * pause, _RETRY_LONGEST)
        finally:
            self._owner = False
            lock.release()
        self.connection.watcher.refresh(self.queue)
        self.sending.ended()  # the batch may be finished now, and notifications due

    async def _pause(self, seconds: float) -> None:
        """Wait before another try, unless a verb asks for it before."""
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _wish(self) -> Cancel | None:
        """Return the stored wish; None if there is none."""
        return (await self.outbox.run(self.outbox.batches.facts, self.batch)).cancel

    def _tell(self, wish: Cancel | None) -> None:
        """Say that another connection has begun the cancel, and has not carried it out."""
        if wish is not None and not wish.has_remote and wish.by != self.cancels.name:
            notify(f"batch {self.batch} was being cancelled by another connection: the remaining tasks are deleted now")

    async def _cancel(self, wish: Cancel) -> CloudTasksError | None:
        """Stop sending, delete the tasks in the queue, and record which were deleted.

        Return the error because of which something is left to do.
        """
        self.trouble = None
        parts: list[tuple[Scope, str | None]] = [
            (Scope(self.batch, number, rows), name) for number, rows, name in wish.parts
        ]
        rows = whole(self.batch)
        every = (rows, None if wish.remote else self.cancels.name_of(wish, rows))
        errors = [await self._cancel_rows(rows, name) for rows, name in parts or [every]]
        return next(filter(None, errors), None)

    async def _cancel_rows(self, rows: Scope, name: str | None) -> CloudTasksError | None:
        """Do the same for the batch, or some rows of it; without a name another home deletes the tasks."""
        pages, owner = self.outbox.deletions(rows), None if name is None else self.sending.owner
        if name is not None:
            await self.cancels.tell(name, rows)
        owned = owner is not None and not await owner.sends_here()
        if owner is not None and owned and (error := await self._own(owner, rows)):
            return error
        facts = await self.outbox.run(self.outbox.batches.facts, self.batch)
        before = facts.owned_before is not None
        if error := await self._learn(others=name is None or before, lists=name is not None and before):
            return error
        if name is None:
            await self.outbox.run(pages.leave)
        steps = self.outbox.requests.cancel(rows)
        more = await self.outbox.run(next, steps, 0)  # from the first step on, no request of the batch is sent again
        while more:
            self.sending.changed()  # a sending that waits for the canary ends with the last of them
            more = await self.outbox.run(next, steps, 0)
        if error := await self._join(rows):
            return error
        if owner is not None and not (owned or rows.input) and (error := await self._own(owner, rows)):
            return error
        if name is not None:
            return await self._delete_tasks(pages, rows)
        await self.outbox.run(pages.leave)
        return None

    async def _own(self, owner: BatchOwner, rows: Scope) -> CloudTasksError | None:
        """Own the batch in a shared store, and wait until no other home can send its rows.

        Whoever owns it later knows of the cancel. Return the error because of which that is not known yet.
        """
        error, silent = await _loop.gather((self._delete_known(rows), self._take_over(owner)))
        return silent or error

    async def _take_over(self, owner: BatchOwner) -> CloudTasksError | None:
        """Own the batch for a moment; return the error because of which another home may still send it."""
        try:
            async with owner.own(Purpose.CANCELS):
                return None
        except StoreError as silent:
            self.trouble = f"another home may still send this batch: {silent.message}"
            return silent

    async def _delete_known(self, rows: Scope) -> CloudTasksError | None:
        """Delete the tasks at once that others have sent by now; later ones are deleted after the wait."""
        unknown = await self._learn(others=True, lists=True)
        error = await self._delete_tasks(self.outbox.deletions(rows), rows)
        return unknown if error is None or isinstance(error, QueueNotFoundError) else error

    async def _learn(self, *, others: bool, lists: bool) -> CloudTasksError | None:
        """Read which rows were sent, also by others; return the error because of which nobody can tell.

        Log and results tell nothing of tasks that wait: only a list of the queue's tasks does.
        """
        error: CloudTasksError | None = await self.reading.adopt(others=others)
        if error is None and lists:
            error = await self.reading.adoption.read_queue()
            self.trouble = None if error is None else f"tasks of other homes may be left: {error.message}"
        return None if isinstance(error, QueueNotFoundError) else error

    async def _join(self, rows: Scope) -> CloudTasksError | None:
        """Wait for the results of the requests that are under way: their tasks have to be deleted too.

        The other rows of the batch are sent meanwhile. Return the error because of which there are no results.
        """
        waiting, looked = self.outbox.requests.waiting, False
        if not rows.input:
            if await self.outbox.run(waiting, rows):
                self.sending.begin()
            await self.sending.join()
            return None
        while await self.outbox.run(waiting, rows):
            if not self.sending.active:  # they are in requests of a sender that has ended
                if looked and self.sending.error is not None:
                    return self.sending.error
                self.sending.begin(only_doubtful=True)
                looked = True
            await self.sending.clock.sleep(_IN_FLIGHT_POLL)
            steps = self.outbox.requests.cancel(rows)
            while await self.outbox.run(next, steps, 0):
                self.sending.changed()
        return None

    async def _delete_tasks(self, pages: DeletionQueue, rows: Scope) -> CloudTasksError | None:
        """Delete the tasks of rows that are in the queue; return the error of a call that failed as a whole."""
        refusals = list[CloudTasksError]()
        await _loop.gather(self._delete_pages(pages, refusals) for _ in range(_IN_FLIGHT))
        if not refusals:
            return None
        left = (await self.outbox.run(self.outbox.batches.counts, rows))[State.SENT]
        self.trouble = f"{left:,} tasks are not deleted: {refusals[0].message}"
        return refusals[0]

    async def _delete_pages(self, pages: DeletionQueue, refusals: list[CloudTasksError]) -> None:
        """Delete the tasks of one page after the other until there are no more, or a call fails as a whole."""
        page, results = None, list[bool | None]()
        while page := await self.outbox.run(pages.turn, page, results, size=0 if refusals else _DELETED_TOGETHER):
            self.sending.changed()
            own, name = list[CloudTasksError](), request_id(self.batch, 0, page.tasks)
            errors = await delete(self.connection, self.queue, page.tasks, lambda _: None, own.append, request_id=name)
            refusals += own
            # After an error of a call it is not known whether the call had an effect, unless it was not permitted.
            failed = None if any(not isinstance(error, PermissionDeniedError) for error in own) else False
            results = [True if error is None else failed for error in errors]


def _without(wish: Cancel, facts: BatchFacts) -> BatchFacts:
    """Remove the wish that was carried out; a later one stays."""
    return facts if facts.cancel is None or facts.cancel.at != wish.at else replace(facts, cancel=None)
