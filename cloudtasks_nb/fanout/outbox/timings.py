"""Read when the last attempts of rows began and how long they took."""

from __future__ import annotations

from collections.abc import Iterator

from cloudtasks_nb.fanout.outbox.counters import number_of
from cloudtasks_nb.fanout.outbox.database import Repository
from cloudtasks_nb.fanout.outbox.rows import ranges

__all__ = ["Timing", "Timings"]

#: Ref, whether the row failed, start of its last attempt, and its duration (-1: not known); in microseconds.
Timing = tuple[int, int, int, int]

_PAGE = 20_000
_SELECT = """
    SELECT r.ref, r.state = 5, o.last_attempt_time, coalesce(o.duration, -1)
    FROM rows r CROSS JOIN outcomes o ON o.ref = r.ref
    WHERE r.ref BETWEEN ? AND ? AND r.state IN (4, 5) AND o.last_attempt_time IS NOT NULL"""


class Timings(Repository):
    """The times of the rows that succeeded or failed."""

    def pages(self, batch: str) -> Iterator[list[Timing]]:
        """Yield the times of rows that succeeded or failed, up to 20,000 at a time."""
        with self._database.reading() as connection:
            for bounds in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute(_SELECT, bounds)
                while page := cursor.fetchmany(_PAGE):
                    yield page
