"""Store planned rows in the outbox: written in blocks during planning, made visible together at the end.

A spool holds a lock that the system releases when its process ends. So the next process that opens the outbox can
remove the rows of a killed one. A dry run decides the same, and writes temporary tables only.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import orjson

from cloudtasks_nb._loop import hold_interrupts
from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import (
    Hold,
    guard,
    hold,
    pack_block,
    pack_keys,
    snapshot,
    sqlite_error,
    transact,
)
from cloudtasks_nb.fanout.outbox.facts import change_facts
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec, FoundBatch, Incoming, place_text
from cloudtasks_nb.fanout.outbox.outcomes import put_tasks
from cloudtasks_nb.fanout.outbox.records import Scope, Spooled
from cloudtasks_nb.fanout.plan.identity import task_id
from cloudtasks_nb.fanout.plan.preview import shown_rows
from cloudtasks_nb.fanout.plan.render import Chunk, Forecast
from cloudtasks_nb.fanout.refusals import plain_reason
from cloudtasks_nb.fanout.states import State

__all__ = ["DryRun", "Spool"]

_LABELLED = "CREATE TEMP TABLE labelled (place INTEGER PRIMARY KEY, labels BLOB)"  # the labels of the rows
_WAITING = 3  # most blocks that wait for their compression
_ROW_BYTES = 200  # about what a row takes besides its task: in the log of the file, and then in the file
_ROOM = 1 << 20  # bytes that are left free

_REPLACED = 20_000  # rows of another home that get their tasks in a transaction
# The rows, as `i`, with what the batch has of them, as `r`.
_COMPARED = "FROM incoming i LEFT JOIN rows r ON r.ref = i.theirs"


class Spool:
    """Stores the chunks of a plan in an invisible part, until `commit` adds it to a batch.

    Parameters
    ----------
    connection : sqlite3.Connection
        Used only by this object.
    path : Path
        The outbox's file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: BatchSpec) -> None:
        # Rows need not survive a power cut before `commit`.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(_LABELLED)
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

    def _make_part(self, connection: sqlite3.Connection) -> None:
        """Make an invisible part, and hold its lock until the end."""
        self._part = connection.execute("INSERT INTO hidden (touched) VALUES (?)", (time.time(),)).lastrowid or 0
        self._first = self._part << 32  # ref of the next block that is written
        self._incoming.begin(self._first)
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
                self._waiting.append((keys, self._pool.submit(pack_block, tasks, shown)))
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
            raise sqlite_error(sqlite3.SQLITE_FULL, "the disk is nearly full")

    def _write(self, connection: sqlite3.Connection, keys: Sequence[bytes], tasks: bytes, shown: bytes) -> None:
        block = (self._first, len(keys), pack_keys(keys), tasks, shown)
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", block)
        connection.execute("UPDATE hidden SET touched = ? WHERE part = ?", (time.time(), self._part))

    def _attach(self) -> Spooled | None:
        """Attach to the batch that was given this input before, without comparing each row; None if there is none."""
        spec = self._spec
        found = self._connection.execute(
            """SELECT num, id, input, n FROM inputs JOIN batches USING (num)
               WHERE digest = ? AND place = ? AND recipe = ? AND name IS NULL""",
            (self._digest.digest(), place_text(spec.place), spec.recipe),
        ).fetchall()
        if not spec.by_rows or len(found) != 1:
            return None
        [(num, batch, *given)] = found
        scope = Scope(batch, *given)
        left = {state: n for state, n in sql.counts(self._connection, scope).items() if n}
        if State.REJECTED in left and not spec.skip:  # they were left out before, and are an error now
            return None
        known, by_id = sum(left.values()), self._needs_id(num, scope)
        return Spooled(batch=batch, created=False, known=known, left=left, scope=scope, by_id=by_id)

    def _commit(self, connection: sqlite3.Connection, refuse: Callable[[int], None]) -> Spooled:
        self._incoming.decide()
        if self._incoming.errors:
            raise self._incoming.errors[0]
        spooled = self._apply(connection)
        refuse(spooled.added)
        return spooled

    def _apply(self, connection: sqlite3.Connection) -> Spooled:
        """Add the rows to their batch, which is created if it is new."""
        part, created = self._part, self._incoming.target is None
        target = self._incoming.target or self._create(connection)
        left = {} if created else self._leave_known(connection, target)
        connection.execute(
            "INSERT OR REPLACE INTO keys SELECT ?, k1, k2, digest, ref FROM first ORDER BY k1, k2", (target.num,)
        )
        with sql.counted(connection, "ref BETWEEN ? AND ?", part << 32, (part + 1 << 32) - 1):
            connection.execute(
                """INSERT INTO rows (ref, pos, try, state, reason, elsewhere)
                   SELECT ref, pos, reason IS NULL, iif(reason IS NULL, ?, ?), reason, iif(reason IS NULL, ?, NULL)
                   FROM incoming WHERE theirs IS NULL ORDER BY ref""",
                (State.UNSENT, State.REJECTED, self._spec.origin and 1),
            )
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
        return sql.number(self._connection, query, self._incoming.identity(), scope.input, num) > 0

    def _store_input(self, connection: sqlite3.Connection, target: FoundBatch, *, known: bool) -> Scope:
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
        connection.execute(
            """INSERT OR IGNORE INTO rendered SELECT r.ref, i.ref FROM incoming i
               CROSS JOIN rows r ON r.ref = i.theirs AND r.elsewhere
               WHERE i.digest = i.stored AND i.digest <> 0"""
        )
        query = "SELECT ref, mine FROM rendered WHERE ref > ? ORDER BY ref LIMIT ?"
        while pairs := connection.execute(query, (after, _REPLACED)).fetchall():
            transact(connection, put_tasks, pairs)
            after = pairs[-1][0]

    def _create(self, connection: sqlite3.Connection) -> FoundBatch:
        """Make a new batch."""
        spec, now = self._spec, time.time()
        batch = spec.origin.id if spec.origin else self._incoming.new_id()
        values = {
            "num": self._part,
            "id": batch,
            "identity": self._incoming.identity(),
            "place": place_text(spec.place),
            "name": None if spec.name == batch else spec.name,
            "recipe": spec.recipe,
            "description": orjson.dumps(dict(spec.description), default=str).decode(),
            "created": spec.origin.created.timestamp() if spec.origin else spec.clock(),
            "changed": now,
        }
        connection.execute(f"INSERT INTO batches ({', '.join(values)}) VALUES (:{', :'.join(values)})", values)
        change_facts(connection, self._part, lambda _: spec.facts)
        return FoundBatch(num=self._part, id=batch, label=spec.name or batch)

    def _leave_known(self, connection: sqlite3.Connection, target: FoundBatch) -> dict[State, int]:
        """Leave out the rows that the batch has, and return how many of them are in which state.

        Rows of the batch that were not valid tasks, and are now added as valid ones, are removed from it.
        """
        known = f"SELECT {sql.SHOWN_STATE}, count(*) FROM incoming i JOIN rows r ON r.ref = i.theirs GROUP BY 1"
        left = {State(state): n for state, n in connection.execute(known)}
        connection.execute("DELETE FROM first WHERE ref IN (SELECT ref FROM incoming WHERE theirs IS NOT NULL)")
        # CROSS JOIN fixes the order: the batch may have a million keys.
        query = "SELECT k.ref FROM first f CROSS JOIN keys k ON k.num = ? AND k.k1 = f.k1 AND k.k2 = f.k2"
        refs = sql.as_json(sql.firsts(connection, query, target.num))
        # An input that had one of them has it no longer: the same one is compared anew.
        connection.execute("UPDATE inputs SET digest = randomblob(16) WHERE num = ? AND ? <> '[]'", (target.num, refs))
        with sql.counted(connection, sql.AMONG, refs):
            connection.execute(f"DELETE FROM rows WHERE {sql.AMONG}", (refs,))
        return left


class DryRun:
    """Takes the chunks of a plan as a `Spool` does, and reports what would happen to their rows.

    It neither changes the outbox nor waits for those that do.

    Parameters
    ----------
    connection, path, spec
        As for `Spool`.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: BatchSpec) -> None:
        self._connection, self._path, self._spec = connection, path, spec
        self._incoming = Incoming(connection, spec)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        with guard(self._path):
            snapshot(self._connection, self._incoming.take, chunk)

    def forecast(self, keys: Sequence[bytes]) -> Forecast:
        """Return what would become of all rows, and of the first ones one by one; `keys` are those of the first rows.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        """
        with guard(self._path):
            self._incoming.prepare()
            return snapshot(self._connection, self._forecast, keys)

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
            connection.execute(
                f"UPDATE incoming SET reason = ? WHERE reason IS NULL AND ref IN (SELECT a.ref {one.rows})",
                (f"the batch {one.label} has this row",),
            )
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
