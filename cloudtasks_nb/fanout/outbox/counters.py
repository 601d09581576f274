"""States of rows and their counts per batch, which change together, and small helpers for SQL."""

from __future__ import annotations

import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import orjson

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox.records import State

__all__ = [
    "add_counts",
    "as_json",
    "counts",
    "move",
    "number",
    "number_of",
    "paged",
    "read_refs",
    "set_reasons",
    "touch",
    "write_refs",
]

T = TypeVar("T")


def number_of(connection: sqlite3.Connection, batch: str) -> int:
    """Return the number under which the tables know a batch.

    Raises
    ------
    BatchNotFoundError
        If the outbox does not have it.
    """
    found = connection.execute("SELECT num FROM batches WHERE id = ?", (batch,)).fetchone()
    if found is None:
        raise BatchNotFoundError(
            f'there is no batch "{batch}" in this outbox', resource=batch, hint="tasks.batches() lists those there are"
        )
    number: int = found[0]
    return number


def touch(connection: sqlite3.Connection, num: int) -> None:
    """Note that the batch has changed now."""
    connection.execute("UPDATE batches SET changed = ? WHERE num = ?", (time.time(), num))


def counts(connection: sqlite3.Connection, num: int) -> dict[State, int]:
    """Return how many rows are in each state."""
    found = connection.execute("SELECT state, n FROM counts WHERE num = ?", (num,))
    return dict.fromkeys(State, 0) | {State(state): n for state, n in found}


def add_counts(connection: sqlite3.Connection, num: int, changes: Mapping[int, int]) -> None:
    """Add to the counts of a batch."""
    connection.executemany(
        "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        [(num, state, n) for state, n in changes.items() if n],
    )


def move(connection: sqlite3.Connection, num: int, refs: Sequence[int], to: State, attempt: int) -> int:
    """Bring rows from unsent into another state, if they are unsent in this try; return how many they were."""
    if not refs:
        return 0
    if refs[-1] - refs[0] + 1 == len(refs):
        moved = connection.execute(
            "UPDATE rows SET state = ? WHERE ref BETWEEN ? AND ? AND state = ? AND try = ?",
            (to, refs[0], refs[-1], State.UNSENT, attempt),
        ).rowcount
    else:
        moved = connection.execute(
            "UPDATE rows SET state = ? WHERE ref IN (SELECT value FROM json_each(?)) AND state = ? AND try = ?",
            (to, as_json(refs), State.UNSENT, attempt),
        ).rowcount
    add_counts(connection, num, {State.UNSENT: -moved, to: moved})
    return moved


def set_reasons(connection: sqlite3.Connection, reasons: Iterable[tuple[int, str]]) -> None:
    """Note why rows were rejected."""
    connection.executemany(
        "INSERT INTO outcomes (ref, reason) VALUES (?, ?) ON CONFLICT DO UPDATE SET reason = excluded.reason", reasons
    )


def number(connection: sqlite3.Connection, query: str, *values: Any) -> int:
    """Return the one number that a query gives."""
    found: int = connection.execute(query, values).fetchone()[0]
    return found


def as_json(values: Iterable[int | str]) -> str:
    """Write numbers or texts in the form that `json_each` reads: one parameter, and one step of SQLite, for all."""
    return orjson.dumps(list(values)).decode()


def paged(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of at most `size`."""
    left = iter(items)
    while page := list(islice(left, size)):
        yield page


def write_refs(refs: Iterable[int]) -> bytes:
    """Write refs as 8 bytes each."""
    return array("q", refs).tobytes()


def read_refs(blob: bytes) -> list[int]:
    """Read what `write_refs` wrote."""
    return array("q", blob).tolist()
