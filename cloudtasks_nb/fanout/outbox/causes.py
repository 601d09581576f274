"""How many rows of a batch failed, are tried again, or are gone, and why.

A cause is shown with a text that tells it from the others of its batch, everywhere the same. If the traceback is known,
that is the message of the first of its rows, in input order. What is stored of a row is the cause's key, which never
changes.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import CODES, code_name
from cloudtasks_nb.fanout.causes import NO_STATUS, Fault, one_line, shortened
from cloudtasks_nb.fanout.evidence import RAISED
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Repository, reading, snapshot
from cloudtasks_nb.fanout.outbox.records import Choice, Scope
from cloudtasks_nb.fanout.states import OPEN, State

__all__ = ["LIKE_IT", "Cause", "Causes", "Span", "chosen", "stored_key"]

#: The end of `Cause.words` of several rows.
LIKE_IT = re.compile(r" … and [\d,]+ like it$")

_LONGEST = 100  # characters of a message that is the text of a cause

# A number for each row from 0 to 2^32: so evenly spread that the rows below a bound are a sample of all, also of those
# that are the same in every seventh row.
_SPREAD = "((ref & 4294967295) * 2654435761 & 4294967295)"
_MOST = 1 << 32
_SPANS, _SECOND = 24, 1_000_000  # of the time in which rows failed; a second is the shortest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A cause of failures, and how many rows have it."""

    key: str  #: which cause it is, as `stored_key` reads it
    text: str  #: as it is shown; of those with a `where` the message of the first row
    kind: str  #: the type of the exception, or the status
    where: str | None  #: the line of the user's code: ``report, cell [1] line 12``
    failed: int
    retrying: int  #: their last attempt failed, and they are tried again

    def words(self, rows: int) -> str:
        """Return how the cause of so many rows is shown: if the text is the message of one, with "… and 11 like it"."""
        if self.where is None or rows == 1:
            return self.text
        return f"{self.text.removesuffix('…').rstrip()} … and {rows - 1:,} like it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When the rows of a cause failed."""

    first: int | None  #: when the first of their last attempts began, microseconds since 1970
    last: int | None
    ref: int  #: of the first row in input order
    #: Rows in each of equal spans of time, from the first failure of all causes to the last.
    counts: tuple[int, ...] = ()


class Causes(Repository):
    """Why rows of the batches of an outbox failed."""

    @reading
    def found(self, connection: sqlite3.Connection, rows: Scope) -> list[Cause]:
        """Return the causes of failed rows and of those that are tried again, the most frequent first.

        Reads tallies, and one row of each cause whose traceback is known.
        """
        failed = dict(_numbers(connection, rows, State.FAILED))
        retrying = {cause: n for cause, n in _numbers(connection, rows, *OPEN) if cause != ""}
        texts = _texts(connection, rows, {**failed, **retrying})
        often = Counter(texts.values())
        found = [
            _cause(stored, text, failed.get(stored, 0), retrying.get(stored, 0), alone=often[text] == 1)
            for stored, text in texts.items()
        ]
        return sorted(found, key=lambda one: (-one.failed - one.retrying, one.text))

    def failed(self, rows: Scope) -> dict[str, int]:
        """Return how many failed rows have which cause, in words, the most frequent first. Reads as `found`."""
        return _sorted({one.words(one.failed): one.failed for one in self.found(rows)})

    def retrying(self, rows: Scope) -> dict[str, int]:
        """Return how many rows that are tried again have which cause, as `failed`."""
        return _sorted({one.words(one.retrying): one.retrying for one in self.found(rows)})

    @reading
    def of_message(self, connection: sqlite3.Connection, rows: Scope, text: str) -> list[str]:
        """Return the keys of the causes of which one row has a message that would be shown as this text."""
        failing = f"{sql.ROWS} AND {sql.FAILING} AND instr({sql.CAUSE}, char(10))"
        query = f"SELECT DISTINCT {sql.CAUSE}, {sql.MESSAGE} FROM {failing}"
        found = connection.execute(query, (0, sql.ALL, sql.scope_of(connection, rows)))
        return list(dict.fromkeys(_key(stored) for stored, message in found if _first_line(message) == text))

    @reading
    def lost(self, connection: sqlite3.Connection, rows: Scope) -> dict[str | None, int]:
        """Return how many gone rows left their queue how, the most frequent first; None: that is not known."""
        return {cause or None: n for cause, n in _numbers(connection, rows, State.GONE)}

    @reading
    def spans(self, connection: sqlite3.Connection, rows: Scope) -> dict[str, Span]:
        """Return when the rows of each cause failed, by its key. Reads all rows twice, in constant memory."""
        return snapshot(connection, _spans, connection, rows)

    @reading
    def sample(self, connection: sqlite3.Connection, rows: Scope, share: float) -> list[int]:
        """Return the refs of a share of the rows, evenly spread, in input order."""
        query = f"SELECT ref FROM {sql.ROWS} AND {_SPREAD} < ? ORDER BY first, ref"
        return sql.firsts(connection, query, 0, sql.ALL, sql.scope_of(connection, rows), round(share * _MOST))

    @reading
    def samples(self, connection: sqlite3.Connection, rows: Scope, shares: dict[str, float]) -> dict[str, list[int]]:
        """Return the refs of a share of the rows of some causes, by their keys, as `sample`; all rows are read once."""
        found: dict[str, list[int]] = {key: [] for key in shares}
        if not shares:
            return found
        bounds = [value for key, share in shares.items() for value in (stored_key(key), round(share * _MOST))]
        bound = f"CASE {sql.CAUSE} {'WHEN ? THEN ? ' * len(shares)} ELSE 0 END"
        query = f"SELECT {sql.CAUSE}, ref FROM {sql.ROWS} AND {sql.FAILING} AND {_SPREAD} < {bound} ORDER BY first, ref"
        for stored, ref in connection.execute(query, (0, sql.ALL, sql.scope_of(connection, rows), *bounds)):
            found[_key(stored)].append(ref)
        return found

    @reading
    def matching(self, connection: sqlite3.Connection, rows: Scope, choice: Choice) -> int:
        """Return how many failed rows a choice has."""
        condition, values = chosen(choice)
        query = f"SELECT count(*) FROM {sql.ROWS} AND state = {State.FAILED:d} AND {condition}"
        return sql.number(connection, query, 0, sql.ALL, sql.scope_of(connection, rows), *values)


def _spans(connection: sqlite3.Connection, rows: Scope) -> dict[str, Span]:
    grouped, values = f"FROM {sql.ROWS} AND {sql.FAILING} GROUP BY 1", (0, sql.ALL, sql.scope_of(connection, rows))
    query = f"SELECT {sql.CAUSE}, min(began), max(began), min(ref) {grouped}"
    found = connection.execute(query, values).fetchall()
    low = min((first for _, first, _, _ in found if first is not None), default=0)
    high = max((last for _, _, last, _ in found if last is not None), default=0)
    width = max((high - low) // _SPANS + 1, _SECOND)
    counts = {stored: [0] * ((high - low) // width + 1) for stored, *_ in found}
    query = f"SELECT {sql.CAUSE}, (began - {low:d}) / {width:d}, count(*) {grouped}, 2"
    for stored, place, count in connection.execute(query, values):
        if place is not None:  # else nobody knows when
            counts[stored][place] = count
    return {
        _key(stored): Span(first=first, last=last, ref=ref, counts=tuple(counts[stored]))
        for stored, first, last, ref in found
    }


def chosen(choice: Choice) -> tuple[str, list[str]]:
    """Return the condition in SQL for the rows that a choice has, and its values."""
    among = "IN (SELECT value FROM json_each(?))"
    told = f"(status {among} AND http IS NOT {RAISED}) OR http {among} OR (http IS NULL AND status {among})"
    condition = f"({sql.CAUSE} {among} OR {told})"
    return condition, [sql.as_json(some) for some in (choice.causes, choice.statuses, choice.http, choice.assumed)]


def stored_key(key: str) -> str | int:
    """Return the key of a cause as the outbox stores it with a row."""
    if key in CODES:
        return CODES.index(key)
    return "" if key == NO_STATUS else key


def _key(stored: int | str) -> str:
    return code_name(stored) if isinstance(stored, int) else stored or NO_STATUS


def _texts(connection: sqlite3.Connection, rows: Scope, stored: Iterable[int | str]) -> dict[int | str, str]:
    """Return how causes are shown, each if no other one has the same text."""
    failing = f"{sql.FAILING} AND cause IS NOT NULL AND {sql.CAUSE} = ?"  # as the index `causes` has them
    query = f"SELECT {sql.MESSAGE} FROM {sql.ROWS} AND {failing} ORDER BY first, ref LIMIT 1"
    scope, texts = sql.scope_of(connection, rows), dict[int | str, str]()
    for one in stored:
        texts[one] = _key(one)
        if fault := Fault.parse(one):
            found = connection.execute(query, (0, sql.ALL, scope, one)).fetchone()
            texts[one] = (found and _first_line(found[0])) or f"{fault.kind}: …"
    return texts


def _first_line(message: str | None) -> str:
    return shortened(one_line(message or ""), _LONGEST).strip()


def _cause(stored: int | str, text: str, failed: int, retrying: int, *, alone: bool) -> Cause:
    fault = Fault.parse(stored)
    if fault is not None and not alone:
        text += f" ({fault.status}, {fault.place})" if fault.status else f" ({fault.place})"
    return Cause(
        key=_key(stored),
        text=text,
        kind=text.partition(":")[0] if fault is None else fault.kind,
        where=None if fault is None else fault.place,
        failed=failed,
        retrying=retrying,
    )


def _numbers(connection: sqlite3.Connection, rows: Scope, *states: int) -> list[tuple[Any, int]]:
    """Return the causes of the rows in some states and their numbers, the most frequent first."""
    found: Counter[Any] = Counter()
    for state, cause, n in sql.tallied(connection, rows):
        if state in states:
            found[cause] += n
    return found.most_common()


def _sorted(numbers: dict[str, int]) -> dict[str, int]:
    """Return the numbers that are not 0, the largest first."""
    return dict(sorted(((text, n) for text, n in numbers.items() if n), key=lambda one: (-one[1], one[0])))
