"""Who this home is for other homes: a random id, which a copy of the outbox has too until it notices."""

from __future__ import annotations

import secrets
import sqlite3

import orjson

from cloudtasks_nb.fanout.outbox.database import Repository, transaction

__all__ = ["HomeId"]

_NUM, _NAME = 0, "home"  # no batch has this number
_BYTES = 16


class HomeId(Repository):
    """The id of the home of an outbox."""

    @transaction
    def get(self, connection: sqlite3.Connection) -> str:
        """Return it; it is made when it is first asked for."""
        query = "SELECT value FROM facts WHERE num = ? AND name = ?"
        found = connection.execute(query, (_NUM, _NAME)).fetchone()
        return str(orjson.loads(found[0])) if found else _put(connection)

    @transaction
    def renew(self, connection: sqlite3.Connection) -> str:
        """Take another one, because this outbox is a copy of another home's, or an old backup; return it."""
        return _put(connection)


def _put(connection: sqlite3.Connection) -> str:
    made = secrets.token_hex(_BYTES)
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (_NUM, _NAME, orjson.dumps(made).decode()))
    return made
