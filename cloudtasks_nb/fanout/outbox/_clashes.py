"""What forbids to send rows: duplicates among them, a batch that knows them otherwise, another batch that has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from cloudtasks_nb.errors import BatchExistsError, DuplicateRowsError
from cloudtasks_nb.fanout.outbox._draft import Draft, Seen, Target
from cloudtasks_nb.fanout.outbox._ledger import number
from cloudtasks_nb.fanout.outbox._records import State
from cloudtasks_nb.fanout.plan._identity import KEY_SIZE, row_sum

__all__ = ["ALL_AGAIN", "SHOWN", "conflict", "index", "refuse_overlap"]

SHOWN = 5  #: rows that a message names
ALL_AGAIN = "any new name sends all"  #: the way out that always works


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
    place = draft.place
    mine = number(connection, "SELECT count(*) FROM keys WHERE num = ?", seen.part)
    others = connection.execute(
        """SELECT b.num, b.id, b.name, b.recipe, (SELECT sum(n) FROM counts c WHERE c.num = b.num) FROM batches b
           WHERE endpoint = ? AND project = ? AND location = ? AND queue = ? ORDER BY b.num DESC""",
        (place.endpoint, place.project, place.location, place.queue),
    ).fetchall()
    found = []
    for num, batch, name, recipe, theirs in others:
        # One search in the larger batch for each row of the smaller.
        outer, inner = (seen.part, num) if mine <= (theirs or 0) else (num, seen.part)
        shared = number(
            connection,
            """SELECT count(*) FROM keys a CROSS JOIN keys b ON b.num = ? AND b.k1 = a.k1 AND b.k2 = a.k2
               WHERE a.num = ? AND a.digest <> 0 AND a.digest = b.digest""",
            inner,
            outer,
        )
        if shared:
            found.append((shared, name or batch, recipe == draft.recipe))
    if not found:
        return
    total = number(connection, "SELECT count(*) FROM keys WHERE num = ? AND digest <> 0", seen.part)
    found.sort(key=lambda item: -item[0])
    shared, label, same = found[0]
    if shared == total:
        ways = f'tasks.batch("{label}") shows it, {ALL_AGAIN}'
    elif same:
        ways = f'name="{label}" sends the other {total - shared:,}, {ALL_AGAIN}'
    else:
        ways = f"it was made of other templates; {ALL_AGAIN}"
    raise BatchExistsError(
        ", ".join(f"{n:,} of {total:,} are in {other}" for n, other, _ in found[:3]),
        resource=label,
        hint=f"nothing was sent; {ways}",
    )


def conflict(rows: Sequence[int], many: int, total: int, target: Target) -> BatchExistsError:
    """Return the error for rows whose key the batch knows with another request."""
    one = many == 1
    return BatchExistsError(
        f"{many:,} of {total:,} rows {'has a key' if one else 'have keys'} that the batch {target.label} knows with "
        f"another request (row{'' if one else 's'} {_list(rows, many)})",
        resource=target.id,
        hint=f"nothing was sent; {ALL_AGAIN}, and key=[...] may name more columns that tell rows apart",
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
