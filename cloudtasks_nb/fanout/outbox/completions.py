"""Who is to be told when a batch is done, and who has been: once a round, also with several watchers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb.fanout.outbox.ledger import counts, number_of, touch
from cloudtasks_nb.fanout.outbox.records import FINAL, Completion, State

__all__ = ["claim", "confirm", "register", "registered", "release", "untold"]

_LEASE = 60.0  # seconds that a claimer has to create the task; then another may


def register(
    connection: sqlite3.Connection,
    batch: str,
    url: str,
    service_account: str | None,
    audience: str | None,
    queue: str | None,
) -> int:
    """Note that somebody is to be told; runs in the caller's transaction.

    An address is told once a round: registered again it is the same registration, with what was said last.
    """
    num = number_of(connection, batch)
    wish = (num, url, service_account, audience, queue)
    found = connection.execute("SELECT id FROM completions WHERE num = ? AND url = ?", wish[:2]).fetchone()
    touch(connection, num)
    if found is not None:
        registration: int = found[0]
        connection.execute(
            "UPDATE completions SET service_account = ?, audience = ?, queue = ? WHERE id = ?",
            (*wish[2:], registration),
        )
        return registration
    cursor = connection.execute(
        "INSERT INTO completions (num, url, service_account, audience, queue) VALUES (?, ?, ?, ?, ?)", wish
    )
    return cursor.lastrowid or 0


def registered(connection: sqlite3.Connection, batch: str) -> list[Completion]:
    """Return who wants to be told; `round` is the last one that each was told of, 0 for none."""
    found = connection.execute(
        "SELECT id, url, service_account, audience, queue, told FROM completions WHERE num = ? ORDER BY id",
        (number_of(connection, batch),),
    )
    return [_completion(row[:-1], row[-1]) for row in found]


def untold(connection: sqlite3.Connection, batch: str) -> bool:
    """Return whether every row is final and somebody has not been told of it yet."""
    num = number_of(connection, batch)
    (waiting,) = connection.execute(
        """SELECT EXISTS (SELECT 1 FROM completions c JOIN batches b ON b.num = c.num
           WHERE c.num = ? AND c.told < b.round)""",
        (num,),
    ).fetchone()
    return bool(waiting) and _final(counts(connection, num))


def claim(connection: sqlite3.Connection, batch: str, now: float) -> list[Completion]:
    """Return who is to be told of the present round by the caller, and by nobody else for a minute.

    Nobody while a row is not final: what the caller has seen may be older than a new try. Runs in the caller's
    transaction. The caller creates the tasks and then calls `confirm`, or `release` if it could not.
    """
    num = number_of(connection, batch)
    states = counts(connection, num)
    if not _final(states):
        return []
    (round_,) = connection.execute("SELECT round FROM batches WHERE num = ?", (num,)).fetchone()
    found = connection.execute(
        """UPDATE completions SET claimed = :round, claimed_at = :now
           WHERE num = :num AND told < :round
               AND (claimed < :round OR claimed_at NOT BETWEEN :now - :lease AND :now + :lease)
           RETURNING id, url, service_account, audience, queue""",
        {"round": round_, "now": now, "num": num, "lease": _LEASE},
    ).fetchall()
    return [_completion(row, round_, states) for row in sorted(found)]


def confirm(connection: sqlite3.Connection, batch: str, completion: Completion) -> None:
    """Note that somebody has been told; runs in the caller's transaction."""
    connection.execute(
        "UPDATE completions SET told = max(told, ?) WHERE num = ? AND id = ?",
        (completion.round, number_of(connection, batch), completion.id),
    )


def release(connection: sqlite3.Connection, batch: str, completion: Completion) -> None:
    """Let another, or the caller itself, try at once; runs in the caller's transaction."""
    connection.execute(
        "UPDATE completions SET claimed = :round - 1 WHERE num = :num AND id = :id AND claimed = :round",
        {"round": completion.round, "num": number_of(connection, batch), "id": completion.id},
    )


def _final(states: Mapping[State, int]) -> bool:
    return not any(n for state, n in states.items() if state not in FINAL)


def _completion(row: tuple[Any, ...], round_: int, states: Mapping[State, int] | None = None) -> Completion:
    number, url, service_account, audience, queue = row
    return Completion(
        id=number,
        url=url,
        service_account=service_account,
        audience=audience,
        queue=queue,
        round=round_,
        counts=states or {},
    )
