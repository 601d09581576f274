"""Store planned rows in the outbox: written in blocks during planning, made visible together at the end.

A spool holds a lock that the system releases when its process ends. So the next process that opens the outbox can
remove the rows of a killed one.
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

from cloudtasks_nb._loop import hold_interrupts
from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.attach import (
    INCOMING,
    NAMED,
    BatchSpec,
    Intake,
    apply,
    attach_all,
    decide,
    find,
    prepare,
)
from cloudtasks_nb.fanout.outbox.blocks import ChunkPreview, pack_keys, pack_previews, pack_tasks
from cloudtasks_nb.fanout.outbox.counters import as_json
from cloudtasks_nb.fanout.outbox.database import guard, transact
from cloudtasks_nb.fanout.outbox.locks import Hold, hold
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.plan.chunk import Chunk
from cloudtasks_nb.fanout.plan.identity import row_sum
from cloudtasks_nb.fanout.plan.preview import shown_rows

__all__ = ["NewBlock", "Sorted", "Sorter", "Spool"]

T = TypeVar("T")

_ROWS = 2_000  # most rows in a block
_BYTES = 1 << 20  # most bytes of tasks in a block, unless one chunk has more
_WAITING = 3  # most blocks that wait for their compression
_TOUCH = 60.0  # seconds between two updates of `parts.touched`


@dataclass(slots=True, kw_only=True)
class NewBlock:
    """Rows that are compressed and written together."""

    rows: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  #: the first half of each; zeros for a row that is no task
    states: list[int] = field(default_factory=list)
    tasks: list[bytes] = field(default_factory=list)
    previews: list[ChunkPreview] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)  #: (index in the block, why it is not a valid task)
    raw: int = 0  #: bytes of tasks

    def take(self, chunk: Chunk, wanted: Sequence[int] | None) -> None:
        """Add rows of a chunk, all of them if `wanted` is None."""
        tasks = _chosen(chunk.tasks, wanted)
        if not tasks:
            return
        start = len(self.rows)
        self.rows += _chosen(chunk.rows, wanted)
        self.keys += _chosen(chunk.keys, wanted)
        self.digests += [digest[:8] for digest in _chosen(chunk.digests, wanted)]
        self.tasks += tasks
        self.raw += sum(map(len, tasks))
        self.states += [State.UNSENT] * len(tasks)
        shown = chunk.shown if wanted is None else shown_rows(chunk.shown, wanted)
        self.previews.append(ChunkPreview(n=len(tasks), shown=shown))
        if chunk.rejected:
            for place, index in enumerate(wanted or range(len(tasks)), start):
                if index in chunk.rejected:
                    self.digests[place] = bytes(8)
                    self.states[place] = State.REJECTED
                    self.reasons.append((place, chunk.rejected[index]))

    def pack(self) -> tuple[bytes, bytes]:
        """Compress the tasks and previews; runs in a thread during planning."""
        return pack_tasks(self.tasks), pack_previews(self.previews)


@dataclass(slots=True, kw_only=True)
class Sorted:
    """The rows of a chunk, compared with the batch; each row is its index in the chunk."""

    new: list[int] | None  #: rows that the batch does not have; None: all
    known: list[tuple[int, int]] = field(default_factory=list)  #: valid rows that the batch has, with their refs there
    conflicts: list[int] = field(default_factory=list)  #: rows whose key the batch has with another request


class Sorter:
    """Sorts rows into those that the batch of their name has and those that it does not have.

    Parameters
    ----------
    connection : sqlite3.Connection
        Used only by this spool, and closed at its end.
    path : Path
        The outbox's file.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: BatchSpec) -> None:
        self._connection = connection
        self._path = path
        self._spec = spec
        self._intake = Intake(part=0)

    def _begin(self) -> None:
        """Make the temporary tables, and find the batch of this name."""
        for table in INCOMING:
            self._connection.execute(table)
        self._intake.target = find(self._connection, self._spec)

    def _sort(self, chunk: Chunk) -> Sorted:
        """Sort the rows of a chunk, and count those that the batch has."""
        intake = self._intake
        intake.rows += len(chunk.rows)
        known = {} if intake.target is None else self._lookup(chunk.keys, intake.target.num)
        found = Sorted(new=None if not known else [])
        if found.new is None:
            return found
        for index, pair in enumerate(_halves(chunk.keys)):
            digest, state, ref = known.get(pair, (0, State.UNSENT, 0))
            own = 0 if index in chunk.rejected else _number(chunk.digests[index])
            if pair not in known or (digest == 0 and own):
                found.new.append(index)
            elif own and own != digest and not (self._spec.skip and intake.met.has(ref)):
                found.conflicts.append(index)
                intake.conflicting += 1
                intake.conflicts += [chunk.rows[index]] if len(intake.conflicts) < NAMED else []
            else:
                if own:
                    intake.met.add(ref)
                    found.known.append((index, ref))
                intake.known += 1
                intake.left[State(state)] = intake.left.get(State(state), 0) + 1
        return found

    def _lookup(self, keys: Sequence[bytes], num: int) -> dict[tuple[int, int], tuple[int, int, int]]:
        """Return digest, state and ref of the rows that a batch has, by the halves of their keys."""
        pairs = set(_halves(keys))
        found = self._connection.execute(
            """SELECT k.k1, k.k2, k.digest, r.state, k.ref FROM json_each(?) j
               CROSS JOIN keys k ON k.num = ? AND k.k1 = j.value CROSS JOIN rows r ON r.ref = k.ref""",
            (as_json({first for first, _ in pairs}), num),
        )
        return {(k1, k2): (digest, state, ref) for k1, k2, digest, state, ref in found if (k1, k2) in pairs}

    def _insert(self, refs: Sequence[int], block: NewBlock) -> None:
        """Put rows into the temporary tables."""
        halves = unpack(f">{2 * len(refs)}q", b"".join(block.keys))
        digests = b"".join(block.digests)
        numbers = unpack(f">{len(refs)}q", digests)
        self._connection.executemany(
            "INSERT INTO incoming VALUES (?, ?, ?, ?, ?, ?)",
            zip(refs, block.rows, halves[::2], halves[1::2], numbers, block.states, strict=True),
        )
        self._connection.executemany(
            "INSERT INTO reasons VALUES (?, ?)", [(refs[place], reason) for place, reason in block.reasons]
        )
        self._intake.total += row_sum(block.keys, unpack(f">{len(refs)}Q", digests))


class Spool(Sorter):
    """Stores the chunks of a plan; a context manager that removes them unless `commit` was called.

    Parameters
    ----------
    connection, path, spec
        As for `Sorter`.
    sweep : callable
        Removes rows that do not belong to a batch.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, spec: BatchSpec, sweep: Callable[[], object]
    ) -> None:
        super().__init__(connection, path, spec)
        self._sweep = sweep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-spool")
        self._lock: Hold | None = None
        self._block = NewBlock()
        self._waiting: deque[tuple[NewBlock, Future[tuple[bytes, bytes]]]] = deque()
        self._next = 0
        self._touched = time.monotonic()

    def __enter__(self) -> Self:
        try:
            with guard(self._path):
                self._begin()
                # Rows need not survive a power cut before `commit`.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                transact(self._connection, self._begin_part)
        except BaseException:
            self._close()
            raise
        self._next = self._intake.part << 32
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        # Committed rows are safe, and other errors were raised before; the next process repeats the sweep.
        with suppress(OutboxError):
            self._sweep()

    def add(self, chunk: Chunk) -> None:
        """Store a chunk.

        Raises
        ------
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        with guard(self._path):
            new = self._sort(chunk).new
            tasks = _chosen(chunk.tasks, new)
            if len(self._block.rows) + len(tasks) > _ROWS or self._block.raw + sum(map(len, tasks)) > _BYTES:
                self._flush(_WAITING)
            self._block.take(chunk, new)

    def commit(self) -> Spooled:
        """Add all rows to their batch in one transaction.

        Raises
        ------
        DuplicateRowsError
            If rows have the same key.
        BatchExistsError
            If the batch has a key with another request, or another batch has some of the rows.
        CloudTasksError
            That of the check in the spec.
        OutboxError
            If the disk is full, or the outbox cannot be written for another reason.
        """
        with guard(self._path):
            self._flush(0)
            self._connection.execute("PRAGMA synchronous = FULL")
            if not attach_all(self._connection, self._spec, self._intake):
                prepare(self._connection, self._spec, self._intake)
            return transact(self._connection, self._attach)

    def _begin_part(self, connection: sqlite3.Connection) -> None:
        """Make an invisible part, and hold its lock until the end."""
        inserted = connection.execute(
            "INSERT INTO parts (status, next, last, touched) VALUES (0, 0, -1, ?)", (time.time(),)
        )
        self._intake.part = inserted.lastrowid or 0
        self._lock = hold(self._path, f"spool-{self._intake.part}")

    def _attach(self, connection: sqlite3.Connection) -> Spooled:
        if attached := attach_all(connection, self._spec, self._intake):
            return attached
        decision = decide(connection, self._spec, self._intake)
        if decision.errors:
            raise decision.errors[0]
        spooled = apply(connection, self._spec, self._intake, decision)
        self._spec.check(spooled.added)
        return spooled

    def _flush(self, waiting: int) -> None:
        """Start to compress the block; write compressed blocks until at most `waiting` are left."""
        if self._block.rows:
            with hold_interrupts():  # here and below: the pool's thread needs the same locks
                self._waiting.append((self._block, self._pool.submit(self._block.pack)))
            self._block = NewBlock()
        while len(self._waiting) > waiting:
            block, packed = self._waiting.popleft()
            with hold_interrupts():
                tasks, shown = packed.result()
            transact(self._connection, self._write, block, tasks, shown)
            self._next += len(block.rows)

    def _write(self, connection: sqlite3.Connection, block: NewBlock, tasks: bytes, shown: bytes) -> None:
        first, n = self._next, len(block.rows)
        self._insert(range(first, first + n), block)
        connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", (first, n, block.raw, pack_keys(block.keys), tasks, shown)
        )
        if time.monotonic() > self._touched + _TOUCH:
            self._touched = time.monotonic()
            connection.execute("UPDATE parts SET touched = ? WHERE part = ?", (time.time(), self._intake.part))

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()
        if self._lock is not None:
            self._lock.release()


def _chosen(items: Sequence[T], wanted: Sequence[int] | None) -> Sequence[T]:
    return items if wanted is None else [items[index] for index in wanted]


def _halves(keys: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return the halves of keys as two integers each, as the tables store them."""
    halves = unpack(f">{2 * len(keys)}q", b"".join(keys))
    return list(zip(halves[::2], halves[1::2], strict=True))


def _number(digest: bytes) -> int:
    number: int = unpack(">q", digest[:8])[0]
    return number
