"""Planned rows in a temporary table: which batch they belong to, and which of them it has already.

Nothing here writes to the outbox's own tables, so that a dry run can end after `Incoming.decide`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from struct import pack, unpack
from typing import Any

import orjson

from cloudtasks_nb.errors import CloudTasksError, OutboxError
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.facts import BatchFacts
from cloudtasks_nb.fanout.outbox.records import IMPORTED, BatchRecord
from cloudtasks_nb.fanout.plan.identity import Place, batch_ids, named_identity, row_sum, rows_identity
from cloudtasks_nb.fanout.plan.render import Chunk
from cloudtasks_nb.fanout.refusals import conflict_error, duplicates_error, overlap_error, templates_error

__all__ = ["BatchSpec", "FoundBatch", "Incoming", "place_text"]

_NAMED = 5  # most rows that a message lists
_NOT_STORED = 1 << 62  # from here on are the refs of rows that the batch has already: they are not stored again

# On a connection of its own. `digest` is 0 for a row that is not a valid task. `reason` says why a row would not be
# sent. `theirs` and `stored` are ref and digest of the row with the same key in the batch; NULL: it has none.
_INCOMING = """CREATE TEMP TABLE incoming (
    ref INTEGER PRIMARY KEY, pos INTEGER, k1 INTEGER, k2 INTEGER, digest INTEGER, reason TEXT,
    theirs INTEGER, stored INTEGER)"""
# The first row of each key among those that the batch does not have.
_FIRST = """CREATE TEMP TABLE first (
    k1 INTEGER, k2 INTEGER, digest INTEGER, ref INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID"""


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
    connection : sqlite3.Connection
        Used only by this object and its owner.
    """

    def __init__(self, connection: sqlite3.Connection, spec: BatchSpec) -> None:
        self._connection = connection
        self._spec = spec
        self.begin(0)
        self.rows = 0  #: number of planned rows
        self._total = 0  # `row_sum` of the rows, if they identify the batch
        self._started: FoundBatch | None = None  # the batch of this name, if it existed before the first row
        self._compared = cache(self._compare)
        self._kept = 0  # number of keys of rows that the batch of this name does not have
        self.repeated = 0  #: number of rows with the key of an earlier row
        self.target: FoundBatch | None = None  #: the batch that the rows are added to; None: a new one
        self.overlaps: Sequence[_Overlap] = ()
        self.errors: list[CloudTasksError] = []  #: why the rows may not be sent; a spool raises the first of them
        connection.execute(_INCOMING)
        connection.execute(_FIRST)
        if not spec.by_rows:
            self._started = self._find()

    def begin(self, first: int) -> None:
        """Give the rows that the batch does not have refs from this one on."""
        self._first = self.next = first

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
        connection.executemany(
            "INSERT INTO incoming (ref, pos, k1, k2, digest, reason) VALUES (?, ?, ?, ?, ?, ?)",
            zip(refs, chunk.rows, halves[::2], halves[1::2], unpack(f">{n}q", heads), reasons, strict=True),
        )
        self.rows += n
        if self._spec.by_rows:
            self._total += row_sum(chunk.keys, unpack(f">{n}Q", heads))
        if started is None:
            self.next += n
            return range(n)
        self._find_known(started, first)
        query = """SELECT i.ref FROM incoming i LEFT JOIN rows r ON r.ref = theirs
                   WHERE i.ref >= ? AND (theirs IS NULL OR r.elsewhere) ORDER BY i.ref"""
        new = sql.firsts(connection, query, first)
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
        return next(i for i in ids if not sql.number(self._connection, taken, i))

    def _find(self) -> FoundBatch | None:
        """Find the batch by its name or id if one is given, else by its rows."""
        spec = self._spec
        found = self._connection.execute(
            """SELECT num, id, name, recipe, description FROM batches
               WHERE identity = :identity OR (id = :name AND place = :place) ORDER BY identity <> :identity LIMIT 1""",
            {"identity": self.identity(), "name": None if spec.origin else spec.name, "place": place_text(spec.place)},
        ).fetchone()
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
        self._kept = connection.execute(
            """INSERT OR IGNORE INTO first SELECT k1, k2, digest, ref FROM incoming WHERE theirs IS NULL
               ORDER BY k1, k2, digest = 0, ref"""
        ).rowcount
        if self._kept == self.next - self._first:
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
        self._connection.execute(
            """UPDATE incoming SET theirs = k.ref, stored = k.digest FROM keys k
               WHERE incoming.ref >= ? AND theirs IS NULL AND k.num = ? AND k.k1 = incoming.k1 AND k.k2 = incoming.k2
               AND (incoming.digest = 0 OR k.digest <> 0)""",
            (first, target.num),
        )

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
            rows = sql.firsts(connection, query, reason, _NAMED)
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
        others = self._connection.execute(
            """SELECT num, round,
                      (SELECT total(n) FROM spans CROSS JOIN tallies ON part = first >> 32 WHERE scope = num),
                      id, name, recipe
               FROM batches WHERE place = ? ORDER BY num DESC""",
            (place_text(self._spec.place),),
        )
        found = [self._compared(*other) for other in others.fetchall()]
        return sorted((one for one in found if one.shared), key=lambda one: (-one.shared, not one.grows))

    def _compare(self, num: int, _round: int, theirs: int, batch: str, name: str | None, recipe: bytes) -> _Overlap:
        """Compare with a batch. One to which rows were added has another round and size: it is compared again."""
        # One search in the larger batch for each row of the smaller.
        sides = "first a CROSS JOIN keys b" if self._kept <= theirs else "keys b CROSS JOIN first a"
        rows = f"FROM {sides} USING (k1, k2) WHERE b.num = {num} AND a.digest <> 0 AND a.digest = b.digest"
        shared = sql.number(self._connection, f"SELECT count(*) {rows}")
        same = recipe == self._spec.recipe
        return _Overlap(
            num=num, id=batch, label=name or batch, grows=same and not name, same=same, shared=shared, rows=rows
        )


def place_text(place: Place) -> str:
    """Return a place as it is stored."""
    return orjson.dumps(place).decode()
