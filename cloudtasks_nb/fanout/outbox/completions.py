"""Notifications that a batch is done: each registered URL gets one a round, also with several watchers."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.records import FINAL, Completion
from cloudtasks_nb.fanout.outbox.tallies import counts, number, number_of, touch

__all__ = ["Completions"]


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
        connection.execute(
            """INSERT INTO completions (num, url, service_account, audience, queue) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT DO UPDATE SET
               service_account = excluded.service_account, audience = excluded.audience, queue = excluded.queue""",
            (num, url, service_account, audience, queue),
        )

    @reading
    def registered(self, connection: sqlite3.Connection, batch: str) -> list[Completion]:
        """Return the registrations; `round` is the last one that was notified, 0 for none."""
        return _read(connection, number_of(connection, batch))

    @transaction
    def due(self, connection: sqlite3.Connection, batch: str) -> list[Completion]:
        """Return the notifications of this round that are missing, in one moment; none while a row is not final.

        Several processes may send the same one: the name of its task is the same everywhere. Who has sent it calls
        `confirm`.
        """
        num = number_of(connection, batch)
        states = counts(connection, num)
        if any(n for state, n in states.items() if state not in FINAL):
            return []
        round_ = number(connection, "SELECT round FROM batches WHERE num = ?", num)
        return [replace(one, round=round_, counts=states) for one in _read(connection, num) if one.round < round_]

    @transaction
    def confirm(self, connection: sqlite3.Connection, batch: str, completion: Completion) -> None:
        """Note that a notification was sent."""
        connection.execute(
            "UPDATE completions SET told = max(told, ?) WHERE num = ? AND url = ?",
            (completion.round, number_of(connection, batch), completion.url),
        )


def _read(connection: sqlite3.Connection, num: int) -> list[Completion]:
    names = ("url", "service_account", "audience", "queue", "round")
    query = "SELECT url, service_account, audience, queue, told FROM completions WHERE num = ? ORDER BY rowid"
    return [Completion(**dict(zip(names, row, strict=True))) for row in connection.execute(query, (num,))]
