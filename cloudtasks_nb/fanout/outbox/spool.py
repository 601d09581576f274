"""How planned rows come into the outbox: in blocks while the plan goes on, and all at once at the end.

Until `commit` has returned nothing of it can be seen, and what a killed process leaves is swept away by the next that
opens the outbox: while it works, a spool holds a lock that the system frees with its process.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import unpack
from typing import Self, TypeVar

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.attach import find, settle
from cloudtasks_nb.fanout.outbox.blocks import Sheet, pack_shown, pack_tasks
from cloudtasks_nb.fanout.outbox.clashes import SHOWN
from cloudtasks_nb.fanout.outbox.counters import as_json
from cloudtasks_nb.fanout.outbox.database import guard, writing
from cloudtasks_nb.fanout.outbox.draft import INCOMING, Draft, Seen
from cloudtasks_nb.fanout.outbox.locks import Hold, hold
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import row_sum

__all__ = ["Spool"]

T = TypeVar("T")

_ROWS = 2_000  # in a block: a multiple of the 100 that a request takes
_BYTES = 1 << 20  # of tasks in a block: more would only cost memory
_WAITING = 3  # blocks that are being compressed
_TOUCH = 60.0  # seconds between two signs of life


@dataclass(slots=True, kw_only=True)
class _Block:
    """Rows that will be compressed together."""

    rows: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  #: the first half of each; zeros for a row that is no task
    states: list[int] = field(default_factory=list)
    tasks: list[bytes] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)  #: (place in the block, why it is no task)
    raw: int = 0  #: bytes of tasks

    def pack(self) -> tuple[bytes, bytes]:
        """Compress; this runs beside the plan."""
        return pack_tasks(self.tasks), pack_shown(self.sheets)


class Spool:
    """Takes the chunks of a plan; a context manager that leaves nothing behind unless `commit` was called.

    Parameters
    ----------
    connection : sqlite3.Connection
        For this spool alone; closed at its end.
    path : Path
        The outbox's file.
    draft : Draft
        What is asked for.
    sweep : callable
        Removes what does not belong to a batch.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, draft: Draft, sweep: Callable[[], object]) -> None:
        self._connection = connection
        self._path = path
        self._draft = draft
        self._sweep = sweep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-spool")
        self._lock: Hold | None = None
        self._block = _Block()
        self._waiting: deque[tuple[_Block, Future[tuple[bytes, bytes]]]] = deque()
        self._seen = Seen(part=0)
        self._next = 0
        self._touched = time.monotonic()

    def __enter__(self) -> Self:
        try:
            with guard(self._path):
                for table in INCOMING:
                    self._connection.execute(table)
                # Until the end nothing has to survive a power cut.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._seen.target = find(self._connection, self._draft)
                with writing(self._connection):
                    self._seen.part = (
                        self._connection.execute(
                            "INSERT INTO parts (queue, status, next, last, touched) VALUES (?, 0, 0, -1, ?)",
                            (self._draft.place.queue, time.time()),
                        ).lastrowid
                        or 0
                    )
                    self._lock = hold(self._path, f"spool-{self._seen.part}")
        except BaseException:
            self._close()
            raise
        self._next = self._seen.part << 32
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        # What was committed is safe, and of any trouble one has heard; the next that opens the outbox sweeps.
        with suppress(OutboxError):
            self._sweep()

    def add(self, chunk: Chunk) -> None:
        """Take a chunk.

        Raises
        ------
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        self._seen.rows += len(chunk.rows)
        with guard(self._path):
            wanted = self._unknown(chunk) if self._seen.target is not None else None
            if wanted is None or wanted:
                self._take(chunk, wanted)
            if len(self._block.rows) >= _ROWS or self._block.raw >= _BYTES:
                self._flush(_WAITING)

    def commit(self) -> Spooled:
        """Make the rows part of their batch, at once and for good.

        Raises
        ------
        DuplicateRowsError
            If rows have the same key.
        BatchExistsError
            If the batch knows a key with another request, or another batch has some of the rows.
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        with guard(self._path):
            self._flush(0)
            self._connection.execute("PRAGMA synchronous = FULL")
            with writing(self._connection):
                return settle(self._connection, self._draft, self._seen)

    def _take(self, chunk: Chunk, wanted: Sequence[int] | None) -> None:
        """Put rows of a chunk into the block, all of them if `wanted` is None."""
        block = self._block
        start = len(block.rows)
        block.rows += _chosen(chunk.rows, wanted)
        block.keys += _chosen(chunk.keys, wanted)
        block.digests += [digest[:8] for digest in _chosen(chunk.digests, wanted)]
        tasks = _chosen(chunk.tasks, wanted)
        block.tasks += tasks
        block.raw += sum(map(len, tasks))
        block.states += [State.UNSENT] * len(tasks)
        block.sheets.append(Sheet(n=len(tasks), indexes=wanted, shown=chunk.shown))
        for index, reason in chunk.rejected.items():
            if wanted is None or index in wanted:
                place = start + (index if wanted is None else wanted.index(index))
                block.digests[place] = bytes(8)
                block.states[place] = State.REJECTED
                block.reasons.append((place, reason))

    def _unknown(self, chunk: Chunk) -> list[int] | None:
        """Return the places of the rows that the batch does not have; None if it has none of the chunk."""
        seen = self._seen
        halves = unpack(f">{2 * len(chunk.keys)}q", b"".join(chunk.keys))
        place = {pair: index for index, pair in enumerate(zip(halves[::2], halves[1::2], strict=True))}
        found = self._connection.execute(
            """SELECT k.k1, k.k2, k.digest, r.state, k.ref FROM json_each(?) j
               CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value CROSS JOIN rows r ON r.ref = k.ref""",
            (as_json(set(halves[::2])), seen.target.num if seen.target else 0),
        ).fetchall()
        known = {(k1, k2): rest for k1, k2, *rest in found}
        if not known.keys() & place.keys():
            return None
        left = []
        for index, pair in enumerate(zip(halves[::2], halves[1::2], strict=True)):
            digest, state, ref = known.get(pair, (0, State.UNSENT, 0))
            own = 0 if index in chunk.rejected else _number(chunk.digests[index])
            if pair not in known or (digest == 0 and own):
                left.append(index)
            elif own and own != digest and not (self._draft.skip and seen.met.has(ref)):
                seen.conflicting += 1
                seen.conflicts += [chunk.rows[index]] if len(seen.conflicts) < SHOWN else []
            else:
                if own:
                    seen.met.add(ref)
                seen.known += 1
                seen.left[State(state)] = seen.left.get(State(state), 0) + 1
        return left

    def _flush(self, waiting: int) -> None:
        """Have the block compressed, and write those that are ready until only so many wait."""
        if self._block.rows:
            self._waiting.append((self._block, self._pool.submit(self._block.pack)))
            self._block = _Block()
        while len(self._waiting) > waiting:
            block, packed = self._waiting.popleft()
            self._write(block, *packed.result())

    def _write(self, block: _Block, tasks: bytes, shown: bytes) -> None:
        first, n = self._next, len(block.rows)
        keys = b"".join(block.keys)
        halves = unpack(f">{2 * n}q", keys)
        digests = unpack(f">{n}q", b"".join(block.digests))
        unsigned = unpack(f">{n}Q", b"".join(block.digests))
        with writing(self._connection) as connection:
            connection.executemany(
                "INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?)",
                zip(range(first, first + n), block.rows, halves[::2], halves[1::2], digests, block.states, strict=True),
            )
            connection.executemany(
                "INSERT INTO reasons VALUES (?, ?)", [(first + place, reason) for place, reason in block.reasons]
            )
            connection.execute(
                "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (first, n, block.raw, keys, tasks, shown)
            )
            if time.monotonic() > self._touched + _TOUCH:
                self._touched = time.monotonic()
                connection.execute("UPDATE parts SET touched = ? WHERE part = ?", (time.time(), self._seen.part))
        self._seen.total += row_sum(block.keys, unsigned)
        self._next = first + n

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()
        if self._lock is not None:
            self._lock.release()


def _chosen(items: Sequence[T], wanted: Sequence[int] | None) -> Sequence[T]:
    return items if wanted is None else [items[index] for index in wanted]


def _number(digest: bytes) -> int:
    number: int = unpack(">q", digest[:8])[0]
    return number
