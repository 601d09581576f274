"""Batches as a whole: which there are, and what is kept of each besides its rows."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from cloudtasks_nb.errors import BatchNotFoundError, CloudTasksError
from cloudtasks_nb.fanout.outbox import ledger
from cloudtasks_nb.fanout.outbox.ledger import number_of
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State
from cloudtasks_nb.fanout.plan.identity import Place

__all__ = [
    "choose",
    "counts",
    "listed",
    "save_snapshot",
    "set_error",
    "set_setting",
    "settings",
    "snapshot",
]


def listed(
    connection: sqlite3.Connection, where: tuple[str | None, str | None, str | None, str | None]
) -> list[BatchRecord]:
    """Return the batches, newest first; `where` is endpoint, project, location and queue, each None for any."""
    found = connection.execute(
        """SELECT num, id, endpoint, project, location, queue, name, description, created, changed, round,
                  cancelled_at, error, snapshot_at FROM batches
           WHERE endpoint = coalesce(?, endpoint) AND project = coalesce(?, project)
             AND location = coalesce(?, location) AND queue = coalesce(?, queue)
           ORDER BY created DESC, num DESC""",
        where,
    ).fetchall()
    return [_record(connection, *row) for row in found]


def choose(found: Sequence[BatchRecord], batch: str | None) -> BatchRecord:
    """Return the batch with this id, name or beginning of an id; the first one for None.

    Raises
    ------
    BatchNotFoundError
        If there is none, or more than one.
    """
    if batch is not None:
        exact = [record for record in found if batch in (record.id, record.name)]
        found = exact or [record for record in found if record.id.startswith(batch)]
    if not found:
        raise BatchNotFoundError(
            "there is no batch yet" if batch is None else f'there is no batch "{batch}" in this outbox',
            resource=batch,
            hint="tasks.batches() lists those there are; queue.fan_out(...) makes one",
        )
    if batch is not None and len(found) > 1:
        raise BatchNotFoundError(
            f'"{batch}" may be {len(found)} batches: {", ".join(record.id for record in found[:5])}',
            resource=batch,
            hint="give more of the id",
        )
    return found[0]


def counts(connection: sqlite3.Connection, batch: str) -> dict[State, int]:
    """Return how many rows are in each state."""
    return ledger.counts(connection, number_of(connection, batch))


def settings(connection: sqlite3.Connection, batch: str) -> dict[str, Any]:
    """Return what was set for a batch."""
    found = connection.execute("SELECT key, value FROM settings WHERE num = ?", (number_of(connection, batch),))
    return {key: orjson.loads(value) for key, value in found}


def set_setting(connection: sqlite3.Connection, batch: str, key: str, value: Any) -> None:
    """Set something for a batch."""
    connection.execute(
        "INSERT OR REPLACE INTO settings VALUES (?, ?, ?)",
        (number_of(connection, batch), key, orjson.dumps(value).decode()),
    )


def snapshot(connection: sqlite3.Connection, batch: str) -> bytes | None:
    """Return the newest snapshot of a batch."""
    found: tuple[bytes | None] = connection.execute(
        "SELECT snapshot FROM batches WHERE num = ?", (number_of(connection, batch),)
    ).fetchone()
    return found[0]


def save_snapshot(connection: sqlite3.Connection, batch: str, seen: bytes, now: float) -> None:
    """Keep what was seen of a batch; `now` is in seconds since 1970."""
    connection.execute(
        "UPDATE batches SET snapshot = ?, snapshot_at = ? WHERE num = ?", (seen, now, number_of(connection, batch))
    )


def set_error(connection: sqlite3.Connection, batch: str, error: CloudTasksError | None) -> None:
    """Note what stopped the sending of a batch."""
    text = None
    if error is not None:
        facts = {"kind": type(error).__name__, "message": error.message, "code": error.code, "hint": error.hint}
        text = orjson.dumps(facts).decode()
    connection.execute("UPDATE batches SET error = ? WHERE num = ?", (text, number_of(connection, batch)))


def _record(connection: sqlite3.Connection, num: int, batch: str, *columns: Any) -> BatchRecord:
    endpoint, project, location, queue, name, description, *rest = columns
    created, changed, round_, cancelled_at, error, snapshot_at = rest
    return BatchRecord(
        id=batch,
        place=Place(endpoint=endpoint, project=project, location=location, queue=queue),
        name=name,
        description=orjson.loads(description),
        created=_moment(created),
        changed=_moment(changed),
        counts=ledger.counts(connection, num),
        round=round_,
        cancelled_at=None if cancelled_at is None else _moment(cancelled_at),
        error=None if error is None else orjson.loads(error),
        snapshot_at=None if snapshot_at is None else _moment(snapshot_at),
    )


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
