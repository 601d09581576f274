"""Cancel a batch: drop what is not sent, delete its tasks in the queue, and record which were deleted.

The wish is stored with the batch. The process that cancels it holds a lock; if that process ends before it is done, the
next one that has the batch open goes on. Until then no process gives out rows of the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, QueueNotFoundError, UnavailableError
from cloudtasks_nb.fanout.batch.cancels import ELSEWHERE, takes_up
from cloudtasks_nb.fanout.batch.reading import Reading
from cloudtasks_nb.fanout.outbox.deletions import DeletionQueue
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope, whole
from cloudtasks_nb.fanout.outbox.requests import CANCELLING, INPUTS
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.bulk import delete

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
        wish = {"at": self.connection.clock.micros(), "by": self.cancels.name}

        def change(record: BatchRecord) -> tuple[dict[str, Any], bool]:
            made = self.cancels.wished(record, record.whole if rows.covers(record.total) else rows, wish)
            return {CANCELLING: made}, INPUTS not in made

        every = await self.outbox.run(self.outbox.batches.decide, self.batch, change)
        self._refused = None
        self.begin()
        return every

    def begin(self) -> None:
        """Cancel the batch in the background; if that is running and pauses after an error, it goes on at once."""
        self._woken.set()
        self.supervisor.start(_WORK, self._run)

    def take_up(self, record: BatchRecord) -> None:
        """Cancel the batch if that is wished, by whatever process, and this connection may."""
        wish = record.settings.get(CANCELLING)
        # What is left of a cancel that was refused may be possible at the end: then there is no task to be deleted.
        refused = self._refused is not None and (self._refused or not record.done)
        if wish is None or self.active or refused:
            return
        if (
            wish.get("by", self.cancels.name) == self.cancels.name
            or abs(self.connection.clock.micros() - wish["at"]) > _OURS
        ):
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
                    await self.outbox.run(self.outbox.batches.decide, self.batch, lambda record: _done(record, wish))
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

    async def _wish(self) -> Mapping[str, Any] | None:
        """Return the stored wish; None if there is none."""
        return (await self.outbox.run(self.outbox.batches.settings, self.batch)).get(CANCELLING)

    def _tell(self, wish: Mapping[str, Any] | None) -> None:
        """Say that another connection has begun the cancel, and has not carried it out."""
        own = wish is not None and not takes_up({CANCELLING: wish})
        if wish is not None and own and wish.get("by", self.cancels.name) != self.cancels.name:
            line = f"batch {self.batch} was being cancelled by another connection: the remaining tasks are deleted now"
            if wish.get("paused"):
                line += f"; queue {self.queue.queue} was paused for that, and is resumed at the end"
            notify(line)

    async def _cancel(self, wish: Mapping[str, Any]) -> CloudTasksError | None:
        """Stop sending, delete the tasks in the queue, and record which were deleted.

        Return the error because of which something is left to do.
        """
        self.trouble = None
        parts: list[tuple[Scope, str | None]] = [
            (Scope(self.batch, number, rows), name) for number, rows, name in wish.get(INPUTS, ())
        ]
        rows = whole(self.batch)
        every = (rows, None if ELSEWHERE in wish else self.cancels.name_of(wish, rows))
        errors = [await self._cancel_rows(rows, name, wish) for rows, name in parts or [every]]
        return next(filter(None, errors), None)

    async def _cancel_rows(self, rows: Scope, name: str | None, wish: Mapping[str, Any]) -> CloudTasksError | None:
        """Do the same for the batch, or some rows of it; without a name another home deletes the tasks."""
        pages = self.outbox.deletions(rows)
        if name is not None:
            await self.cancels.tell(name, rows)
        if silent := await self.reading.adopt(again=name is None):
            return silent  # nobody can tell which rows were sent
        if name is None:
            await self.outbox.run(pages.leave)
        steps = self.outbox.requests.cancel(rows)
        more = await self.outbox.run(next, steps, 0)  # from the first step on, no request of the batch is sent again
        paused = name is not None and not rows.input and await self._prepare(wish)
        try:
            while more:
                self.sending.changed()  # a sending that waits for the canary ends with the last of them
                more = await self.outbox.run(next, steps, 0)
            error = await self._join(rows)
            if error is None and name is None:
                await self.outbox.run(pages.leave)
            elif error is None:
                error = await self._delete_tasks(pages, rows)
        finally:
            refusal = await self._resume() if paused else None
        return error or refusal

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

    async def _prepare(self, wish: Mapping[str, Any]) -> bool:
        """Pause the queue if that is useful, and store that before; return whether it is paused.

        In a queue that has other tasks too, the tasks are deleted in the order of their dispatch.
        """
        if not (wish.get("paused") or await self._is_alone()):
            return False
        await self._store_paused(paused=True)
        try:
            await self.connection.transport.call("PauseQueue", name=str(self.queue))
        except CloudTasksError as error:
            if wish.get("paused") or isinstance(error, UnavailableError):
                return True  # it is paused, or may be
            # Such as a missing permission: tasks may run before they are deleted.
            await self._store_paused(paused=False)
            return False
        return True

    async def _resume(self) -> CloudTasksError | None:
        """Resume the queue that was paused for the deletion; return the error if that was not possible."""
        try:
            await self.connection.transport.call("ResumeQueue", name=str(self.queue))
        except CloudTasksError as error:
            notify(
                f"queue {self.queue.queue} stays paused: it was paused to cancel batch {self.batch}, and could not "
                f'be resumed: {error.message}; tasks.batch("{self.batch}") or queue.resume() resumes it'
            )
            return error
        await self._store_paused(paused=False)
        return None

    async def _store_paused(self, *, paused: bool) -> None:
        def change(record: BatchRecord) -> tuple[dict[str, Any], None]:
            return {CANCELLING: {**record.settings.get(CANCELLING, {}), "paused": paused}}, None

        await self.outbox.run(self.outbox.batches.decide, self.batch, change)

    async def _is_alone(self) -> bool:
        """Return whether the queue runs, and has many tasks of this batch and no others."""
        counts = await self.outbox.run(self.outbox.batches.counts, whole(self.batch))
        ours = counts[State.SENT] + counts[State.UNSENT]
        if ours <= _DELETED_TOGETHER:
            return False
        try:
            values = await self.connection.watcher.read_queue(self.queue)
        except CloudTasksError:
            return False
        tasks = values.get("tasks")
        return values["state"] == "RUNNING" and tasks is not None and tasks <= ours

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


def _done(record: BatchRecord, wish: Mapping[str, Any]) -> tuple[dict[str, Any], None]:
    """Remove the wish that was carried out; a later one stays."""
    later = record.settings.get(CANCELLING, {}).get("at") != wish.get("at")
    return ({} if later else {CANCELLING: None}), None
