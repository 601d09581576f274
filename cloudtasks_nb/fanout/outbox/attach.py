"""Decide which batch planned rows belong to and which of them it has already; add the others to it.

`decide` only reads the outbox's tables and writes temporary ones, so that a dry run can end there. A real spool goes on
with `apply`, in the same transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import orjson

from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.errors import BatchExistsError, CloudTasksError, DuplicateRowsError, OutboxError
from cloudtasks_nb.fanout.outbox.counters import add_counts, counts, number, set_reasons, touch
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, Place, batch_ids, named_identity, row_sum, rows_identity

__all__ = [
    "INCOMING",
    "NAMED",
    "BatchSpec",
    "Decision",
    "FoundBatch",
    "Intake",
    "Origin",
    "Overlap",
    "Refs",
    "apply",
    "attach_all",
    "decide",
    "find",
    "new_id",
    "plain_reason",
    "prepare",
]

NAMED = 5  #: most rows that a message lists

_ANY_NAME = "any new name sends all"  # the hint that always applies
_NOTHING_SENT = "nothing was sent; "

#: Temporary tables, on the spool's own connection, for the rows that were planned. `digest` is 0 for a row that is not
#: a valid task. Rows that the batch has are moved from `incoming` to `known`.
INCOMING = (
    """CREATE TEMP TABLE incoming (
        ref INTEGER PRIMARY KEY, row INTEGER, k1 INTEGER, k2 INTEGER, digest INTEGER, state INTEGER)""",
    """CREATE TEMP TABLE new_keys (
        k1 INTEGER, k2 INTEGER, digest INTEGER, ref INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID""",
    "CREATE TEMP TABLE reasons (ref INTEGER PRIMARY KEY, reason TEXT)",
    "CREATE TEMP TABLE known (ref INTEGER PRIMARY KEY, theirs INTEGER)",
    "CREATE TEMP TABLE conflicts (ref INTEGER PRIMARY KEY)",
)


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


class Refs:
    """A set of refs with one bit each, because a batch may have ten million rows."""

    def __init__(self, refs: Iterable[int] = ()) -> None:
        self._parts: dict[int, bytearray] = {}
        self._count = 0
        for ref in refs:
            self.add(ref)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Yield the refs in ascending order."""
        for part, bits in sorted(self._parts.items()):
            for byte, value in enumerate(bits):
                if value:
                    first = part << 32 | byte << 3
                    yield from (first + bit for bit in range(8) if value >> bit & 1)

    def add(self, ref: int) -> None:
        """Add a ref."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.setdefault(ref >> 32, bytearray())
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits) + len(bits) // 8))
        if not bits[byte] >> bit & 1:
            bits[byte] |= 1 << bit
            self._count += 1

    def discard(self, ref: int) -> None:
        """Remove a ref, if it is in the set."""
        if self.has(ref):
            self._parts[ref >> 32][(ref & 0xFFFFFFFF) // 8] &= ~(1 << ref % 8)
            self._count -= 1

    def has(self, ref: int) -> bool:
        """Return whether a ref is in the set."""
        byte, bit = divmod(ref & 0xFFFFFFFF, 8)
        bits = self._parts.get(ref >> 32, b"")
        return byte < len(bits) and bool(bits[byte] >> bit & 1)


@dataclass(slots=True, kw_only=True)
class Intake:
    """Counts of the rows that were spooled so far, and their comparison with the batch."""

    part: int
    rows: int = 0  #: number of planned rows
    total: int = 0  #: `row_sum` of those that are in `incoming`
    target: FoundBatch | None = None  #: the batch of this name, if it existed before the first row
    known: int = 0  #: number of rows that the batch has
    met: Refs = field(default_factory=Refs)  #: refs of these rows in the batch
    left: dict[State, int] = field(default_factory=dict)  #: number of these rows by state
    conflicts: list[int] = field(default_factory=list)  #: the first rows whose key the batch has with another request
    conflicting: int = 0  #: number of such rows
    repeated: int | None = None  #: number of rows with the key of an earlier row; None: not known yet
    errors: list[CloudTasksError] = field(default_factory=list)  #: why these rows may not be sent
    apart: set[tuple[int, int, int]] = field(default_factory=set)
    """Number, round and size of the batches that were compared and have none of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A batch that has some of the rows."""

    label: str
    same: bool  #: whether it has the same templates
    shared: int  #: number of these rows
    rows: str  #: SQL that selects them; `a` are the new rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The batch that the rows are added to, or the errors that prevent it."""

    target: FoundBatch | None  #: the batch they are added to; None: a new one
    identity: bytes  #: of the new batch
    repeated: int  #: rows with the key of an earlier row
    duplicates: int  #: those of them that the batch does not have
    overlaps: Sequence[Overlap]
    errors: Sequence[CloudTasksError]  #: why the rows may not be sent; a spool raises the first of them


def find(connection: sqlite3.Connection, spec: BatchSpec, identity: bytes | None = None) -> FoundBatch | None:
    """Find the batch by its name or id if one is given, else by its rows.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    place = spec.place
    found = None
    if spec.origin is not None:
        identity = spec.origin.identity
    if spec.name is not None and spec.origin is None:
        found = connection.execute(
            """SELECT num, id, name, recipe, description FROM batches WHERE identity = :identity
               OR (id = :name AND endpoint = :endpoint AND project = :project AND location = :location
                   AND queue = :queue)
               ORDER BY identity <> :identity LIMIT 1""",
            {"identity": named_identity(place, spec.name), "name": spec.name, **asdict(place)},
        ).fetchone()
    elif identity is not None:
        found = connection.execute(
            "SELECT num, id, name, recipe, description FROM batches WHERE identity = ?", (identity,)
        ).fetchone()
    if found is None:
        return None
    num, batch, name, recipe, description = found
    target = FoundBatch(num=num, id=batch, label=f"{name} ({batch})" if name else batch)
    if recipe != spec.recipe:
        before = orjson.loads(description)
        # Names with an underscore describe the sending, not the templates.
        words = {word for word in before.keys() | spec.description if not word.startswith("_")}
        other = sorted(word for word in words if _differs(before, spec.description, word))
        raise BatchExistsError(
            f"the batch {target.label} was made of other templates"
            + "".join(
                mask_text(f"; {word} was {before.get(word)!r}, is {spec.description.get(word)!r}") for word in other
            ),
            resource=batch,
            hint=f"nothing was sent; {_ANY_NAME}",
        )
    return target


def attach_all(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake) -> Spooled | None:
    """Attach to the batch that has exactly these rows, without comparing each row; None if there is no such batch."""
    if not spec.by_rows:
        return None
    target = find(connection, spec, rows_identity(spec.place, spec.recipe, intake.total))
    left = {} if target is None else {state: n for state, n in counts(connection, target.num).items() if n}
    if target is None or sum(left.values()) != intake.rows:
        return None
    return Spooled(batch=target.id, created=False, added=0, known=intake.rows, duplicates=0, rejected=0, left=left)


def prepare(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake) -> None:
    """Find duplicates, and batches that have none of the rows: all of `decide` that grows with the rows of others.

    It needs no lock: `decide` compares again only with batches that have changed since.
    """
    intake.repeated = _sort_keys(connection, spec, intake, intake.errors)
    if spec.by_rows:
        _overlaps(connection, spec, intake)


def decide(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake) -> Decision:
    """Find duplicates, the batch, the rows that it has, and the errors that prevent sending the others.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    OutboxError
        If the batch that the rows were compared with was deleted meanwhile.
    """
    if intake.repeated is None:
        prepare(connection, spec, intake)
    errors, duplicates = [*intake.errors], intake.repeated or 0
    by_rows = rows_identity(spec.place, spec.recipe, intake.total)
    target = find(connection, spec, by_rows)
    if intake.target is not None and (target is None or target.num != intake.target.num):
        raise OutboxError(
            f"the batch {intake.target.label} was deleted while its rows were planned",
            resource=intake.target.id,
            hint="run the cell again",
        )
    overlaps: Sequence[Overlap] = ()
    if target is not None:
        _leave_known(connection, intake, target, errors)
        duplicates = number(connection, "SELECT count(*) FROM incoming WHERE state = ? AND digest <> 0", State.REJECTED)
    elif spec.by_rows and (overlaps := _overlaps(connection, spec, intake)):
        total = number(connection, "SELECT count(*) FROM new_keys WHERE digest <> 0")
        errors.append(_overlap_error(overlaps, total))
    if spec.origin is not None:
        identity = spec.origin.identity
    else:
        identity = by_rows if spec.name is None else named_identity(spec.place, spec.name)
    return Decision(
        target=target,
        identity=identity,
        repeated=intake.repeated or 0,
        duplicates=duplicates,
        overlaps=overlaps,
        errors=errors,
    )


def apply(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake, decision: Decision) -> Spooled:
    """Add the rows to their batch, which is created if it is new; runs in the transaction of `decide`."""
    created = decision.target is None
    target = decision.target or _create(connection, spec, intake, decision.identity)
    if not created:
        _replace_rejected(connection, target)
        connection.execute("DELETE FROM new_keys WHERE ref NOT IN (SELECT ref FROM incoming)")
    connection.execute("INSERT INTO keys SELECT ?, k1, k2, digest, ref FROM new_keys ORDER BY k1, k2", (target.num,))
    added = _add_rows(connection, intake, target, created=created)
    return Spooled(
        batch=target.id,
        created=created,
        added=added.get(State.UNSENT, 0),
        known=intake.known,
        duplicates=decision.duplicates,
        rejected=added.get(State.REJECTED, 0) - decision.duplicates,
        left=intake.left,
    )


def _create(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake, identity: bytes) -> FoundBatch:
    """Make a new batch."""
    now = time.time()
    batch, created = (
        (new_id(connection, identity), now) if spec.origin is None else (spec.origin.id, spec.origin.created)
    )
    connection.execute(
        """INSERT INTO batches (num, id, identity, endpoint, project, location, queue, name, recipe, description,
           created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            intake.part,
            batch,
            identity,
            *astuple(spec.place),
            spec.name,
            spec.recipe,
            orjson.dumps(dict(spec.description), default=str).decode(),
            created,
            now,
        ),
    )
    return FoundBatch(num=intake.part, id=batch, label=spec.name or batch)


def new_id(connection: sqlite3.Connection, identity: bytes) -> str:
    """Return the id for a new batch: the first of its identity that no other batch has."""
    taken = "SELECT 1 FROM batches WHERE id = ?"
    return next(i for i in batch_ids(identity) if connection.execute(taken, (i,)).fetchone() is None)


def _sort_keys(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake, errors: list[CloudTasksError]) -> int:
    """Sort the rows by key, reject those with the key of an earlier row, and return their number."""
    kept = connection.execute(
        "INSERT OR IGNORE INTO new_keys SELECT k1, k2, digest, ref FROM incoming ORDER BY k1, k2, digest = 0, ref"
    ).rowcount
    if kept == number(connection, "SELECT count(*) FROM incoming"):
        return 0
    # CROSS JOIN fixes the order: look up each row in the index; the other order reads all rows for each key.
    pairs = "FROM incoming i CROSS JOIN new_keys k ON k.k1 = i.k1 AND k.k2 = i.k2 AND k.ref <> i.ref"
    extras = f"{pairs} CROSS JOIN incoming first ON first.ref = k.ref WHERE i.digest <> 0"
    many = number(connection, f"SELECT count(*) {extras}")
    if many and not spec.skip:
        rows = connection.execute(f"SELECT i.row, first.row {extras} ORDER BY i.ref LIMIT {NAMED}")
        errors.append(_duplicates_error(rows.fetchall(), many, intake.rows))
    for k1, k2, digest in connection.execute(f"SELECT i.k1, i.k2, i.digest {pairs}"):
        intake.total -= row_sum([_bytes(k1) + _bytes(k2)], [digest % (1 << 64)])
    connection.execute(f"INSERT INTO reasons SELECT i.ref, printf('duplicate of row %d', first.row) {extras}")
    connection.execute(
        f"UPDATE incoming SET state = ? WHERE ref IN (SELECT i.ref {extras})",  # noqa: S608 - text of our own
        (State.REJECTED,),
    )
    return many


def _leave_known(
    connection: sqlite3.Connection, intake: Intake, target: FoundBatch, errors: list[CloudTasksError]
) -> None:
    """Move the rows that the batch has from `incoming` to `known`, and find those that it has with another request."""
    both = f"FROM incoming i JOIN keys k ON k.num = {target.num} AND k.k1 = i.k1 AND k.k2 = i.k2"
    connection.execute(
        f"""INSERT INTO conflicts SELECT i.ref {both} WHERE i.digest <> 0 AND k.digest <> 0 AND i.digest <> k.digest
            AND i.state <> ?""",  # without duplicates, which were not sent the first time either
        (State.REJECTED,),
    )
    many = number(connection, "SELECT changes()")
    if many or intake.conflicting:
        rows = connection.execute(
            "SELECT i.row FROM incoming i JOIN conflicts c ON c.ref = i.ref ORDER BY i.ref LIMIT ?", (NAMED,)
        )
        first = [*intake.conflicts, *(row for (row,) in rows)][:NAMED]
        errors.append(_conflict_error(first, many + intake.conflicting, intake.rows, target))
        connection.execute("DELETE FROM incoming WHERE ref IN (SELECT ref FROM conflicts)")
    # A row of the batch that was not a valid task is replaced by one that is.
    connection.execute(f"INSERT INTO known SELECT i.ref, k.ref {both} WHERE i.digest = 0 OR k.digest <> 0")
    left = connection.execute(
        """SELECT r.state, count(*) FROM known k JOIN rows r ON r.ref = k.theirs JOIN incoming i ON i.ref = k.ref
           GROUP BY r.state"""
    )
    for state, n in left.fetchall():
        intake.known += n
        intake.left[State(state)] = intake.left.get(State(state), 0) + n
    connection.execute("DELETE FROM incoming WHERE ref IN (SELECT ref FROM known)")


def _replace_rejected(connection: sqlite3.Connection, target: FoundBatch) -> None:
    """Remove the rows of a batch that were not valid tasks and are now added as valid ones."""
    connection.execute(
        """CREATE TEMP TABLE replaced AS SELECT k.ref, k.k1, k.k2 FROM incoming i
           JOIN keys k ON k.num = ? AND k.k1 = i.k1 AND k.k2 = i.k2 WHERE i.digest <> 0""",
        (target.num,),
    )
    connection.execute("DELETE FROM rows WHERE ref IN (SELECT ref FROM replaced)")
    add_counts(connection, target.num, {State.REJECTED: -number(connection, "SELECT changes()")})
    connection.execute("DELETE FROM keys WHERE num = ? AND (k1, k2) IN (SELECT k1, k2 FROM replaced)", (target.num,))


def _add_rows(connection: sqlite3.Connection, intake: Intake, target: FoundBatch, *, created: bool) -> dict[State, int]:
    """Add the rows in `incoming` to the batch; return how many there are in each state."""
    connection.execute("INSERT INTO rows SELECT ref, row, state = ?, state FROM incoming ORDER BY ref", (State.UNSENT,))
    set_reasons(
        connection, connection.execute("SELECT ref, reason FROM reasons WHERE ref IN (SELECT ref FROM incoming)")
    )
    grouped = connection.execute("SELECT state, count(*) FROM incoming GROUP BY state").fetchall()
    added = {State(state): n for state, n in grouped}
    add_counts(connection, target.num, {int(state): n for state, n in added.items()})
    last = connection.execute("SELECT max(ref) FROM incoming").fetchone()[0]
    if last is not None or created:
        connection.execute(
            """UPDATE parts SET num = ?, status = 1, next = part << 32, last = coalesce(?, (part << 32) - 1)
               WHERE part = ?""",
            (target.num, last, intake.part),
        )
    if added and not created:
        connection.execute("UPDATE batches SET round = round + 1, snapshot = NULL WHERE num = ?", (target.num,))
        touch(connection, target.num)
    return added


def _overlaps(connection: sqlite3.Connection, spec: BatchSpec, intake: Intake) -> list[Overlap]:
    """Return the batches of the queue that have some of the rows, the one with the most first.

    Batches that were found to have none are not compared again unless rows were added to them.
    """
    others = connection.execute(
        """SELECT b.num, b.round, (SELECT total(n) FROM counts c WHERE c.num = b.num), b.id, b.name, b.recipe
           FROM batches b
           WHERE endpoint = ? AND project = ? AND location = ? AND queue = ? ORDER BY b.num DESC""",
        astuple(spec.place),
    ).fetchall()
    others = [row for row in others if row[:3] not in intake.apart]
    size = number(connection, "SELECT count(*) FROM new_keys") if others else 0
    found = []
    for num, round_, theirs, batch, name, recipe in others:
        # One search in the larger batch for each row of the smaller.
        same = "a.k1 = b.k1 AND a.k2 = b.k2"
        sides = (
            f"new_keys a CROSS JOIN keys b ON b.num = {num} AND {same}"
            if size <= theirs
            else f"keys b CROSS JOIN new_keys a ON {same}"
        )
        rows = f"FROM {sides} WHERE b.num = {num} AND a.digest <> 0 AND a.digest = b.digest"
        shared = number(connection, f"SELECT count(*) {rows}")
        if shared:
            found.append(Overlap(label=name or batch, same=recipe == spec.recipe, shared=shared, rows=rows))
        else:
            intake.apart.add((num, round_, theirs))
    return sorted(found, key=lambda one: -one.shared)


def _overlap_error(found: Sequence[Overlap], total: int) -> BatchExistsError:
    """Return the error for rows that other batches have; `found` as `_overlaps` returns it."""
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


def plain_reason(error: CloudTasksError) -> str:
    """Return an error of this module as one line for a dry run, without the words that nothing was sent."""
    return f"{error.message}; {(error.hint or '').removeprefix(_NOTHING_SENT)}"


def _conflict_error(rows: Sequence[int], many: int, total: int, target: FoundBatch) -> BatchExistsError:
    """Return the error for rows whose key the batch has with another request."""
    one = many == 1
    return BatchExistsError(
        f"{many:,} of {total:,} rows {'has a key' if one else 'have keys'} that the batch {target.label} has with "
        f"another request ({'row' if one else 'rows'} {_list(rows, many)})",
        resource=target.id,
        hint=f"{_NOTHING_SENT}{_ANY_NAME}, and key=[...] may name more columns that distinguish rows",
    )


def _duplicates_error(rows: Sequence[tuple[int, int]], many: int, total: int) -> DuplicateRowsError:
    shown = ", ".join(f"{row} is the same as {first}" for row, first in rows)
    one = many == 1
    return DuplicateRowsError(
        f"{many:,} of {total:,} rows {'has' if one else 'have'} the key of an earlier row: "
        f"{shown}{', ...' if many > len(rows) else ''}",
        hint='key=[...] with columns that tell the rows apart, errors="skip" (the first is sent), '
        "or key=ct.ROW (each row is its own)",
    )


def _list(rows: Sequence[int], many: int) -> str:
    return ", ".join(map(str, rows)) + (", ..." if many > len(rows) else "")


def _bytes(half: int) -> bytes:
    return half.to_bytes(KEY_SIZE // 2, signed=True)


def _differs(before: Mapping[str, Any], after: Mapping[str, Any], word: str) -> bool:
    plain: Any = orjson.loads(orjson.dumps(after.get(word), default=str))
    return bool(before.get(word) != plain)
