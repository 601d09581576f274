"""The rows of batches: pages of them in input order, their states, the rows that tasks belong to, and their results.

What was read of an object of results, and the lines of it, are stored in one transaction. So each byte counts once,
however many threads and processes read the same object at once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain, groupby
from sqlite3 import Connection
from struct import iter_unpack, pack, unpack
from typing import Any, NamedTuple, Self

import orjson

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.database import Repository, StoredBlock, guard, keys_of, reading, transaction
from cloudtasks_nb.fanout.outbox.records import Retrying, RowFilter, Scope
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE, batch_of, key_head, task_id, task_ids
from cloudtasks_nb.fanout.states import BY_ATTEMPT, FINAL, OPEN, RETRYING, State

__all__ = ["Line", "Order", "Page", "ReadPart", "Results", "Rows", "TimingsPage", "located", "tasks_of"]

#: Columns of equal length: refs, whether the row failed (0 or 1), start of the last attempt, and its duration (-1: not
#: known), in microseconds.
TimingsPage = Sequence[Sequence[int]]

_PAGE = 1_000
_BLOCK_ROWS = 2_000  # most rows in a block: those of a chunk
_TOGETHER = 20_000  # rows of an input whose refs are read together
_RowsOfBlock = tuple[StoredBlock, list[Sequence[Any]]]  # a block, and the columns of some of its rows
_MATCHING = f"""
    SELECT ref FROM {sql.ROWS} AND {sql.SHOWN_STATE} IN (SELECT value FROM json_each(:states))
      AND coalesce(status > 0, 0) = coalesce(:tried, status > 0, 0) AND {sql.CAUSE} = coalesce(:cause, {sql.CAUSE})
    ORDER BY first, ref LIMIT :size"""
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

_LAST = "\U0010ffff"  # behind all other characters
_VERSION = "coalesce(json_extract(fields, '$.version'), '')"  # as the index has it
_REPLACE = """DELETE FROM results WHERE num = ? AND task = ?
    AND (ok, gave_up, attempt, fields, value) < (?, ?, ?, ?, ?)"""
_READ = """INSERT INTO objects SELECT :num, :name, :end, :bad WHERE :start = 0 OR EXISTS
        (SELECT 1 FROM objects WHERE num = :num AND name = :name)
    ON CONFLICT DO UPDATE SET size = excluded.size, bad = bad + excluded.bad WHERE size = :start"""
_INSERT = """INSERT OR IGNORE INTO results (num, task, ok, gave_up, attempt, fields, value)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""


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
        if self._database.read(sql.number_of, rows) < 0:  # blocks may have few of its rows, or none
            wanted = RowFilter() if states is None else RowFilter(states=frozenset(map(State, states)))
            for refs in sql.paged(self.matching(rows, wanted), _TOGETHER):
                yield from self.pages_of(rows.batch, refs, wire=wire)
            return
        chosen = "TRUE" if states is None else f"{sql.SHOWN_STATE} IN ({sql.in_sql(states)})"
        for block, found in self.blocks(rows.batch, after, chosen):
            if found[0]:
                yield self._page(rows.batch, block, found, wire=wire)

    def blocks(self, batch: str, after: int = 0, condition: str = "TRUE") -> Iterator[_RowsOfBlock]:
        """Yield the blocks of a batch in input order, with those of their rows behind `after` that are selected.

        Parameters
        ----------
        condition : str
            Selects rows, in SQL.
        """
        for first, last in self.parts(batch):
            at = max(first - 1, after)
            while at < last and (found := self._database.read(_rows_of_block, at + 1, condition)):
                block = found[0]
                if block.first > last:
                    break
                yield found
                at = block.last

    def pages_of(self, batch: str, refs: Iterable[int], *, wire: bool = False) -> Iterator[Page]:
        """Yield some rows of a batch in input order, as `pages`; with `wire` also their tasks."""
        left = sorted(refs)
        while left and (
            found := self._database.read(_rows_of_block, left[0], sql.AMONG, sql.as_json(left[:_BLOCK_ROWS]))
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
        how = {"states": sql.as_json(wanted.states), "tried": wanted.tried, "cause": wanted.cause, "size": size}
        values = self._database.read(sql.values, rows, **how)
        while found := self._database.read(sql.firsts, _MATCHING, values):
            yield from found
            values["start"] = found[-1] + 1

    def timings(self, rows: Scope) -> Iterator[TimingsPage]:
        """Yield when the last attempts of the rows that succeeded or failed began, and how long they took."""
        values = self._database.read(sql.values, rows)
        while (page := self._database.read(_timings, values))[0]:
            yield page
            values["start"] = page[0][-1] + 1

    def first_open(self, rows: Scope, after: int = 0) -> tuple[int, State] | None:
        """Return ref and state of the first row that is not final; one in doubt counts as unsent.

        Rows before `after` are looked at last.
        """
        query = f"SELECT ref, state FROM {sql.ROWS} AND state IN ({sql.in_sql(OPEN)}) LIMIT 1"
        for start in dict.fromkeys((after, 0)):
            for ref, state in self._select(query, rows, start=start):
                return ref, State.SENT if state == State.SENT else State.UNSENT
        return None

    @reading
    def order(self, connection: Connection, rows: Scope) -> Order | None:
        """Return the order of the rows in their input; None for a batch, and for an input that has made all of it."""
        given = sql.values(connection, rows, input=rows.input)
        if not rows.input:
            return None
        places = sql.firsts(connection, "SELECT place FROM labels WHERE input = :input ORDER BY place", given)
        parts = sql.number(connection, "SELECT count(*) FROM spans WHERE scope = :num", given)
        if given["num"] > 0 and parts == 1 and not places:
            return None
        spans = connection.execute("SELECT first, last, place FROM spans WHERE scope = -:input ORDER BY place", given)
        return Order(input=rows.input, spans=array("q", chain.from_iterable(spans)), labels=array("q", places))

    @reading
    def labels(self, connection: Connection, number: int, places: Iterable[int]) -> list[bytes]:
        """Return the labels of rows of the input with a number, in pieces, by the places with which these begin."""
        query = "SELECT labels FROM labels WHERE input = ? AND place IN (SELECT value FROM json_each(?)) ORDER BY place"
        return sql.firsts(connection, query, (number, sql.as_json(places)))

    def keys(self, rows: Scope) -> Iterator[bytes]:
        """Yield the keys of rows, one behind the other, in pieces: other homes know the rows by them."""
        for refs in sql.paged(self.matching(rows, RowFilter()), _TOGETHER):
            yield self._database.read(keys_of, refs)

    def with_keys(self, batch: str, keys: bytes) -> list[int]:
        """Return the refs of the rows of a batch that have one of the keys, which stand one behind the other."""
        wanted = {*iter_unpack(">qq", keys[: len(keys) // KEY_SIZE * KEY_SIZE])}
        return [ref for k1, k2, ref, _ in self._of_heads(batch, wanted) if (k1, k2) in wanted]

    def digests(self, batch: str, keys: bytes) -> bytes:
        """Return 8 bytes of the digest of each row that has one of the keys, in their order; zeros: it has none."""
        wanted = list(iter_unpack(">qq", keys))
        known = {(k1, k2): digest for k1, k2, _, digest in self._of_heads(batch, wanted)}
        return pack(f">{len(wanted)}q", *(known.get(key, 0) for key in wanted))

    def _of_heads(self, batch: str, keys: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return both halves, ref and digest of the keys of a batch that begin as one of some keys."""
        query = "SELECT k1, k2, ref, digest FROM json_each(:heads) j CROSS JOIN keys ON num = :num AND k1 = j.value"
        return self._select(query, batch, heads=sql.as_json(k1 for k1, _ in keys))

    def elsewhere(self, batch: str) -> int:
        """Return how many unsent rows only another home has rendered."""
        query = f"""SELECT count(*) FROM spans CROSS JOIN rows INDEXED BY elsewhere ON ref BETWEEN first AND last
                    WHERE scope = :num AND elsewhere AND state = {State.UNSENT:d}"""
        return self._number(query, batch)

    @transaction
    def add_input(self, connection: Connection, batch: str, digest: bytes, refs: Iterable[int]) -> Scope:
        """Store rows of a batch, by their refs in ascending order, as an input with a digest, unless it is there."""
        return sql.store_input(connection, batch, digest, sql.spans_of((ref, at) for at, ref in enumerate(refs)))[0]

    def within(self, rows: Scope, refs: Iterable[int]) -> list[int]:
        """Return those of the refs of rows of a batch that are in a scope of it."""
        query = f"SELECT value FROM json_each(:refs) WHERE {sql.WITHIN.format(scope=':num', ref='value')}"
        return self._firsts(query, rows, refs=sql.as_json(refs))

    def repeated(self, rows: Scope) -> bool:
        """Return whether several rows have the same position, each in its own input."""
        return self._number(f"SELECT count(*) > count(DISTINCT pos) FROM {sql.ROWS}", rows) > 0

    def states(self, rows: Scope) -> bytes:
        """Return the `State` of each row, or `RETRYING`, one byte a row, in the order of `pages`."""
        state = f"iif({sql.SHOWN_STATE} = {State.SENT:d} AND status > 0, {RETRYING}, {sql.SHOWN_STATE})"
        return bytes(self._firsts(f"SELECT {state} FROM {sql.ROWS} ORDER BY first, ref", rows))

    def parts(self, batch: str) -> list[tuple[int, int]]:
        """Return the first and the last ref of what each `fan_out` has added to a batch, in input order."""
        return self._select("SELECT first, last FROM spans WHERE scope = :num ORDER BY first", batch)

    def newest(self, batch: str) -> int:
        """Return the highest ref of a batch; rows that are added later have higher ones."""
        return self._number("SELECT max(last) FROM spans WHERE scope = :num", batch)

    @reading
    def retrying(self, connection: Connection, batch: str, now: int) -> Retrying:
        """Return what is known of the rows that are tried again; `now` is in microseconds since 1970."""
        given = sql.values(connection, batch, now=now)
        query = f"SELECT coalesce(sum(n), 0) FROM {sql.TALLIES} AND state = {State.SENT:d} AND cause <> ''"
        count = sql.number(connection, query, given)
        # Those with the most attempts are enough: there may be a million, and this is read each second. The index has
        # them at the end of each part.
        rows = f"rows INDEXED BY retrying WHERE ref >> 32 = first >> 32 AND state = {State.SENT:d} AND status > 0"
        query = f"SELECT max((SELECT max(attempts) FROM {rows})) FROM spans WHERE scope = :num"
        (given["most"],) = sql.firsts(connection, query, given)
        rows = f"{rows} AND attempts = :most AND due > :now"
        query = f"SELECT min((SELECT min(due) FROM {rows})) FROM spans WHERE scope = :num"
        (due,) = sql.firsts(connection, query, given)
        return Retrying(count, given["most"] or 0, due)

    def last_of_first(self, batch: str, count: int) -> int:
        """Return the ref of the last of the first `count` rows that are valid tasks, 0 if there is none."""
        first = f"SELECT ref FROM {sql.ROWS} AND try > 0 ORDER BY first, ref LIMIT :count"
        return self._number(f"SELECT coalesce(max(ref), 0) FROM ({first})", batch, count=count)

    def counts_until(self, batch: str, ref: int) -> tuple[dict[State, int], int]:
        """Return how many valid tasks up to a row are in each state, and how many unsent ones another home has."""
        query = f"SELECT {sql.SHOWN_STATE}, count(*), count(elsewhere) FROM {sql.ROWS} AND try > 0 GROUP BY 1"
        found = self._select(query, batch, end=ref)
        counts = dict.fromkeys(State, 0) | {State(state): count for state, count, _ in found}
        return counts, sum(elsewhere for state, _, elsewhere in found if state == State.UNSENT)

    def locate(self, batch: str, tasks: Iterable[str], *, any_try: bool = False) -> dict[str, int]:
        """Return the refs of the rows whose newest task has one of these ids; other ids are left out.

        With `any_try`, also of the rows that had or will have such a task.
        """
        found = self._database.read(lambda one: list(located(one, batch, tasks, "ref", any_try=any_try)))
        return {task: ref for task, (ref,) in found}

    def wire(self, task: str) -> bytes:
        """Return the Task of a row, without its name, by the id of its task of any try; empty if it is not known."""
        batch = batch_of(task) or ""
        with suppress(BatchNotFoundError):
            for ref in self.locate(batch, [task], any_try=True).values():
                return next(self.pages_of(batch, [ref], wire=True)).wire[0]
        return b""

    def refs(self, batch: str, state: State, after: int = 0, *, fact: int | None = None) -> list[int]:
        """Return the refs of some rows in a state, ascending: those behind `after`.

        With `fact`, only of rows of which that is the fact that counts. A row in a request of a sender that has ended
        is in none of them: it is looked up by the next sender.
        """
        query = f"""SELECT ref FROM {sql.ROWS} AND state = :state AND (:fact IS NULL OR fact = :fact)
                    ORDER BY first, ref LIMIT 10000"""
        return self._firsts(query, batch, start=after + 1, state=state, fact=fact)

    def being_deleted(self, batch: str) -> list[int]:
        """Return the refs of the rows whose tasks a cancel deletes, or has left in the queue."""
        return self._firsts(f"SELECT ref FROM {sql.ROWS} AND state = {State.SENT:d} AND deleting = try", batch)

    @reading
    def tasks(self, connection: Connection, batch: str, refs: Iterable[int], later: int = 0) -> list[str]:
        """Return the newest tasks of rows of a batch, by ascending refs; or those of so many tries later."""
        query = f"SELECT ref, try + ? FROM rows WHERE {sql.AMONG} AND try > 0 ORDER BY ref"
        return tasks_of(connection, batch, connection.execute(query, (later, sql.as_json(refs))).fetchall())

    @reading
    def outermost_tasks(self, connection: Connection, batch: str, count: int, after: int = 0) -> list[str]:
        """Return the newest tasks of the first and the last rows of a batch behind a ref, `count` of each."""
        found = set[tuple[int, int]]()
        for order in ("ASC", "DESC"):
            query = f"SELECT ref, try FROM {sql.ROWS} AND try > 0 ORDER BY first {order}, ref {order} LIMIT :count"
            found.update(sql.select(connection, query, batch, count=count, start=after + 1))
        return tasks_of(connection, batch, sorted(found))

    @reading
    def states_of(self, connection: Connection, refs: Iterable[int]) -> dict[int, State]:
        """Return the states of rows."""
        query = f"SELECT ref, {sql.SHOWN_STATE} FROM rows WHERE {sql.AMONG}"
        return {ref: State(state) for ref, state in connection.execute(query, (sql.as_json(refs),))}

    @reading
    def tried(self, connection: Connection, batch: str, tasks: Iterable[str]) -> set[str]:
        """Return those of the tasks that are the newest ones of their rows, and of which an attempt is known."""
        known = f"attempts IS NOT NULL OR state IN ({sql.in_sql(BY_ATTEMPT)})"
        return {task for task, (tried,) in located(connection, batch, tasks, known) if tried}


def located(
    connection: Connection, batch: str, tasks: Iterable[str], columns: str, *, any_try: bool = False
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


def tasks_of(connection: Connection, batch: str, rows: Iterable[tuple[int, int]]) -> list[str]:
    """Return the tasks of rows, which are given by ref and try in ascending order."""
    given = list(rows)
    keys = keys_of(connection, (ref for ref, _ in given))
    return [task_id(batch, keys[at * KEY_SIZE : (at + 1) * KEY_SIZE], attempt) for at, (_, attempt) in enumerate(given)]


def _timings(connection: Connection, values: Mapping[str, Any]) -> TimingsPage:
    return [orjson.loads(column) for column in connection.execute(_TIMINGS, values).fetchone()]


def _rows_of_block(connection: Connection, ref: int, condition: str, *values: Any) -> _RowsOfBlock | None:
    """Return the block that holds a ref, else the next one, with the columns of its rows that a condition selects."""
    query = """SELECT first, keys, tasks, shown FROM blocks
        WHERE first >= coalesce((SELECT max(first) FROM blocks WHERE first <= :ref), 0) AND first + n > :ref
        ORDER BY first LIMIT 1"""
    found = connection.execute(query, {"ref": ref}).fetchone()
    if found is None:
        return None
    block = StoredBlock(*found)
    chosen = f"(SELECT * FROM rows WHERE ref BETWEEN ? AND ? AND {condition} ORDER BY ref)"
    # As JSON they take half of the time, and no tuple for each row.
    arrays = ", ".join(f"json_group_array({column})" for column in _COLUMNS)
    columns = connection.execute(f"SELECT {arrays} FROM {chosen}", (max(block.first, ref), block.last, *values))
    return block, list(map(orjson.loads, columns.fetchone()))


class Line(NamedTuple):
    """A result of a task. Of several, the one with the highest values of the other fields counts, in their order."""

    task: str
    ok: bool
    gave_up: bool
    attempt: int  #: 0: not known
    fields: str  #: JSON: what the handler told
    value: str  #: JSON: what the function returned


class ReadPart(NamedTuple):
    """A part of an object that was read."""

    name: str
    start: int
    end: int
    bad: int  #: lines that do not count
    lines: Sequence[Line]


class Results(Repository):
    """What the handlers have stored, as far as it was read: of each task the line that counts, row or not."""

    def sizes(self, batch: str, prefix: str = "", *, good: bool = False) -> dict[str, int]:
        """Return how many bytes of each object were read whose name begins so.

        With `good` only of those of which all lines count.
        """
        query = "SELECT name, size FROM objects WHERE num = :num AND name BETWEEN :first AND :last AND bad <= :bad"
        return dict(self._select(query, batch, first=prefix, last=prefix + _LAST, bad=0 if good else sql.ALL))

    def bad(self, batch: str) -> int:
        """Return how many lines do not count."""
        return self._number("SELECT coalesce(sum(bad), 0) FROM objects WHERE num = :num", batch)

    def count(self, batch: str) -> int:
        """Return how many tasks have a result."""
        return self._number("SELECT count(*) FROM results WHERE num = :num", batch)

    @transaction
    def add(self, connection: Connection, batch: str, parts: Iterable[ReadPart]) -> None:
        """Store what was read, unless it was stored meanwhile."""
        num = sql.number_of(connection, batch)
        for name, start, end, bad, lines in parts:
            given = {"num": num, "name": name, "start": start, "end": end, "bad": bad}
            if connection.execute(_READ, given).rowcount:
                new = [(num, *line) for line in {line.task: line for line in sorted(lines)}.values()]
                connection.executemany(_REPLACE, new)
                connection.executemany(_INSERT, new)

    @transaction
    def forget(self, connection: Connection, batch: str, names: Iterable[str]) -> None:
        """Forget objects that do not exist any more; their results stay."""
        query = "DELETE FROM objects WHERE num = ? AND name IN (SELECT value FROM json_each(?))"
        connection.execute(query, (sql.number_of(connection, batch), sql.as_json(names)))

    @transaction
    def reread(self, connection: Connection, batch: str) -> None:
        """Have the objects read again that have lines which do not count: by another key they may."""
        connection.execute("DELETE FROM objects WHERE num = ? AND bad > 0", (sql.number_of(connection, batch),))

    @reading
    def newest(self, connection: Connection) -> int:
        """Return the number of the newest result of all batches."""
        return sql.number(connection, "SELECT coalesce(max(id), 0) FROM results")

    def of(self, batch: str, tasks: Iterable[str], after: int = 0) -> list[tuple[str, str, str, bool]]:
        """Return task, fields, value and success of the results of tasks: of successes, and of others behind a number.

        The tasks are looked for in the order of the index, which takes a third of the time.
        """
        query = """SELECT task, fields, r.value, ok FROM json_each(:tasks) j CROSS JOIN results r
                   ON r.num = :num AND r.task = j.value WHERE ok OR r.id > :after"""
        return self._select(query, batch, tasks=sql.as_json(sorted(tasks)), after=after)

    def versions(self, batch: str) -> set[str]:
        """Return the versions of functions that results are of, also those of earlier tries; '': not known."""
        # One step in the index for each version; DISTINCT would read all of it.
        query = f"""WITH RECURSIVE found (version) AS (
                SELECT min({_VERSION}) FROM results WHERE num = :num
                UNION ALL
                SELECT (SELECT min({_VERSION}) FROM results WHERE num = :num AND {_VERSION} > version) FROM found
                    WHERE version IS NOT NULL)
            SELECT version FROM found WHERE version IS NOT NULL"""
        return {*self._firsts(query, batch)}

    @reading
    def of_versions(self, connection: Connection, rows: Scope, versions: Collection[str]) -> list[int]:
        """Return the refs of the final rows whose result is of one of these versions, ascending."""
        if not versions:
            return []
        query = f"SELECT task FROM results WHERE num = :num AND {_VERSION} IN (SELECT value FROM json_each(:versions))"
        found = sql.select(connection, query, rows.batch, versions=sql.as_json(versions))
        inside = sql.WITHIN.format(scope=sql.number_of(connection, rows), ref="ref")
        columns = f"ref, state IN ({sql.in_sql(FINAL)}) AND {inside}"
        rows_of_tasks = located(connection, rows.batch, [task for (task,) in found], columns)
        return sorted(ref for _, (ref, chosen) in rows_of_tasks if chosen)

    def page(self, batch: str, after: str) -> list[tuple[str, str]]:
        """Return some tasks with the fields of their results, in the order of the tasks: those behind one."""
        query = f"SELECT task, fields FROM results WHERE num = :num AND task > :after ORDER BY task LIMIT {_PAGE}"
        return self._select(query, batch, after=after)

    def of_later_tries(self, batch: str, after: int) -> list[str]:
        """Return the tasks of second and later tries that have a result: those behind a number."""
        query = "SELECT task FROM results WHERE num = :num AND id > :after AND task NOT LIKE '%-1'"
        return self._firsts(query, batch, after=after)

    def given_up(self, batch: str, after: int) -> list[tuple[int, str]]:
        """Return numbers and fields of some results of functions that gave up, as they came: those behind a number."""
        query = f"""SELECT id, fields FROM results WHERE num = :num AND gave_up AND id > :after
                    ORDER BY id LIMIT {_PAGE}"""
        return self._select(query, batch, after=after)
