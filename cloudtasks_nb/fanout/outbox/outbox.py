"""The outbox: batches and their rows on disk, from before they are sent until 90 days after their last change.

One SQLite file, shared by every kernel of a person. Its methods block and may be called from any thread; coroutines use
`Outbox.run`, which calls them on a thread of the outbox's own. What unfinished spools have left is removed, too.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, ParamSpec, Self, TypeVar

import orjson

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchExistsError, BatchNotFoundError, OutboxError
from cloudtasks_nb.fanout.outbox import database, records, sql
from cloudtasks_nb.fanout.outbox.database import Database, Repository, guard, hold, reading, transact, transaction
from cloudtasks_nb.fanout.outbox.outcomes import Causes, Outcomes
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord, Change, Scope
from cloudtasks_nb.fanout.outbox.requests import DeletionQueue, Requests
from cloudtasks_nb.fanout.outbox.rows import Results, Rows
from cloudtasks_nb.fanout.outbox.spool import BatchSpec, Incoming, Spool
from cloudtasks_nb.fanout.plan.identity import Place, task_id
from cloudtasks_nb.fanout.plan.render import Chunk, Forecast
from cloudtasks_nb.fanout.refusals import plain_reason
from cloudtasks_nb.fanout.states import IN_DOUBT, State

__all__ = ["KEPT_DAYS", "Batches", "DryRun", "HomeId", "Outbox", "choose", "forget", "sweep"]

P = ParamSpec("P")
T = TypeVar("T")

# One statement, so that counts and facts are of the same moment.
_FIND = """
    SELECT num, id, identity, place, name, recipe, description, created, changed, round,
        (SELECT json_group_array(json_array(state, n)) FROM
            (SELECT state, sum(n) AS n FROM spans CROSS JOIN tallies ON part = first >> 32
             WHERE scope = batches.num GROUP BY state)),
        (SELECT json_group_object(facts.name, json(value)) FROM facts WHERE facts.num = batches.num)
    FROM batches WHERE id = coalesce(?, id) ORDER BY created DESC, num DESC"""
# The id of the home is among the facts; no batch has this number.
_PUT_HOME = "INTO facts VALUES (0, 'home', ?)"
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
# The rows, as `i`, with what the batch has of them, as `r`.
_COMPARED = "FROM incoming i LEFT JOIN rows r ON r.ref = i.theirs"


class Outbox:
    """The batches of one home.

    Parameters
    ----------
    path : str or Path
        The file; it and its folder are made when missing.
    timeout : float
        Seconds to wait for another process that writes.

    Attributes
    ----------
    batches, rows, requests, outcomes, causes, results, home
        What is stored, each part with its own methods.
    note : str or None
        A warning for who has made the file.

    Raises
    ------
    OutboxError
        If the file cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path, *, timeout: float = 30.0) -> None:
        self.path = Path(path).absolute()
        self._database = Database(self.path, timeout=timeout)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-outbox")
        self.batches = Batches(self._database)
        self.rows = Rows(self._database)
        self.requests = Requests(self._database)
        self.outcomes = Outcomes(self._database)
        self.causes = Causes(self._database)
        self.results = Results(self._database)
        self.home = HomeId(self._database)
        try:
            slow = self._database.prepare()
            self.sweep()
        except BaseException:
            self.close()
            raise
        slower = f"the outbox {self.path} is on a network file system: slower, and for one machine at a time"
        self.note = f"{slower}; CLOUDTASKS_NB_HOME chooses another folder" if slow else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self._worker.shutdown()
        self._database.close()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method on the outbox's own thread, so that the event loop is not blocked.

        Raises
        ------
        OutboxError
            If the outbox was closed, besides what the method raises.
        """
        loop = asyncio.get_running_loop()
        try:
            called = loop.run_in_executor(self._worker, lambda: function(*args, **kwargs))
        except RuntimeError as error:
            raise OutboxError("the outbox was closed", resource=str(self.path), hint="make a new connection") from error
        return await called

    def deletions(self, rows: Scope) -> DeletionQueue:
        """Return the tasks of rows that are in the queue, page by page, to delete them."""
        return DeletionQueue(self._database, rows)

    @contextmanager
    def spool(self, spec: BatchSpec) -> Iterator[Spool]:
        """Take planned rows by `add(chunk)` and, at the end, `commit()`; without that they are removed."""
        try:
            with self._begin(Spool, spec) as spool, closing(spool):
                yield spool
        finally:
            with suppress(OutboxError):  # what was committed is safe, and the next process repeats the sweep
                self.sweep()

    def dry_run(self, spec: BatchSpec) -> AbstractContextManager[DryRun]:
        """Find out what `spool` would do, by `add(chunk)` and `forecast()`."""
        return self._begin(DryRun, spec)

    @contextmanager
    def _begin(self, kind: Callable[[Connection, Path, BatchSpec], T], spec: BatchSpec) -> Iterator[T]:
        with ExitStack() as stack:
            with guard(self.path):  # not around what the caller does: the data may come from another database
                connection = stack.enter_context(closing(self._database.connect()))
                begun = kind(connection, self.path, spec)
            yield begun

    def sweep(self, limit: float = 2.0) -> int:
        """Remove what no batch needs, batches unchanged for 90 days too; return how many parts were removed.

        Parameters
        ----------
        limit : float
            Seconds after which the rest is left for the next time.
        """
        return self._database.read(sweep, self.path, now=time.time(), limit=limit)


class DryRun:
    """Takes the chunks of a plan as a `Spool` does, and reports what would happen to their rows.

    It neither changes the outbox nor waits for those that do.

    Parameters
    ----------
    connection, path, spec
        As for `Spool`.
    """

    def __init__(self, connection: Connection, path: Path, spec: BatchSpec) -> None:
        self._connection, self._path, self._spec = connection, path, spec
        self._incoming = Incoming(connection, spec)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        with guard(self._path):
            database.snapshot(self._connection, self._incoming.take, chunk)

    def forecast(self, keys: Sequence[bytes]) -> Forecast:
        """Return what would become of all rows, and of the first ones one by one; `keys` are those of the first rows.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        """
        with guard(self._path):
            self._incoming.prepare()
            return database.snapshot(self._connection, self._forecast, keys)

    def _forecast(self, keys: Sequence[bytes]) -> Forecast:
        self._incoming.decide()
        connection, spec, n = self._connection, self._spec, len(keys)
        refusals = [plain_reason(error) for error in self._incoming.errors if isinstance(error, BatchExistsError)]
        overlaps = self._incoming.overlaps
        # Without a name, the rows that are left over would be another batch than the one that the user means.
        partial = spec.by_rows and not spec.skip and sql.number(connection, "SELECT count(reason) FROM incoming") > 0
        if partial:
            overlaps, refusals = (), []
        for one in overlaps:
            rows_of = f"reason IS NULL AND ref IN (SELECT a.ref {one.rows})"
            reason = f"the batch {one.label} has this row"
            connection.execute(f"UPDATE incoming SET reason = ? WHERE {rows_of}", (reason,))
        first = connection.execute(f"SELECT i.pos, i.reason, {sql.SHOWN_STATE}, try {_COMPARED} WHERE i.pos < ?", (n,))
        rows = {row: about for row, *about in first}
        query = f"SELECT {sql.SHOWN_STATE}, count(*) {_COMPARED} WHERE i.reason IS NULL GROUP BY 1"
        numbers: dict[int | None, int] = dict(connection.execute(query).fetchall())
        new, unsent = numbers.pop(None, 0), numbers.pop(State.UNSENT, 0)
        found = Forecast(
            tasks=[None] * n,
            known={f"in {one.label}": one.shared for one in overlaps},
            problems={row: reason for row, (reason, _, _) in rows.items() if reason is not None},
            sendable=new,
            duplicates=self._incoming.repeated,
            refusal="".join(refusals[:1]),
        )
        if partial or overlaps:
            return found
        batch = self._incoming.target.id if self._incoming.target else self._incoming.new_id()
        return replace(
            found,
            new=None if self._incoming.target else batch,
            tasks=[task_id(batch, key, rows[row][2] or 1) for row, key in enumerate(keys)],
            states=[_word(rows[row][1]) for row in range(n)],
            known={_word(state): count for state, count in numbers.items()},
            sendable=new + unsent,  # the sending goes on with these
        )


def _word(state: int | None) -> str:
    """Return the word for the state of a row that the batch has; None: it does not have it."""
    if state is None:
        return "new"
    return "in the queue" if state == State.SENT else State(state).word


class Batches(Repository):
    """The batches of an outbox."""

    @reading
    def find(self, connection: Connection, /, *, batch: str | None = None, **place: str | None) -> list[BatchRecord]:
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

    def changed(self, batch: str) -> float:
        """Return when a row of a batch was changed last, by any process, in seconds since 1970."""
        return float(self._firsts("SELECT changed FROM batches WHERE num = :num", batch)[0])

    @reading
    def sizes(self, connection: Connection) -> dict[str, int]:
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
    def delete(self, connection: Connection, batch: str) -> None:
        """Remove a batch; `Outbox.sweep` gives its space back to the disk."""
        forget(connection, sql.number_of(connection, batch))

    @reading
    def facts(self, connection: Connection, batch: str) -> BatchFacts:
        """Return what is known of a batch as a whole."""
        return records.stored_facts(connection, sql.number_of(connection, batch))

    @transaction
    def change(self, connection: Connection, batch: str, change: Change) -> tuple[BatchFacts, BatchFacts]:
        """Store what a function makes of the facts of a batch, while no process writes; return them before and after.

        The function may read from the outbox.
        """
        return records.change_facts(connection, sql.number_of(connection, batch), change)


class HomeId(Repository):
    """Who this home is for other homes: a random id, which a copy of the outbox has too until it notices."""

    @transaction
    def get(self, connection: Connection) -> str:
        """Return it; it is made when it is first asked for."""
        connection.execute(f"INSERT OR IGNORE {_PUT_HOME}", _random())
        return str(orjson.loads(sql.firsts(connection, "SELECT value FROM facts WHERE num = 0 AND name = 'home'")[0]))

    @transaction
    def renew(self, connection: Connection) -> None:
        """Take another one, because this outbox is a copy of another home's, or an old backup."""
        connection.execute(f"INSERT OR REPLACE {_PUT_HOME}", _random())


def _random() -> tuple[str]:
    return (orjson.dumps(secrets.token_hex(16)).decode(),)


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
        created=dt.datetime.fromtimestamp(created, dt.UTC),
        changed=dt.datetime.fromtimestamp(changed, dt.UTC),
        counts={**counts, State.SENT: counts[State.SENT] + doubtful},
        round=round_,
        doubtful=doubtful,
        facts=BatchFacts.of(orjson.loads(facts)),
    )


def sweep(connection: Connection, path: Path, *, now: float, limit: float) -> int:
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
    if sql.number(connection, "SELECT count(*) FROM batches WHERE changed < ?", (before,)):
        transact(connection, _forget_old, before)
    removed = 0
    for part, touched in connection.execute("SELECT part, touched FROM hidden").fetchall():
        lock = hold(path, f"spool-{part}")
        # Without locks, only the time since its last update shows that a spool has ended.
        if lock is None or (not lock.certain and now - touched < _DAY):
            continue
        try:
            # It may have ended between the query and the lock.
            if sql.number(connection, "SELECT count(*) FROM hidden WHERE part = ?", (part,)):
                removed += _remove(connection, part, deadline)
        finally:
            lock.release()
        if time.monotonic() > deadline:
            break
    _remove_locks(path, now)
    if removed or sql.number(connection, "PRAGMA freelist_count") > _PAGES:
        _shrink(connection, deadline)
    if removed:  # what was removed may have filled the log of the file
        patience = sql.number(connection, "PRAGMA busy_timeout")
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute(f"PRAGMA busy_timeout = {patience:d}")  # others use the connection later
    return removed


def _remove_locks(outbox: Path, now: float) -> None:
    """Remove the files of locks that killed processes have left."""
    for file in (outbox.parent / "locks").glob("*.lock"):
        with suppress(OSError):
            if file.stat().st_mtime < now - _HOUR and (lock := hold(outbox, file.stem)):
                lock.release()


def _shrink(connection: Connection, deadline: float) -> None:
    """Give free pages back to the disk."""
    while sql.number(connection, "PRAGMA freelist_count") and time.monotonic() < deadline:
        # Each step frees one page. `execute` makes only the first step of a statement that returns no rows.
        connection.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


def _forget_old(connection: Connection, before: float) -> None:
    """Remove batches that did not change since then."""
    for num in sql.firsts(connection, "SELECT num FROM batches WHERE changed < ?", (before,)):
        forget(connection, num)


def forget(connection: Connection, num: int) -> None:
    """Remove a batch; its rows are invisible from now on, and are removed in slices by `sweep`."""
    connection.execute("INSERT INTO hidden SELECT first >> 32, 0 FROM spans WHERE scope = ?", (num,))
    connection.execute("DELETE FROM spans WHERE scope = ?", (num,))
    for table in ("flights", "facts", "batches"):
        connection.execute(f"DELETE FROM {table} WHERE num = ?", (num,))


def _remove(connection: Connection, part: int, deadline: float) -> bool:
    """Remove a part a slice at a time; return whether all of it is gone."""
    values = {"part": part, "first": part << 32, "end": (part + 1) << 32, "size": _SLICE}
    for statement in _REMOVALS:
        while transact(connection, Connection.execute, statement, values).rowcount:
            if time.monotonic() > deadline:
                return False
    return True


def choose(found: Sequence[BatchRecord], batch: str | None) -> BatchRecord:
    """Return the batch with this id, name or beginning of an id; the first one for None.

    Parameters
    ----------
    found : sequence of BatchRecord
        The newest first: of several batches with this name the first one is returned, and a note says so.

    Raises
    ------
    BatchNotFoundError
        If there is none, or several ids begin so.
    """
    names = [record.name for record in found if record.name]
    if batch is not None:
        exact = [record for record in found if record.id == batch]
        named = [record for record in found if record.name == batch]
        if len(named) > 1 and not exact:
            newest = named[0]
            notify(
                f'{len(named)} batches are named "{batch}"; this is the newest, of {newest.created:%Y-%m-%d} in queue '
                f"{newest.place.queue}: {newest.id}"
            )
        found = exact or named[:1] or [record for record in found if record.id.startswith(batch)]
    if not found:
        raise BatchNotFoundError(
            "there is no batch yet"
            if batch is None
            else f'there is no batch "{batch}" in this outbox{did_you_mean(batch, names)}',
            resource=batch,
            hint="tasks.batches() lists those there are; queue.fan_out(...) makes one",
        )
    if batch is not None and len(found) > 1:
        raise BatchNotFoundError(
            f'"{batch}" may be {len(found)} batches: {", ".join(record.id for record in found[:5])}',
            resource=batch,
            hint="give more of the id",
        )
    return found[0]
