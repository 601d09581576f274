"""Planned rows in a temporary table: which batch they belong to, and which of them it has already.

Nothing is written to the outbox's own tables before `Incoming.apply`, so that a dry run can end there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from struct import unpack
from typing import Any

import orjson

from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import BatchExistsError, CloudTasksError, DuplicateRowsError, OutboxError
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.outbox.tallies import SHOWN_STATE, as_json, counted, counts, number, touch
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, batch_ids, named_identity, row_sum, rows_identity

__all__ = ["KNOWN", "BatchSpec", "FoundBatch", "Incoming", "Origin", "Overlap", "plain_reason"]

_NAMED = 5  # most rows that a message lists
_ANY_NAME = "any new name sends all"  # the hint that always applies
_NOTHING_SENT = "nothing was sent; "
_NOT_STORED = 1 << 62  # from here on are the refs of rows that the batch has already: they are not stored again

# On a connection of its own. `digest` is 0 for a row that is not a valid task, and `reason` says why. `theirs` and
# `stored` are ref and digest of the row with the same key in the batch; NULL: it has none.
_INCOMING = """CREATE TEMP TABLE incoming (
    ref INTEGER PRIMARY KEY, pos INTEGER, k1 INTEGER, k2 INTEGER, digest INTEGER, reason TEXT, theirs INTEGER,
    stored INTEGER, conflict INTEGER NOT NULL DEFAULT 0)"""
# The first row of each key among those that the batch does not have.
_FIRST = """CREATE TEMP TABLE first (
    k1 INTEGER, k2 INTEGER, digest INTEGER, ref INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID"""

#: The rows that the batch has, as `i`, with what it has of them, as `r`.
KNOWN = "FROM incoming i JOIN rows r ON r.ref = i.theirs WHERE NOT i.conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What identifies a batch that another home has made."""

    id: str
    identity: bytes
    created: float  #: seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """A request for a batch, without its rows."""

    place: Place
    recipe: bytes  #: digest of the templates; all rows of a batch have the same one
    name: str | None = None  #: name of a batch, or id of an existing one; None: the rows identify the batch
    description: Mapping[str, Any] = field(default_factory=dict)  #: stored with a new batch, as JSON
    skip: bool = False  #: send the first of the rows with the same key, instead of raising an error
    origin: Origin | None = None  #: of a batch that comes from another home; its rows may be in other batches too
    check: Callable[[int], None] = lambda _added: None  #: refuses the rows that would be added, by their number

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
class Overlap:
    """A batch that has some of the rows."""

    label: str
    same: bool  #: whether it has the same templates
    shared: int  #: number of these rows
    rows: str  #: SQL that selects them; `a` are the new rows


class Incoming:
    """The planned rows of one `fan_out`, compared with the batches of the outbox.

    Parameters
    ----------
    connection : sqlite3.Connection
        Used for nothing else.
    part : int
        The part that stores the rows; 0 for a dry run.
    """

    def __init__(self, connection: sqlite3.Connection, spec: BatchSpec, part: int) -> None:
        self._connection = connection
        self._spec = spec
        self._part = part
        self._total = 0  # `row_sum` of the rows
        self._started = self._find()  # the batch of this name, if it existed before the first row
        self._apart: set[tuple[int, int, int]] = set()  # number, round and size of batches that have none of the rows
        self.rows = 0  #: number of planned rows
        self.target: FoundBatch | None = None  #: the batch that the rows are added to; None: a new one
        self.identity = b""  #: of that batch
        self.repeated: int | None = None  #: number of rows with the key of an earlier row; None: not known yet
        self.duplicates = 0  #: those of them that the batch does not have
        self.overlaps: Sequence[Overlap] = ()
        self.errors: Sequence[CloudTasksError] = ()  #: why the rows may not be sent; a spool raises the first of them
        self._duplicates_error: list[CloudTasksError] = []
        connection.execute(_INCOMING)
        connection.execute(_FIRST)

    def sort(self, chunk: Chunk) -> list[int] | None:
        """Return the places of those rows of a chunk that the batch of this name does not have; None for all.

        A row of the batch that was not a valid task is replaced by one that is.
        """
        first, self.rows = self.rows + (_NOT_STORED if self._part else 0), self.rows + len(chunk.rows)
        if self._started is None:
            return None
        pairs = _halves(chunk.keys)
        found = self._connection.execute(
            """SELECT k.k1, k.k2, k.digest, k.ref FROM json_each(?) j
               CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value""",
            (as_json({half for half, _ in pairs}), self._started.num),
        )
        stored = {(k1, k2): (digest, ref) for k1, k2, digest, ref in found}
        digests, new, known = _numbers(chunk), [], []
        for place, (pair, digest) in enumerate(zip(pairs, digests, strict=True)):
            theirs = stored.get(pair)
            if theirs is None or (digest and not theirs[0]):
                new.append(place)
            else:
                reason = chunk.rejected.get(place)
                known.append((first + place, chunk.rows[place], *pair, digest, reason, theirs[1], theirs[0]))
        self._connection.executemany("INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", known)
        return new if known else None

    def insert(
        self, refs: Sequence[int], rows: Sequence[int], keys: bytes, digests: bytes, reasons: Mapping[int, str]
    ) -> None:
        """Take rows that the batch of this name does not have; `keys` and `digests` are joined."""
        n = len(refs)
        halves, numbers = unpack(f">{2 * n}q", keys), unpack(f">{n}q", digests)
        self._connection.executemany(
            "INSERT INTO incoming (ref, pos, k1, k2, digest) VALUES (?, ?, ?, ?, ?)",
            zip(refs, rows, halves[::2], halves[1::2], numbers, strict=True),
        )
        self._connection.executemany(
            "UPDATE incoming SET reason = ? WHERE ref = ?", [(reason, refs[at]) for at, reason in reasons.items()]
        )
        whole = [keys[at : at + KEY_SIZE] for at in range(0, len(keys), KEY_SIZE)]
        self._total += row_sum(whole, unpack(f">{n}Q", digests))

    def attach(self) -> Spooled | None:
        """Attach to the batch that has exactly these rows, without comparing each row; None if there is no such batch.

        Raises
        ------
        BatchExistsError
            If the batch was made of other templates.
        """
        if not self._spec.by_rows:
            return None
        target = self._find(rows_identity(self._spec.place, self._spec.recipe, self._total))
        left = {} if target is None else {state: n for state, n in counts(self._connection, target.num).items() if n}
        if target is None or sum(left.values()) != self.rows:
            return None
        return Spooled(batch=target.id, created=False, added=0, known=self.rows, duplicates=0, rejected=0, left=left)

    def prepare(self) -> None:
        """Find duplicates, and batches that have none of the rows: all of `decide` that grows with the rows of others.

        It needs no lock: `decide` compares again only with batches that have changed since.
        """
        self.repeated = self._find_duplicates()
        if self._spec.by_rows:
            self._find_overlaps()

    def decide(self) -> None:
        """Find the batch, the rows that it has, and the errors that prevent sending the others.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        OutboxError
            If the batch that the rows were compared with was deleted meanwhile.
        """
        if self.repeated is None:
            self.prepare()
        spec, errors = self._spec, [*self._duplicates_error]
        by_rows = rows_identity(spec.place, spec.recipe, self._total)
        self.target, self.duplicates = self._find(by_rows), self.repeated or 0
        started = self._started
        if started is not None and (self.target is None or self.target.num != started.num):
            raise OutboxError(
                f"the batch {started.label} was deleted while its rows were planned",
                resource=started.id,
                hint="run the cell again",
            )
        if self.target is not None:
            errors += self._compare(self.target)
            self.duplicates = self._number(
                "SELECT count(*) FROM incoming WHERE theirs IS NULL AND digest AND reason <> ''"
            )
        elif spec.by_rows and (overlaps := self._find_overlaps()):
            self.overlaps = overlaps
            errors.append(_overlap_error(overlaps, self._number("SELECT count(*) FROM first WHERE digest <> 0")))
        if spec.origin is not None:
            self.identity = spec.origin.identity
        else:
            self.identity = by_rows if spec.name is None else named_identity(spec.place, spec.name)
        self.errors = errors

    def apply(self) -> Spooled:
        """Add the rows to their batch, which is created if it is new; runs in the transaction of `decide`."""
        connection, target, part = self._connection, self.target or self._create(), self._part
        created, left = self.target is None, self._left()
        if not created:
            self._replace_rejected(target)
            connection.execute("DELETE FROM first WHERE ref IN (SELECT ref FROM incoming WHERE theirs IS NOT NULL)")
        connection.execute("INSERT INTO keys SELECT ?, k1, k2, digest, ref FROM first ORDER BY k1, k2", (target.num,))
        with counted(connection, "ref BETWEEN ? AND ?", part << 32, (part + 1 << 32) - 1):
            connection.execute(
                """INSERT INTO rows (ref, pos, try, state, reason)
                   SELECT ref, pos, reason IS NULL, iif(reason IS NULL, ?, ?), reason FROM incoming
                   WHERE theirs IS NULL ORDER BY ref""",
                (State.UNSENT, State.REJECTED),
            )
        grouped = connection.execute("SELECT state, sum(n) FROM tallies WHERE part = ? GROUP BY state", (part,))
        added = {State(state): n for state, n in grouped}
        if added or created:
            connection.execute(
                """UPDATE parts SET num = ?, phase = 1,
                   last = coalesce((SELECT max(ref) FROM incoming WHERE theirs IS NULL), (part << 32) - 1)
                   WHERE part = ?""",
                (target.num, part),
            )
        if added and not created:
            connection.execute("UPDATE batches SET round = round + 1, snapshot = NULL WHERE num = ?", (target.num,))
            touch(connection, target.num)
        return Spooled(
            batch=target.id,
            created=created,
            added=added.get(State.UNSENT, 0),
            known=sum(left.values()),
            duplicates=self.duplicates,
            rejected=added.get(State.REJECTED, 0) - self.duplicates,
            left=left,
        )

    def new_id(self) -> str:
        """Return the id for a new batch: the first of its identity that no other batch has."""
        taken = "SELECT count(*) FROM batches WHERE id = ?"
        return next(i for i in batch_ids(self.identity) if not self._number(taken, i))

    def _number(self, query: str, *values: Any) -> int:
        return number(self._connection, query, *values)

    def _find(self, identity: bytes | None = None) -> FoundBatch | None:
        """Find the batch by its name or id if one is given, else by its rows."""
        spec, place = self._spec, self._spec.place
        named = spec.name is not None and spec.origin is None
        if spec.origin is not None:
            identity = spec.origin.identity
        elif spec.name is not None:
            identity = named_identity(place, spec.name)
        found = self._connection.execute(
            """SELECT num, id, name, recipe, description FROM batches WHERE identity = :identity
               OR (id = :name AND endpoint = :endpoint AND project = :project AND location = :location
                   AND queue = :queue)
               ORDER BY identity <> :identity LIMIT 1""",
            {"identity": identity, "name": spec.name if named else None, **asdict(place)},
        ).fetchone()
        if found is None:
            return None
        num, batch, name, recipe, description = found
        target = FoundBatch(num=num, id=batch, label=f"{name} ({batch})" if name else batch)
        if recipe != spec.recipe:
            raise _templates_error(target, orjson.loads(description), spec.description)
        return target

    def _find_duplicates(self) -> int:
        """Sort the rows by key, reject those with the key of an earlier row, and return their number."""
        connection = self._connection
        kept = connection.execute(
            """INSERT OR IGNORE INTO first SELECT k1, k2, digest, ref FROM incoming WHERE theirs IS NULL
               ORDER BY k1, k2, digest = 0, ref"""
        ).rowcount
        if kept == self._number("SELECT count(*) FROM incoming WHERE theirs IS NULL"):
            return 0
        # CROSS JOIN fixes the order: look up each row in the index; the other order reads all rows for each key.
        pairs = """FROM incoming i CROSS JOIN first k
            ON i.theirs IS NULL AND k.k1 = i.k1 AND k.k2 = i.k2 AND k.ref <> i.ref"""
        extras = f"{pairs} CROSS JOIN incoming f ON f.ref = k.ref WHERE i.digest <> 0"
        many = self._number(f"SELECT count(*) {extras}")
        if many and not self._spec.skip:
            rows = connection.execute(f"SELECT i.pos, f.pos {extras} ORDER BY i.ref LIMIT {_NAMED}")
            self._duplicates_error.append(_duplicates_error(rows.fetchall(), many, self.rows))
        for k1, k2, digest in connection.execute(f"SELECT i.k1, i.k2, i.digest {pairs}"):
            self._total -= row_sum([_bytes(k1) + _bytes(k2)], [digest % (1 << 64)])
        connection.execute(
            f"""UPDATE incoming SET reason = found.reason
                FROM (SELECT i.ref, printf('duplicate of row %d', f.pos) AS reason {extras}) AS found
                WHERE incoming.ref = found.ref"""
        )
        return many

    def _compare(self, target: FoundBatch) -> list[CloudTasksError]:
        """Find the rows that the batch has, and those that it has with another request; return the error for these."""
        connection = self._connection
        connection.execute(
            """UPDATE incoming SET theirs = k.ref, stored = k.digest FROM keys k
               WHERE theirs IS NULL AND k.num = ? AND k.k1 = incoming.k1 AND k.k2 = incoming.k2
               AND (incoming.digest = 0 OR k.digest <> 0)""",
            (target.num,),
        )
        connection.execute(
            # Without duplicates, which were not sent the first time either.
            """UPDATE incoming SET conflict = 1
               WHERE theirs IS NOT NULL AND digest <> 0 AND digest <> stored AND reason IS NULL"""
        )
        many = self._number("SELECT changes()")
        if many and self._spec.skip:  # a row behind one that the batch has is a duplicate
            connection.execute(
                """UPDATE incoming SET conflict = 0 WHERE ref IN (
                   SELECT c.ref FROM incoming c JOIN incoming e
                   ON e.theirs = c.theirs AND e.digest = c.stored AND e.ref < c.ref WHERE c.conflict)"""
            )
            many -= self._number("SELECT changes()")
        if not many:
            return []
        rows = connection.execute("SELECT pos FROM incoming WHERE conflict ORDER BY ref LIMIT ?", (_NAMED,))
        return [_conflict_error([row for (row,) in rows], many, self.rows, target)]

    def _left(self) -> dict[State, int]:
        """Return how many of the rows that the batch has are in which state."""
        found = self._connection.execute(f"SELECT {SHOWN_STATE}, count(*) {KNOWN} GROUP BY 1")
        return {State(state): n for state, n in found}

    def _create(self) -> FoundBatch:
        """Make a new batch."""
        spec, now = self._spec, time.time()
        batch, created = (self.new_id(), now) if spec.origin is None else (spec.origin.id, spec.origin.created)
        self._connection.execute(
            """INSERT INTO batches (num, id, identity, endpoint, project, location, queue, name, recipe, description,
               created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                self._part,
                batch,
                self.identity,
                *astuple(spec.place),
                spec.name,
                spec.recipe,
                orjson.dumps(dict(spec.description), default=str).decode(),
                created,
                now,
            ),
        )
        return FoundBatch(num=self._part, id=batch, label=spec.name or batch)

    def _replace_rejected(self, target: FoundBatch) -> None:
        """Remove the rows of a batch that were not valid tasks and are now added as valid ones."""
        connection = self._connection
        found = connection.execute(
            """SELECT k.ref, k.k1, k.k2 FROM first f JOIN keys k ON k.num = ? AND k.k1 = f.k1 AND k.k2 = f.k2
               WHERE f.digest <> 0 AND k.digest = 0""",
            (target.num,),
        ).fetchall()
        refs = as_json(ref for ref, _, _ in found)
        with counted(connection, "ref IN (SELECT value FROM json_each(?))", refs):
            connection.execute("DELETE FROM rows WHERE ref IN (SELECT value FROM json_each(?))", (refs,))
        connection.executemany(
            "DELETE FROM keys WHERE num = ? AND k1 = ? AND k2 = ?", [(target.num, k1, k2) for _, k1, k2 in found]
        )

    def _find_overlaps(self) -> list[Overlap]:
        """Return the batches of the queue that have some of the rows, the one with the most first.

        Batches that were found to have none are not compared again unless rows were added to them.
        """
        others = self._connection.execute(
            """SELECT b.num, b.round, (SELECT total(n) FROM parts p JOIN tallies t USING (part) WHERE p.num = b.num),
                      b.id, b.name, b.recipe
               FROM batches b
               WHERE endpoint = ? AND project = ? AND location = ? AND queue = ? ORDER BY b.num DESC""",
            astuple(self._spec.place),
        ).fetchall()
        others = [row for row in others if row[:3] not in self._apart]
        size = self._number("SELECT count(*) FROM first") if others else 0
        found = []
        for num, round_, theirs, batch, name, recipe in others:
            # One search in the larger batch for each row of the smaller.
            same = "a.k1 = b.k1 AND a.k2 = b.k2"
            sides = (
                f"first a CROSS JOIN keys b ON b.num = {num} AND {same}"
                if size <= theirs
                else f"keys b CROSS JOIN first a ON {same}"
            )
            rows = f"FROM {sides} WHERE b.num = {num} AND a.digest <> 0 AND a.digest = b.digest"
            shared = self._number(f"SELECT count(*) {rows}")
            if shared:
                found.append(Overlap(label=name or batch, same=recipe == self._spec.recipe, shared=shared, rows=rows))
            else:
                self._apart.add((num, round_, theirs))
        return sorted(found, key=lambda one: -one.shared)


def plain_reason(error: CloudTasksError) -> str:
    """Return an error of this module as one line for a dry run, without the words that nothing was sent."""
    return f"{error.message}; {(error.hint or '').removeprefix(_NOTHING_SENT)}"


def _templates_error(target: FoundBatch, before: Mapping[str, Any], now: Mapping[str, Any]) -> BatchExistsError:
    """Return the error for a batch that was made of other templates."""
    after = orjson.loads(orjson.dumps(dict(now), default=str))
    # Names with an underscore describe the sending, not the templates.
    words = sorted(word for word in before.keys() | after if not word.startswith("_"))
    changes = [
        mask_text(f"; {word} was {before.get(word)!r}, is {after.get(word)!r}")
        for word in words
        if before.get(word) != after.get(word)
    ]
    return BatchExistsError(
        f"the batch {target.label} was made of other templates{''.join(changes)}",
        resource=target.id,
        hint=f"{_NOTHING_SENT}{_ANY_NAME}",
    )


def _overlap_error(found: Sequence[Overlap], total: int) -> BatchExistsError:
    """Return the error for rows that other batches have; the one with the most comes first."""
    most = found[0]
    if most.shared == total:
        ways = f'tasks.batch("{most.label}") shows it, {_ANY_NAME}'
    elif most.same:
        ways = f'name="{most.label}" sends the other {total - most.shared:,}, {_ANY_NAME}'
    else:
        ways = f"it was made of other templates; {_ANY_NAME}"
    return BatchExistsError(
        ", ".join(f"{one.shared:,} of {total:,} are in {one.label}" for one in found[:3]),
        resource=most.label,
        hint=f"{_NOTHING_SENT}{ways}",
    )


def _conflict_error(rows: Sequence[int], many: int, total: int, target: FoundBatch) -> BatchExistsError:
    """Return the error for rows whose key the batch has with another request."""
    have, which = ("has a key", "row") if many == 1 else ("have keys", "rows")
    shown = ", ".join(map(str, rows)) + (", ..." if many > len(rows) else "")
    return BatchExistsError(
        f"{many:,} of {total:,} rows {have} that the batch {target.label} has with another request ({which} {shown})",
        resource=target.id,
        hint=f"{_NOTHING_SENT}{_ANY_NAME}, and key=[...] may name more columns that distinguish rows",
    )


def _duplicates_error(rows: Sequence[tuple[int, int]], many: int, total: int) -> DuplicateRowsError:
    shown = ", ".join(f"{row} is the same as {first}" for row, first in rows)
    return DuplicateRowsError(
        f"{many:,} of {total:,} rows {'has' if many == 1 else 'have'} the key of an earlier row: "
        f"{shown}{', ...' if many > len(rows) else ''}",
        hint='key=[...] with columns that tell the rows apart, errors="skip" (the first is sent), '
        "or key=ct.ROW (each row is its own)",
    )


def _halves(keys: Iterable[bytes]) -> list[tuple[int, int]]:
    """Return the halves of keys as two integers each, as the tables store them."""
    joined = b"".join(keys)
    halves = unpack(f">{len(joined) // 8}q", joined)
    return list(zip(halves[::2], halves[1::2], strict=True))


def _numbers(chunk: Chunk) -> tuple[int, ...]:
    """Return the first half of each digest as an integer; 0 for a row that is not a valid task."""
    halves = [bytes(8) if index in chunk.rejected else digest[:8] for index, digest in enumerate(chunk.digests)]
    return unpack(f">{len(halves)}q", b"".join(halves))


def _bytes(half: int) -> bytes:
    return half.to_bytes(KEY_SIZE // 2, signed=True)
