"""Store planned rows in the outbox: written in blocks during planning, made visible together at the end.

A spool holds a lock that the system releases when its process ends. So the next process that opens the outbox can
remove the rows of a killed one. Which batch the rows belong to, and which of them it has already, is decided in
temporary tables (`Incoming`), so that a dry run can decide the same.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import count
from pathlib import Path
from sqlite3 import Connection
from struct import pack, unpack
from typing import Any

import orjson

from cloudtasks_nb._loop import hold_interrupts
from cloudtasks_nb.errors import CloudTasksError, OutboxError
from cloudtasks_nb.fanout.outbox import database, sql
from cloudtasks_nb.fanout.outbox.database import Hold, guard, hold, put_tasks, snapshot, transact
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchFacts, BatchRecord, Scope, Spooled, change_facts
from cloudtasks_nb.fanout.plan.identity import Place, batch_ids, named_identity, row_sum, rows_identity
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.plan.render import Chunk
from cloudtasks_nb.fanout.refusals import conflict_error, duplicates_error, overlap_error, templates_error
from cloudtasks_nb.fanout.states import State

__all__ = ["BatchSpec", "FoundBatch", "Incoming", "Spool", "place_text"]

_WAITING = 3  # most blocks that wait for their compression
_ROW_BYTES = 200  # about what a row takes besides its task: in the log of the file, and then in the file
_ROOM = 1 << 20  # bytes that are left free
_REPLACED = 20_000  # rows of another home that get their tasks in a transaction
_NAMED = 5  # most rows that a message lists
_NOT_STORED = 1 << 62  # from here on are the refs of rows that the batch has already: they are not stored again

# On a connection of its own.
_TABLES = (
    # `digest` is 0 for a row that is not a valid task. `reason` says why a row would not be sent. `theirs` and `stored`
    # are ref and digest of the row with the same key in the batch; NULL: it has none.
    """CREATE TEMP TABLE incoming (ref INTEGER PRIMARY KEY, pos INTEGER, k1 INTEGER, k2 INTEGER, digest INTEGER,
        reason TEXT, theirs INTEGER, stored INTEGER)""",
    # The first row of each key among those that the batch does not have.
    """CREATE TEMP TABLE first (k1 INTEGER, k2 INTEGER, digest INTEGER, ref INTEGER, PRIMARY KEY (k1, k2))
        WITHOUT ROWID""",
    "CREATE TEMP TABLE labelled (place INTEGER PRIMARY KEY, labels BLOB)",  # the labels of the rows
)


class Spool:
    """Stores the chunks of a plan in an invisible part, until `commit` adds it to a batch.

    Parameters
    ----------
    connection : Connection
        Used only by this object.
    path : Path
        The outbox's file.
    """

    def __init__(self, connection: Connection, path: Path, spec: BatchSpec) -> None:
        # Rows need not survive a power cut before `commit`.
        connection.execute("PRAGMA synchronous = NORMAL")
        self._connection, self._path, self._spec = connection, path, spec
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-spool")
        self._waiting: deque[tuple[Sequence[bytes], Future[tuple[bytes, bytes]]]] = deque()  # keys, and the rest
        self._lock: Hold | None = None
        self._from_0 = True  # the positions of the rows are 0, 1, 2 and so on
        self._digest = blake2b(digest_size=16)  # of keys, digests and labels, in the order of the input
        self._incoming = Incoming(connection, spec)
        transact(connection, self._make_part)

    def _take(self, chunk: Chunk) -> Sequence[int]:
        self._from_0 &= chunk.rows == range(self._incoming.rows, self._incoming.rows + len(chunk.rows))
        self._digest.update(b"".join((*chunk.keys, *chunk.digests, chunk.labels)))
        if chunk.labels:
            self._connection.execute("INSERT INTO labelled VALUES (?, ?)", (chunk.rows[0], chunk.labels))
        return self._incoming.take(chunk)

    def _make_part(self, connection: Connection) -> None:
        """Make an invisible part, and hold its lock until the end."""
        self._part = connection.execute("INSERT INTO hidden (touched) VALUES (?)", (time.time(),)).lastrowid or 0
        self._first = self._part << 32  # ref of the next block that is written
        self._incoming.first = self._incoming.next = self._first
        self._lock = hold(self._path, f"spool-{self._part}")

    def close(self) -> None:
        """End the spool; what was not committed may be removed."""
        self._pool.shutdown(cancel_futures=True)
        if self._lock is not None:
            self._lock.release()

    def add(self, chunk: Chunk) -> None:
        """Store a chunk.

        Raises
        ------
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        with guard(self._path):
            new = snapshot(self._connection, self._take, chunk)
            if not new:
                return
            keys, tasks, shown = chunk.keys, chunk.tasks, chunk.shown
            if len(new) < len(keys):
                keys, tasks, shown = [keys[at] for at in new], [tasks[at] for at in new], shown_rows(shown, new)
            with hold_interrupts():  # here and below: the pool's thread needs the same locks
                self._waiting.append((keys, self._pool.submit(database.pack_block, tasks, shown)))
            self._store(_WAITING)

    def commit(self) -> Spooled:
        """Add all rows to their batch in one transaction.

        Raises
        ------
        DuplicateRowsError
            If rows have the same key.
        BatchExistsError
            If the batch has a key with another request, or another batch has some of the rows.
        CloudTasksError
            That of the check in the spec.
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        with guard(self._path):
            self._store(0)
            self._check_room(_ROW_BYTES * self._incoming.rows)
            self._connection.execute("PRAGMA synchronous = FULL")
            if attached := self._attach():
                return attached
            refuse = self._spec.check(self._incoming.prepare())
            spooled = transact(self._connection, self._commit, refuse)
            self._render_others()
            return spooled

    def _store(self, waiting: int) -> None:
        """Write compressed blocks until at most `waiting` are left."""
        while len(self._waiting) > waiting:
            keys, packed = self._waiting.popleft()
            with hold_interrupts():
                tasks, shown = packed.result()
            self._check_room(len(tasks) + len(shown) + _ROW_BYTES * len(keys))
            transact(self._connection, self._write, keys, tasks, shown)
            self._first += len(keys)

    def _check_room(self, size: int) -> None:
        """Raise the error of a full disk while what this spool has written can still be removed, which takes room."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with suppress(OSError):
            size += log.stat().st_size  # all of it is copied to the file
        if shutil.disk_usage(self._path.parent).free < size + _ROOM:
            raise database.sqlite_error(sqlite3.SQLITE_FULL, "the disk is nearly full")

    def _write(self, connection: Connection, keys: Sequence[bytes], tasks: bytes, shown: bytes) -> None:
        block = (self._first, len(keys), database.pack_keys(keys), tasks, shown)
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", block)
        connection.execute("UPDATE hidden SET touched = ? WHERE part = ?", (time.time(), self._part))

    def _attach(self) -> Spooled | None:
        """Attach to the batch that was given this input before, without comparing each row; None if there is none."""
        spec = self._spec
        query = """SELECT num, id, input, n FROM inputs JOIN batches USING (num)
                   WHERE digest = ? AND place = ? AND recipe = ? AND name IS NULL"""
        given = (self._digest.digest(), place_text(spec.place), spec.recipe)
        found = self._connection.execute(query, given).fetchall()
        if not spec.by_rows or len(found) != 1:
            return None
        [(num, batch, *given)] = found
        scope = Scope(batch, *given)
        left = {state: n for state, n in sql.counts(self._connection, scope).items() if n}
        if State.REJECTED in left and not spec.skip:  # they were left out before, and are an error now
            return None
        known, by_id = sum(left.values()), self._needs_id(num, scope)
        return Spooled(batch=batch, created=False, known=known, left=left, scope=scope, by_id=by_id)

    def _commit(self, connection: Connection, refuse: Callable[[int], None]) -> Spooled:
        self._incoming.decide()
        if self._incoming.errors:
            raise self._incoming.errors[0]
        spooled = self._apply(connection)
        refuse(spooled.added)
        return spooled

    def _apply(self, connection: Connection) -> Spooled:
        """Add the rows to their batch, which is created if it is new."""
        part, created = self._part, self._incoming.target is None
        target = self._incoming.target or self._create(connection)
        left = {} if created else self._leave_known(connection, target)
        keys = "INSERT OR REPLACE INTO keys SELECT ?, k1, k2, digest, ref FROM first ORDER BY k1, k2"
        connection.execute(keys, (target.num,))
        statement = """INSERT INTO rows (ref, pos, try, state, reason, elsewhere)
            SELECT ref, pos, reason IS NULL, iif(reason IS NULL, ?, ?), reason, iif(reason IS NULL, ?, NULL)
            FROM incoming WHERE theirs IS NULL ORDER BY ref"""
        with sql.counted(connection, "ref BETWEEN ? AND ?", (part << 32, (part + 1 << 32) - 1)):
            connection.execute(statement, (State.UNSENT, State.REJECTED, self._spec.origin and 1))
        grouped = connection.execute("SELECT state, sum(n) FROM tallies WHERE part = ? GROUP BY state", (part,))
        added = {State(state): n for state, n in grouped}
        if added or created:
            connection.execute("DELETE FROM hidden WHERE part = ?", (part,))
            span = (target.num, part << 32, self._incoming.next - 1)
            connection.execute("INSERT INTO spans VALUES (?, ?, ?, 0)", span)
        if added and not created:
            connection.execute("UPDATE batches SET round = round + 1 WHERE num = ?", (target.num,))
            sql.touch(connection, target.num)
        scope = None if self._spec.origin else self._store_input(connection, target, known=bool(left))
        query = "SELECT count(*) FROM incoming WHERE theirs IS NULL AND digest AND reason <> ''"
        duplicates = sql.number(connection, query)
        return Spooled(
            batch=target.id,
            created=created,
            added=added.get(State.UNSENT, 0),
            known=sum(left.values()),
            duplicates=duplicates,
            rejected=added.get(State.REJECTED, 0) - duplicates,
            left=left,
            scope=scope,
            by_id=scope is not None and self._needs_id(target.num, scope),
        )

    def _needs_id(self, num: int, scope: Scope) -> bool:
        """Return whether another disk finds the batch of these rows only by its id: other rows have made it."""
        if not self._spec.by_rows:
            return False
        query = """SELECT identity <> ? AND (SELECT min(input) FROM inputs WHERE num = batches.num) < ?
                   FROM batches WHERE num = ?"""
        return sql.number(self._connection, query, (self._incoming.identity(), scope.input, num)) > 0

    def _store_input(self, connection: Connection, target: FoundBatch, *, known: bool) -> Scope:
        """Store which rows of the batch are in this input, unless it was given before; `known`: it had some of them."""
        spans: Iterable[sql.Span] = [(self._part << 32, self._incoming.next - 1, 0)]
        if known or not self._from_0:
            # The batch has of several rows with the same key only the first, unless they came together.
            query = "SELECT coalesce(theirs, ref), min(pos) FROM incoming GROUP BY 1 ORDER BY 1"
            spans = sql.spans_of(connection.execute(query))
        scope, new = sql.store_input(connection, target.id, self._digest.digest(), spans)
        if known and new:
            connection.execute("INSERT INTO labels SELECT ?, place, labels FROM labelled", (scope.input,))
        return scope

    def _render_others(self) -> None:
        """Store the tasks of rows that another home has rendered before."""
        connection, after = self._connection, -1
        elsewhere = "SELECT EXISTS (SELECT 1 FROM rows INDEXED BY elsewhere WHERE elsewhere)"
        if self._spec.origin is not None or not sql.number(self._connection, elsewhere):
            return
        connection.execute("CREATE TEMP TABLE rendered (ref INTEGER PRIMARY KEY, mine INTEGER)")
        both = "incoming i CROSS JOIN rows r ON r.ref = i.theirs AND r.elsewhere"
        same = "i.digest = i.stored AND i.digest <> 0"
        connection.execute(f"INSERT OR IGNORE INTO rendered SELECT r.ref, i.ref FROM {both} WHERE {same}")
        query = "SELECT ref, mine FROM rendered WHERE ref > ? ORDER BY ref LIMIT ?"
        while pairs := connection.execute(query, (after, _REPLACED)).fetchall():
            transact(connection, put_tasks, pairs)
            after = pairs[-1][0]

    def _create(self, connection: Connection) -> FoundBatch:
        """Make a new batch."""
        spec = self._spec
        batch = spec.origin.id if spec.origin else self._incoming.new_id()
        created = spec.origin.created.timestamp() if spec.origin else spec.clock()
        description = orjson.dumps(dict(spec.description), default=str).decode()
        name = None if spec.name == batch else spec.name
        found = self._part, batch, self._incoming.identity(), place_text(spec.place)
        statement = """INSERT INTO batches (num, id, identity, place, name, recipe, description, created, changed)
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"""
        connection.execute(statement, (*found, name, spec.recipe, description, created, time.time()))
        change_facts(connection, self._part, lambda _: spec.facts)
        return FoundBatch(num=self._part, id=batch, label=spec.name or batch)

    def _leave_known(self, connection: Connection, target: FoundBatch) -> dict[State, int]:
        """Leave out the rows that the batch has, and return how many of them are in which state.

        Rows of the batch that were not valid tasks, and are now added as valid ones, are removed from it.
        """
        known = f"SELECT {sql.SHOWN_STATE}, count(*) FROM incoming i JOIN rows r ON r.ref = i.theirs GROUP BY 1"
        left = {State(state): n for state, n in connection.execute(known)}
        connection.execute("DELETE FROM first WHERE ref IN (SELECT ref FROM incoming WHERE theirs IS NOT NULL)")
        # CROSS JOIN fixes the order: the batch may have a million keys.
        query = "SELECT k.ref FROM first f CROSS JOIN keys k ON k.num = ? AND k.k1 = f.k1 AND k.k2 = f.k2"
        refs = sql.as_json(sql.firsts(connection, query, (target.num,)))
        # An input that had one of them has it no longer: the same one is compared anew.
        connection.execute("UPDATE inputs SET digest = randomblob(16) WHERE num = ? AND ? <> '[]'", (target.num, refs))
        with sql.counted(connection, sql.AMONG, (refs,)):
            connection.execute(f"DELETE FROM rows WHERE {sql.AMONG}", (refs,))
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """A request for a batch, without its rows."""

    place: Place
    recipe: bytes  #: digest of the templates; all rows of a batch have the same one
    name: str | None = None  #: name of a batch, or id of an existing one; None: the rows identify the batch
    description: Mapping[str, Any] = field(default_factory=dict)  #: stored with a new batch, as JSON
    facts: BatchFacts = field(default_factory=BatchFacts)  #: stored with a new batch
    skip: bool = False  #: send the first of the rows with the same key, instead of raising an error
    clock: Callable[[], float] = time.time  #: the service's, by which a new batch is created: seconds since 1970
    origin: BatchRecord | None = None  #: of a batch that comes from another home; its rows may be in other batches too
    #: Called with the id of the batch before rows are added; what it returns refuses them by their number.
    check: Callable[[str], Callable[[int], None]] = lambda _batch: lambda _added: None

    @property
    def by_rows(self) -> bool:
        """Whether the rows identify the batch."""
        return self.name is None and self.origin is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBatch:
    """An existing batch, found by its name or by the rows."""

    num: int
    id: str
    label: str  #: its name and id, or its id alone


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlap(FoundBatch):
    """A batch that has some of the rows."""

    grows: bool  #: whether rows may be added to it without its name: it has the same templates, and no name
    same: bool  #: whether it has the same templates
    shared: int  #: number of these rows
    rows: str  #: SQL that selects them from `first`, as `a`


class Incoming:
    """The planned rows of one `fan_out`, compared with the batches of the outbox.

    Parameters
    ----------
    connection : Connection
        Used only by this object and its owner.
    """

    def __init__(self, connection: Connection, spec: BatchSpec) -> None:
        self._connection = connection
        self._spec = spec
        self.first = self.next = 0  #: rows that the batch does not have get refs from the first one on
        self.rows = 0  #: number of planned rows
        self._total = 0  # `row_sum` of the rows, if they identify the batch
        self._started: FoundBatch | None = None  # the batch of this name, if it existed before the first row
        self._compared = cache(self._compare)
        self._kept = 0  # number of keys of rows that the batch of this name does not have
        self.repeated = 0  #: number of rows with the key of an earlier row
        self.target: FoundBatch | None = None  #: the batch that the rows are added to; None: a new one
        self.overlaps: Sequence[_Overlap] = ()
        self.errors: list[CloudTasksError] = []  #: why the rows may not be sent; a spool raises the first of them
        for table in _TABLES:
            connection.execute(table)
        if not spec.by_rows:
            self._started = self._find()

    def prepare(self) -> str:
        """Find duplicates, and compare with other batches: all of `decide` that grows with the rows of others.

        It needs no lock: `decide` compares again only with batches that have changed since. Return the id of the batch
        that the rows are for, by what is known now.
        """
        self.repeated, found = self._find_duplicates(), self._find()
        if found is None and self._spec.by_rows and (found := self._find_grown()):
            self._find_known(found)
        return self.new_id() if found is None else found.id

    def decide(self) -> None:
        """Find the batch, the rows that it has, and the errors that prevent sending the others, after `prepare`.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        OutboxError
            If the batch that the rows were compared with was deleted meanwhile.
        """
        self.target, started = self._find(), self._started
        if started is not None and self.target != started:
            raise OutboxError(
                f"the batch {started.label} was deleted while its rows were planned",
                resource=started.id,
                hint="run the cell again",
            )
        if self.target is None and self._spec.by_rows:
            self.target = self._find_grown()
        if self.target is not None:
            self._find_known(self.target)
            self._find_conflicts(self.target)
        elif self._spec.by_rows and (overlaps := self._find_overlaps()):
            self.overlaps = overlaps
            shared = [(one.label, one.shared) for one in overlaps]
            self.errors.append(overlap_error(shared, self._valid, same=overlaps[0].same))

    def take(self, chunk: Chunk) -> Sequence[int]:
        """Take a chunk; return the places of those of its rows that are to be stored.

        The batch of this name does not have them, or only as rows of another home, without their tasks. A row of the
        batch that was not a valid task is replaced by one that is.
        """
        connection, started, n = self._connection, self._started, len(chunk.rows)
        halves, heads = unpack(f">{2 * n}q", b"".join(chunk.keys)), b"".join(digest[:8] for digest in chunk.digests)
        first = self.next if started is None else _NOT_STORED + self.rows
        refs, reasons = range(first, first + n), map(chunk.rejected.get, range(n))
        rows = zip(refs, chunk.rows, halves[::2], halves[1::2], unpack(f">{n}q", heads), reasons, strict=True)
        statement = "INSERT INTO incoming (ref, pos, k1, k2, digest, reason) VALUES (?, ?, ?, ?, ?, ?)"
        connection.executemany(statement, rows)
        self.rows += n
        if self._spec.by_rows:
            self._total += row_sum(chunk.keys, unpack(f">{n}Q", heads))
        if started is None:
            self.next += n
            return range(n)
        self._find_known(started, first)
        query = """SELECT i.ref FROM incoming i LEFT JOIN rows r ON r.ref = theirs
                   WHERE i.ref >= ? AND (theirs IS NULL OR r.elsewhere) ORDER BY i.ref"""
        new = sql.firsts(connection, query, (first,))
        connection.executemany("UPDATE incoming SET ref = ? WHERE ref = ?", zip(count(self.next), new, strict=False))
        self.next += len(new)
        return [ref - first for ref in new]

    def identity(self) -> bytes:
        """Return what identifies the batch: its name, or all rows."""
        spec = self._spec
        if spec.origin is not None:
            return spec.origin.identity
        if spec.name is not None:
            return named_identity(spec.place, spec.name)
        return rows_identity(spec.place, spec.recipe, self._total)

    def new_id(self) -> str:
        """Return the id for a new batch: the first of its identity that no other batch has."""
        taken, ids = "SELECT count(*) FROM batches WHERE id = ?", batch_ids(self.identity(), self._spec.name)
        return next(i for i in ids if not sql.number(self._connection, taken, (i,)))

    def _find(self) -> FoundBatch | None:
        """Find the batch by its name or id if one is given, else by its rows."""
        spec = self._spec
        query = """SELECT num, id, name, recipe, description FROM batches
            WHERE identity = :identity OR (id = :name AND place = :place) ORDER BY identity <> :identity LIMIT 1"""
        name, place = None if spec.origin else spec.name, place_text(spec.place)
        given = {"identity": self.identity(), "name": name, "place": place}
        found = self._connection.execute(query, given).fetchone()
        if found is None:
            return None
        num, batch, name, recipe, description = found
        target = FoundBatch(num=num, id=batch, label=f"{name} ({batch})" if name else batch)
        if recipe != spec.recipe:
            before = orjson.loads(description)
            raise templates_error(target.label, batch, {} if before.get(IMPORTED) else before, spec.description)
        return target

    def _find_duplicates(self) -> int:
        """Sort the rows by key, reject those with the key of an earlier row, and return their number."""
        connection = self._connection
        statement = """INSERT OR IGNORE INTO first SELECT k1, k2, digest, ref FROM incoming WHERE theirs IS NULL
                       ORDER BY k1, k2, digest = 0, ref"""
        self._kept = connection.execute(statement).rowcount
        if self._kept == self.next - self.first:
            return 0
        # CROSS JOIN fixes the order: look up each row in the index; the other order reads all rows for each key.
        pairs = """FROM incoming i CROSS JOIN first k
            ON i.theirs IS NULL AND k.k1 = i.k1 AND k.k2 = i.k2 AND k.ref <> i.ref"""
        if self._spec.origin is not None:  # two homes have written the same row
            connection.execute(f"DELETE FROM incoming WHERE ref IN (SELECT i.ref {pairs})")
            return 0
        extras = f"{pairs} CROSS JOIN incoming f ON f.ref = k.ref WHERE i.digest <> 0"
        many = connection.execute(
            f"""UPDATE incoming SET reason = found.reason
                FROM (SELECT i.ref, printf('duplicate of row %d', f.pos) AS reason {extras}) AS found
                WHERE incoming.ref = found.ref"""
        ).rowcount
        if many and not self._spec.skip:
            rows = connection.execute(f"SELECT i.pos, f.pos {extras} ORDER BY i.ref LIMIT {_NAMED}")
            self.errors.append(duplicates_error(rows.fetchall(), many, self.rows))
        for k1, k2, digest in connection.execute(f"SELECT i.k1, i.k2, i.digest {pairs}"):
            self._total -= row_sum([pack(">qq", k1, k2)], [digest % (1 << 64)])
        return many

    def _find_known(self, target: FoundBatch, first: int = 0) -> None:
        """Find the rows, from a ref on, that the batch has."""
        statement = """UPDATE incoming SET theirs = k.ref, stored = k.digest FROM keys k
            WHERE incoming.ref >= ? AND theirs IS NULL AND k.num = ? AND k.k1 = incoming.k1 AND k.k2 = incoming.k2
            AND (incoming.digest = 0 OR k.digest <> 0)"""
        self._connection.execute(statement, (first, target.num))

    def _find_conflicts(self, target: FoundBatch) -> None:
        """Reject the rows that the batch has with another request."""
        connection, reason = self._connection, f"the batch {target.label} has its key with another request"
        # Without duplicates, which were not sent the first time either.
        conflicts = "theirs IS NOT NULL AND digest NOT IN (0, stored) AND reason IS NULL"
        if self._spec.skip:  # a row behind one that the batch has is a duplicate
            conflicts += """ AND ref NOT IN (
                SELECT c.ref FROM incoming c JOIN incoming e
                ON e.theirs = c.theirs AND e.digest = c.stored AND e.ref < c.ref WHERE c.digest NOT IN (0, c.stored))"""
        many = connection.execute(f"UPDATE incoming SET reason = ? WHERE {conflicts}", (reason,)).rowcount
        if many:
            query = "SELECT pos FROM incoming WHERE reason = ? ORDER BY ref LIMIT ?"
            rows = sql.firsts(connection, query, (reason, _NAMED))
            self.errors.append(conflict_error(rows, many, self.rows, target.label, target.id))

    @property
    def _valid(self) -> int:
        """The number of rows to be sent, without duplicates."""
        return sql.number(self._connection, "SELECT count(*) FROM first WHERE digest <> 0")

    def _find_grown(self) -> FoundBatch | None:
        """Return the batch without a name that has all of the rows, or the only batch that has some of them."""
        overlaps = self._find_overlaps()
        if not overlaps or not overlaps[0].grows or (len(overlaps) > 1 and overlaps[0].shared < self._valid):
            return None
        return overlaps[0]

    def _find_overlaps(self) -> list[_Overlap]:
        """Return the batches of the queue that have some of the rows, the one with the most first."""
        total = "SELECT total(n) FROM spans CROSS JOIN tallies ON part = first >> 32 WHERE scope = num"
        query = f"SELECT num, round, ({total}), id, name, recipe FROM batches WHERE place = ? ORDER BY num DESC"
        others = self._connection.execute(query, (place_text(self._spec.place),))
        found = [self._compared(*other) for other in others.fetchall()]
        return sorted((one for one in found if one.shared), key=lambda one: (-one.shared, not one.grows))

    def _compare(self, num: int, _round: int, theirs: int, batch: str, name: str | None, recipe: bytes) -> _Overlap:
        """Compare with a batch. One to which rows were added has another round and size: it is compared again."""
        # One search in the larger batch for each row of the smaller.
        sides = "first a CROSS JOIN keys b" if self._kept <= theirs else "keys b CROSS JOIN first a"
        rows = f"FROM {sides} USING (k1, k2) WHERE b.num = {num} AND a.digest <> 0 AND a.digest = b.digest"
        shared = sql.number(self._connection, f"SELECT count(*) {rows}")
        same, label = recipe == self._spec.recipe, name or batch
        grows = same and not name
        return _Overlap(num=num, id=batch, label=label, grows=grows, same=same, shared=shared, rows=rows)


def place_text(place: Place) -> str:
    """Return a place as it is stored."""
    return orjson.dumps(place).decode()
