"""Cancel a batch: stop its sending, delete its tasks in the queue, and record which were deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.send_supervisor import SendSupervisor
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Outcome, State
from cloudtasks_nb.service.bulk import delete
from cloudtasks_nb.service.connection import Connection

__all__ = ["Cancellation"]

_DELETED_TOGETHER = 1000  # tasks that are deleted, and then recorded, together


class Cancellation:
    """Cancels one batch. All of it runs on the background loop.

    Parameters
    ----------
    batch : str
        Id of the batch.
    publish : callable
        Is awaited after each change of the batch in the outbox.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        batch: str,
        queue: QueueName,
        outcomes: OutcomeTracker,
        sending: SendSupervisor,
        *,
        publish: Callable[[], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._batch = batch
        self._queue = queue
        self._outcomes = outcomes
        self._sending = sending
        self._publish = publish
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.trouble: str | None = None

    @property
    def active(self) -> bool:
        """Whether the tasks of the batch are being deleted, or soon will be, in the background."""
        return self._running > 0

    def begin(self) -> None:
        """Begin to cancel in the background; from now on the batch counts as being cancelled."""
        self._running += 1
        task = _loop.spawn(self._run_in_the_background())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what runs in the background."""
        for task in tuple(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self) -> None:
        """Stop sending, delete the tasks in the queue, and record which were deleted."""
        self.trouble = None
        await self._outbox.run(self._outbox.requests.cancel, self._batch)
        # Wait for the results of the requests that are under way: their tasks have to be deleted too.
        left = await self._outbox.run(self._outbox.batches.counts, self._batch)
        if left[State.UNSENT]:
            self._sending.begin()
        await self._sending.join()
        await self._delete_tasks(await self._outbox.run(self._outcomes.sent_rows))
        self._connection.watcher.refresh(self._queue)
        await self._publish()

    async def _run_in_the_background(self) -> None:
        try:
            await self.run()
        except CloudTasksError as error:
            self.trouble = f"not all rows are cancelled: {error.message}"
        finally:
            self._running -= 1
        await self._publish()  # the batch may be finished now, and notifications due

    async def _delete_tasks(self, rows: Sequence[tuple[int, str, int]]) -> None:
        """Delete the tasks of rows, which are given by ref, task and try, and record which were deleted."""
        refused: Counter[str] = Counter()
        for start in range(0, len(rows), _DELETED_TOGETHER):
            part = rows[start : start + _DELETED_TOGETHER]
            errors = await delete(
                self._connection,
                self._queue,
                [task for _, task, _ in part],
                lambda _: None,
                lambda error, count: refused.update({error.message: count}),
            )
            deleted = [
                Outcome(ref=ref, attempt=attempt, state=State.CANCELLED, reason="")
                for (ref, _, attempt), error in zip(part, errors, strict=True)
                if error is None
            ]
            await self._outbox.run(self._outbox.outcomes.record, self._batch, deleted)
            if refused:
                self.trouble = f"{refused.total():,} tasks are not deleted: {refused.most_common(1)[0][0]}"
            await self._publish()
