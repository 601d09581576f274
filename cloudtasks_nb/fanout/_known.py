"""Which rows a batch has already: what a dry run asks before anything is spooled."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from struct import unpack

from cloudtasks_nb.fanout._attach import find
from cloudtasks_nb.fanout._draft import Draft
from cloudtasks_nb.fanout._ledger import as_json, paged
from cloudtasks_nb.fanout._records import State

__all__ = ["known"]

_PAGE = 1_000


def known(connection: sqlite3.Connection, draft: Draft, keys: Sequence[bytes]) -> list[State | None]:
    """Return for each key the state of the row that the draft's batch has; None where a row would be new.

    A row that was no valid task counts as new: it gives way to one that is.

    Raises
    ------
    BatchExistsError
        If the batch of this name was made of other templates.
    """
    target = find(connection, draft)
    found: dict[tuple[int, int], State] = {}
    if target is not None:
        for page in paged(keys, _PAGE):
            cursor = connection.execute(
                """SELECT k.k1, k.k2, r.state FROM json_each(?) j CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value
                   CROSS JOIN rows r ON r.ref = k.ref WHERE k.digest <> 0""",
                (as_json({half for half, _ in _halves(page)}), target.num),
            )
            found |= {(k1, k2): State(state) for k1, k2, state in cursor}
    return [found.get(pair) for pair in _halves(keys)]


def _halves(keys: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return keys as the table of them has them."""
    halves = unpack(f">{2 * len(keys)}q", b"".join(keys))
    return list(zip(halves[::2], halves[1::2], strict=True))
