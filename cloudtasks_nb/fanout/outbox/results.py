"""What the handlers have stored, as far as it was read: of each task the line that counts, whether it is a row or not.

What was read of an object, and the lines of it, are stored in one transaction. So each byte counts once, however many
threads and processes read the same object at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.outbox.rows import located
from cloudtasks_nb.fanout.states import FINAL

__all__ = ["Line", "ReadPart", "Results"]

_PAGE = 1_000
_LAST = "\U0010ffff"  # behind all other characters
_VERSION = "coalesce(json_extract(fields, '$.version'), '')"  # as the index has it
_REPLACE = """DELETE FROM results WHERE num = ? AND task = ?
    AND (ok, gave_up, attempt, fields, value) < (?, ?, ?, ?, ?)"""
_INSERT = """INSERT OR IGNORE INTO results (num, task, ok, gave_up, attempt, fields, value)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


class Line(NamedTuple):
    """A result of a task. Of several, the one with the highest values of the other fields counts, in their order."""

    task: str
    ok: bool
    gave_up: bool
    attempt: int  #: 0: not known
    fields: str  #: JSON: what the handler told
    value: str  #: JSON: what the function returned


class ReadPart(NamedTuple):
    """A part of an object that was read."""

    name: str
    start: int
    end: int
    bad: int  #: lines that do not count
    lines: Sequence[Line]


class Results(Repository):
    """The results of the tasks of the batches of an outbox."""

    @reading
    def sizes(
        self, connection: sqlite3.Connection, batch: str, prefix: str = "", *, good: bool = False
    ) -> dict[str, int]:
        """Return how many bytes of each object were read whose name begins so.

        With `good` only of those of which all lines count.
        """
        only = "AND bad = 0" if good else ""
        query = f"SELECT name, size FROM objects WHERE num = ? AND name BETWEEN ? AND ? {only}"
        return dict(connection.execute(query, (sql.number_of(connection, batch), prefix, prefix + _LAST)).fetchall())

    @reading
    def bad(self, connection: sqlite3.Connection, batch: str) -> int:
        """Return how many lines do not count."""
        query = "SELECT coalesce(sum(bad), 0) FROM objects WHERE num = ?"
        return sql.number(connection, query, sql.number_of(connection, batch))

    @reading
    def count(self, connection: sqlite3.Connection, batch: str) -> int:
        """Return how many tasks have a result."""
        return sql.number(connection, "SELECT count(*) FROM results WHERE num = ?", sql.number_of(connection, batch))

    @transaction
    def add(self, connection: sqlite3.Connection, batch: str, parts: Iterable[ReadPart]) -> None:
        """Store what was read, unless it was stored meanwhile."""
        num = sql.number_of(connection, batch)
        for name, start, end, bad, lines in parts:
            stored = connection.execute(
                """INSERT INTO objects SELECT :num, :name, :end, :bad WHERE :start = 0 OR EXISTS
                       (SELECT 1 FROM objects WHERE num = :num AND name = :name)
                   ON CONFLICT DO UPDATE SET size = excluded.size, bad = bad + excluded.bad WHERE size = :start""",
                {"num": num, "name": name, "start": start, "end": end, "bad": bad},
            )
            if stored.rowcount:
                new = [(num, *line) for line in {line.task: line for line in sorted(lines)}.values()]
                connection.executemany(_REPLACE, new)
                connection.executemany(_INSERT, new)

    @transaction
    def forget(self, connection: sqlite3.Connection, batch: str, names: Iterable[str]) -> None:
        """Forget objects that do not exist any more; their results stay."""
        query = "DELETE FROM objects WHERE num = ? AND name IN (SELECT value FROM json_each(?))"
        connection.execute(query, (sql.number_of(connection, batch), sql.as_json(names)))

    @transaction
    def reread(self, connection: sqlite3.Connection, batch: str) -> None:
        """Have the objects read again that have lines which do not count: by another key they may."""
        connection.execute("DELETE FROM objects WHERE num = ? AND bad > 0", (sql.number_of(connection, batch),))

    @reading
    def newest(self, connection: sqlite3.Connection) -> int:
        """Return the number of the newest result of all batches."""
        return sql.number(connection, "SELECT coalesce(max(id), 0) FROM results")

    @reading
    def of(
        self, connection: sqlite3.Connection, batch: str, tasks: Iterable[str], after: int = 0
    ) -> list[tuple[str, str, str, bool]]:
        """Return task, fields, value and success of the results of tasks: of successes, and of others behind a number.

        The tasks are looked for in the order of the index, which takes a third of the time.
        """
        query = """SELECT task, fields, r.value, ok FROM json_each(?) j CROSS JOIN results r
                   ON r.num = ? AND r.task = j.value WHERE ok OR r.id > ?"""
        values = sql.as_json(sorted(tasks)), sql.number_of(connection, batch), after
        return connection.execute(query, values).fetchall()

    @reading
    def versions(self, connection: sqlite3.Connection, batch: str) -> set[str]:
        """Return the versions of functions that results are of, also those of earlier tries; '': not known."""
        # One step in the index for each version; DISTINCT would read all of it.
        query = f"""WITH RECURSIVE found (version) AS (
                SELECT min({_VERSION}) FROM results WHERE num = :num
                UNION ALL
                SELECT (SELECT min({_VERSION}) FROM results WHERE num = :num AND {_VERSION} > version) FROM found
                    WHERE version IS NOT NULL)
            SELECT version FROM found WHERE version IS NOT NULL"""
        return {version for (version,) in connection.execute(query, {"num": sql.number_of(connection, batch)})}

    @reading
    def of_versions(self, connection: sqlite3.Connection, rows: Scope, versions: Collection[str]) -> list[int]:
        """Return the refs of the final rows whose result is of one of these versions, ascending."""
        if not versions:
            return []
        query = f"SELECT task FROM results WHERE num = ? AND {_VERSION} IN (SELECT value FROM json_each(?))"
        tasks = sql.firsts(connection, query, sql.number_of(connection, rows.batch), sql.as_json(versions))
        inside = sql.WITHIN.format(scope=sql.scope_of(connection, rows), ref="ref")
        found = located(connection, rows.batch, tasks, f"ref, state IN ({sql.in_sql(FINAL)}) AND {inside}")
        return sorted(ref for _, (ref, chosen) in found if chosen)

    @reading
    def page(self, connection: sqlite3.Connection, batch: str, after: str) -> list[tuple[str, str]]:
        """Return some tasks with the fields of their results, in the order of the tasks: those behind one."""
        query = f"SELECT task, fields FROM results WHERE num = ? AND task > ? ORDER BY task LIMIT {_PAGE}"
        return connection.execute(query, (sql.number_of(connection, batch), after)).fetchall()

    @reading
    def of_later_tries(self, connection: sqlite3.Connection, batch: str, after: int) -> list[str]:
        """Return the tasks of second and later tries that have a result: those behind a number."""
        query = "SELECT task FROM results WHERE num = ? AND id > ? AND task NOT LIKE '%-1'"
        return sql.firsts(connection, query, sql.number_of(connection, batch), after)

    @reading
    def given_up(self, connection: sqlite3.Connection, batch: str, after: int) -> list[tuple[int, str]]:
        """Return numbers and fields of some results of functions that gave up, as they came: those behind a number."""
        query = f"SELECT id, fields FROM results WHERE num = ? AND gave_up AND id > ? ORDER BY id LIMIT {_PAGE}"
        return connection.execute(query, (sql.number_of(connection, batch), after)).fetchall()
