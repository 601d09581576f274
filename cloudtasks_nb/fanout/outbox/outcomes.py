"""What becomes of rows: evidence that is added, new tries, and tasks of rows that another home has rendered."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cloudtasks_nb.fanout.causes import kind_of
from cloudtasks_nb.fanout.evidence import Evidence, Row, Source, fold
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.causes import chosen
from cloudtasks_nb.fanout.outbox.database import Repository, StoredBlock, pack_tasks, read_block, reading, transaction
from cloudtasks_nb.fanout.outbox.records import BatchFacts, Choice, Scope, change_facts
from cloudtasks_nb.fanout.outbox.rows import located
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, OPEN, State

__all__ = ["MOST_CAUSES", "Outcomes", "Recorded", "Wanted", "has_elsewhere", "put_tasks"]

#: Rows of a batch: all if it is None, those that a choice has, or these, each with the task that has to be its newest.
Wanted: TypeAlias = Iterable[tuple[int, str | None]] | Choice | None

#: The most causes that are counted for a batch; of further messages only the type of the exception counts.
MOST_CAUSES = 1_000

_PAGE = 1_000

_COLUMNS = ("try", *Row._fields[2:])
_READ = ", ".join(("ref", *_COLUMNS))
_WRITE = f"UPDATE rows SET {', '.join(f'{column} = ?' for column in _COLUMNS)} WHERE ref = ?"
_FORGET = ", ".join(f"{column} = NULL" for column in Row._fields[3:])


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

        Rows that were final and are corrected by the log are counted in `BatchFacts.corrected`; that rows were sent by
        another home is stored in `BatchFacts.sent_by_others`.
        """
        num, recorded, corrected = sql.number_of(connection, batch), Recorded(), 0
        for page in sql.paged(evidence, _PAGE):
            corrected += _record_page(connection, batch, num, page, recorded)
        begun = sql.number(connection, "SELECT begun FROM batches WHERE num = ?", num)
        others = recorded.newer > 0 or (recorded.unsent > 0 and not begun)  # else this home has sent them
        if corrected or others:

            def change(facts: BatchFacts) -> BatchFacts:
                sent_by_others = facts.sent_by_others or others
                return replace(facts, corrected=facts.corrected + corrected, sent_by_others=sent_by_others)

            change_facts(connection, num, change)
        sql.touch(connection, num)
        return recorded

    @transaction
    def new_try(
        self,
        connection: sqlite3.Connection,
        scope: Scope,
        rows: Wanted = None,
        allowed: Collection[State] = (State.FAILED,),
    ) -> int:
        """Open a new try for rows that are in one of the allowed states; return how many will be sent again.

        Parameters
        ----------
        rows : iterable of (ref, task id or None), or Choice, optional
            All rows of the scope when left out. With a task id, a row is only taken if that is its newest task, so
            that the same call twice, or from two kernels, sends once.
        allowed : collection of State
            Unsent and sent rows are never taken.
        """
        codes = sql.as_json({*FINAL} & {*allowed})
        num = sql.number_of(connection, scope.batch)
        # A row without any try is no valid task, and never becomes one.
        statement = f"""UPDATE rows SET try = try + 1, state = {State.UNSENT:d}, {_FORGET} WHERE {sql.AMONG} AND try > 0
                        AND ref >> 32 IN (SELECT first >> 32 FROM spans WHERE scope = ?)
                        AND state IN (SELECT value FROM json_each(?))"""
        opened = 0
        for page in sql.paged(_wanted_rows(connection, scope, codes, rows), _PAGE):
            refs = sql.as_json(page)
            with sql.counted(connection, sql.AMONG, refs):
                opened += connection.execute(statement, (refs, num, codes)).rowcount
        if opened:
            connection.execute("UPDATE batches SET round = round + 1 WHERE num = ?", (num,))
            sql.touch(connection, num)
        return opened

    @reading
    def elsewhere(
        self, connection: sqlite3.Connection, scope: Scope, states: Collection[State], rows: Wanted = None
    ) -> int:
        """Return how many rows in some states only another home has rendered; `rows` are as for `new_try`."""
        num, codes = sql.number_of(connection, scope.batch), sql.as_json(states)
        if not has_elsewhere(connection, num):
            return 0
        query = f"""SELECT count(*) FROM rows WHERE {sql.AMONG} AND elsewhere
                    AND state IN (SELECT value FROM json_each(?))"""
        pages = sql.paged(_wanted_rows(connection, scope, codes, rows), _PAGE)
        return sum(sql.number(connection, query, sql.as_json(page), codes) for page in pages)

    @transaction
    def raise_round(self, connection: sqlite3.Connection, batch: str, least: int) -> None:
        """Bring the round of a batch to a number, if it is lower."""
        connection.execute(
            "UPDATE batches SET round = max(round, ?) WHERE num = ?", (least, sql.number_of(connection, batch))
        )


def _record_page(
    connection: sqlite3.Connection, batch: str, num: int, page: Sequence[Evidence], recorded: Recorded
) -> int:
    """Add some evidence; return how many rows were final and have another state by the log."""
    rows = located(connection, batch, dict.fromkeys(news.task for news in page), _READ, any_try=True)
    found = {task: Row._make(row) for task, row in rows}
    before = {row.ref: row for row in found.values()}
    told = {cause for news in page if news.task in found and news.message and (cause := news.cause)}
    causes = _kept(connection, num, told)
    after, corrected = dict(before), 0
    for news in page:
        if news.task in found:
            row = after[found[news.task].ref]
            new = after[row.ref] = fold(row, news, int(news.task.rpartition("-")[2]), causes.get(news.cause))
            other = new.state != row.state and new.tries == row.tries
            corrected += other and row.state in FINAL and news.source is Source.LOG
            newest = news.source is Source.LOG and news.attempts == new.attempts
            if newest and new.status and not (new.heard or 0) & Source.RESULTS:
                recorded.unexplained[news.task] = new.state in FINAL
    changed = [(row, before[ref]) for ref, row in after.items() if row is not before[ref]]
    connection.executemany(_WRITE, [(*row[1:], row.ref) for row, _ in changed])
    moved = Counter(_counted(row) for row, _ in changed)
    moved.subtract(_counted(old) for _, old in changed)
    sql.adjust(connection, moved)
    recorded.ended |= {row.ref for row, old in changed if row.state in FINAL and row.state != old.state}
    recorded.newer += sum(row.tries > old.tries for row, old in changed)
    recorded.unsent += sum(old.state == State.UNSENT or row.tries > old.tries for row, old in changed)
    for row, old in changed:
        if row.began is not None and row.status is not None:
            second = (row.began + (row.duration or 0)) // 1_000_000  # in which the last attempt ended
            if row.state != old.state and row.state in BY_ATTEMPT:
                recorded.ends[second] += 1
            if row.status or row.state == State.FAILED:
                recorded.failed = max(recorded.failed or 0, second)
    return corrected


def _counted(row: Row) -> tuple[int, int, int | str]:
    """Return what the tallies count a row as, as `counted` does in SQL, which would make recording a tenth slower."""
    more: int | str | None = None
    if row.state == State.GONE:
        more = row.reason
    elif row.state == State.FAILED or (row.status and row.state in OPEN):
        more = row.cause if row.current and row.cause is not None else row.status
    return row.ref >> 32, row.state, "" if more is None else more


def _kept(connection: sqlite3.Connection, num: int, new: set[str]) -> dict[str | None, str | None]:
    """Return what each cause is counted under: once a batch has `MOST_CAUSES`, a new one under its exception."""
    if not new:
        return {}
    query = f"SELECT DISTINCT cause FROM {sql.TALLIES} AND typeof(cause) = 'text'"
    counted = {cause for (cause,) in connection.execute(query, (num,))}
    room = max(0, MOST_CAUSES - len(counted))
    kept = (new & counted) | set(sorted(new - counted)[:room])
    return {cause: cause if cause in kept else kind_of(cause) for cause in new}


def _wanted_rows(connection: sqlite3.Connection, scope: Scope, codes: str, rows: Wanted) -> Iterator[int]:
    """Yield the refs of the rows that `Outcomes.new_try` means; in other states than these perhaps, if they are given.

    They are read a page at a time, as the caller changes them.
    """
    if rows is not None and not isinstance(rows, Choice):
        for given in sql.paged(rows, _PAGE):
            newest = dict(located(connection, scope.batch, (task for _, task in given if task is not None), "ref"))
            yield from (ref for ref, task in given if task is None or newest.get(task) == (ref,))
        return
    condition, values = ("TRUE", list[str]()) if rows is None else chosen(rows)
    query = f"""SELECT ref FROM {sql.ROWS} AND state IN (SELECT value FROM json_each(?)) AND {condition}
                ORDER BY first, ref LIMIT ?"""
    number, after = sql.scope_of(connection, scope), 0
    while page := sql.firsts(connection, query, after + 1, sql.ALL, number, codes, *values, _PAGE):
        yield from page
        after = page[-1]


def has_elsewhere(connection: sqlite3.Connection, num: int) -> bool:
    """Return whether only another home has rendered some rows of a batch."""
    query = """SELECT EXISTS (SELECT 1 FROM spans CROSS JOIN rows INDEXED BY elsewhere ON ref BETWEEN first AND last
               WHERE scope = ? AND elsewhere)"""
    return bool(sql.number(connection, query, num))


def put_tasks(connection: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Give rows that only another home had rendered the tasks of others, which this home has rendered.

    Parameters
    ----------
    pairs : sequence of (ref, ref)
        Rows, ascending, and those whose tasks they get. These may be invisible.
    """
    query = f"SELECT ref FROM rows WHERE {sql.AMONG} AND elsewhere"
    # One that another kernel has rendered meanwhile may have been sent with its task.
    left = {*sql.firsts(connection, query, sql.as_json(ref for ref, _ in pairs))}
    mine, block = dict[int, bytes](), StoredBlock(0, b"")
    for source, ref in sorted((source, ref) for ref, source in pairs if ref in left):
        if not block.first <= source <= block.last:
            block = read_block(connection, source, "keys, tasks")
        (mine[ref],) = block.tasks([source])
    end = 0
    for ref in sorted(mine):
        if ref < end:  # its block was written before
            continue
        block = read_block(connection, ref, "keys, tasks")
        end = block.last + 1
        places = range(block.first, end)
        tasks = [mine.get(place, task) for place, task in zip(places, block.tasks(places), strict=True)]
        connection.execute("UPDATE blocks SET tasks = ? WHERE first = ?", (pack_tasks(tasks), block.first))
    connection.execute(f"UPDATE rows SET elsewhere = NULL WHERE {sql.AMONG}", (sql.as_json(mine),))
