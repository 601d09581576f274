"""Read when the last attempts of rows began and how long they took."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import orjson

from cloudtasks_nb.fanout.outbox.database import Repository
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.outbox.tallies import number_of, ranges

__all__ = ["Timings", "TimingsPage"]

#: Columns of equal length: refs, whether the row failed (0 or 1), start of the last attempt, and its duration (-1: not
#: known), in microseconds.
TimingsPage = Sequence[Sequence[int]]

_PAGE = 20_000
# SQLite makes one JSON list of each column: it takes half of the time that a tuple for each row takes.
_SELECT = f"""
    SELECT json_group_array(ref), json_group_array(failed), json_group_array(began), json_group_array(duration)
    FROM (SELECT ref, state = {State.FAILED:d} AS failed, began, coalesce(duration, -1) AS duration FROM rows
        WHERE ref BETWEEN ? AND ? AND state IN ({State.SUCCEEDED:d}, {State.FAILED:d}) AND began IS NOT NULL
        ORDER BY ref LIMIT {_PAGE})"""


class Timings(Repository):
    """The times of the rows that succeeded or failed."""

    def pages(self, batch: str) -> Iterator[TimingsPage]:
        """Yield the times of rows that succeeded or failed, up to 20,000 at a time."""
        for first, last in self._database.read(lambda connection: ranges(connection, number_of(connection, batch))):
            refs: Sequence[int] = [first - 1]
            while refs:
                page = self._database.scan(_page, refs[-1] + 1, last)
                refs = page[0]
                if refs:
                    yield page


def _page(connection: sqlite3.Connection, first: int, last: int) -> TimingsPage:
    found = connection.execute(_SELECT, (first, last)).fetchone()
    return [orjson.loads(column) for column in found]
