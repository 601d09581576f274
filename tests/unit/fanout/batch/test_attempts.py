"""The error messages of attempts."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch import errors
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.store import Store
from tests.log_entry import log_entry
from tests.stored import store_result
from tests.unit.fanout.conftest import all_rows, chunks, send_all, spool

ELSEWHERE = f"{0:020x}-a91f03c2-1"  # a task of a batch that this home does not have


def test_stored_errors_are_not_read_all_at_once(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`attempts(limit=None)` may have a hundred thousand failures, each with a traceback in the store."""
    batch, store = spool(outbox, chunks(range(5))).batch, Store("memory://attempts")
    tasks = [str(task) for task in all_rows(outbox, batch, "tasks")]
    for task in tasks:
        store_result(outbox, store, task, error="refused")
    read, sizes = outbox.results.of, []

    def of(batch: str, tasks: list[str], after: int) -> list[tuple[str, str, str, bool]]:
        sizes.append(len(tasks))
        return read(batch, tasks, after)

    monkeypatch.setattr(errors, "_TOGETHER", 2)
    monkeypatch.setattr(outbox.results, "of", of)
    entries = [log_entry(task, 1, status="INTERNAL", url="https://x") for task in (*tasks, ELSEWHERE)]
    found = errors._stored_messages(store, lambda: outbox, entries)
    assert (sizes, found) == ([2, 2, 1], {(task, 1): "refused" for task in tasks})


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
