"""Clearing away: free names, dead rows, finished operations, old log entries, tasks past their retention."""

from __future__ import annotations

from cloudtasks_nb.emulator.model.clock import DAY, HOUR
from cloudtasks_nb.emulator.store.journal import Write
from cloudtasks_nb.emulator.store.memory import QueueState, sequence
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["sweep"]

_SLICE = 5000
_OPERATIONS_KEPT = HOUR
_LOG_KEPT = 30 * DAY  # as Cloud Logging's default bucket


def sweep(store: Store, now: int, *, spare_due: bool = False) -> bool:
    """Clear away one slice of what is over, and tell whether more is left.

    Parameters
    ----------
    store : Store
        Its journal is written to; the caller commits.
    now : int
        Microseconds since 1970.
    spare_due : bool
        Keep tasks past their retention that were due before it was over, and are still to be sent.
    """
    _sweep_rows(store, now)
    more = _sweep_graves(store, now)
    for queue in list(store.contents.by_number.values()):
        _free_names(queue, now)
        more |= store.expire(queue, _SLICE, spare_due=spare_due) == _SLICE
    return more


def _sweep_rows(store: Store, now: int) -> None:
    journal = store.journal
    # A commit without work would wake the disk: look at the oldest row of each table first.
    for oldest, write, limit in (
        ("SELECT until FROM tombs ORDER BY seq LIMIT 1", Write.SWEEP_TOMBS, now),
        ("SELECT made FROM operations ORDER BY seq LIMIT 1", Write.SWEEP_OPERATIONS, now - _OPERATIONS_KEPT),
        ("SELECT seq FROM log ORDER BY seq LIMIT 1", Write.SWEEP_LOG, now - _LOG_KEPT),
    ):
        rows = journal.read(oldest)
        if rows and rows[0][0] <= limit:
            journal.put(write, (limit,))
    operations = store.contents.operations
    expired = []
    for name, key in operations.items():
        if key > now - _OPERATIONS_KEPT:
            break
        expired.append(name)
    for name in expired:
        del operations[name]


def _free_names(queue: QueueState, now: int) -> None:
    expired = []
    for task, until in queue.tombs.items():
        if until > now:
            break
        expired.append(task)
    for task in expired:
        del queue.tombs[task]


def _sweep_graves(store: Store, now: int) -> bool:
    due = [grave for grave, until in store.contents.graves.items() if until <= now]
    if not due:
        return False
    # Rows that are not committed yet are not seen, but come: their grave is needed until then.
    uncommitted = store.uncommitted()
    grave = next((grave for grave in due if grave[0] not in uncommitted), None)
    if grave is None:
        return True
    q, upto = grave
    base = sequence(q, 0)
    first = store.journal.read("SELECT min(seq) FROM tasks WHERE seq BETWEEN ? AND ?", (base, base + upto))[0][0]
    if first is None:
        store.journal.put(Write.SWEEP_ATTEMPTS, (base, base + upto))
        store.journal.put(Write.SWEEP_GRAVE, (q, upto))
        del store.contents.graves[q, upto]
        return len(due) > 1
    store.journal.put(Write.SWEEP_TASKS, (first, min(first + _SLICE - 1, base + upto)))
    return True
