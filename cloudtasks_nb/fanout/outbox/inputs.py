"""The inputs of a batch: which of its rows are meant, and the keys by which other homes know them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from struct import unpack

from cloudtasks_nb.fanout.outbox.blocks import keys_of
from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.outbox.tallies import as_json, number_of, paged
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE

__all__ = ["Inputs", "Span", "find_input", "spans_of", "store_input"]

#: The refs of the first and the last of rows that follow each other, and the place of the first in the input.
Span = tuple[int, int, int]

_TOGETHER = 20_000  # rows whose keys are read together


class Inputs(Repository):
    """The inputs of the batches of an outbox."""

    def keys(self, batch: str) -> Iterator[bytes]:
        """Yield the keys of the rows of a batch or of an input, one behind the other, in pieces."""
        for refs in paged(Rows(self._database).matching(batch, RowFilter()), _TOGETHER):
            yield self._database.read(_keys, refs)

    @reading
    def refs(self, connection: sqlite3.Connection, batch: str, keys: bytes) -> list[int]:
        """Return the refs of the rows of a batch that have one of the keys, which stand one behind the other."""
        halves = unpack(f">{len(keys) // KEY_SIZE * 2}q", keys[: len(keys) // KEY_SIZE * KEY_SIZE])
        wanted = set(zip(halves[::2], halves[1::2], strict=True))
        query = "SELECT k1, k2, ref FROM json_each(?) j CROSS JOIN keys ON num = ? AND k1 = j.value"
        found = connection.execute(query, (as_json(halves[::2]), number_of(connection, batch)))
        return [ref for *key, ref in found if tuple(key) in wanted]

    @transaction
    def add(self, connection: sqlite3.Connection, batch: str, digest: bytes, refs: Iterable[int]) -> Scope:
        """Store rows of a batch, by their refs in ascending order, as an input with a digest, unless it is there."""
        found = find_input(connection, batch, digest)
        return found or store_input(connection, batch, digest, spans_of((ref, at) for at, ref in enumerate(refs)))


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


def _keys(connection: sqlite3.Connection, refs: Iterable[int]) -> bytes:
    return b"".join(keys_of(connection, refs))
