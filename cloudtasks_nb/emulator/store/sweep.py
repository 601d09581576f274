"""Deletes expired data in small slices: names, purged tasks, operations, log entries, and tasks past retention."""

from __future__ import annotations

import sys
from itertools import islice, takewhile
from typing import Any

from cloudtasks_nb.emulator.model.clock import DAY, SECOND
from cloudtasks_nb.emulator.store.database import Statement, TaskDatabase
from cloudtasks_nb.emulator.store.state import LAST_NUMBER, QueueState, task_key
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["sweep"]

_SLICE = 5000  # rows
_OPERATIONS_SLICE = 500  # an operation takes as much space as many other rows
_RANGE_COST = 20  # a purged range takes as long as this many tasks, even an empty one
_LOG_KEPT = 30 * DAY  # as Cloud Logging's default bucket
_BYTES_PER_KEY = 200  # a dict that has more is mostly empty: with many keys, a key takes 40 to 140 bytes
_SMALL = 1 << 16  # bytes; a smaller dict is not worth a copy


def sweep(store: Store, now: int, *, keep_due: bool = False) -> bool:
    """Delete one slice of the expired data, and return whether there may be more.

    Parameters
    ----------
    store : Store
        The deletions go into its database; the caller commits.
    now : int
        Microseconds since 1970.
    keep_due : bool
        Keep tasks past their retention if they were due before it ended, so that they can still be sent.
    """
    more = _sweep_names(store, now)
    more |= _sweep_operations(store, now - store.operations_kept)
    more |= store.log.sweep(now - _LOG_KEPT, _SLICE)
    more |= _sweep_purged_tasks(store)
    for queue in list(store.contents.by_number.values()):
        more |= _expire_tasks(store, queue, now, keep_due=keep_due)
        _release_memory(queue)
    return more


def _sweep_names(store: Store, now: int) -> bool:
    """Free names: what the file says is free is taken out of the file and of memory."""
    if store.database.pending(Statement.FREE_NAME):
        return True  # the slice before is not deleted yet, and would be found again
    rows = store.database.read(
        "SELECT seq, q, id FROM tombstones WHERE until <= ? ORDER BY until LIMIT ?", (now, _SLICE)
    )
    store.database.put(Statement.FREE_NAME, *[(seq,) for seq, _, _ in rows])
    for _, q, task_id in rows:
        queue = store.contents.by_number.get(q)
        if queue is not None and queue.tombstones.get(task_id, now + 1) <= now:  # it may have been used once more
            del queue.tombstones[task_id]
    return len(rows) == _SLICE


def _sweep_operations(store: Store, until: int) -> bool:
    operations = store.contents.operations  # in ascending order
    expired = [*takewhile(lambda item: item[1] <= until, islice(operations.items(), _OPERATIONS_SLICE))]
    for name, _ in expired:
        del operations[name]
    if expired:
        store.database.put(Statement.SWEEP_OPERATIONS, (expired[-1][1],))
    return len(expired) == _OPERATIONS_SLICE


def _sweep_purged_tasks(store: Store) -> bool:
    """End a slice of the purged tasks, of each queue those of its oldest purge, and return whether there are more."""
    if store.database.pending(Statement.END_PURGE):
        return True  # the last tasks of a purge are not deleted yet, and would be found by the next one
    left, waiting = _SLICE, {q: purges for q, purges in store.contents.purges.items() if purges}
    for q, purges in waiting.items():
        if left > 0:
            upto, purge = next(iter(purges.items()))
            end = task_key(q, upto)
            first, last, size = _slice(store.database, purge.first, end, left)
            store.database.end_tasks(q, first, last, purge.until if q in store.contents.by_number else 0)
            purge.first = last + 1
            if last == end:
                store.database.put(Statement.END_PURGE, (q, upto))
                del purges[upto]
            left -= max(size, _RANGE_COST)
    return any(waiting.values())


def _slice(database: TaskDatabase, low: int, high: int, most: int) -> tuple[int, int, int]:
    """Return the first and the last key of a part of a range, and how many committed tasks it has at most."""
    [(first, last)] = database.read("SELECT min(seq), max(seq) FROM tasks WHERE seq BETWEEN ? AND ?", (low, high))
    # Tasks that are not committed yet are not found; they are the last ones, and belong to the range's last part.
    if first is None:
        return low, high, 0
    size = min(last - first + 1, most)
    return first, (high if size == last - first + 1 else first + size - 1), size


def _expire_tasks(store: Store, queue: QueueState, now: int, *, keep_due: bool) -> bool:
    """Delete the expired ones of a slice of the queue's tasks, and return whether there may be more after it."""
    if not queue.live:
        return False
    retention = queue.config.task_ttl
    cutoff = (now - retention) // SECOND
    first = queue.base + max(queue.floor, queue.expired_upto) + 1
    bounds, queue.expired_upto = (first, task_key(queue.q, LAST_NUMBER)), 0
    # Tasks are in the order of their creation: if the first one has not expired, none has.
    oldest = store.database.read("SELECT made FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT 1", bounds)
    if not oldest or oldest[0][0] >= cutoff:
        return False
    rows = store.database.read(
        "SELECT seq - ?, id, made, due FROM tasks WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
        (queue.base, *bounds, _SLICE),
    )
    for number, task, made, due in rows:
        if made < cutoff and queue.live.get(task) == number:
            attempts = queue.attempts.get(number)
            was_due = (attempts.due if attempts else due) <= made * SECOND + retention
            if not (keep_due and queue.dispatching and was_due):
                store.end_task(queue, number, task, now)
    number, _, made, _ = rows[-1]
    if len(rows) < _SLICE or made >= cutoff:
        return False
    queue.expired_upto = number
    return True


def _release_memory(queue: QueueState) -> None:
    """Give back memory that deleted tasks have used: a dict never shrinks by itself."""
    queue.live, queue.tombstones = _compact(queue.live), _compact(queue.tombstones)
    queue.attempts = _compact(queue.attempts)
    if len(queue.due) > 2 * len(queue.live) + _SLICE:
        queue.due.keep(set(queue.live.values()))


def _compact(mapping: dict[Any, Any]) -> dict[Any, Any]:
    size = sys.getsizeof(mapping)
    return dict(mapping) if size > max(_SMALL, len(mapping) * _BYTES_PER_KEY) else mapping
