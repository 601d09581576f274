"""Delete batches that are no longer needed, with their results."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import parse_duration
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.owner import BatchOwner
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.absent_handlers import has_ended
from cloudtasks_nb.store.batches import delete_batch
from cloudtasks_nb.store.store import Store

__all__ = ["Others", "delete", "delete_old", "in_use", "notify_deleted", "older"]

#: What becomes of objects in the store of a batch that has rows of other homes.
Others: TypeAlias = Literal["ask", "delete", "leave"]

_NAMED = 5  # batches that a message names
_SWEEP = 60.0  # seconds to remove the rows of a deleted batch; what is left goes when the outbox is opened


def delete(
    outbox: Outbox, store: Store, record: BatchRecord, others: Others = "ask", owner: BatchOwner | None = None
) -> int:
    """Delete a batch from the outbox, and its objects in the store; return how many results were deleted.

    Parameters
    ----------
    owner : BatchOwner, optional
        This process as the owner, if other homes may share the store: one object stays there, which tells them.

    Raises
    ------
    PreconditionError
        If it is being sent or cancelled, or its tasks may be in the queue, or `others` is to ask and it has rows of
        other homes, or another home owns it and lives.
    StoreError
        If the store cannot be used; the batch is still in the outbox.
    """
    reason = in_use(outbox, record)
    if reason is not None:
        raise PreconditionError(
            f"batch {record.id} is not deleted: {reason}",
            resource=record.id,
            hint="batch.cancel() ends the sending and deletes its tasks; then batch.wait() and batch.delete()",
        )
    theirs, results = record.facts.foreign_rows, 0
    if theirs and others == "ask":
        raise PreconditionError(
            f"batch {record.id} is not deleted: {counted(theirs, 'rows')} of it are of other homes, which would lose "
            "them and their results too",
            resource=record.id,
            hint=f'tasks.batch("{record.id}").delete(others=True) deletes all of it; tasks.delete_batches("30d") '
            "deletes old batches of other homes here only",
        )
    if not theirs or others == "delete":
        with suppress(StoreError):  # what cannot be read, as by a damaged claim, is deleted without being counted
            StoredResults(outbox, store, record.id).sync()
        results = outbox.results.count(record.id)
        if owner is not None:
            _loop.run(owner.delete())
        else:
            delete_batch(store, record.id)
    outbox.batches.delete(record.id)
    if results:
        with suppress(StoreError):  # a pack of them that was written meanwhile
            delete_batch(store, record.id)
    outbox.sweep(limit=_SWEEP)
    return results


def delete_old(
    outbox: Outbox,
    records: Iterable[BatchRecord],
    delete_one: Callable[[BatchRecord], int],
    *,
    older_than: Any,
    dry_run: bool,
) -> Sequence[BatchRecord]:
    """Delete batches that did not change for a time; say what was deleted and what is left; return the deleted ones.

    Parameters
    ----------
    delete_one : callable
        Deletes a batch, and returns how many results were deleted.
    older_than : duration
        Since the last change.
    dry_run : bool
        Only say what would be deleted.
    """
    old = older(records, older_than)
    reasons = {record.id: in_use(outbox, record) for record in old}
    chosen = [record for record in old if reasons[record.id] is None]
    if dry_run:
        notify(f"would delete {_batches(chosen)}, and their results")
    else:
        deleted, results = [], 0
        try:
            for record in chosen:
                results += delete_one(record)
                deleted.append(record)
        finally:  # also if one cannot be deleted
            notify_deleted(_batches(deleted), results)
    left = [f"{batch}: {reason}" for batch, reason in reasons.items() if reason is not None]
    if left:
        more = "; …" if len(left) > _NAMED else ""
        notify(f"{counted(len(left), 'batches')} left: {'; '.join(left[:_NAMED])}{more}")
    return chosen


def older(records: Iterable[BatchRecord], age: Any) -> list[BatchRecord]:
    """Return the batches that did not change for a duration."""
    before = time.time() - parse_duration(age, "older_than").total_seconds()
    return [record for record in records if record.changed.timestamp() < before]


def in_use(outbox: Outbox, record: BatchRecord) -> str | None:
    """Return why a batch must stay; None if it can be deleted."""
    if not record.done and outbox.requests.has_sender(record.id):  # at the end a sender leaves in a moment
        return "it is being sent"
    if record.facts.cancel and not record.done:
        return "it is being cancelled"
    pending = record.counts[State.SENT]
    if pending and not _queue_has_ended(record):
        return f"{counted(pending, 'tasks')} may be in the queue"
    return None


def notify_deleted(what: str, results: int) -> None:
    """Print how much was deleted."""
    notify(f"deleted {what}, {counted(results, 'results')}")


def _batches(records: Sequence[BatchRecord]) -> str:
    return f"{counted(len(records), 'batches')}: {counted(sum(record.total for record in records), 'rows')}"


def _queue_has_ended(record: BatchRecord) -> bool:
    """Return whether the batch was sent to a temporary emulator that has ended."""
    reached = record.facts.reached
    return reached.ended or (reached.machine == platform.node() and has_ended(reached.target))
