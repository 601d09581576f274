"""What becomes of rows: evidence that is added, and new tries."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import reduce
from typing import TypeAlias

from cloudtasks_nb.fanout.causes import Fault, kind_of
from cloudtasks_nb.fanout.evidence import Evidence, Row, Source, fold
from cloudtasks_nb.fanout.outbox.causes import chosen
from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.outbox.rows import locate, located
from cloudtasks_nb.fanout.outbox.tallies import (
    ALL,
    AMONG,
    ROWS,
    TALLIES,
    adjust,
    as_json,
    counted,
    in_sql,
    number,
    number_of,
    paged,
    scope_of,
    touch,
)
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, OPEN, State
from cloudtasks_nb.fanout.wording import Wording

__all__ = ["MOST_CAUSES", "Outcomes", "Past", "Recorded", "Wanted", "wanted_rows"]

#: Rows of a batch: all if it is None, those that a choice has, or these, each with the task that has to be its newest.
Wanted: TypeAlias = Iterable[tuple[int, str | None]] | Choice | None

#: The most causes that are counted for a batch; of further messages only the type of the exception counts.
MOST_CAUSES = 1_000

_PAGE = 1_000

_COLUMNS = ("try", *Row._fields[2:])
_READ = ", ".join(("ref", *_COLUMNS))
_WRITE = f"UPDATE rows SET {', '.join(f'{column} = ?' for column in _COLUMNS)} WHERE ref = ?"
_FORGET = ", ".join(f"{column} = NULL" for column in Row._fields[3:])


_ENDED = "(began + coalesce(duration, 0)) / 1000000"  # the second in which the last attempt on a row ended
_NOTE = "INSERT INTO past VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"


class Past(IntEnum):
    """What is counted by the second of its time."""

    SUCCEEDED = 0  #: attempts that were followed by another one of their rows
    FAILED = 1
    AGAIN = 2  #: rows that were to be sent again


@dataclass(slots=True)
class Recorded:
    """What evidence has changed."""

    ended: set[int] = field(default_factory=set)  #: rows that became final, or have another final state
    newer: int = 0  #: how many are in a newer try than was known
    unsent: int = 0  #: how many were not known to be sent
    ends: Counter[int] = field(default_factory=Counter)  #: rows that ended by an attempt, by the second of its end
    failed: int | None = None  #: the second in which the last attempt ended that failed
    #: Tasks whose newest attempt failed without a word of its handler, and whether they are final.
    unexplained: dict[str, bool] = field(default_factory=dict)


class Outcomes(Repository):
    """What became of the rows' tasks."""

    @transaction
    def record(self, connection: sqlite3.Connection, batch: str, evidence: Iterable[Evidence]) -> Recorded:
        """Add evidence of tasks to what is stored of their rows, as `fold` decides.

        Rows that were final and are corrected by the log are counted in the setting `corrected`. That rows were sent by
        another home is the setting `adopted`.
        """
        num, recorded, corrected = number_of(connection, batch), Recorded(), 0
        for page in paged(evidence, _PAGE):
            corrected += _record_page(connection, batch, num, page, recorded)
        if corrected:
            connection.execute(
                """INSERT INTO settings VALUES (?, 'corrected', ?)
                   ON CONFLICT DO UPDATE SET value = value + excluded.value""",
                (num, corrected),
            )
        begun = number(connection, "SELECT begun FROM batches WHERE num = ?", num)
        if recorded.newer or (recorded.unsent and not begun):  # else this home has sent them
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, 'adopted', 'true')", (num,))
        touch(connection, num)
        return recorded

    @transaction
    def new_try(
        self,
        connection: sqlite3.Connection,
        scope: Scope,
        rows: Wanted = None,
        allowed: Collection[State] = (State.FAILED,),
        now: int | None = None,
    ) -> int:
        """Open a new try for rows that are in one of the allowed states; return how many will be sent again.

        Parameters
        ----------
        rows : iterable of (ref, task id or None), or Choice, optional
            All rows of the scope when left out. With a task id, a row is only taken if that is its newest task, so
            that the same call twice, or from two kernels, sends once.
        allowed : collection of State
            Unsent and sent rows are never taken.
        now : int, optional
            The time of the service, microseconds since 1970, for the marks in the chart of the run.
        """
        codes = as_json({*FINAL} & {*allowed})
        num = number_of(connection, scope.batch)
        pages = paged(wanted_rows(connection, scope, codes, rows), _PAGE)
        opened = sum(_reopen(connection, num, as_json(page), codes) for page in pages)
        if opened and now is not None:
            connection.execute(_NOTE, (num, now // 1_000_000, Past.AGAIN, opened))
        if opened:
            connection.execute("UPDATE batches SET round = round + 1 WHERE num = ?", (num,))
            touch(connection, num)
        return opened

    @reading
    def past(self, connection: sqlite3.Connection, batch: str) -> list[tuple[int, int, int]]:
        """Return what was before the attempts that ended the rows: seconds since 1970, `Past`, and how many.

        That is what the rows no longer tell, and the last attempts on those that are tried again.
        """
        num = number_of(connection, batch)
        query = f"""SELECT second, kind, sum(n) FROM (
                        SELECT second, kind, n FROM past WHERE num = ?
                        UNION ALL
                        SELECT {_ENDED}, {Past.FAILED:d}, count(*) FROM {ROWS}
                        AND state = {State.SENT:d} AND status > 0 AND began IS NOT NULL GROUP BY 1)
                    GROUP BY second, kind ORDER BY second, kind"""
        return connection.execute(query, (num, 0, ALL, num)).fetchall()

    @transaction
    def raise_round(self, connection: sqlite3.Connection, batch: str, least: int) -> None:
        """Bring the round of a batch to a number, if it is lower."""
        connection.execute(
            "UPDATE batches SET round = max(round, ?) WHERE num = ?", (least, number_of(connection, batch))
        )


def _record_page(
    connection: sqlite3.Connection, batch: str, num: int, page: Sequence[Evidence], recorded: Recorded
) -> int:
    """Add some evidence; return how many rows were final and have another state by the log."""
    rows = located(connection, batch, dict.fromkeys(news.task for news in page), _READ, any_try=True)
    found = {task: Row._make(row) for task, row in rows}
    before = {row.ref: row for row in found.values()}
    told = defaultdict[str, set[str]](set)
    for news in page:
        if news.task in found and news.message and (cause := news.cause):
            told[cause].add(news.message)
    causes = _kept(connection, num, told)
    _note_wordings(connection, num, {cause: told[cause] for cause in told if causes[cause] == cause})
    after, corrected, past = dict(before), 0, Counter[tuple[int, int]]()
    for news in page:
        if news.task in found:
            row = after[found[news.task].ref]
            new = after[row.ref] = fold(row, news, int(news.task.rpartition("-")[2]), causes.get(news.cause))
            past.update(_overtaken(row, new))
            other = new.state != row.state and new.tries == row.tries
            corrected += other and row.state in FINAL and news.source is Source.LOG
            newest = news.source is Source.LOG and news.attempts == new.attempts
            if newest and new.status and not (new.heard or 0) & Source.RESULTS:
                recorded.unexplained[news.task] = new.state in FINAL
    changed = [(row, before[ref]) for ref, row in after.items() if row is not before[ref]]
    connection.executemany(_WRITE, [(*row[1:], row.ref) for row, _ in changed])
    moved = Counter(_counted(row) for row, _ in changed)
    moved.subtract(_counted(old) for _, old in changed)
    adjust(connection, moved)
    connection.executemany(_NOTE, [(num, second, kind, n) for (second, kind), n in past.items()])
    recorded.ended |= {row.ref for row, old in changed if row.state in FINAL and row.state != old.state}
    recorded.newer += sum(row.tries > old.tries for row, old in changed)
    recorded.unsent += sum(old.state == State.UNSENT or row.tries > old.tries for row, old in changed)
    for row, old in changed:
        if row.began is not None and row.status is not None:
            second = _second(row)
            if row.state != old.state and row.state in BY_ATTEMPT:
                recorded.ends[second] += 1
            if row.status or row.state == State.FAILED:
                recorded.failed = max(recorded.failed or 0, second)
    return corrected


def _overtaken(row: Row, new: Row) -> Iterator[tuple[int, int]]:
    """Yield second and kind of the last attempt on a row that was known before, if a later one is known by now."""
    later = (new.tries, new.attempts or 0) > (row.tries, row.attempts or 0)
    if later and row.began is not None and row.status is not None:
        yield _second(row), Past.FAILED if row.status else Past.SUCCEEDED


def _second(row: Row) -> int:
    """Return the second in which the last attempt on a row ended."""
    return ((row.began or 0) + (row.duration or 0)) // 1_000_000


def _counted(row: Row) -> tuple[int, int, int | str]:
    """Return what the tallies count a row as, as `counted` does in SQL, which would make recording a tenth slower."""
    more: int | str | None = None
    if row.state == State.GONE:
        more = row.reason
    elif row.state == State.FAILED or (row.status and row.state in OPEN):
        current = row.said == (row.attempts or 0) or row.code == row.status
        more = row.cause if current and row.cause is not None else row.status
    return row.ref >> 32, row.state, "" if more is None else more


def _kept(connection: sqlite3.Connection, num: int, wanted: Iterable[str]) -> dict[str | None, str | None]:
    """Return what each cause is counted under: once a batch has `MOST_CAUSES`, a new one under its exception."""
    new = set(wanted)
    if not new:
        return {}
    query = f"SELECT DISTINCT cause FROM {TALLIES} AND typeof(cause) = 'text'"
    counted = {cause for (cause,) in connection.execute(query, (num,))}
    room = max(0, MOST_CAUSES - len(counted))
    kept = (new & counted) | set(sorted(new - counted)[:room])
    return {cause: cause if cause in kept else kind_of(cause) for cause in new}


def _note_wordings(connection: sqlite3.Connection, num: int, told: Mapping[str, Collection[str]]) -> None:
    """Add messages to what is stored of the causes that they have told, of those with a traceback."""
    faults = [cause for cause in told if Fault.parse(cause)]
    query = "SELECT cause, words FROM wordings WHERE num = ? AND cause IN (SELECT value FROM json_each(?))"
    known = dict(connection.execute(query, (num, as_json(faults)))) if faults else {}
    for cause in faults:
        before = [Wording.read(known[cause])] if cause in known else []
        words = reduce(Wording.joined, [*before, *map(Wording.of, told[cause])]).stored()
        if words != known.get(cause):
            connection.execute("INSERT OR REPLACE INTO wordings VALUES (?, ?, ?)", (num, cause, words))


def wanted_rows(connection: sqlite3.Connection, scope: Scope, codes: str, rows: Wanted) -> Iterator[int]:
    """Yield the refs of the rows that `Outcomes.new_try` means; in other states than these perhaps, if they are given.

    They are read a page at a time, as the caller changes them.
    """
    if rows is not None and not isinstance(rows, Choice):
        for given in paged(rows, _PAGE):
            newest = locate(connection, scope.batch, (task for _, task in given if task is not None))
            yield from (ref for ref, task in given if task is None or newest.get(task) == ref)
        return
    condition, values = ("TRUE", list[str]()) if rows is None else chosen(rows)
    query = f"""SELECT ref FROM {ROWS} AND state IN (SELECT value FROM json_each(?)) AND {condition}
                ORDER BY first, ref LIMIT ?"""
    number, after = scope_of(connection, scope), 0
    while page := connection.execute(query, (after + 1, ALL, number, codes, *values, _PAGE)).fetchall():
        yield from (ref for (ref,) in page)
        (after,) = page[-1]


def _reopen(connection: sqlite3.Connection, num: int, refs: str, codes: str) -> int:
    """Open a new try for some rows. A row without any try is no valid task, and never becomes one."""
    connection.execute(
        f"""INSERT INTO past
            SELECT ?, {_ENDED}, state = {State.FAILED:d}, count(*)
            FROM rows WHERE {AMONG} AND state IN ({in_sql(BY_ATTEMPT)}) AND began IS NOT NULL
            AND state IN (SELECT value FROM json_each(?)) GROUP BY 2, 3
            ON CONFLICT DO UPDATE SET n = n + excluded.n""",
        (num, refs, codes),
    )
    with counted(connection, AMONG, refs):
        return connection.execute(
            f"""UPDATE rows SET try = try + 1, state = {State.UNSENT:d}, {_FORGET} WHERE {AMONG} AND try > 0
                AND ref >> 32 IN (SELECT first >> 32 FROM spans WHERE scope = ?)
                AND state IN (SELECT value FROM json_each(?))""",
            (refs, num, codes),
        ).rowcount
