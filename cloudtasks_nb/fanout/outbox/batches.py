"""Batches as a whole: which ones there are, their counts and facts."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from cloudtasks_nb._settings import did_you_mean
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox import tallies
from cloudtasks_nb.fanout.outbox.database import Repository, reading, transaction
from cloudtasks_nb.fanout.outbox.facts import BatchFacts, change_facts, facts_from, stored_facts
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope
from cloudtasks_nb.fanout.outbox.sweep import forget
from cloudtasks_nb.fanout.outbox.tallies import not_found, number_of
from cloudtasks_nb.fanout.plan.identity import Place
from cloudtasks_nb.fanout.states import IN_DOUBT, State

__all__ = ["Batches", "choose"]

# One statement, so that counts and facts are of the same moment.
_FIND = """
    SELECT num, id, identity, place, name, recipe, description, created, changed, round,
        (SELECT json_group_array(json_array(state, n)) FROM
            (SELECT state, sum(n) AS n FROM spans CROSS JOIN tallies ON part = first >> 32
             WHERE scope = batches.num GROUP BY state)),
        (SELECT json_group_object(facts.name, json(value)) FROM facts WHERE facts.num = batches.num)
    FROM batches WHERE id = coalesce(?, id) ORDER BY created DESC, num DESC"""
_ROW_BYTES = 100  # about what a row takes besides its block: what is known of it, and its key


class Batches(Repository):
    """The batches of an outbox."""

    @reading
    def find(
        self, connection: sqlite3.Connection, /, *, batch: str | None = None, **place: str | None
    ) -> list[BatchRecord]:
        """Return the batches, newest first; only the one with an id, and only those of a place, if these are given.

        Parameters
        ----------
        place : str, optional
            Fields of a `Place`; None: any.
        """
        wanted = {(name, value) for name, value in place.items() if value is not None}
        found = ((row, orjson.loads(row[3])) for row in connection.execute(_FIND, (batch,)))
        return [_record(row, at) for row, at in found if wanted <= at.items()]

    def get(self, batch: str) -> BatchRecord:
        """Return a batch by its id.

        Raises
        ------
        BatchNotFoundError
            If there is none.
        """
        for record in self.find(batch=batch):
            return record
        raise not_found(batch)

    def counts(self, rows: Scope) -> dict[State, int]:
        """Return how many rows are in each state. Reads tallies only, unless it is an input of fewer rows."""
        return self._database.read(tallies.counts, rows)

    @reading
    def changed(self, connection: sqlite3.Connection, batch: str) -> float:
        """Return when a row of a batch was changed last, by any process, in seconds since 1970."""
        return tallies.number(connection, "SELECT changed FROM batches WHERE num = ?", number_of(connection, batch))

    @reading
    def sizes(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return about how many bytes of the file each batch takes, by its id."""
        found = connection.execute(
            """SELECT b.id, total(length(k.keys) + length(k.tasks) + length(k.shown) + k.n * ?)
                   + (SELECT total(size) FROM objects o WHERE o.num = b.num)
               FROM batches b LEFT JOIN spans s ON scope = b.num
               LEFT JOIN blocks k ON k.first BETWEEN s.first AND s.last GROUP BY b.id""",
            (_ROW_BYTES,),
        )
        return {batch: round(size) for batch, size in found}

    @transaction
    def delete(self, connection: sqlite3.Connection, batch: str) -> None:
        """Remove a batch; `Outbox.sweep` gives its space back to the disk."""
        forget(connection, number_of(connection, batch))

    @reading
    def facts(self, connection: sqlite3.Connection, batch: str) -> BatchFacts:
        """Return what is known of a batch as a whole."""
        return stored_facts(connection, number_of(connection, batch))

    @transaction
    def change(
        self, connection: sqlite3.Connection, batch: str, change: Callable[[BatchFacts], BatchFacts]
    ) -> tuple[BatchFacts, BatchFacts]:
        """Store what a function makes of the facts of a batch, while no process writes; return them before and after.

        The function may read from the outbox.
        """
        return change_facts(connection, number_of(connection, batch), change)


def choose(found: Sequence[BatchRecord], batch: str | None) -> BatchRecord:
    """Return the batch with this id, name or beginning of an id; the first one for None.

    Parameters
    ----------
    found : sequence of BatchRecord
        The newest first: of several batches with this name the first one is returned, and a note says so.

    Raises
    ------
    BatchNotFoundError
        If there is none, or several ids begin so.
    """
    names = [record.name for record in found if record.name]
    if batch is not None:
        exact = [record for record in found if record.id == batch]
        named = [record for record in found if record.name == batch]
        if len(named) > 1 and not exact:
            newest = named[0]
            notify(
                f'{len(named)} batches are named "{batch}"; this is the newest, of {newest.created:%Y-%m-%d} in queue '
                f"{newest.place.queue}: {newest.id}"
            )
        found = exact or named[:1] or [record for record in found if record.id.startswith(batch)]
    if not found:
        raise BatchNotFoundError(
            "there is no batch yet"
            if batch is None
            else f'there is no batch "{batch}" in this outbox{did_you_mean(batch, names)}',
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


def _record(row: Sequence[Any], place: Mapping[str, str]) -> BatchRecord:
    _, batch, identity, _, name, recipe, description, created, changed, round_, tallied, facts = row
    numbers = dict(orjson.loads(tallied))
    doubtful = numbers.pop(IN_DOUBT, 0)
    counts = dict.fromkeys(State, 0) | {State(state): n for state, n in numbers.items()}
    return BatchRecord(
        id=batch,
        identity=identity,
        place=Place(**place),
        name=name,
        recipe=recipe,
        description=orjson.loads(description),
        created=_moment(created),
        changed=_moment(changed),
        counts={**counts, State.SENT: counts[State.SENT] + doubtful},
        round=round_,
        doubtful=doubtful,
        facts=facts_from(orjson.loads(facts)),
    )


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
