"""Cancel a batch: stop its sending, delete its tasks in the queue, and record which were deleted.

What is under way is stored, so that the next process that takes the batch up goes on where a killed one was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, UnavailableError
from cloudtasks_nb.fanout.batch.send_supervisor import SendSupervisor
from cloudtasks_nb.fanout.outbox.deletions import DeletionPage, DeletionQueue
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.bulk import delete
from cloudtasks_nb.service.connection import Connection

__all__ = ["Cancellation"]

_DELETED_TOGETHER = 1000  # tasks in a call, the service's limit (https://cloud.google.com/tasks/docs/quotas)
_LOCK_POLL = 0.5  # seconds between two checks whether another process has ended to cancel the batch
_IN_FLIGHT = 3  # calls at the same time
_SETTING = "cancelling"  #: of the batch, while it is being cancelled: `paused` is whether the queue was paused for that


@dataclass(eq=False)
class Cancellation:
    """Cancels one batch. All of it runs on the background loop."""

    connection: Connection
    outbox: Outbox
    record: BatchRecord
    sending: SendSupervisor
    supervisor: _loop.Supervisor
    publish: Callable[[], None]  #: called after each change of the batch in the outbox
    ended: Callable[[], None]  #: called when a cancellation in the background has ended

    def __post_init__(self) -> None:
        self.batch = self.record.id
        self.queue = QueueName.parse(self.record.place.queue_name)
        self.active = False  #: the tasks of the batch are being deleted, or soon will be, in the background
        self.trouble: str | None = None
        self._requested = False

    def begin(self) -> None:
        """Begin to cancel in the background, once more if that is running; from now on the batch is being cancelled."""
        self.active = self._requested = True
        self.supervisor.start("the cancellation of", self._run)

    async def take_up(self) -> None:
        """Go on with a cancellation in the background that a process which has ended has begun."""
        stored = await self._stored()
        lock = self.outbox.requests.lock(self.batch, "cancel") if stored else None
        if lock is None:
            return
        lock.release()
        line = f"batch {self.batch} was being cancelled when its kernel ended: the remaining tasks are deleted now"
        if stored.get("paused"):
            line += f"; queue {self.queue.queue} was paused for that, and is resumed at the end"
        notify(line)
        self.begin()

    async def _run(self) -> None:
        while self._requested:
            self._requested, self.trouble = False, None
            try:
                await self._cancel()
            except Exception as error:  # noqa: BLE001 - shown
                wrong = _loop.as_toolkit_error("the cancellation", error)
                self.trouble = f"not all rows are cancelled: {wrong.message}"
            self.active = self._requested
            if not self.active:
                self.ended()  # the batch may be finished now, and notifications due

    async def _cancel(self) -> None:
        """Cancel the batch, as the only process that does, and store whether that has come to its end."""
        while (lock := self.outbox.requests.lock(self.batch, "cancel")) is None:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_LOCK_POLL)
        try:
            if await self._cancel_rows():
                await self.outbox.run(self.outbox.batches.set_setting, self.batch, _SETTING, None)
        finally:
            lock.release()
        self.connection.watcher.refresh(self.queue)
        self.publish()

    async def _cancel_rows(self) -> bool:
        """Stop sending, delete the tasks in the queue, and record which were deleted.

        Return whether the next process has nothing left to do.
        """
        paused = await self._prepare()
        try:
            steps = self.outbox.requests.cancel(self.batch)
            while await self.outbox.run(next, steps, 0):
                self.publish()  # a sending that waits for the canary ends with the last of them
            # Wait for the results of the requests that are under way: their tasks have to be deleted too.
            if await self.outbox.run(self.outbox.requests.waiting, self.batch):
                self.sending.begin()
            await self.sending.join()
            refusal = await self._delete_tasks()
        finally:
            resumed = not paused or await self._resume()
        return resumed and not isinstance(refusal, UnavailableError)

    async def _counts(self) -> dict[State, int]:
        return await self.outbox.run(self.outbox.batches.counts, self.batch)

    async def _stored(self) -> Mapping[str, Any]:
        """Return what is stored of a cancellation that has not ended; empty if there is none."""
        return (await self.outbox.run(self.outbox.batches.settings, self.batch)).get(_SETTING) or {}

    async def _prepare(self) -> bool:
        """Store that the batch is being cancelled; pause its queue if that is useful; return whether it is paused.

        In a queue that has other tasks too, the tasks are deleted in the order of their dispatch.
        """
        paused: bool = (await self._stored()).get("paused") or await self._is_alone()
        await self.outbox.run(self.outbox.batches.set_setting, self.batch, _SETTING, {"paused": paused})
        if paused:
            try:
                await self.connection.transport.call("PauseQueue", name=str(self.queue))
            except CloudTasksError:  # such as a missing permission: tasks may run before they are deleted
                paused = False
        return paused

    async def _resume(self) -> bool:
        """Resume the queue that was paused for the deletion; return whether that was possible."""
        try:
            await self.connection.transport.call("ResumeQueue", name=str(self.queue))
        except CloudTasksError as error:
            notify(
                f"queue {self.queue.queue} stays paused: it was paused to cancel batch {self.batch}, and could not "
                f'be resumed: {error.message}; tasks.batch("{self.batch}") or queue.resume() resumes it'
            )
            return False
        return True

    async def _is_alone(self) -> bool:
        """Return whether the queue runs, and has many tasks of this batch and no others."""
        counts = await self._counts()
        ours = counts[State.SENT] + counts[State.UNSENT]
        if ours <= _DELETED_TOGETHER:
            return False
        try:
            values = await self.connection.watcher.read_queue(self.queue)
        except CloudTasksError:
            return False
        tasks = values.get("tasks")
        return values["state"] == "RUNNING" and tasks is not None and tasks <= ours

    async def _delete_tasks(self) -> CloudTasksError | None:
        """Delete the tasks that are in the queue; return the error of a call that failed as a whole."""
        pages, refusals = self.outbox.deletions(self.batch), list[CloudTasksError]()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_IN_FLIGHT):
                    group.create_task(self._delete_pages(pages, refusals))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        if not refusals:
            return None
        left = (await self._counts())[State.SENT]
        self.trouble = f"{left:,} tasks are not deleted: {refusals[0].message}"
        return refusals[0]

    async def _delete_pages(self, pages: DeletionQueue, refusals: list[CloudTasksError]) -> None:
        """Delete the tasks of one page after the other until there are no more, or a call fails as a whole."""
        page, results = None, list[bool | None]()
        while page := await self.outbox.run(pages.turn, page, results, size=0 if refusals else _DELETED_TOGETHER):
            self.publish()
            results = await self._delete_page(page, refusals)

    async def _delete_page(self, page: DeletionPage, refusals: list[CloudTasksError]) -> list[bool | None]:
        """Delete the tasks of a page; return for each whether it was deleted, None if that is not known."""
        own = list[CloudTasksError]()
        errors = await delete(
            self.connection,
            self.queue,
            page.tasks,
            lambda _: None,
            lambda error, _: own.append(error),
            request_id=request_id(self.batch, 0, page.tasks),
        )
        refusals += own
        # After an error of a call it is not known whether the call had an effect, unless it was not permitted.
        failed = None if any(not isinstance(error, PermissionDeniedError) for error in own) else False
        return [True if error is None else failed for error in errors]
