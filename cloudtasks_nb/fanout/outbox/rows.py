"""Read the rows of a batch in input order, or find them by their tasks."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from struct import unpack
from typing import Any

from cloudtasks_nb.fanout.outbox.blocks import ChunkPreview, StoredBlock, unpack_previews
from cloudtasks_nb.fanout.outbox.counters import as_json, number_of, paged
from cloudtasks_nb.fanout.outbox.database import Repository
from cloudtasks_nb.fanout.outbox.records import Page, State
from cloudtasks_nb.fanout.plan.identity import batch_of, key_head, task_ids, try_of

__all__ = ["Rows", "locate", "ranges"]

_PAGE = 1_000

_SELECT = """
    SELECT r.ref, r.row, r.try, r.state, o.attempts, o.last_status, o.last_message, o.schedule_time,
           o.last_attempt_time, o.duration, o.reason
    FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref
    WHERE r.ref BETWEEN ? AND ? AND r.state IN (SELECT value FROM json_each(?)) ORDER BY r.ref"""


class Rows(Repository):
    """The rows of the batches of an outbox."""

    def pages(
        self, batch: str, states: Collection[int] | None = None, after: int = 0, *, wire: bool = False
    ) -> Iterator[Page]:
        """Yield the rows of a batch in input order, up to a hundred at a time.

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
        with self._database.reading() as connection:
            for first, last in ranges(connection, number_of(connection, batch)):
                at = max(first - 1, after)
                while at < last:
                    found = _block_around(connection, at + 1)
                    if found is None or found[0] > last:
                        break
                    start, n, keys, tasks, shown = found
                    block = StoredBlock(start, keys, tasks)
                    rows = connection.execute(_SELECT, (max(start, at + 1), start + n - 1, codes)).fetchall()
                    yield from _split(batch, block, shown, rows, wire=wire)
                    at = block.last

    def states(self, batch: str) -> bytes:
        """Return the `State` of each row, one byte a row, in the order of `pages`."""
        found = bytearray()
        with self._database.reading() as connection:
            for bounds in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute("SELECT state FROM rows WHERE ref BETWEEN ? AND ? ORDER BY ref", bounds)
                found.extend(state for (state,) in cursor)
        return bytes(found)

    def failures(self, batch: str) -> dict[int | None, int]:
        """Return how many failed rows had which status (canonical code) last, the most frequent first."""
        return self._count(batch, State.FAILED, "last_status")

    def losses(self, batch: str) -> dict[str | None, int]:
        """Return how many gone rows left their queue how, the most frequent first; None: that is not known."""
        return self._count(batch, State.GONE, "reason")

    def locate(self, batch: str, tasks: Iterable[str]) -> dict[str, int]:
        """Return the refs of the rows whose newest task has one of these ids; other ids are left out."""
        with self._database.reading() as connection:
            return locate(connection, batch, tasks)

    def _count(self, batch: str, state: State, column: str) -> dict[Any, int]:
        """Count the rows in a state by a column of their outcomes."""
        found: Counter[Any] = Counter()
        with self._database.reading() as connection:
            for bounds in ranges(connection, number_of(connection, batch)):
                cursor = connection.execute(
                    f"""SELECT o.{column}, count(*) FROM rows r LEFT JOIN outcomes o ON o.ref = r.ref
                        WHERE r.ref BETWEEN ? AND ? AND r.state = ? GROUP BY 1""",  # noqa: S608 - our column
                    (*bounds, state),
                )
                found.update(dict(cursor))
        return dict(found.most_common())


def locate(connection: sqlite3.Connection, batch: str, tasks: Iterable[str]) -> dict[str, int]:
    """Find the rows whose newest task has one of the ids; ids of older tries and of other batches are left out."""
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
            found.update({task: ref for *shown, task in by_half[half] if shown == [rest, attempt]})
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
    attempts, status, message, scheduled, last_attempt, duration, reasons = outcome
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
        reasons=reasons,
        indexes=[ref - start if preview.indexes is None else preview.indexes[ref - start] for ref in refs],
        shown=preview.shown,
        wire=block.tasks(refs) if wire else [b""] * len(refs),
    )
