"""How many rows of a batch failed, are tried again, or are gone, and why."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import code_name
from cloudtasks_nb.fanout.causes import NO_STATUS
from cloudtasks_nb.fanout.outbox.database import Repository, reading
from cloudtasks_nb.fanout.outbox.records import Choice
from cloudtasks_nb.fanout.outbox.tallies import ALL, CAUSE, ROWS, as_json, causes, number, number_of
from cloudtasks_nb.fanout.states import OPEN, State

__all__ = ["Cause", "Causes", "chosen"]

_ERRORS = f"""
    SELECT {CAUSE}, sum(state = {State.FAILED:d}), sum(state <> {State.FAILED:d}), min(began), max(began), min(ref)
    FROM {ROWS} AND
        (state = {State.FAILED:d} OR (state IN (SELECT value FROM json_each(?)) AND status > 0)) GROUP BY 1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of failures, and the rows that have it."""

    cause: str
    failed: int
    retrying: int  #: their last attempt failed, and they are tried again
    first: int | None  #: when the first of their last attempts began, microseconds since 1970
    last: int | None
    ref: int  #: of the first row in input order


class Causes(Repository):
    """Why rows of the batches of an outbox failed."""

    @reading
    def failed(self, connection: sqlite3.Connection, batch: str) -> dict[str, int]:
        """Return how many failed rows have which cause, the most frequent first. Reads tallies only."""
        return _named(causes(connection, number_of(connection, batch), State.FAILED))

    @reading
    def retrying(self, connection: sqlite3.Connection, batch: str) -> dict[str, int]:
        """Return how many rows that are tried again have which cause, the most frequent first. Reads tallies only."""
        found = causes(connection, number_of(connection, batch), *OPEN)
        return _named([(cause, n) for cause, n in found if cause != ""])

    @reading
    def lost(self, connection: sqlite3.Connection, batch: str) -> dict[str | None, int]:
        """Return how many gone rows left their queue how, the most frequent first; None: that is not known."""
        return {cause or None: n for cause, n in causes(connection, number_of(connection, batch), State.GONE)}

    @reading
    def errors(self, connection: sqlite3.Connection, batch: str) -> list[Cause]:
        """Return the causes of failed rows and of those that are tried again, the most frequent first.

        Reads all rows, in constant memory.
        """
        found = connection.execute(_ERRORS, (0, ALL, number_of(connection, batch), as_json(OPEN)))
        rows = [
            Cause(cause=_name(cause), failed=failed, retrying=retrying, first=first, last=last, ref=ref)
            for cause, failed, retrying, first, last, ref in found
        ]
        return sorted(rows, key=lambda row: (-row.failed - row.retrying, row.cause))

    @reading
    def matching(self, connection: sqlite3.Connection, batch: str, choice: Choice) -> int:
        """Return how many failed rows a choice has."""
        condition, values = chosen(choice)
        query = f"SELECT count(*) FROM {ROWS} AND state = {State.FAILED:d} AND {condition}"
        return number(connection, query, 0, ALL, number_of(connection, batch), *values)


def chosen(choice: Choice) -> tuple[str, list[str]]:
    """Return the condition in SQL for the rows that a choice has, and its values."""
    among = "IN (SELECT value FROM json_each(?))"
    condition = f"({CAUSE} {among} OR status {among} OR http {among} OR (http IS NULL AND status {among}))"
    return condition, [as_json(some) for some in (choice.causes, choice.statuses, choice.http, choice.assumed)]


def _name(cause: int | str) -> str:
    return code_name(cause) if isinstance(cause, int) else cause or NO_STATUS


def _named(found: list[tuple[Any, int]]) -> dict[str, int]:
    """Return the numbers by cause as it is shown, the most frequent first."""
    return dict(sorted(((_name(cause), n) for cause, n in found), key=lambda one: (-one[1], one[0])))
