"""The tasks that a cancelled batch deletes: stored before they are deleted, so that a killed process loses none."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cloudtasks_nb.fanout.outbox.blocks import StoredBlock
from cloudtasks_nb.fanout.outbox.counters import add_counts, as_json, number_of, touch
from cloudtasks_nb.fanout.outbox.database import Database, Repository, transaction
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.outbox.rows import ranges
from cloudtasks_nb.fanout.plan.identity import task_ids

__all__ = ["DeletionPage", "DeletionQueue", "ask_for", "asked_for", "correct_gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionPage:
    """Rows whose tasks are to be deleted together, in dispatch order."""

    refs: Sequence[int]
    tasks: Sequence[str]  #: id of each task
    earlier: Collection[int]  #: rows whose deletion was asked for before: their tasks may be deleted already


class DeletionQueue(Repository):
    """Gives out the tasks of a batch that are in the queue, page after page, and stores which were deleted.

    A page is stored before it is given out. If the process is killed before it stores the results, the rows of the page
    whose tasks are missing later count as cancelled: `Outcomes.record` reads what is stored here.

    Parameters
    ----------
    database : Database
    batch : str
    """

    def __init__(self, database: Database, batch: str) -> None:
        super().__init__(database)
        self._batch = batch
        self._after = -1  # ref of the last row that was given out

    @transaction
    def turn(
        self,
        connection: sqlite3.Connection,
        page: DeletionPage | None,
        results: Iterable[bool | None],
        *,
        size: int,
    ) -> DeletionPage | None:
        """Store the results of one page and give out the next, in one transaction; None when there is none.

        Parameters
        ----------
        page : DeletionPage, optional
        results : iterable of bool or None
            For each row of the page, whether the task was deleted; False: certainly not by this call; None: not known.
        size : int
            Rows in the next page; 0 for no next page.
        """
        num = number_of(connection, self._batch)
        if page is not None:
            _finish(connection, num, page, results)
        found: list[tuple[int, int]] = []
        for first, last in ranges(connection, num):
            if len(found) < size and self._after < last:
                found += connection.execute(
                    "SELECT ref, try FROM rows WHERE ref BETWEEN ? AND ? AND state = ? ORDER BY ref LIMIT ?",
                    (max(first, self._after + 1), last, State.SENT, size - len(found)),
                ).fetchall()
        if not found:
            return None
        self._after = found[-1][0]
        refs = [ref for ref, _ in found]
        earlier = asked_for(connection, refs)
        ask_for(connection, refs)
        return DeletionPage(refs=refs, tasks=_tasks(connection, self._batch, found), earlier=earlier)


def ask_for(connection: sqlite3.Connection, refs: Iterable[int]) -> None:
    """Note that the newest tasks of these rows are to be deleted."""
    connection.execute(
        "INSERT OR REPLACE INTO deletions SELECT ref, try FROM rows WHERE ref IN (SELECT value FROM json_each(?))",
        (as_json(refs),),
    )


def asked_for(connection: sqlite3.Connection, refs: Iterable[int]) -> set[int]:
    """Return those of the rows whose newest task was to be deleted."""
    found = connection.execute(
        """SELECT r.ref FROM json_each(?) j CROSS JOIN deletions d ON d.ref = j.value
           CROSS JOIN rows r ON r.ref = d.ref AND r.try = d.try""",
        (as_json(refs),),
    )
    return {ref for (ref,) in found}


def correct_gone(connection: sqlite3.Connection, num: int) -> None:
    """Count rows as cancelled that were found to be gone, but whose tasks the batch itself was to delete."""
    for bounds in ranges(connection, num):
        _to_cancelled(connection, num, State.GONE, "ref BETWEEN ? AND ?", bounds)


def _to_cancelled(
    connection: sqlite3.Connection, num: int, before: State, which: str, values: Sequence[int | str]
) -> None:
    """Cancel the rows in a state whose newest tasks are among those deletions that a condition selects."""
    moved = connection.execute(
        f"""UPDATE rows SET state = ? WHERE ref IN (SELECT ref FROM deletions WHERE {which}) AND state = ?
            AND try = (SELECT d.try FROM deletions d WHERE d.ref = rows.ref)""",  # noqa: S608 - our own condition
        (State.CANCELLED, *values, before),
    ).rowcount
    add_counts(connection, num, {before: -moved, State.CANCELLED: moved})


def _finish(connection: sqlite3.Connection, num: int, page: DeletionPage, results: Iterable[bool | None]) -> None:
    by_result: dict[bool | None, list[int]] = {True: [], False: [], None: []}
    for ref, result in zip(page.refs, results, strict=True):
        by_result[result].append(ref)
    # A row that another process has recorded meanwhile, or that has a newer try, stays as it is.
    among = "ref IN (SELECT value FROM json_each(?))"
    _to_cancelled(connection, num, State.SENT, among, (as_json(by_result[True]),))
    settled = by_result[True] + [ref for ref in by_result[False] if ref not in page.earlier]
    connection.execute(f"DELETE FROM deletions WHERE {among}", (as_json(settled),))  # noqa: S608 - our own condition
    touch(connection, num)


def _tasks(connection: sqlite3.Connection, batch: str, rows: Sequence[tuple[int, int]]) -> list[str]:
    """Return the ids of the tasks of rows, which are given by ref and try in ascending order."""
    tasks: list[str] = []
    at = 0
    while at < len(rows):
        first, keys = connection.execute(
            "SELECT first, keys FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1", (rows[at][0],)
        ).fetchone()
        block = StoredBlock(first, keys, b"")
        inside = [row for row in rows[at : at + block.n] if row[0] <= block.last]
        for attempt, same in groupby(inside, key=lambda row: row[1]):
            tasks += task_ids(batch, block.keys([ref for ref, _ in same]), attempt)
        at += len(inside)
    return tasks
