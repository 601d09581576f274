"""Notifications that a batch is done: each registered URL gets one a round, also with several watchers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.records import FINAL, Completion, State
from cloudtasks_nb.fanout.outbox.tallies import counts, number, number_of, touch

__all__ = ["Completions"]

_LEASE = 60.0  # seconds that a claimer has to create the task; then another may


class Completions(Repository):
    """The URLs that are notified when a batch is done."""

    @transaction
    def register(
        self,
        connection: sqlite3.Connection,
        batch: str,
        url: str,
        *,
        service_account: str | None = None,
        audience: str | None = None,
        queue: str | None = None,
    ) -> None:
        """Register a URL; the same URL again is the same registration, with the newer options."""
        num = number_of(connection, batch)
        touch(connection, num)
        values = (service_account, audience, queue, num, url)
        known = connection.execute(
            "UPDATE completions SET service_account = ?, audience = ?, queue = ? WHERE num = ? AND url = ?", values
        ).rowcount
        if not known:
            connection.execute(
                "INSERT INTO completions (service_account, audience, queue, num, url) VALUES (?, ?, ?, ?, ?)", values
            )

    @reading
    def registered(self, connection: sqlite3.Connection, batch: str) -> list[Completion]:
        """Return the registrations; `round` is the last one that was notified, 0 for none."""
        found = connection.execute(
            "SELECT id, url, service_account, audience, queue, told FROM completions WHERE num = ? ORDER BY id",
            (number_of(connection, batch),),
        )
        return [_completion(row[:-1], row[-1]) for row in found]

    @reading
    def due(self, connection: sqlite3.Connection, batch: str) -> bool:
        """Return whether every row is final and a notification of this round is missing."""
        num = number_of(connection, batch)
        query = "SELECT count(*) FROM completions JOIN batches USING (num) WHERE num = ? AND told < round"
        return number(connection, query, num) > 0 and _final(counts(connection, num))

    @transaction
    def claim(self, connection: sqlite3.Connection, batch: str) -> list[Completion]:
        """Return the notifications of this round that the caller has to send; for a minute no other caller gets them.

        There are none while a row is not final: what the caller has seen may be older than a new try. The caller
        creates the tasks and then calls `confirm`, or `release` if it could not.
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
            {"round": round_, "now": time.time(), "num": num, "lease": _LEASE},
        ).fetchall()
        return [_completion(row, round_, states) for row in sorted(found)]

    @transaction
    def confirm(self, connection: sqlite3.Connection, batch: str, completion: Completion) -> None:
        """Note that a notification was sent."""
        connection.execute(
            "UPDATE completions SET told = max(told, ?) WHERE num = ? AND id = ?",
            (completion.round, number_of(connection, batch), completion.id),
        )

    @transaction
    def release(self, connection: sqlite3.Connection, batch: str, completion: Completion) -> None:
        """Note that a notification could not be sent; the next call of `claim` returns it."""
        connection.execute(
            "UPDATE completions SET claimed = :round - 1 WHERE num = :num AND id = :id AND claimed = :round",
            {"round": completion.round, "num": number_of(connection, batch), "id": completion.id},
        )


def _final(states: Mapping[State, int]) -> bool:
    return not any(n for state, n in states.items() if state not in FINAL)


def _completion(row: tuple[Any, ...], round_: int, states: Mapping[State, int] | None = None) -> Completion:
    names = ("id", "url", "service_account", "audience", "queue")
    return Completion(**dict(zip(names, row, strict=True)), round=round_, counts=states or {})
