"""Read the rows of a batch in input order, or find them by their tasks."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from struct import unpack
from typing import Any

from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.outbox.blocks import ChunkPreview, StoredBlock, unpack_previews
from cloudtasks_nb.fanout.outbox.counters import as_json, number_of, paged
from cloudtasks_nb.fanout.outbox.database import Repository, guard
from cloudtasks_nb.fanout.outbox.records import Page, RowFilter, State
from cloudtasks_nb.fanout.plan.identity import batch_of, key_head, task_id, task_ids, try_of

__all__ = ["RETRYING", "Rows", "locate", "ranges"]

#: In `Rows.states`: a sent row whose last attempt failed, and which is tried again.
RETRYING = 9

_PAGE = 1_000

_SELECT = """
    SELECT r.ref, r.row, r.try, r.state, o.attempts, o.last_status, o.last_message, o.schedule_time,
           o.last_attempt_time, o.duration, o.http_status, o.reason
    FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref"""
_IN_STATES = f"""{_SELECT}
    WHERE r.ref BETWEEN ? AND ? AND r.state IN (SELECT value FROM json_each(?)) ORDER BY r.ref"""  # noqa: S608 - one select
_MATCHING = """
    SELECT r.ref FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref
    WHERE r.ref > :after AND r.ref <= :last AND r.state IN (SELECT value FROM json_each(:states))
      AND (:tried IS NULL OR coalesce(o.last_status > 0, 0) = :tried)
      AND (:cause IS NULL OR coalesce(o.cause, o.last_status, '') = :cause)
    ORDER BY r.ref LIMIT :size"""
_NAMED = f"{_SELECT} WHERE r.ref IN (SELECT value FROM json_each(?)) ORDER BY r.ref"  # noqa: S608 - one select
_STATES_WITH_RETRYING = f"""
    SELECT CASE WHEN state = {State.SENT:d} AND EXISTS
                     (SELECT 1 FROM outcomes o WHERE o.ref = rows.ref AND o.last_status > 0)
                THEN {RETRYING} ELSE state END
    FROM rows WHERE ref BETWEEN ? AND ? ORDER BY ref"""  # noqa: S608 - numbers of ours


class Rows(Repository):
    """The rows of the batches of an outbox."""

    def pages(
        self, batch: str, states: Collection[int] | None = None, after: int = 0, *, wire: bool = False
    ) -> Iterator[Page]:
        """Yield the rows of a batch in input order, a page for each chunk of the plan.

        Parameters
        ----------
        states : collection of State, optional
            Only rows in one of them.
        after : int
            Only rows behind the one with this ref.
        wire : bool
            Also the tasks as they are sent.
        """
        codes = as_json(State if states is None else states)
        for first, last in self.parts(batch):
            at = max(first - 1, after)
            while at < last:
                with self._database.reading() as connection:
                    found = _block_around(connection, at + 1)
                    if found is None or found[0] > last:
                        break
                    start, n, keys, tasks, shown = found
                    block = StoredBlock(start, keys, tasks)
                    rows = connection.execute(_IN_STATES, (max(start, at + 1), start + n - 1, codes)).fetchall()
                with guard(self._database.path):  # the block may be damaged
                    yield from _split(batch, block, shown, rows, wire=wire)
                at = block.last

    def matching(self, batch: str, wanted: RowFilter, size: int = 10_000) -> Iterator[int]:
        """Yield the refs of the rows that a filter lets through, in input order; `size` of them are read together."""
        values = {"states": as_json(wanted.states), "tried": wanted.tried, "cause": wanted.cause, "size": size}
        for first, last in self.parts(batch):
            found = [first - 1]
            while found:
                with self._database.reading() as connection:
                    cursor = connection.execute(_MATCHING, {"after": found[-1], "last": last, **values})
                    found = [ref for (ref,) in cursor]
                yield from found

    def pages_of(self, batch: str, refs: Iterable[int], *, wire: bool = False) -> Iterator[Page]:
        """Yield some rows of a batch in input order, a page for each chunk; with `wire` also their tasks."""
        left = sorted(refs)
        while left:
            with self._database.reading() as connection:
                start, n, keys, tasks, shown = _block_around(connection, left[0])
                count = bisect_left(left, start + n)
                rows = connection.execute(_NAMED, (as_json(left[:count]),)).fetchall()
            with guard(self._database.path):
                yield from _split(batch, StoredBlock(start, keys, tasks), shown, rows, wire=wire)
            left = left[count:]

    def repeated(self, batch: str) -> bool:
        """Return whether several rows of a batch have the same position, each in its own input."""
        with self._database.reading() as connection:
            found = connection.execute(
                """SELECT count(*) > count(DISTINCT r.row) FROM parts p
                   CROSS JOIN rows r ON r.ref BETWEEN p.part << 32 AND p.last WHERE p.num = ? AND p.status = 1""",
                (number_of(connection, batch),),
            )
            return bool(found.fetchone()[0])

    def states(self, batch: str, *, retrying: bool = False) -> bytes:
        """Return the `State` of each row, one byte a row, in the order of `pages`.

        With `retrying`, sent rows whose last attempt failed have the byte `RETRYING`.
        """
        found = bytearray()
        query = _STATES_WITH_RETRYING if retrying else "SELECT state FROM rows WHERE ref BETWEEN ? AND ? ORDER BY ref"
        with self._database.reading() as connection:
            for bounds in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute(query, bounds)
                found.extend(state for (state,) in cursor)
        return bytes(found)

    def parts(self, batch: str) -> list[tuple[int, int]]:
        """Return the first and the last ref of what each `fan_out` has added to a batch."""
        with self._database.reading() as connection:
            return ranges(connection, number_of(connection, batch))

    def last_of_first(self, batch: str, count: int) -> int:
        """Return the ref of the last of the first `count` rows that are valid tasks, 0 if there is none."""
        last = 0
        with self._database.reading() as connection:
            for bounds in ranges(connection, number_of(connection, batch)):
                found, newest = connection.execute(
                    """SELECT count(*), max(ref) FROM
                       (SELECT ref FROM rows WHERE ref BETWEEN ? AND ? AND try > 0 ORDER BY ref LIMIT ?)""",
                    (*bounds, count),
                ).fetchone()
                count -= found
                last = newest or last
        return last

    def counts_until(self, batch: str, ref: int) -> dict[State, int]:
        """Return how many of the valid tasks up to a row are in each state."""
        found = dict.fromkeys(State, 0)
        with self._database.reading() as connection:
            for first, last in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute(
                    "SELECT state, count(*) FROM rows WHERE ref BETWEEN ? AND ? AND try > 0 GROUP BY state",
                    (first, min(last, ref)),
                )
                for state, count in cursor:
                    found[State(state)] += count
        return found

    def of_any_try(self, batch: str, tasks: Iterable[str]) -> dict[str, int]:
        """Return the refs of the rows that have, had or will have a task with one of these ids."""
        with self._database.reading() as connection:
            return locate(connection, batch, tasks, any_try=True)

    def locate(self, batch: str, tasks: Iterable[str]) -> dict[str, int]:
        """Return the refs of the rows whose newest task has one of these ids; other ids are left out."""
        with self._database.reading() as connection:
            return locate(connection, batch, tasks)

    def wire(self, task: str) -> bytes:
        """Return the Task of a row, without its name, by the id of its task of any try; empty if it is not known."""
        batch = batch_of(task)
        if batch is None:
            return b""
        try:
            ref = self.of_any_try(batch, [task]).get(task)
        except BatchNotFoundError:
            return b""
        return b"" if ref is None else next(self.pages_of(batch, [ref], wire=True)).wire[0]

    def refs(self, batch: str, state: State, after: int = 0, limit: int = 10_000) -> list[int]:
        """Return the refs of rows in a state, ascending: those behind `after`, at most `limit`."""
        found: list[int] = []
        with self._database.reading() as connection:
            for first, last in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute(
                    "SELECT ref FROM rows WHERE ref BETWEEN ? AND ? AND state = ? ORDER BY ref LIMIT ?",
                    (max(first, after + 1), last, state, limit - len(found)),
                )
                found += [ref for (ref,) in cursor]
        return found

    def tasks(self, batch: str, refs: Iterable[int]) -> list[tuple[int, str, int]]:
        """Return ref, newest task and its try of rows of a batch, given in ascending order."""
        found = []
        with self._database.reading() as connection:
            block = StoredBlock(0, b"", b"")
            cursor = connection.execute(
                "SELECT ref, try FROM rows WHERE ref IN (SELECT value FROM json_each(?)) AND try > 0 ORDER BY ref",
                (as_json(refs),),
            )
            for ref, attempt in cursor.fetchall():
                if ref > block.last:
                    first, _, keys, tasks, _ = _block_around(connection, ref)
                    block = StoredBlock(first, keys, tasks)
                found.append((ref, task_id(batch, block.key(ref), attempt), attempt))
        return found

    def states_of(self, refs: Iterable[int]) -> dict[int, State]:
        """Return the states of rows."""
        with self._database.reading() as connection:
            cursor = connection.execute(
                "SELECT ref, state FROM rows WHERE ref IN (SELECT value FROM json_each(?))", (as_json(refs),)
            )
            return {ref: State(state) for ref, state in cursor}

    def tried(self, batch: str, tasks: Iterable[str]) -> set[str]:
        """Return those of the tasks that are the newest ones of their rows, and of which the log has an attempt."""
        with self._database.reading() as connection:
            located = locate(connection, batch, tasks)
            cursor = connection.execute(
                """SELECT r.ref FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref
                   WHERE r.ref IN (SELECT value FROM json_each(?)) AND (o.attempts OR r.state IN (?, ?))""",
                (as_json(located.values()), State.SUCCEEDED, State.FAILED),
            )
            known = {ref for (ref,) in cursor}
        return {task for task, ref in located.items() if ref in known}


def locate(
    connection: sqlite3.Connection, batch: str, tasks: Iterable[str], *, any_try: bool = False
) -> dict[str, int]:
    """Find the rows whose newest task has one of the ids; ids of other tries and batches are left out.

    With `any_try`, ids of other tries are found too.
    """
    num, found = number_of(connection, batch), {}
    for page in paged(tasks, _PAGE):
        # Tasks of several tries of a row lead to the same key.
        by_half: dict[int, list[tuple[int, int | None, str]]] = {}
        for task in page:
            head = key_head(task)
            if head and batch_of(task) == batch:
                half, rest = unpack(">qH", head)
                by_half.setdefault(half, []).append((rest, try_of(task), task))
        cursor = connection.execute(
            """SELECT k.k1, (k.k2 >> 48) & 65535, r.try, r.ref FROM json_each(?) j
               CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value CROSS JOIN rows r ON r.ref = k.ref""",
            (as_json(by_half), num),
        )
        for half, rest, attempt, ref in cursor:
            found.update(
                {
                    task: ref
                    for key_rest, try_, task in by_half[half]
                    if key_rest == rest and (any_try or try_ == attempt)
                }
            )
    return found


def ranges(connection: sqlite3.Connection, num: int) -> list[tuple[int, int]]:
    """Return the first and the last ref of each part of a batch."""
    return connection.execute(
        "SELECT part << 32, last FROM parts WHERE num = ? AND status = 1 ORDER BY part", (num,)
    ).fetchall()


def _block_around(connection: sqlite3.Connection, ref: int) -> Any:
    """Return the block that holds a ref, else the next one."""
    columns = "SELECT first, n, keys, tasks, shown FROM blocks"
    found = connection.execute(f"{columns} WHERE first <= ? ORDER BY first DESC LIMIT 1", (ref,)).fetchone()
    if found is None or found[0] + found[1] <= ref:
        found = connection.execute(f"{columns} WHERE first > ? ORDER BY first LIMIT 1", (ref,)).fetchone()
    return found


def _split(
    batch: str, block: StoredBlock, shown: bytes, rows: Sequence[tuple[Any, ...]], *, wire: bool
) -> Iterator[Page]:
    """Yield one page for each chunk of a block that has rows."""
    if not rows:
        return
    ends = []
    previews: list[ChunkPreview] = list(unpack_previews(shown))
    end = block.first
    for preview in previews:
        end += preview.n
        ends.append(end)
    place = iter(zip(previews, ends, strict=True))
    preview, end = next(place)
    page: list[tuple[Any, ...]] = []
    for row in rows:
        while row[0] >= end:
            if page:
                yield _page(batch, block, preview, end - preview.n, page, wire=wire)
                page = []
            preview, end = next(place)
        page.append(row)
    yield _page(batch, block, preview, end - preview.n, page, wire=wire)


def _page(
    batch: str, block: StoredBlock, preview: ChunkPreview, start: int, rows: list[tuple[Any, ...]], *, wire: bool
) -> Page:
    refs, positions, tries, codes, *outcome = zip(*rows, strict=True)
    ids: list[str | None] = []
    for attempt, same in groupby(range(len(refs)), key=tries.__getitem__):
        group = [refs[i] for i in same]
        ids.extend(task_ids(batch, block.keys(group), attempt) if attempt else [None] * len(group))
    attempts, status, message, scheduled, last_attempt, duration, http_status, reasons = outcome
    return Page(
        refs=refs,
        rows=positions,
        tasks=ids,
        tries=tries,
        states=codes,
        attempts=attempts,
        last_status=status,
        last_message=message,
        schedule_time=scheduled,
        last_attempt_time=last_attempt,
        duration=duration,
        http_status=http_status,
        reasons=reasons,
        indexes=[ref - start for ref in refs],
        shown=preview.shown,
        wire=block.tasks(refs) if wire else [b""] * len(refs),
    )
