"""The inputs of a batch: which of its rows are meant."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.outbox.tallies import number_of

__all__ = ["Span", "find_input", "spans_of", "store_input"]

#: The refs of the first and the last of rows that follow each other, and the place of the first in the input.
Span = tuple[int, int, int]


def find_input(connection: sqlite3.Connection, batch: str, digest: bytes) -> Scope | None:
    """Return the rows of the input with a digest, if the batch was given it before."""
    query = "SELECT input, n FROM inputs WHERE num = ? AND digest = ?"
    found = connection.execute(query, (number_of(connection, batch), digest)).fetchone()
    return None if found is None else Scope(batch, *found)


def store_input(connection: sqlite3.Connection, batch: str, digest: bytes, spans: Iterable[Span]) -> Scope:
    """Store which rows of a batch are in an input that it was not given before."""
    values = (number_of(connection, batch), digest)
    number = connection.execute("INSERT INTO inputs (num, digest, n) VALUES (?, ?, 0)", values).lastrowid or 0
    connection.executemany("INSERT INTO spans VALUES (?, ?, ?, ?)", ((-number, *span) for span in spans))
    rows = "coalesce((SELECT sum(last - first + 1) FROM spans WHERE scope = -input), 0)"
    found = connection.execute(f"UPDATE inputs SET n = {rows} WHERE input = ? RETURNING n", (number,)).fetchall()
    return Scope(batch, number, found[0][0])


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
