"""Which rows a batch has already, and which tasks rows will be: what a dry run asks before anything is spooled."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from struct import iter_unpack, unpack

from cloudtasks_nb.fanout.outbox.attach import find, free_id
from cloudtasks_nb.fanout.outbox.clashes import SHOWN, Mine, conflict, overlap_error, overlaps, reason
from cloudtasks_nb.fanout.outbox.counters import as_json, number, paged
from cloudtasks_nb.fanout.outbox.draft import Draft, Target
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.plan.chunk import Asked, Forecast
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, named_identity, rows_identity, task_id

__all__ = ["SENT_BY_THE_SAME_CELL", "known", "planned", "why"]

#: States in which the same cell, run again, sends a row; None: the batch does not have it.
SENT_BY_THE_SAME_CELL = (None, State.UNSENT)

_PAGE = 1_000


def known(connection: sqlite3.Connection, draft: Draft, keys: Sequence[bytes]) -> list[State | None]:
    """Return for each key the state of the row that the draft's batch has; None where a row would be new.

    A row that was no valid task counts as new: it gives way to one that is.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    return [state for state, _ in _rows(connection, find(connection, draft), keys)]


def why(state: State | None) -> str:
    """Say why a row is sent, or is not: it is new, or the state of the one that the batch has."""
    if state is None:
        return "new"
    return "in the queue" if state is State.SENT else state.name.lower()


def planned(connection: sqlite3.Connection, draft: Draft, asked: Asked) -> Forecast:
    """Foretell what sending the rows of a dry run would come to.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    connection.execute("BEGIN")  # one moment of the outbox for all that follows
    try:
        connection.execute("CREATE TEMP TABLE asked (n INTEGER PRIMARY KEY, k1, k2, digest, again)")
        pairs = zip(iter_unpack(">qq", asked.keys), memoryview(asked.digests).cast("q"), strict=True)
        connection.executemany(
            "INSERT INTO asked VALUES (?, ?, ?, ?, ?)",
            ((n, *key, digest, n in asked.again) for n, (key, digest) in enumerate(pairs)),
        )
        return _forecast(connection, draft, asked)
    finally:
        connection.execute("ROLLBACK")  # takes the table away, too


def _forecast(connection: sqlite3.Connection, draft: Draft, asked: Asked) -> Forecast:
    if draft.name is not None:
        identity = named_identity(draft.place, draft.name)
    elif asked.total is not None:
        identity = rows_identity(draft.place, draft.recipe, asked.total)
    else:
        return Forecast(tasks=[None] * asked.shown)
    target = find(connection, draft, identity)
    if target is not None:
        return _joined(connection, asked, target)
    if draft.name is None and (found := _overlapping(connection, draft, asked)):
        return found
    batch = free_id(connection, identity)
    return Forecast(tasks=[task_id(batch, key, 1) for key in _shown_keys(asked)])


def _joined(connection: sqlite3.Connection, asked: Asked, target: Target) -> Forecast:
    """Foretell for rows that come to a batch which is there."""
    both = f"FROM asked a CROSS JOIN keys k ON k.num = {target.num} AND k.k1 = a.k1 AND k.k2 = a.k2"
    states = connection.execute(
        f"""SELECT r.state, count(*) {both} CROSS JOIN rows r ON r.ref = k.ref
            WHERE k.digest = a.digest AND NOT a.again GROUP BY r.state"""
    )
    known = {why(State(state)): n for state, n in states if state not in SENT_BY_THE_SAME_CELL}
    differ = f"{both} WHERE k.digest <> 0 AND k.digest <> a.digest AND NOT a.again"
    many = number(connection, f"SELECT count(*) {differ}")
    first = [asked.rows[n] for (n,) in connection.execute(f"SELECT a.n {differ} ORDER BY a.n LIMIT {SHOWN}")]
    clashing = connection.execute(f"SELECT a.n {differ} AND a.n < ?", (asked.shown,))
    keys = _shown_keys(asked)
    return Forecast(
        tasks=[
            task_id(target.id, key, attempt)
            for key, (_, attempt) in zip(keys, _rows(connection, target, keys), strict=True)
        ],
        known=known,
        problems={n: f"the batch {target.label} knows its key with another request" for (n,) in clashing},
        left_out=sum(known.values()) + number(connection, f"SELECT count(*) {differ}"),
        refusal=reason(conflict(first, many, asked.read, target)) if many else "",
    )


def _overlapping(connection: sqlite3.Connection, draft: Draft, asked: Asked) -> Forecast | None:
    """Foretell for rows without a name of which other batches have some; None: no other batch has any."""
    connection.execute("CREATE INDEX asked_keys ON asked (k1, k2)")
    total = number(connection, "SELECT count(*) FROM asked WHERE NOT again")
    found = overlaps(connection, draft, Mine(table="asked", which="NOT a.again", size=total))
    if not found:
        return None
    connection.execute("CREATE TEMP TABLE shared (n INTEGER PRIMARY KEY, label TEXT)")
    for one in found:
        connection.execute(f"INSERT OR IGNORE INTO shared SELECT a.n, ? {one.rows}", (one.label,))
    shown = connection.execute("SELECT n, label FROM shared WHERE n < ?", (asked.shown,))
    return Forecast(
        tasks=[None] * asked.shown,
        known={f"in {one.label}": one.shared for one in found},
        problems={n: f"the batch {label} has this row" for n, label in shown},
        left_out=number(connection, "SELECT count(*) FROM shared"),
        refusal=reason(overlap_error(found, total)),
    )


def _shown_keys(asked: Asked) -> list[bytes]:
    return [asked.keys[at : at + KEY_SIZE] for at in range(0, asked.shown * KEY_SIZE, KEY_SIZE)]


def _rows(
    connection: sqlite3.Connection, target: Target | None, keys: Sequence[bytes]
) -> list[tuple[State | None, int]]:
    """Return for each key the state of the batch's row and the number of its newest task; (None, 1) for a new row."""
    found: dict[tuple[int, int], tuple[State | None, int]] = {}
    if target is not None:
        for page in paged(keys, _PAGE):
            cursor = connection.execute(
                """SELECT k.k1, k.k2, r.state, r.try FROM json_each(?) j
                   CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value
                   CROSS JOIN rows r ON r.ref = k.ref WHERE k.digest <> 0""",
                (as_json({half for half, _ in _halves(page)}), target.num),
            )
            found |= {(k1, k2): (State(state), attempt) for k1, k2, state, attempt in cursor}
    return [found.get(pair, (None, 1)) for pair in _halves(keys)]


def _halves(keys: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return keys as the table of them has them."""
    halves = unpack(f">{2 * len(keys)}q", b"".join(keys))
    return list(zip(halves[::2], halves[1::2], strict=True))
