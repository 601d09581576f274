"""What forbids to send rows: duplicates among them, a batch that knows them otherwise, another batch that has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from cloudtasks_nb.errors import BatchExistsError, DuplicateRowsError
from cloudtasks_nb.fanout.outbox.counters import number
from cloudtasks_nb.fanout.outbox.draft import Draft, Seen, Target
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, row_sum

__all__ = [
    "ALL_AGAIN",
    "SHOWN",
    "Mine",
    "Overlap",
    "conflict",
    "index",
    "overlap_error",
    "overlaps",
    "reason",
    "refuse_overlap",
]

SHOWN = 5  #: rows that a message names
ALL_AGAIN = "any new name sends all"  #: the way out that always works

_NOTHING_SENT = "nothing was sent; "


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine:
    """Rows that would be sent, in a table with an index on `k1, k2`; those with the digest 0 do not count."""

    table: str
    which: str  #: of its rows, which it calls ``a``; SQL
    size: int  #: how many, about

    def shared(self, num: int, *, smaller: bool) -> str:
        """Return what selects those that the batch has too; it searches for each row of the `smaller` side."""
        same = "a.k1 = b.k1 AND a.k2 = b.k2"
        sides = (
            f"{self.table} a CROSS JOIN keys b ON b.num = {num} AND {same}"
            if smaller
            else f"keys b CROSS JOIN {self.table} a ON {same}"
        )
        return f"FROM {sides} WHERE b.num = {num} AND {self.which} AND a.digest <> 0 AND a.digest = b.digest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A batch that has some of the rows."""

    label: str
    same: bool  #: it was made of the same templates
    shared: int  #: rows
    rows: str  #: what selects them


def index(connection: sqlite3.Connection, draft: Draft, seen: Seen) -> int:
    """Sort the keys into the index; handle those that come twice, and return how many rows that leaves out."""
    kept = connection.execute(
        """INSERT OR IGNORE INTO keys SELECT ?, k1, k2, digest, ref FROM incoming
           ORDER BY k1, k2, digest = 0, ref""",
        (seen.part,),
    ).rowcount
    if kept == number(connection, "SELECT count(*) FROM incoming"):
        return 0
    # Row by row into the index, and not the other way round, which would read all rows again for each of them.
    extras = """FROM incoming i CROSS JOIN keys k ON k.num = ? AND k.k1 = i.k1 AND k.k2 = i.k2 AND k.ref <> i.ref
                CROSS JOIN incoming first ON first.ref = k.ref WHERE i.digest <> 0"""
    many = number(connection, f"SELECT count(*) {extras}", seen.part)
    if many and not draft.skip:
        rows = connection.execute(f"SELECT i.row, first.row {extras} ORDER BY i.ref LIMIT {SHOWN}", (seen.part,))
        raise _duplicates(rows.fetchall(), many, seen.rows)
    left_out = connection.execute(
        """SELECT i.k1, i.k2, i.digest FROM incoming i CROSS JOIN keys k
           ON k.num = ? AND k.k1 = i.k1 AND k.k2 = i.k2 AND k.ref <> i.ref""",
        (seen.part,),
    )
    for k1, k2, digest in left_out:
        seen.total -= row_sum([_bytes(k1) + _bytes(k2)], [digest % (1 << 64)])
    connection.execute(
        f"INSERT INTO reasons SELECT i.ref, printf('duplicate of row %d', first.row) {extras}",
        (seen.part,),
    )
    connection.execute(
        f"UPDATE incoming SET state = ? WHERE ref IN (SELECT i.ref {extras})",  # noqa: S608 - same
        (State.REJECTED, seen.part),
    )
    return many


def refuse_overlap(connection: sqlite3.Connection, draft: Draft, seen: Seen) -> None:
    """Raise if another batch of the queue has some of the rows: without a name, it is not clear what is wanted."""
    size = number(connection, "SELECT count(*) FROM keys WHERE num = ?", seen.part)
    found = overlaps(connection, draft, Mine(table="keys", which=f"a.num = {seen.part}", size=size))
    if found:
        total = number(connection, "SELECT count(*) FROM keys WHERE num = ? AND digest <> 0", seen.part)
        raise overlap_error(found, total)


def overlaps(connection: sqlite3.Connection, draft: Draft, mine: Mine) -> list[Overlap]:
    """Return the batches of the queue that have some of the rows, the one with the most first."""
    place = draft.place
    others = connection.execute(
        """SELECT b.num, b.id, b.name, b.recipe, (SELECT sum(n) FROM counts c WHERE c.num = b.num) FROM batches b
           WHERE endpoint = ? AND project = ? AND location = ? AND queue = ? ORDER BY b.num DESC""",
        (place.endpoint, place.project, place.location, place.queue),
    ).fetchall()
    found = []
    for num, batch, name, recipe, theirs in others:
        # One search in the larger batch for each row of the smaller.
        rows = mine.shared(num, smaller=mine.size <= (theirs or 0))
        shared = number(connection, f"SELECT count(*) {rows}")
        if shared:
            found.append(Overlap(label=name or batch, same=recipe == draft.recipe, shared=shared, rows=rows))
    return sorted(found, key=lambda one: -one.shared)


def overlap_error(found: Sequence[Overlap], total: int) -> BatchExistsError:
    """Return the error for rows that other batches have; `found` as `overlaps` returns it."""
    most = found[0]
    if most.shared == total:
        ways = f'tasks.batch("{most.label}") shows it, {ALL_AGAIN}'
    elif most.same:
        ways = f'name="{most.label}" sends the other {total - most.shared:,}, {ALL_AGAIN}'
    else:
        ways = f"it was made of other templates; {ALL_AGAIN}"
    return BatchExistsError(
        ", ".join(f"{one.shared:,} of {total:,} are in {one.label}" for one in found[:3]),
        resource=most.label,
        hint=f"{_NOTHING_SENT}{ways}",
    )


def reason(error: BatchExistsError) -> str:
    """Return what an error of this module would say, in one line, where nothing was to be sent anyway."""
    return f"{error.message}; {(error.hint or '').removeprefix(_NOTHING_SENT)}"


def conflict(rows: Sequence[int], many: int, total: int, target: Target) -> BatchExistsError:
    """Return the error for rows whose key the batch knows with another request."""
    one = many == 1
    return BatchExistsError(
        f"{many:,} of {total:,} rows {'has a key' if one else 'have keys'} that the batch {target.label} knows with "
        f"another request ({'row' if one else 'rows'} {_list(rows, many)})",
        resource=target.id,
        hint=f"{_NOTHING_SENT}{ALL_AGAIN}, and key=[...] may name more columns that tell rows apart",
    )


def _duplicates(rows: Sequence[tuple[int, int]], many: int, total: int) -> DuplicateRowsError:
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
