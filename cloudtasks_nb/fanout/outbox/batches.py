"""Batches as a whole: which ones there are, their counts and facts.

Those that did not change for 90 days are removed, and so is what unfinished spools have left.
"""

from __future__ import annotations

import datetime as dt
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Repository, hold, reading, transact, transaction
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord, Scope, change_facts, facts_from, stored_facts
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.states import IN_DOUBT, State

__all__ = ["KEPT_DAYS", "Batches", "HomeId", "forget", "sweep"]

# One statement, so that counts and facts are of the same moment.
_FIND = """
    SELECT num, id, identity, place, name, recipe, description, created, changed, round,
        (SELECT json_group_array(json_array(state, n)) FROM
            (SELECT state, sum(n) AS n FROM spans CROSS JOIN tallies ON part = first >> 32
             WHERE scope = batches.num GROUP BY state)),
        (SELECT json_group_object(facts.name, json(value)) FROM facts WHERE facts.num = batches.num)
    FROM batches WHERE id = coalesce(?, id) ORDER BY created DESC, num DESC"""
_HOME = 0, "home"  # where the id of the home is among the facts; no batch has this number
_ROW_BYTES = 100  # about what a row takes besides its block: what is known of it, and its key


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


class Batches(Repository):
    """The batches of an outbox."""

    @reading
    def find(
        self, connection: sqlite3.Connection, /, *, batch: str | None = None, **place: str | None
    ) -> list[BatchRecord]:
        """Return the batches, newest first; only the one with an id, and only those of a place, if these are given.

        Parameters
        ----------
        place : str, optional
            Fields of a `Place`; None: any.
        """
        wanted = {(name, value) for name, value in place.items() if value is not None}
        found = ((row, orjson.loads(row[3])) for row in connection.execute(_FIND, (batch,)))
        return [_record(row, at) for row, at in found if wanted <= at.items()]

    def get(self, batch: str) -> BatchRecord:
        """Return a batch by its id.

        Raises
        ------
        BatchNotFoundError
            If there is none.
        """
        for record in self.find(batch=batch):
            return record
        raise sql.not_found(batch)

    def counts(self, rows: Scope) -> dict[State, int]:
        """Return how many rows are in each state. Reads tallies only, unless it is an input of fewer rows."""
        return self._database.read(sql.counts, rows)

    @reading
    def changed(self, connection: sqlite3.Connection, batch: str) -> float:
        """Return when a row of a batch was changed last, by any process, in seconds since 1970."""
        return sql.number(connection, "SELECT changed FROM batches WHERE num = ?", sql.number_of(connection, batch))

    @reading
    def sizes(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return about how many bytes of the file each batch takes, by its id."""
        found = connection.execute(
            """SELECT b.id, total(length(k.keys) + length(k.tasks) + length(k.shown) + k.n * ?)
                   + (SELECT total(size) FROM objects o WHERE o.num = b.num)
               FROM batches b LEFT JOIN spans s ON scope = b.num
               LEFT JOIN blocks k ON k.first BETWEEN s.first AND s.last GROUP BY b.id""",
            (_ROW_BYTES,),
        )
        return {batch: round(size) for batch, size in found}

    @transaction
    def delete(self, connection: sqlite3.Connection, batch: str) -> None:
        """Remove a batch; `Outbox.sweep` gives its space back to the disk."""
        forget(connection, sql.number_of(connection, batch))

    @reading
    def facts(self, connection: sqlite3.Connection, batch: str) -> BatchFacts:
        """Return what is known of a batch as a whole."""
        return stored_facts(connection, sql.number_of(connection, batch))

    @transaction
    def change(
        self, connection: sqlite3.Connection, batch: str, change: Callable[[BatchFacts], BatchFacts]
    ) -> tuple[BatchFacts, BatchFacts]:
        """Store what a function makes of the facts of a batch, while no process writes; return them before and after.

        The function may read from the outbox.
        """
        return change_facts(connection, sql.number_of(connection, batch), change)


class HomeId(Repository):
    """Who this home is for other homes: a random id, which a copy of the outbox has too until it notices."""

    @transaction
    def get(self, connection: sqlite3.Connection) -> str:
        """Return it; it is made when it is first asked for."""
        query = "SELECT value FROM facts WHERE num = ? AND name = ?"
        found = connection.execute(query, _HOME).fetchone()
        return str(orjson.loads(found[0])) if found else _put_home(connection)

    @transaction
    def renew(self, connection: sqlite3.Connection) -> None:
        """Take another one, because this outbox is a copy of another home's, or an old backup."""
        _put_home(connection)


def _put_home(connection: sqlite3.Connection) -> str:
    made = secrets.token_hex(16)
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (*_HOME, orjson.dumps(made).decode()))
    return made


def _record(row: Sequence[Any], place: Mapping[str, str]) -> BatchRecord:
    _, batch, identity, _, name, recipe, description, created, changed, round_, tallied, facts = row
    numbers = dict(orjson.loads(tallied))
    doubtful = numbers.pop(IN_DOUBT, 0)
    counts = dict.fromkeys(State, 0) | {State(state): n for state, n in numbers.items()}
    return BatchRecord(
        id=batch,
        identity=identity,
        place=Place(**place),
        name=name,
        recipe=recipe,
        description=orjson.loads(description),
        created=_moment(created),
        changed=_moment(changed),
        counts={**counts, State.SENT: counts[State.SENT] + doubtful},
        round=round_,
        doubtful=doubtful,
        facts=facts_from(orjson.loads(facts)),
    )


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


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
    if sql.number(connection, "SELECT count(*) FROM batches WHERE changed < ?", before):
        transact(connection, _forget_old, before)
    removed = 0
    for part, touched in connection.execute("SELECT part, touched FROM hidden").fetchall():
        lock = hold(path, f"spool-{part}")
        # Without locks, only the time since its last update shows that a spool has ended.
        if lock is None or (not lock.certain and now - touched < _DAY):
            continue
        try:
            # It may have ended between the query and the lock.
            if sql.number(connection, "SELECT count(*) FROM hidden WHERE part = ?", part):
                removed += _remove(connection, part, deadline)
        finally:
            lock.release()
        if time.monotonic() > deadline:
            break
    _remove_locks(path, now)
    if removed or sql.number(connection, "PRAGMA freelist_count") > _PAGES:
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
    while sql.number(connection, "PRAGMA freelist_count") and time.monotonic() < deadline:
        # Each step frees one page. `execute` makes only the first step of a statement that returns no rows.
        connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


def _forget_old(connection: sqlite3.Connection, before: float) -> None:
    """Remove batches that did not change since then."""
    for num in sql.firsts(connection, "SELECT num FROM batches WHERE changed < ?", before):
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
