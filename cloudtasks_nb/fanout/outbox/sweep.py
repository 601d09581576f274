"""Remove batches that did not change for 90 days, and what unfinished spools left."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from cloudtasks_nb.fanout.outbox.database import transact
from cloudtasks_nb.fanout.outbox.locks import hold
from cloudtasks_nb.fanout.outbox.tallies import number

__all__ = ["KEPT_DAYS", "forget", "sweep"]

#: Days that a batch is kept after its last change.
KEPT_DAYS = 90

_DAY = 86_400.0
_HOUR = 3_600.0
_SLICE = 20_000  # rows a transaction, so that others can write in between
_PAGES = 2_000  # given back to the disk at a time

# Some of what is stored of the inputs of a batch.
_OF_INPUTS = "SELECT {} FROM inputs CROSS JOIN {} WHERE num = :part LIMIT :size"
# What removes a part, each until there is nothing more. The first part of a batch goes with all keys and
# results and inputs of the batch.
_REMOVALS = (
    "DELETE FROM rows WHERE ref IN (SELECT ref FROM rows WHERE ref >= :first AND ref < :end LIMIT :size)",
    "DELETE FROM blocks WHERE first IN (SELECT first FROM blocks WHERE first >= :first AND first < :end LIMIT 100)",
    """DELETE FROM keys WHERE num = :part AND k1 <=
       (SELECT max(k1) FROM (SELECT k1 FROM keys WHERE num = :part ORDER BY k1 LIMIT :size))""",
    "DELETE FROM results WHERE id IN (SELECT id FROM results WHERE num = :part LIMIT :size)",
    "DELETE FROM objects WHERE num = :part",
    f"DELETE FROM spans WHERE (scope, first) IN ({_OF_INPUTS.format('scope, first', 'spans ON scope = -input')})",
    f"DELETE FROM labels WHERE (input, place) IN ({_OF_INPUTS.format('input, place', 'labels USING (input)')})",
    "DELETE FROM inputs WHERE num = :part",
    "DELETE FROM tallies WHERE part = :part",
    "DELETE FROM hidden WHERE part = :part",
)


def sweep(connection: sqlite3.Connection, path: Path, *, now: float, limit: float) -> int:
    """Remove what no batch needs; return how many parts that were. None of it is visible.

    Parameters
    ----------
    now : float
        Seconds since 1970.
    limit : float
        Seconds after which the rest is left for the next time.
    """
    deadline = time.monotonic() + limit
    before = now - KEPT_DAYS * _DAY
    if number(connection, "SELECT count(*) FROM batches WHERE changed < ?", before):
        transact(connection, _forget_old, before)
    removed = 0
    for part, touched in connection.execute("SELECT part, touched FROM hidden").fetchall():
        lock = hold(path, f"spool-{part}")
        # Without locks, only the time since its last update shows that a spool has ended.
        if lock is None or (not lock.certain and now - touched < _DAY):
            continue
        try:
            # It may have ended between the query and the lock.
            if number(connection, "SELECT count(*) FROM hidden WHERE part = ?", part):
                removed += _remove(connection, part, deadline)
        finally:
            lock.release()
        if time.monotonic() > deadline:
            break
    _remove_locks(path, now)
    if removed or number(connection, "PRAGMA freelist_count") > _PAGES:
        _shrink(connection, deadline)
    if removed:  # what was removed may have filled the log of the file
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return removed


def _remove_locks(outbox: Path, now: float) -> None:
    """Remove the files of locks that killed processes have left."""
    for file in (outbox.parent / "locks").glob("*.lock"):
        with suppress(OSError):
            if file.stat().st_mtime < now - _HOUR and (lock := hold(outbox, file.stem)):
                lock.release()


def _shrink(connection: sqlite3.Connection, deadline: float) -> None:
    """Give free pages back to the disk."""
    while number(connection, "PRAGMA freelist_count") and time.monotonic() < deadline:
        # Each step frees one page. `execute` makes only the first step of a statement that returns no rows.
        connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


def _forget_old(connection: sqlite3.Connection, before: float) -> None:
    """Remove batches that did not change since then."""
    for (num,) in connection.execute("SELECT num FROM batches WHERE changed < ?", (before,)).fetchall():
        forget(connection, num)


def forget(connection: sqlite3.Connection, num: int) -> None:
    """Remove a batch; its rows are invisible from now on, and are removed in slices by `sweep`."""
    connection.execute("INSERT INTO hidden SELECT first >> 32, 0 FROM spans WHERE scope = ?", (num,))
    connection.execute("DELETE FROM spans WHERE scope = ?", (num,))
    for table in ("flights", "facts", "batches"):
        connection.execute(f"DELETE FROM {table} WHERE num = ?", (num,))


def _remove(connection: sqlite3.Connection, part: int, deadline: float) -> bool:
    """Remove a part a slice at a time; return whether all of it is gone."""
    values = {"part": part, "first": part << 32, "end": (part + 1) << 32, "size": _SLICE}
    for statement in _REMOVALS:
        while transact(connection, sqlite3.Connection.execute, statement, values).rowcount:
            if time.monotonic() > deadline:
                return False
    return True
