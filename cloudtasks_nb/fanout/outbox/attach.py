"""The end of a spool: is the batch new, and which of the rows does it have already.

Everything here runs in one transaction on the spool's own connection: what raises leaves no trace.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import orjson

from cloudtasks_nb.errors import BatchExistsError, OutboxError
from cloudtasks_nb.fanout.outbox.clashes import ALL_AGAIN, SHOWN, conflict, index, refuse_overlap
from cloudtasks_nb.fanout.outbox.counters import add_counts, counts, number, set_reasons, touch
from cloudtasks_nb.fanout.outbox.draft import Draft, Seen, Target
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.plan.identity import batch_ids, named_identity, rows_identity

__all__ = ["find", "free_id", "settle"]


def find(connection: sqlite3.Connection, draft: Draft, identity: bytes | None = None) -> Target | None:
    """Find the batch that is meant: by name (the id of a batch will do), else by what its rows are.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    place = draft.place
    found = None
    if draft.name is not None:
        found = connection.execute(
            """SELECT num, id, name, recipe, description FROM batches WHERE identity = :identity
               OR (id = :name AND endpoint = :endpoint AND project = :project AND location = :location
                   AND queue = :queue)
               ORDER BY identity <> :identity LIMIT 1""",
            {
                "identity": named_identity(place, draft.name),
                "name": draft.name,
                "endpoint": place.endpoint,
                "project": place.project,
                "location": place.location,
                "queue": place.queue,
            },
        ).fetchone()
    elif identity is not None:
        found = connection.execute(
            "SELECT num, id, name, recipe, description FROM batches WHERE identity = ?", (identity,)
        ).fetchone()
    if found is None:
        return None
    num, batch, name, recipe, description = found
    target = Target(num=num, id=batch, label=f"{name} ({batch})" if name else batch)
    if recipe != draft.recipe:
        before = orjson.loads(description)
        # Words with an underscore are facts about the sending, not about the templates.
        words = {word for word in before.keys() | draft.description if not word.startswith("_")}
        other = sorted(word for word in words if _differs(before, draft.description, word))
        raise BatchExistsError(
            f"the batch {target.label} was made of other templates"
            + "".join(f"; {word} was {before.get(word)!r}, is {draft.description.get(word)!r}" for word in other),
            resource=batch,
            hint=f"nothing was sent; {ALL_AGAIN}",
        )
    return target


def settle(connection: sqlite3.Connection, draft: Draft, seen: Seen) -> Spooled:
    """Make the rows part of a batch; runs in the caller's transaction.

    Raises
    ------
    DuplicateRowsError
        If rows have the same key and `draft.skip` is not set.
    BatchExistsError
        If the batch knows a key with another request, or if another batch has some of the rows.
    OutboxError
        If the batch to which the rows belong was deleted meanwhile.
    """
    if draft.name is None and (again := _again(connection, draft, seen)):
        return again
    duplicates = index(connection, draft, seen)
    identity = rows_identity(draft.place, draft.recipe, seen.total)
    target = find(connection, draft, identity)
    if seen.target is not None and (target is None or target.num != seen.target.num):
        raise OutboxError(
            f"the batch {seen.target.label} was deleted while its rows were planned",
            resource=seen.target.id,
            hint="run the cell again",
        )
    created = target is None
    if target is None:
        if draft.name is None:
            refuse_overlap(connection, draft, seen)
        target = _found(connection, draft, seen, identity if draft.name is None else None)
    else:
        _leave_known(connection, seen, target)
        duplicates = number(connection, "SELECT count(*) FROM incoming WHERE state = ? AND digest <> 0", State.REJECTED)
    brought = _bring_in(connection, draft, seen, target, created=created)
    return Spooled(
        batch=target.id,
        created=created,
        added=brought.get(State.UNSENT, 0),
        known=seen.known,
        duplicates=duplicates,
        rejected=brought.get(State.REJECTED, 0) - duplicates,
        left=seen.left,
    )


def _again(connection: sqlite3.Connection, draft: Draft, seen: Seen) -> Spooled | None:
    """Attach to the batch that has exactly these rows, without a look at each: the same cell, run again."""
    target = find(connection, draft, rows_identity(draft.place, draft.recipe, seen.total))
    left = {} if target is None else {state: n for state, n in counts(connection, target.num).items() if n}
    if target is None or sum(left.values()) != seen.rows:
        return None
    return Spooled(batch=target.id, created=False, added=0, known=seen.rows, duplicates=0, rejected=0, left=left)


def _found(connection: sqlite3.Connection, draft: Draft, seen: Seen, identity: bytes | None) -> Target:
    """Write a new batch down."""
    identity = identity or named_identity(draft.place, draft.name or "")
    batch = free_id(connection, identity)
    place, now = draft.place, time.time()
    connection.execute(
        """INSERT INTO batches (num, id, identity, endpoint, project, location, queue, name, recipe, description,
           created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            seen.part,
            batch,
            identity,
            place.endpoint,
            place.project,
            place.location,
            place.queue,
            draft.name,
            draft.recipe,
            orjson.dumps(dict(draft.description), default=str).decode(),
            now,
            now,
        ),
    )
    return Target(num=seen.part, id=batch, label=draft.name or batch)


def free_id(connection: sqlite3.Connection, identity: bytes) -> str:
    """Return the id that a new batch gets: the first of its identity that no other batch has."""
    taken = "SELECT 1 FROM batches WHERE id = ?"
    return next(i for i in batch_ids(identity) if connection.execute(taken, (i,)).fetchone() is None)


def _leave_known(connection: sqlite3.Connection, seen: Seen, target: Target) -> None:
    """Leave out the rows that the batch has. A row that was no valid task gives way to one that is."""
    both = "FROM incoming i JOIN keys k ON k.num = ? AND k.k1 = i.k1 AND k.k2 = i.k2"
    differ = f"""{both} WHERE i.digest <> 0 AND k.digest <> 0 AND i.digest <> k.digest
                 AND i.state <> {State.REJECTED:d}"""  # those are duplicates, left out the first time too
    many = number(connection, f"SELECT count(*) {differ}", target.num)
    if many or seen.conflicting:
        rows = connection.execute(f"SELECT i.row {differ} ORDER BY i.ref LIMIT {SHOWN}", (target.num,))
        first = [*seen.conflicts, *(row for (row,) in rows)][:SHOWN]
        raise conflict(first, many + seen.conflicting, seen.rows, target)
    connection.execute(
        f"INSERT INTO known SELECT i.ref, k.ref {both} WHERE i.digest = 0 OR k.digest <> 0",
        (target.num,),
    )
    left = connection.execute("SELECT r.state, count(*) FROM known k JOIN rows r ON r.ref = k.theirs GROUP BY r.state")
    for state, n in left.fetchall():
        seen.known += n
        seen.left[State(state)] = seen.left.get(State(state), 0) + n
    connection.execute("DELETE FROM incoming WHERE ref IN (SELECT ref FROM known)")
    connection.execute(f"INSERT INTO known SELECT i.ref, k.ref {both} WHERE i.digest <> 0", (target.num,))
    connection.execute(
        "DELETE FROM rows WHERE ref IN (SELECT theirs FROM known WHERE ref IN (SELECT ref FROM incoming))"
    )
    gone = connection.execute("SELECT changes()").fetchone()[0]
    add_counts(connection, target.num, {State.REJECTED: -gone})
    connection.execute(
        "DELETE FROM keys WHERE num = ? AND ref IN (SELECT theirs FROM known WHERE ref IN (SELECT ref FROM incoming))",
        (target.num,),
    )
    connection.execute(
        "INSERT INTO keys SELECT ?, k1, k2, digest, ref FROM keys WHERE num = ? AND ref IN (SELECT ref FROM incoming)",
        (target.num, seen.part),
    )
    connection.execute("DELETE FROM keys WHERE num = ?", (seen.part,))


def _bring_in(
    connection: sqlite3.Connection, draft: Draft, seen: Seen, target: Target, *, created: bool
) -> dict[State, int]:
    """Move the rows that are left into the batch; return how many came in each state."""
    connection.execute("INSERT INTO rows SELECT ref, row, state = ?, state FROM incoming ORDER BY ref", (State.UNSENT,))
    set_reasons(
        connection, connection.execute("SELECT ref, reason FROM reasons WHERE ref IN (SELECT ref FROM incoming)")
    )
    found = connection.execute("SELECT state, count(*) FROM incoming GROUP BY state").fetchall()
    brought = {State(state): n for state, n in found}
    add_counts(connection, target.num, {int(state): n for state, n in brought.items()})
    last = connection.execute("SELECT max(ref) FROM incoming").fetchone()[0]
    if last is not None or created:
        connection.execute(
            """UPDATE parts SET num = ?, queue = ?, status = 1, next = part << 32, last = coalesce(?, (part << 32) - 1)
               WHERE part = ?""",
            (target.num, draft.place.queue, last, seen.part),
        )
    if brought and not created:
        connection.execute("UPDATE batches SET round = round + 1, snapshot = NULL WHERE num = ?", (target.num,))
        touch(connection, target.num)
    return brought


def _differs(before: Mapping[str, Any], after: Mapping[str, Any], word: str) -> bool:
    plain: Any = orjson.loads(orjson.dumps(after.get(word), default=str))
    return bool(before.get(word) != plain)
