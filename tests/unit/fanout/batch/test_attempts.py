"""The error messages of attempts."""

import itertools
from types import SimpleNamespace
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch import errors
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.watch import Pending
from tests.unit.fanout.conftest import chunks, send_all, spool


def test_tasks_that_leave_while_they_are_listed_have_left(outbox: Outbox) -> None:
    """A listing of many pages tells of the time at which it began, at the latest."""
    batch, ticks = spool(outbox, chunks(range(1))).batch, itertools.count(1)
    send_all(outbox, batch)
    [task] = outbox.rows.tasks(batch, outbox.rows.refs(batch, State.SENT))
    found = Pending(state="retrying", attempts=1, schedule_time=9, last_status="INTERNAL", last_message="no")

    async def lookup(*_: Any) -> dict[str, Pending | None]:
        left = Evidence(task=task, source=Source.QUEUE, fact=Fact.LEFT_LOGGED, seen=next(ticks))
        outbox.outcomes.record(batch, [left])
        return {task: found}

    clock, watcher = SimpleNamespace(micros=lambda: next(ticks)), SimpleNamespace(lookup=lookup)
    connection: Any = SimpleNamespace(clock=clock, watcher=watcher)
    queue = QueueName(project="p", location="l", queue="q")
    assert errors.pending_tasks(connection, queue, outbox, whole(batch)) == {task: found}
    assert outbox.batches.counts(whole(batch))[State.GONE] == 1
