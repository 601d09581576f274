"""Which rows a batch has already, and which tasks rows will be: what a dry run asks before anything is spooled."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from struct import unpack

from cloudtasks_nb.fanout.outbox._attach import find, free_id
from cloudtasks_nb.fanout.outbox._draft import Draft, Target
from cloudtasks_nb.fanout.outbox._ledger import as_json, paged
from cloudtasks_nb.fanout.outbox._records import State
from cloudtasks_nb.fanout.plan._identity import named_identity, rows_identity, task_id

__all__ = ["known", "planned"]

_PAGE = 1_000


def known(connection: sqlite3.Connection, draft: Draft, keys: Sequence[bytes]) -> list[State | None]:
    """Return for each key the state of the row that the draft's batch has; None where a row would be new.

    A row that was no valid task counts as new: it gives way to one that is.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    return [state for state, _ in _rows(connection, find(connection, draft), keys)]


def planned(
    connection: sqlite3.Connection, draft: Draft, keys: Sequence[bytes], total: int | None
) -> list[tuple[str | None, State | None]]:
    """Return for each key the id that its task has or will have, and the state of the row that the batch has.

    Parameters
    ----------
    total : int, optional
        `row_sum` of all rows that would be sent, by which a batch without a name is known; None if there is none.

    Returns
    -------
    list of (id or None, State or None)
        No id where it cannot be known; no state where a row would be new.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    if draft.name is not None:
        identity = named_identity(draft.place, draft.name)
    elif total is not None:
        identity = rows_identity(draft.place, draft.recipe, total)
    else:
        return [(None, None)] * len(keys)
    target = find(connection, draft, identity)
    batch = free_id(connection, identity) if target is None else target.id
    return [
        (task_id(batch, key, attempt) if attempt else None, state)
        for key, (state, attempt) in zip(keys, _rows(connection, target, keys), strict=True)
    ]


def _rows(
    connection: sqlite3.Connection, target: Target | None, keys: Sequence[bytes]
) -> list[tuple[State | None, int]]:
    """Return for each key the state of the batch's row and the number of its newest task; (None, 1) for a new row."""
    found: dict[tuple[int, int], tuple[State | None, int]] = {}
    if target is not None:
        for page in paged(keys, _PAGE):
            cursor = connection.execute(
                """SELECT k.k1, k.k2, r.state, r.try FROM json_each(?) j
                   CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value
                   CROSS JOIN rows r ON r.ref = k.ref WHERE k.digest <> 0""",
                (as_json({half for half, _ in _halves(page)}), target.num),
            )
            found |= {(k1, k2): (State(state), attempt) for k1, k2, state, attempt in cursor}
    return [found.get(pair, (None, 1)) for pair in _halves(keys)]


def _halves(keys: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return keys as the table of them has them."""
    halves = unpack(f">{2 * len(keys)}q", b"".join(keys))
    return list(zip(halves[::2], halves[1::2], strict=True))
