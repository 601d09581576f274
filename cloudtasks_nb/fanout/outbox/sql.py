"""SQL that the parts of the outbox share: which rows are meant, what their columns show, and how they are counted.

How many rows of each part of a batch are in which state, and why, is counted anew whenever rows change.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from sqlite3 import Connection
from typing import Any, TypeVar

import orjson

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.states import IN_DOUBT, OPEN, State

__all__ = [
    "ALL",
    "AMONG",
    "CAUSE",
    "FAILING",
    "MESSAGE",
    "ROWS",
    "SHOWN_STATE",
    "TALLIES",
    "WITHIN",
    "Given",
    "Span",
    "Tally",
    "adjust",
    "as_json",
    "counted",
    "counts",
    "firsts",
    "has_elsewhere",
    "in_sql",
    "not_found",
    "number",
    "number_of",
    "paged",
    "select",
    "spans_of",
    "store_input",
    "tallied",
    "touch",
    "update",
    "values",
]

T = TypeVar("T")
#: Part, state and what a row counts as -> how many rows.
Tally = Counter[tuple[int, int, int | str]]

#: The values in a query.
Given = Sequence[Any] | Mapping[str, Any]

#: The refs of the first and the last of rows that follow each other, and the place of the first in the input.
Span = tuple[int, int, int]

#: Selects rows by their refs, which `as_json` writes.
AMONG = "ref IN (SELECT value FROM json_each(?))"

#: The rows of a batch or of an input from one ref to another, for `values` and `select`.
#: `ORDER BY first, ref` costs nothing.
ROWS = "spans CROSS JOIN rows ON ref BETWEEN max(first, :start) AND min(last, :end) WHERE scope = :num"

#: The tallies of a batch.
TALLIES = "spans CROSS JOIN tallies ON part = first >> 32 WHERE scope = :num"

#: Whether a row is in a scope, with the ref and the number of the scope to be filled in; NULL is no.
WITHIN = "{ref} <= (SELECT last FROM spans WHERE scope = {scope} AND first <= {ref} ORDER BY first DESC LIMIT 1)"

#: More than any ref, and more rows than a batch can have.
ALL = 1 << 62

#: The state of a row as others see it: a row in doubt counts as sent.
SHOWN_STATE = f"iif(state = {IN_DOUBT}, {State.SENT:d}, state)"

#: Rows that failed, or whose last attempt did.
FAILING = f"(state = {State.FAILED:d} OR (state IN ({', '.join(f'{state:d}' for state in OPEN)}) AND status > 0))"

#: Why a row failed, or its last attempt did: the cause of its message, else its status; '' for neither.
CAUSE = "coalesce(iif(current, cause, NULL), status, '')"

#: The message of a row, unless it is of an earlier attempt that ended otherwise.
MESSAGE = "iif(current, message, NULL)"


def in_sql(states: Iterable[int]) -> str:
    """Write states as a list in SQL."""
    return ", ".join(f"{state:d}" for state in states)


# What a row counts as, besides its state: the cause of a failure, also of one that is tried again, or how the task of a
# row that is gone has left its queue.
_COUNTED = f"CASE WHEN state = {State.GONE:d} THEN coalesce(reason, '') WHEN {FAILING} THEN {CAUSE} ELSE '' END"


@contextmanager
def counted(connection: Connection, where: str, given: Given) -> Iterator[None]:
    """Bring the tallies up to date with what the block changes in the rows for which a condition is true.

    Parameters
    ----------
    where : str
        A condition in SQL on `ref` alone, so that it selects the same rows before and after.
    given : sequence or mapping
        The values in it.
    """
    query = f"SELECT ref >> 32, state, {_COUNTED}, count(*) FROM rows WHERE {where} GROUP BY 1, 2, 3"

    def tally() -> Tally:
        return Counter({(part, state, cause): n for part, state, cause, n in connection.execute(query, given)})

    before = tally()
    yield
    moved = tally()
    moved.subtract(before)
    adjust(connection, moved)


def update(connection: Connection, refs: Iterable[int], change: str, condition: str, *given: Any) -> int:
    """Change those of some rows for which a condition is true, and the tallies; return how many that were."""
    among = as_json(refs)
    with counted(connection, AMONG, (among,)):
        return connection.execute(f"UPDATE rows SET {change} WHERE {AMONG} AND {condition}", (among, *given)).rowcount


def adjust(connection: Connection, moved: Tally) -> None:
    """Change the tallies by how many more rows, or fewer, are in which part, in which state and why."""
    changes = [(*key, n) for key, n in moved.items() if n]
    added = "INSERT INTO tallies VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
    connection.executemany(added, changes)
    less = [key for *key, n in changes if n < 0]
    connection.executemany("DELETE FROM tallies WHERE part = ? AND state = ? AND cause = ? AND n = 0", less)


def counts(connection: Connection, rows: Scope) -> dict[State, int]:
    """Return how many rows are in each state."""
    found = dict.fromkeys(State, 0)
    for state, _, n in tallied(connection, rows):
        found[State.SENT if state == IN_DOUBT else State(state)] += n
    return found


def tallied(connection: Connection, rows: Scope) -> list[tuple[int, Any, int]]:
    """Return how many rows are in which state and why: the tallies of a batch, or those of an input counted anew."""
    given = values(connection, rows)
    some = f"state, {_COUNTED}, count(*) FROM {ROWS}" if given["num"] < 0 else f"state, cause, sum(n) FROM {TALLIES}"
    return connection.execute(f"SELECT {some} GROUP BY 1, 2", given).fetchall()


def values(connection: Connection, /, rows: Scope | str, **others: Any) -> dict[str, Any]:
    """Return the values of a query: `:num` is what `number_of` returns, and others.

    `ROWS` are all rows unless `start` or `end` is among the others.
    """
    return {"num": number_of(connection, rows), "start": 0, "end": ALL, **others}


def select(connection: Connection, query: str, rows: Scope | str, **others: Any) -> sqlite3.Cursor:
    """Begin a query with these `values`."""
    return connection.execute(query, values(connection, rows, **others))


def number_of(connection: Connection, rows: Scope | str) -> int:
    """Return the number by which the tables know a batch, given by its id, or the rows of a scope.

    That is the number of the batch, or a negative one of an input that has not all rows of it.

    Raises
    ------
    BatchNotFoundError
        If the outbox does not have the batch.
    """
    batch = rows if isinstance(rows, str) else rows.batch
    for num in firsts(connection, "SELECT num FROM batches WHERE id = ?", (batch,)):
        if isinstance(rows, str) or not rows.input:
            return int(num)
        total = number(connection, f"SELECT coalesce(sum(n), 0) FROM {TALLIES}", {"num": num})
        return int(num) if rows.covers(total) else -rows.input
    raise not_found(batch)


def not_found(batch: str) -> BatchNotFoundError:
    """Return the error for the id of a batch that is not there."""
    hint = "tasks.batches() lists those there are"
    return BatchNotFoundError(f'there is no batch "{batch}" in this outbox', resource=batch, hint=hint)


def has_elsewhere(connection: Connection, num: int) -> bool:
    """Return whether only another home has rendered some rows of a batch."""
    query = """SELECT EXISTS (SELECT 1 FROM spans CROSS JOIN rows INDEXED BY elsewhere ON ref BETWEEN first AND last
               WHERE scope = ? AND elsewhere)"""
    return bool(number(connection, query, (num,)))


def touch(connection: Connection, num: int) -> None:
    """Note that the batch has changed now."""
    connection.execute("UPDATE batches SET changed = ? WHERE num = ?", (time.time(), num))


def number(connection: Connection, query: str, given: Given = ()) -> int:
    """Return the one number that a query gives."""
    return int(connection.execute(query, given).fetchone()[0])


def firsts(connection: Connection, query: str, given: Given = ()) -> list[Any]:
    """Return the first column of what a query gives."""
    return [value for value, *_ in connection.execute(query, given)]


def as_json(values: Iterable[int | str]) -> str:
    """Write numbers or texts in the form that `json_each` reads: one parameter, and one step of SQLite, for all."""
    return orjson.dumps(list(values)).decode()


def paged(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
    left = iter(items)
    while page := list(islice(left, size)):
        yield page


def store_input(connection: Connection, batch: str, digest: bytes, spans: Iterable[Span]) -> tuple[Scope, bool]:
    """Store which rows of a batch are in the input with a digest; return these, and whether the input is new to it."""
    values = (number_of(connection, batch), digest)
    added = connection.execute("INSERT OR IGNORE INTO inputs (num, digest, n) VALUES (?, ?, 0)", values)
    if added.rowcount:
        scope = -(added.lastrowid or 0)
        connection.executemany("INSERT INTO spans VALUES (?, ?, ?, ?)", ((scope, *span) for span in spans))
        rows = "coalesce((SELECT sum(last - first + 1) FROM spans WHERE scope = -input), 0)"
        connection.execute(f"UPDATE inputs SET n = {rows} WHERE input = ?", (added.lastrowid,))
    found = connection.execute("SELECT input, n FROM inputs WHERE num = ? AND digest = ?", values).fetchone()
    return Scope(batch, *found), added.rowcount > 0


def spans_of(rows: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Yield rows as spans; they are given by ref and place, by ascending refs."""
    first = last = place = -1
    for ref, pos in rows:
        if ref != last + 1 or pos != place + ref - first:
            if last >= 0:
                yield first, last, place
            first, place = ref, pos
        last = ref
    if last >= 0:
        yield first, last, place
