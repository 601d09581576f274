"""Rows that another home says to have rendered: their tasks are not sent from here until somebody trusts them.

A row is trusted when this home has rendered it itself, as the same cell does, and then has the task of this home; or
when somebody has seen what its task does and wants it sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence

from cloudtasks_nb.fanout.outbox.blocks import StoredBlock, pack_tasks, read_block
from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.outcomes import Wanted, wanted_rows
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.outbox.tallies import AMONG, as_json, number, number_of, paged
from cloudtasks_nb.fanout.states import State

__all__ = ["Trust", "has_untrusted", "put_tasks"]

_PAGE = 1_000


class Trust(Repository):
    """The rows of an outbox that nobody trusts."""

    @reading
    def untrusted(
        self, connection: sqlite3.Connection, scope: Scope, states: Collection[State], rows: Wanted = None
    ) -> dict[int, str]:
        """Return who says to have made which rows in some states that nobody trusts, by their refs.

        Parameters
        ----------
        rows : optional
            As for `Outcomes.new_try`.
        """
        num, codes = number_of(connection, scope.batch), as_json(states)
        if not has_untrusted(connection, num):
            return {}
        query = f"""SELECT ref, maker FROM rows WHERE {AMONG} AND maker IS NOT NULL
                    AND state IN (SELECT value FROM json_each(?)) ORDER BY ref"""
        found: dict[int, str] = {}
        for page in paged(wanted_rows(connection, scope, codes, rows), _PAGE):
            found.update(connection.execute(query, (as_json(page), codes)))
        return found

    @transaction
    def trust(self, connection: sqlite3.Connection, refs: Iterable[int]) -> None:
        """Have the tasks of rows sent as they are stored."""
        for page in paged(refs, _PAGE):
            connection.execute(f"UPDATE rows SET maker = NULL WHERE {AMONG}", (as_json(page),))


def has_untrusted(connection: sqlite3.Connection, num: int) -> bool:
    """Return whether nobody trusts some rows of a batch."""
    query = """SELECT EXISTS (SELECT 1 FROM spans CROSS JOIN rows INDEXED BY untrusted ON ref BETWEEN first AND last
               WHERE scope = ? AND maker IS NOT NULL)"""
    return bool(number(connection, query, num))


def put_tasks(connection: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Give the rows that nobody trusts yet the tasks of others, which this home has rendered.

    Parameters
    ----------
    pairs : sequence of (ref, ref)
        Rows, ascending, and those whose tasks they get. These may be invisible.
    """
    query = f"SELECT ref FROM rows WHERE {AMONG} AND maker IS NOT NULL"
    untrusted = connection.execute(query, (as_json(ref for ref, _ in pairs),))
    left = {ref for (ref,) in untrusted}  # one that was trusted meanwhile may have been sent with its task
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
    connection.execute(f"UPDATE rows SET maker = NULL WHERE {AMONG}", (as_json(mine),))
