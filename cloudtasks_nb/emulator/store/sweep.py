"""Deletes expired data in small slices: names, purged tasks, operations, log entries, and tasks past retention."""

from __future__ import annotations

from cloudtasks_nb.emulator.model.clock import DAY, HOUR, SECOND
from cloudtasks_nb.emulator.store.database import Statement
from cloudtasks_nb.emulator.store.state import LAST_NUMBER, QueueState, task_key
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["sweep"]

_SLICE = 5000
_OPERATIONS_KEPT = HOUR
_LOG_KEPT = 30 * DAY  # as Cloud Logging's default bucket


def sweep(store: Store, now: int, *, keep_due: bool = False) -> bool:
    """Delete one slice of the expired data, and return whether more is left.

    Parameters
    ----------
    store : Store
        The deletions go into its database; the caller commits.
    now : int
        Microseconds since 1970.
    keep_due : bool
        Keep tasks past their retention if they were due before it ended, so that they can still be sent.
    """
    _sweep_rows(store, now)
    more = _sweep_purged_ranges(store, now)
    for queue in list(store.contents.by_number.values()):
        for task in _expired(queue.tombstones, now):
            del queue.tombstones[task]
        more |= _expire_tasks(store, queue, now, keep_due=keep_due) == _SLICE
    return more


def _sweep_rows(store: Store, now: int) -> None:
    database = store.database
    # Only with expired rows, because an empty deletion would cause a commit: the oldest row of each table is checked.
    for oldest, statement, limit in (
        ("SELECT until FROM tombs ORDER BY seq LIMIT 1", Statement.SWEEP_TOMBSTONES, now),
        ("SELECT made FROM operations ORDER BY seq LIMIT 1", Statement.SWEEP_OPERATIONS, now - _OPERATIONS_KEPT),
        ("SELECT seq FROM log ORDER BY seq LIMIT 1", Statement.SWEEP_LOG, now - _LOG_KEPT),
    ):
        rows = database.read(oldest)
        if rows and rows[0][0] <= limit:
            database.put(statement, (limit,))
    operations = store.contents.operations
    for name in _expired(operations, now - _OPERATIONS_KEPT):
        del operations[name]


def _expired(times: dict[str, int], limit: int) -> list[str]:
    """Return the keys whose time is not after the limit; the times are in ascending order."""
    expired = []
    for key, time in times.items():
        if time > limit:
            break
        expired.append(key)
    return expired


def _sweep_purged_ranges(store: Store, now: int) -> bool:
    expired = [key for key, until in store.contents.purged_ranges.items() if until <= now]
    if not expired:
        return False
    # A queue with uncommitted tasks may still get rows in its ranges, so these are kept until the commit.
    uncommitted = store.uncommitted()
    key = next((key for key in expired if key[0] not in uncommitted), None)
    if key is None:
        return True
    q, upto = key
    base = task_key(q, 0)
    first = store.database.read("SELECT min(seq) FROM tasks WHERE seq BETWEEN ? AND ?", (base, base + upto))[0][0]
    if first is None:
        store.database.put(Statement.SWEEP_ATTEMPTS, (base, base + upto))
        store.database.put(Statement.DELETE_PURGED_RANGE, key)
        del store.contents.purged_ranges[key]
        return len(expired) > 1
    store.database.put(Statement.SWEEP_TASKS, (first, min(first + _SLICE - 1, base + upto)))
    return True


def _expire_tasks(store: Store, queue: QueueState, now: int, *, keep_due: bool) -> int:
    """Delete a slice of the tasks that are past the queue's retention, and return their number."""
    retention = queue.config.task_ttl
    cutoff = (now - retention) // SECOND
    rows = store.database.read(
        "SELECT seq - ?, id, made, due FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
        (queue.base, queue.base, task_key(queue.q, LAST_NUMBER), _SLICE),
    )
    expired = []
    for number, task, made, due in rows:
        if made < cutoff and queue.live.get(task) == number:
            attempts = queue.attempts.get(number)
            was_due = (attempts.due if attempts else due) <= made * SECOND + retention
            if not (keep_due and queue.dispatching and was_due):
                expired.append((number, task))
    for number, task in expired:
        store.end_task(queue, number, task, now)
    return len(expired)
