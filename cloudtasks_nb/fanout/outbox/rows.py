"""The rows of batches: pages of them in input order, their states, and the rows that tasks belong to."""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain, groupby
from struct import pack, unpack
from typing import Any, NamedTuple, Self

import orjson

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import (
    BLOCK_ROWS,
    Repository,
    StoredBlock,
    guard,
    keys_of,
    reading,
    transaction,
)
from cloudtasks_nb.fanout.outbox.records import Retrying, RowFilter, Scope
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, batch_of, key_head, task_id, task_ids
from cloudtasks_nb.fanout.states import BY_ATTEMPT, OPEN, RETRYING, State

__all__ = ["Order", "Page", "Rows", "TimingsPage", "located", "tasks_of"]

#: Columns of equal length: refs, whether the row failed (0 or 1), start of the last attempt, and its duration (-1: not
#: known), in microseconds.
TimingsPage = Sequence[Sequence[int]]

_PAGE = 1_000
_TOGETHER = 20_000  # rows of an input whose refs are read together
_RowsOfBlock = tuple[StoredBlock, list[Sequence[Any]]]  # a block, and the columns of some of its rows
_MATCHING = f"""
    SELECT ref FROM {sql.ROWS} AND {sql.SHOWN_STATE} IN (SELECT value FROM json_each(?))
      AND coalesce(status > 0, 0) = coalesce(?, status > 0, 0) AND {sql.CAUSE} = coalesce(?, {sql.CAUSE})
    ORDER BY first, ref LIMIT ?"""
# SQLite makes one JSON list of each column: it takes half of the time that a tuple for each row takes.
_TIMINGS = f"""
    SELECT json_group_array(ref), json_group_array(failed), json_group_array(began), json_group_array(duration)
    FROM (SELECT ref, state = {State.FAILED:d} AS failed, began, coalesce(duration, -1) AS duration FROM {sql.ROWS}
        AND state IN ({sql.in_sql(BY_ATTEMPT)}) AND began IS NOT NULL
        ORDER BY first, ref LIMIT 20000)"""


# Why a row was rejected, or how the task of a row that is gone has left its queue.
_REASON = f"iif(state IN ({State.REJECTED:d}, {State.GONE:d}), reason, NULL)"
#: The columns of a row that `Page` begins with, in its order.
_COLUMNS = (
    *("ref", "pos", "try", sql.SHOWN_STATE, "attempts", "status", sql.MESSAGE),
    *("due", "began", "duration", "http", _REASON),
)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows that were planned together; all sequences have one item a row, in input order."""

    refs: Sequence[int]  #: what identifies a row in this outbox; they ascend
    rows: Sequence[int]  #: position in the input that brought the row
    tries: Sequence[int]  #: number of the newest task, from 1; 0: there never was one
    states: Sequence[int]  #: `State` numbers
    attempts: Sequence[int | None]
    last_status: Sequence[int | None]  #: canonical code
    last_message: Sequence[str | None]
    schedule_time: Sequence[int | None]  #: microseconds since 1970
    last_attempt_time: Sequence[int | None]  #: microseconds since 1970
    duration: Sequence[int | None]  #: microseconds
    http_status: Sequence[int | None]  #: of the last attempt
    reasons: Sequence[str | None]  #: why the row was rejected, or how its task left the queue
    tasks: Sequence[str | None]  #: id of the newest task; None: there never was one
    indexes: Sequence[int]  #: place of each row in `shown`
    shown: bytes  #: as the plan gave it, for all rows of its chunk
    wire: Sequence[bytes]  #: each row's Task without its name; empty if it never was one, or was not asked for

    @classmethod
    def without_rows(cls, shown: bytes) -> Self:
        """Return what is shown of the columns of an input without rows."""
        none: dict[str, Any] = {one.name: () for one in fields(cls)}
        return cls(**{**none, "shown": shown})


class Order(NamedTuple):
    """Where the rows of an input are: spans of rows that follow each other, in the order of the input."""

    input: int  #: its number
    spans: array[int]  #: of each its first and its last ref, and the place of the first row in the input
    labels: array[int]  #: of the first row of each piece of labels; empty: the labels are those that the rows have


class Rows(Repository):
    """The rows of the batches of an outbox."""

    def pages(
        self, rows: Scope, states: Collection[int] | None = None, after: int = 0, *, wire: bool = False
    ) -> Iterator[Page]:
        """Yield rows in input order, a page for each chunk of the plan.

        Parameters
        ----------
        states : collection of State, optional
            Only rows in one of them.
        after : int
            Only rows behind the one with this ref.
        wire : bool
            Also the tasks as they are sent.
        """
        if self._database.read(sql.scope_of, rows) < 0:  # blocks may have few of its rows, or none
            wanted = RowFilter() if states is None else RowFilter(states=frozenset(map(State, states)))
            for refs in sql.paged(self.matching(rows, wanted), _TOGETHER):
                yield from self.pages_of(rows.batch, refs, wire=wire)
            return
        chosen = (
            [] if states is None else [f"{sql.SHOWN_STATE} IN (SELECT value FROM json_each(?))", sql.as_json(states)]
        )
        for block, found in self.blocks(rows.batch, after, *chosen):
            if found[0]:
                yield self._page(rows.batch, block, found, wire=wire)

    def blocks(self, batch: str, after: int = 0, condition: str = "1", *values: Any) -> Iterator[_RowsOfBlock]:
        """Yield the blocks of a batch in input order, with those of their rows behind `after` that are selected.

        Parameters
        ----------
        condition : str
            Selects rows, in SQL with these values.
        """
        for first, last in self.parts(batch):
            at = max(first - 1, after)
            while at < last and (found := self._database.read(_rows_of_block, at + 1, condition, *values)):
                block = found[0]
                if block.first > last:
                    break
                yield found
                at = block.last

    def pages_of(self, batch: str, refs: Iterable[int], *, wire: bool = False) -> Iterator[Page]:
        """Yield some rows of a batch in input order, as `pages`; with `wire` also their tasks."""
        left = sorted(refs)
        while left and (
            found := self._database.read(_rows_of_block, left[0], sql.AMONG, sql.as_json(left[:BLOCK_ROWS]))
        ):
            block, columns = found
            if columns[0]:
                yield self._page(batch, block, columns, wire=wire)
            left = left[bisect_left(left, block.last + 1) :]

    def _page(self, batch: str, block: StoredBlock, columns: Sequence[Sequence[Any]], *, wire: bool) -> Page:
        refs, _, tries = columns[:3]
        ids: list[str | None] = []
        with guard(self._database.path):  # the block may be damaged
            for attempt, same in groupby(range(len(refs)), key=tries.__getitem__):
                group = [refs[i] for i in same]
                ids.extend(task_ids(batch, block.keys(group), attempt) if attempt else [None] * len(group))
            wires = block.tasks(refs) if wire else [b""] * len(refs)
            values: list[Any] = [*columns, ids, [ref - block.first for ref in refs], block.shown, wires]
        return Page(*values)

    def matching(self, rows: Scope, wanted: RowFilter, size: int = 10_000) -> Iterator[int]:
        """Yield the refs of the rows that a filter lets through, in input order; `size` of them are read together."""
        scope, at = self._database.read(sql.scope_of, rows), -1
        values = (sql.as_json(wanted.states), wanted.tried, wanted.cause, size)
        while found := self._database.read(sql.firsts, _MATCHING, at + 1, sql.ALL, scope, *values):
            yield from found
            at = found[-1]

    def timings(self, rows: Scope) -> Iterator[TimingsPage]:
        """Yield when the last attempts of the rows that succeeded or failed began, and how long they took."""
        scope, at = self._database.read(sql.scope_of, rows), -1
        while (page := self._database.read(_timings, at + 1, scope))[0]:
            yield page
            at = page[0][-1]

    @reading
    def first_open(self, connection: sqlite3.Connection, rows: Scope, after: int = 0) -> tuple[int, State] | None:
        """Return ref and state of the first row that is not final; one in doubt counts as unsent.

        Rows before `after` are looked at last.
        """
        query = f"SELECT ref, state FROM {sql.ROWS} AND state IN ({sql.in_sql(OPEN)}) LIMIT 1"
        scope = sql.scope_of(connection, rows)
        for start in dict.fromkeys((after, 0)):
            for ref, state in connection.execute(query, (start, sql.ALL, scope)):
                return ref, State.SENT if state == State.SENT else State.UNSENT
        return None

    @reading
    def order(self, connection: sqlite3.Connection, rows: Scope) -> Order | None:
        """Return the order of the rows in their input; None for a batch, and for an input that has made all of it."""
        scope = sql.scope_of(connection, rows)
        if not rows.input:
            return None
        places = sql.firsts(connection, "SELECT place FROM labels WHERE input = ? ORDER BY place", rows.input)
        parts = sql.number(connection, "SELECT count(*) FROM spans WHERE scope = ?", scope)
        if scope > 0 and parts == 1 and not places:
            return None
        query = "SELECT first, last, place FROM spans WHERE scope = ? ORDER BY place"
        return Order(
            input=rows.input,
            spans=array("q", chain.from_iterable(connection.execute(query, (-rows.input,)))),
            labels=array("q", places),
        )

    @reading
    def labels(self, connection: sqlite3.Connection, number: int, places: Iterable[int]) -> list[bytes]:
        """Return the labels of rows of the input with a number, in pieces, by the places with which these begin."""
        query = "SELECT labels FROM labels WHERE input = ? AND place IN (SELECT value FROM json_each(?)) ORDER BY place"
        return sql.firsts(connection, query, number, sql.as_json(places))

    def keys(self, rows: Scope) -> Iterator[bytes]:
        """Yield the keys of rows, one behind the other, in pieces: other homes know the rows by them."""
        for refs in sql.paged(self.matching(rows, RowFilter()), _TOGETHER):
            yield self._database.read(_keys, refs)

    @reading
    def with_keys(self, connection: sqlite3.Connection, batch: str, keys: bytes) -> list[int]:
        """Return the refs of the rows of a batch that have one of the keys, which stand one behind the other."""
        halves = unpack(f">{len(keys) // KEY_SIZE * 2}q", keys[: len(keys) // KEY_SIZE * KEY_SIZE])
        wanted = set(zip(halves[::2], halves[1::2], strict=True))
        query = "SELECT k1, k2, ref FROM json_each(?) j CROSS JOIN keys ON num = ? AND k1 = j.value"
        found = connection.execute(query, (sql.as_json(halves[::2]), sql.number_of(connection, batch)))
        return [ref for *key, ref in found if tuple(key) in wanted]

    @reading
    def digests(self, connection: sqlite3.Connection, batch: str, keys: bytes) -> bytes:
        """Return 8 bytes of the digest of each row that has one of the keys, in their order; zeros: it has none."""
        halves = unpack(f">{len(keys) // 8}q", keys)
        query = "SELECT k1, k2, digest FROM json_each(?) j CROSS JOIN keys ON num = ? AND k1 = j.value"
        found = connection.execute(query, (sql.as_json(halves[::2]), sql.number_of(connection, batch)))
        known = {(k1, k2): digest for k1, k2, digest in found}
        return pack(
            f">{len(halves) // 2}q", *(known.get(key, 0) for key in zip(halves[::2], halves[1::2], strict=True))
        )

    @reading
    def elsewhere(self, connection: sqlite3.Connection, batch: str) -> int:
        """Return how many unsent rows only another home has rendered."""
        query = f"""SELECT count(*) FROM spans CROSS JOIN rows INDEXED BY elsewhere ON ref BETWEEN first AND last
                    WHERE scope = ? AND elsewhere AND state = {State.UNSENT:d}"""
        return sql.number(connection, query, sql.number_of(connection, batch))

    @transaction
    def add_input(self, connection: sqlite3.Connection, batch: str, digest: bytes, refs: Iterable[int]) -> Scope:
        """Store rows of a batch, by their refs in ascending order, as an input with a digest, unless it is there."""
        return sql.store_input(connection, batch, digest, sql.spans_of((ref, at) for at, ref in enumerate(refs)))[0]

    @reading
    def within(self, connection: sqlite3.Connection, rows: Scope, refs: Iterable[int]) -> list[int]:
        """Return those of the refs of rows of a batch that are in a scope of it."""
        query = f"SELECT value FROM json_each(?) WHERE {sql.WITHIN.format(scope='?', ref='value')}"
        return sql.firsts(connection, query, sql.as_json(refs), sql.scope_of(connection, rows))

    @reading
    def repeated(self, connection: sqlite3.Connection, rows: Scope) -> bool:
        """Return whether several rows have the same position, each in its own input."""
        query = f"SELECT count(*) > count(DISTINCT pos) FROM {sql.ROWS}"
        return bool(sql.number(connection, query, 0, sql.ALL, sql.scope_of(connection, rows)))

    @reading
    def states(self, connection: sqlite3.Connection, rows: Scope) -> bytes:
        """Return the `State` of each row, or `RETRYING`, one byte a row, in the order of `pages`."""
        query = f"""SELECT iif({sql.SHOWN_STATE} = {State.SENT:d} AND status > 0, {RETRYING}, {sql.SHOWN_STATE})
                    FROM {sql.ROWS} ORDER BY first, ref"""
        return bytes(sql.firsts(connection, query, 0, sql.ALL, sql.scope_of(connection, rows)))

    @reading
    def parts(self, connection: sqlite3.Connection, batch: str) -> list[tuple[int, int]]:
        """Return the first and the last ref of what each `fan_out` has added to a batch, in input order."""
        query = "SELECT first, last FROM spans WHERE scope = ? ORDER BY first"
        return connection.execute(query, (sql.number_of(connection, batch),)).fetchall()

    @reading
    def retrying(self, connection: sqlite3.Connection, batch: str, now: int) -> Retrying:
        """Return what is known of the rows that are tried again; `now` is in microseconds since 1970."""
        num = sql.number_of(connection, batch)
        query = f"SELECT coalesce(sum(n), 0) FROM {sql.TALLIES} AND state = {State.SENT:d} AND cause <> ''"
        count = sql.number(connection, query, num)
        # Those with the most attempts are enough: there may be a million, and this is read each second. The index has
        # them at the end of each part.
        rows = f"rows INDEXED BY retrying WHERE ref >> 32 = first >> 32 AND state = {State.SENT:d} AND status > 0"
        query = f"SELECT max((SELECT max(attempts) FROM {rows})) FROM spans WHERE scope = ?"
        (most,) = connection.execute(query, (num,)).fetchone()
        query = f"SELECT min((SELECT min(due) FROM {rows} AND attempts = ? AND due > ?)) FROM spans WHERE scope = ?"
        (due,) = connection.execute(query, (most, now, num)).fetchone()
        return Retrying(count, most or 0, due)

    @reading
    def last_of_first(self, connection: sqlite3.Connection, batch: str, count: int) -> int:
        """Return the ref of the last of the first `count` rows that are valid tasks, 0 if there is none."""
        first = f"SELECT ref FROM {sql.ROWS} AND try > 0 ORDER BY first, ref LIMIT ?"
        query = f"SELECT coalesce(max(ref), 0) FROM ({first})"
        return sql.number(connection, query, 0, sql.ALL, sql.number_of(connection, batch), count)

    @reading
    def counts_until(self, connection: sqlite3.Connection, batch: str, ref: int) -> tuple[dict[State, int], int]:
        """Return how many valid tasks up to a row are in each state, and how many unsent ones another home has."""
        query = f"SELECT {sql.SHOWN_STATE}, count(*), count(elsewhere) FROM {sql.ROWS} AND try > 0 GROUP BY 1"
        found = connection.execute(query, (0, ref, sql.number_of(connection, batch))).fetchall()
        counts = dict.fromkeys(State, 0) | {State(state): count for state, count, _ in found}
        return counts, sum(elsewhere for state, _, elsewhere in found if state == State.UNSENT)

    @reading
    def locate(
        self, connection: sqlite3.Connection, batch: str, tasks: Iterable[str], *, any_try: bool = False
    ) -> dict[str, int]:
        """Return the refs of the rows whose newest task has one of these ids; other ids are left out.

        With `any_try`, also of the rows that had or will have such a task.
        """
        return {task: ref for task, (ref,) in located(connection, batch, tasks, "ref", any_try=any_try)}

    def wire(self, task: str) -> bytes:
        """Return the Task of a row, without its name, by the id of its task of any try; empty if it is not known."""
        batch = batch_of(task) or ""
        with suppress(BatchNotFoundError):
            for ref in self.locate(batch, [task], any_try=True).values():
                return next(self.pages_of(batch, [ref], wire=True)).wire[0]
        return b""

    @reading
    def refs(
        self, connection: sqlite3.Connection, batch: str, state: State, after: int = 0, *, fact: int | None = None
    ) -> list[int]:
        """Return the refs of some rows in a state, ascending: those behind `after`.

        With `fact`, only of rows of which that is the fact that counts. A row in a request of a sender that has ended
        is in none of them: it is looked up by the next sender.
        """
        query = f"SELECT ref FROM {sql.ROWS} AND state = ? AND (? IS NULL OR fact = ?) ORDER BY first, ref LIMIT 10000"
        num = sql.number_of(connection, batch)
        return sql.firsts(connection, query, after + 1, sql.ALL, num, state, fact, fact)

    @reading
    def tasks(self, connection: sqlite3.Connection, batch: str, refs: Iterable[int], later: int = 0) -> list[str]:
        """Return the newest tasks of rows of a batch, by ascending refs; or those of so many tries later."""
        query = f"SELECT ref, try + ? FROM rows WHERE {sql.AMONG} AND try > 0 ORDER BY ref"
        return tasks_of(connection, batch, connection.execute(query, (later, sql.as_json(refs))).fetchall())

    @reading
    def outermost_tasks(self, connection: sqlite3.Connection, batch: str, count: int) -> list[str]:
        """Return the newest tasks of the first and the last rows of a batch, `count` of each."""
        found = set[tuple[int, int]]()
        for order in ("ASC", "DESC"):
            query = f"SELECT ref, try FROM {sql.ROWS} AND try > 0 ORDER BY first {order}, ref {order} LIMIT ?"
            found.update(connection.execute(query, (0, sql.ALL, sql.number_of(connection, batch), count)))
        return tasks_of(connection, batch, sorted(found))

    @reading
    def states_of(self, connection: sqlite3.Connection, refs: Iterable[int]) -> dict[int, State]:
        """Return the states of rows."""
        query = f"SELECT ref, {sql.SHOWN_STATE} FROM rows WHERE {sql.AMONG}"
        return {ref: State(state) for ref, state in connection.execute(query, (sql.as_json(refs),))}

    @reading
    def tried(self, connection: sqlite3.Connection, batch: str, tasks: Iterable[str]) -> set[str]:
        """Return those of the tasks that are the newest ones of their rows, and of which an attempt is known."""
        known = f"attempts IS NOT NULL OR state IN ({sql.in_sql(BY_ATTEMPT)})"
        return {task for task, (tried,) in located(connection, batch, tasks, known) if tried}


def located(
    connection: sqlite3.Connection, batch: str, tasks: Iterable[str], columns: str, *, any_try: bool = False
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield those of the tasks that are the newest ones of rows of a batch, each with columns of its row.

    With `any_try`, also tasks that the rows had or will have.
    """
    query = f"""SELECT {columns}, try, k1, (k2 >> 48) & 65535 FROM json_each(?) j
                CROSS JOIN keys ON num = ? AND k1 = j.value CROSS JOIN rows USING (ref)"""
    num = sql.number_of(connection, batch)
    for page in sql.paged(tasks, _PAGE):
        by_head: dict[tuple[int, int], list[str]] = defaultdict(list)  # those of several tries have the same row
        for task in page:
            if f"-{batch}-" in task and (head := key_head(task)):
                by_head[unpack(">qH", head)].append(task)
        for row in connection.execute(query, (sql.as_json(dict.fromkeys(half for half, _ in by_head)), num)):
            for task in by_head.get(row[-2:], ()):
                if any_try or task.endswith(f"-{row[-3]}"):
                    yield task, row[:-3]


def tasks_of(connection: sqlite3.Connection, batch: str, rows: Iterable[tuple[int, int]]) -> list[str]:
    """Return the tasks of rows, which are given by ref and try in ascending order."""
    given = list(rows)
    keys = keys_of(connection, (ref for ref, _ in given))
    return [task_id(batch, key, attempt) for (_, attempt), key in zip(given, keys, strict=True)]


def _keys(connection: sqlite3.Connection, refs: Iterable[int]) -> bytes:
    return b"".join(keys_of(connection, refs))


def _timings(connection: sqlite3.Connection, first: int, num: int) -> TimingsPage:
    found = connection.execute(_TIMINGS, (first, sql.ALL, num)).fetchone()
    return [orjson.loads(column) for column in found]


def _rows_of_block(connection: sqlite3.Connection, ref: int, condition: str, *values: Any) -> _RowsOfBlock | None:
    """Return the block that holds a ref, else the next one, with the columns of its rows that a condition selects."""
    found = connection.execute(
        """SELECT first, keys, tasks, shown FROM blocks
           WHERE first >= coalesce((SELECT max(first) FROM blocks WHERE first <= :ref), 0) AND first + n > :ref
           ORDER BY first LIMIT 1""",
        {"ref": ref},
    ).fetchone()
    if found is None:
        return None
    block = StoredBlock(*found)
    chosen = f"(SELECT * FROM rows WHERE ref BETWEEN ? AND ? AND {condition} ORDER BY ref)"
    # As JSON they take half of the time, and no tuple for each row.
    arrays = ", ".join(f"json_group_array({column})" for column in _COLUMNS)
    columns = connection.execute(f"SELECT {arrays} FROM {chosen}", (max(block.first, ref), block.last, *values))
    return block, list(map(orjson.loads, columns.fetchone()))
