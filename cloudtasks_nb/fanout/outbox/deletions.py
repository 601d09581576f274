"""The tasks that a cancelled batch deletes: stored before they are deleted, so that a killed process loses none."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cloudtasks_nb.fanout.evidence import Fact
from cloudtasks_nb.fanout.outbox.database import Database, Repository, transaction
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.outbox.rows import tasks_of
from cloudtasks_nb.fanout.outbox.tallies import ALL, AMONG, ROWS, as_json, counted, number_of, scope_of, touch
from cloudtasks_nb.fanout.states import State

__all__ = ["DeletionPage", "DeletionQueue"]


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
    rows : Scope
        Those whose tasks are deleted.
    """

    def __init__(self, database: Database, rows: Scope) -> None:
        super().__init__(database)
        self._rows = rows
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
        num = number_of(connection, self._rows.batch)
        if page is not None:
            _finish(connection, page, results)
            touch(connection, num)
        found = connection.execute(
            f"SELECT ref, try, deleting FROM {ROWS} AND state = ? ORDER BY first, ref LIMIT ?",
            (self._after + 1, ALL, scope_of(connection, self._rows), State.SENT, size),
        ).fetchall()
        if not found:
            return None
        refs = [ref for ref, _, _ in found]
        self._after = refs[-1]
        connection.execute(f"UPDATE rows SET deleting = try WHERE {AMONG}", (as_json(refs),))
        return DeletionPage(
            refs=refs,
            tasks=tasks_of(connection, self._rows.batch, [row[:2] for row in found]),
            earlier={ref for ref, attempt, deleting in found if deleting == attempt},
        )

    @transaction
    def leave(self, connection: sqlite3.Connection, *, deleted: bool = False) -> None:
        """Leave the deletion to another home: rows whose tasks leave the queue, or have left it so, are cancelled.

        With `deleted` only those whose tasks were deleted.
        """
        rows, values = f"ref IN (SELECT ref FROM {ROWS})", (0, ALL, scope_of(connection, self._rows))
        with counted(connection, rows, *values):
            connection.execute(
                f"UPDATE rows SET deleting = try WHERE {rows} AND (state = ? AND fact = ? OR ? AND state IN (?, ?))",
                (*values, State.GONE, Fact.DELETED, not deleted, State.SENT, State.GONE),
            )
            connection.execute(
                f"UPDATE rows SET state = ?, reason = NULL WHERE {rows} AND state = ? AND deleting = try",
                (State.CANCELLED, *values, State.GONE),
            )
        touch(connection, number_of(connection, self._rows.batch))


def _finish(connection: sqlite3.Connection, page: DeletionPage, results: Iterable[bool | None]) -> None:
    by_result: dict[bool | None, list[int]] = {True: [], False: [], None: []}
    for ref, result in zip(page.refs, results, strict=True):
        by_result[result].append(ref)
    # A row that another process has recorded meanwhile, or that has a newer try, stays as it is.
    deleted = as_json(by_result[True])
    with counted(connection, AMONG, deleted):
        connection.execute(
            f"UPDATE rows SET state = ?, fact = ?, reason = NULL WHERE {AMONG} AND state = ? AND deleting = try",
            (State.CANCELLED, Fact.DELETED, deleted, State.SENT),
        )
    # Those that were seen to have left meanwhile count as cancelled: what became of them is found out anew.
    others = as_json(ref for ref in by_result[False] if ref not in page.earlier)
    with counted(connection, AMONG, others):
        connection.execute(
            f"UPDATE rows SET deleting = NULL, state = iif(state = ?, ?, state) WHERE {AMONG} AND deleting = try",
            (State.CANCELLED, State.SENT, others),
        )
