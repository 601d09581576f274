"""Read when the last attempts of rows began and how long they took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from cloudtasks_nb.fanout.outbox.counters import number_of
from cloudtasks_nb.fanout.outbox.database import Repository
from cloudtasks_nb.fanout.outbox.rows import ranges

__all__ = ["Timings", "TimingsPage"]

#: Columns of equal length: refs, whether the row failed (0 or 1), start of the last attempt, and its duration (-1: not
#: known), in microseconds.
TimingsPage = Sequence[Sequence[int]]

_PAGE = 20_000
# SQLite makes one JSON list of each column: it takes half of the time that a tuple for each row takes.
_SELECT = f"""
    SELECT json_group_array(ref), json_group_array(failed), json_group_array(start), json_group_array(duration)
    FROM (SELECT r.ref, r.state = 5 AS failed, o.last_attempt_time AS start, coalesce(o.duration, -1) AS duration
        FROM rows r CROSS JOIN outcomes o ON o.ref = r.ref
        WHERE r.ref BETWEEN ? AND ? AND r.state IN (4, 5) AND o.last_attempt_time IS NOT NULL
        ORDER BY r.ref LIMIT {_PAGE})"""  # noqa: S608 - our own number


class Timings(Repository):
    """The times of the rows that succeeded or failed."""

    def pages(self, batch: str) -> Iterator[TimingsPage]:
        """Yield the times of rows that succeeded or failed, up to 20,000 at a time."""
        with self._database.reading() as connection:
            parts = ranges(connection, number_of(connection, batch))
        for first, last in parts:
            refs: Sequence[int] = [first - 1]
            while refs:
                with self._database.reading() as connection:
                    found = connection.execute(_SELECT, (refs[-1] + 1, last)).fetchone()
                page = [orjson.loads(column) for column in found]
                refs = page[0]
                if refs:
                    yield page
