"""The tasks of a batch that is cancelled are deleted, and it is written down which were."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Outcome, State
from cloudtasks_nb.service.bulk import delete
from cloudtasks_nb.service.connection import Connection

__all__ = ["deleting"]

_TOGETHER = 1000  # tasks that a call deletes, and rows that are written down together


async def deleting(
    connection: Connection, queue: QueueName, outbox: Outbox, batch: str, waiting: Sequence[tuple[int, str, int]]
) -> AsyncIterator[str | None]:
    """Delete tasks; yield after each portion what is in the way so far, None for nothing.

    Parameters
    ----------
    connection : Connection
    queue : QueueName
    outbox : Outbox
    batch : str
    waiting : sequence of tuple
        Ref, task and try of each row.
    """
    refused: Counter[str] = Counter()
    for start in range(0, len(waiting), _TOGETHER):
        part = waiting[start : start + _TOGETHER]
        errors = await delete(
            connection,
            queue,
            [task for _, task, _ in part],
            lambda _: None,
            lambda error, count: refused.update({error.message: count}),
        )
        gone = [
            Outcome(ref=ref, attempt=attempt, state=State.CANCELLED, reason="")
            for (ref, _, attempt), error in zip(part, errors, strict=True)
            if error is None
        ]
        await outbox.run(outbox.outcomes.record, batch, gone)
        yield f"{refused.total():,} tasks are not deleted: {refused.most_common(1)[0][0]}" if refused else None
