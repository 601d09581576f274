"""Cancel a batch: stop its sending, delete its tasks in the queue, and record which were deleted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.send_supervisor import SendSupervisor
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Outcome, State
from cloudtasks_nb.service.bulk import delete
from cloudtasks_nb.service.connection import Connection

__all__ = ["Cancellation"]

_DELETED_TOGETHER = 1000  # tasks that are deleted, and then recorded, together


class Cancellation:
    """Cancels one batch. All of it runs on the background loop.

    Parameters
    ----------
    publish : callable
        Is awaited after each change of the batch in the outbox.
    ended : callable
        Is called when a cancellation in the background has ended.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        record: BatchRecord,
        outcomes: OutcomeTracker,
        sending: SendSupervisor,
        *,
        supervisor: _loop.Supervisor,
        publish: Callable[[], Awaitable[None]],
        ended: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._batch = record.id
        self._queue = QueueName.parse(record.place.queue_name)
        self._outcomes = outcomes
        self._sending = sending
        self._supervisor = supervisor
        self._publish = publish
        self._ended = ended
        self._running = 0
        self._numbers = itertools.count(1)
        self.trouble: str | None = None

    @property
    def active(self) -> bool:
        """Whether the tasks of the batch are being deleted, or soon will be, in the background."""
        return self._running > 0

    def begin(self) -> None:
        """Begin to cancel in the background; from now on the batch counts as being cancelled."""
        self._running += 1
        self._supervisor.start(f"cancellation {next(self._numbers)} of", self._run_in_the_background, again=False)

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
        except Exception as error:  # noqa: BLE001 - shown
            self.trouble = f"not all rows are cancelled: {_loop.as_toolkit_error('the cancellation', error).message}"
        finally:
            self._running -= 1
        self._ended()  # the batch may be finished now, and notifications due

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
