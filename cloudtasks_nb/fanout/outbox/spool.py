"""Store planned rows in the outbox: written in blocks during planning, made visible together at the end.

A spool holds a lock that the system releases when its process ends. So the next process that opens the outbox can
remove the rows of a killed one. A dry run decides the same, in a transaction that is rolled back.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from cloudtasks_nb._loop import hold_interrupts
from cloudtasks_nb.errors import BatchExistsError, OutboxError
from cloudtasks_nb.fanout.outbox.blocks import BLOCK_ROWS, ChunkPreview, pack_keys, pack_previews, pack_tasks
from cloudtasks_nb.fanout.outbox.database import disk_full, guard, snapshot, transact
from cloudtasks_nb.fanout.outbox.incoming import KNOWN, BatchSpec, Incoming, plain_reason
from cloudtasks_nb.fanout.outbox.locks import Hold, hold
from cloudtasks_nb.fanout.outbox.records import Spooled, State
from cloudtasks_nb.fanout.outbox.tallies import SHOWN_STATE, number
from cloudtasks_nb.fanout.plan.chunk import Chunk, Forecast
from cloudtasks_nb.fanout.plan.identity import task_id
from cloudtasks_nb.fanout.plan.preview import shown_rows

__all__ = ["DryRun", "Spool"]

T = TypeVar("T")

_BYTES = 1 << 20  # most bytes of tasks in a block; more would only use memory
_WAITING = 3  # most blocks that wait for their compression
_ROW_BYTES = 200  # about what a row takes besides its task: in the log of the file, and then in the file
_ROOM = 1 << 20  # bytes that are left free
_TOUCH = 60.0  # seconds between two updates of `parts.touched`


@dataclass(slots=True, kw_only=True)
class _Block:
    """Rows that are compressed and written together."""

    rows: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  #: the first half of each; zeros for a row that is no task
    tasks: list[bytes] = field(default_factory=list)
    previews: list[ChunkPreview] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)  #: index in the block -> why it is not a valid task
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
        shown = chunk.shown if wanted is None else shown_rows(chunk.shown, wanted)
        self.previews.append(ChunkPreview(n=len(tasks), shown=shown))
        if chunk.rejected:
            for place, index in enumerate(wanted or range(len(tasks)), start):
                if index in chunk.rejected:
                    self.digests[place] = bytes(8)
                    self.reasons[place] = chunk.rejected[index]

    def put_into(self, incoming: Incoming, refs: Sequence[int]) -> None:
        """Hand the rows to those that are compared with the batch."""
        incoming.insert(refs, self.rows, b"".join(self.keys), b"".join(self.digests), self.reasons)

    def pack(self) -> tuple[bytes, bytes]:
        """Compress the tasks and previews; runs in a thread during planning."""
        return pack_tasks(self.tasks), pack_previews(self.previews)


class Spool:
    """Stores the chunks of a plan; a context manager that removes them unless `commit` was called.

    Parameters
    ----------
    connection : sqlite3.Connection
        Used only by this spool, and closed at its end.
    path : Path
        The outbox's file.
    sweep : callable
        Removes rows that do not belong to a batch.
    """

    _incoming: Incoming

    def __init__(
        self, connection: sqlite3.Connection, path: Path, spec: BatchSpec, sweep: Callable[[], object]
    ) -> None:
        self._connection = connection
        self._path = path
        self._spec = spec
        self._sweep = sweep
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-spool")
        self._lock: Hold | None = None
        self._block = _Block()
        self._waiting: deque[tuple[_Block, Future[tuple[bytes, bytes]]]] = deque()
        self._part = self._next = 0
        self._touched = time.monotonic()

    def __enter__(self) -> Self:
        try:
            with guard(self._path):
                # Rows need not survive a power cut before `commit`.
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._incoming = Incoming(self._connection, self._spec, transact(self._connection, self._begin))
        except BaseException:
            self._close()
            raise
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
            new = snapshot(self._connection, self._incoming.sort, chunk)
            if new == []:
                return
            chosen = _chosen(chunk.tasks, new)
            if len(self._block.rows) + len(chosen) > BLOCK_ROWS or self._block.raw + sum(map(len, chosen)) > _BYTES:
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
            self._check_room(_ROW_BYTES * self._incoming.rows)
            self._connection.execute("PRAGMA synchronous = FULL")
            if not self._incoming.attach():
                self._incoming.prepare()
            return transact(self._connection, self._attach)

    def _begin(self, connection: sqlite3.Connection) -> int:
        """Make an invisible part, and hold its lock until the end."""
        inserted = connection.execute("INSERT INTO parts (phase, last, touched) VALUES (0, -1, ?)", (time.time(),))
        self._part = inserted.lastrowid or 0
        self._next = self._part << 32
        self._lock = hold(self._path, f"spool-{self._part}")
        return self._part

    def _attach(self, _: sqlite3.Connection) -> Spooled:
        incoming = self._incoming
        if attached := incoming.attach():
            return attached
        incoming.decide()
        if incoming.errors:
            raise incoming.errors[0]
        spooled = incoming.apply()
        self._spec.check(spooled.added)
        return spooled

    def _flush(self, waiting: int) -> None:
        """Start to compress the block; write compressed blocks until at most `waiting` are left."""
        if self._block.rows:
            with hold_interrupts():  # here and below: the pool's thread needs the same locks
                self._waiting.append((self._block, self._pool.submit(self._block.pack)))
            self._block = _Block()
        while len(self._waiting) > waiting:
            block, packed = self._waiting.popleft()
            with hold_interrupts():
                tasks, shown = packed.result()
            self._check_room(len(tasks) + len(shown) + _ROW_BYTES * len(block.rows))
            transact(self._connection, self._write, block, tasks, shown)
            self._next += len(block.rows)

    def _check_room(self, size: int) -> None:
        """Raise the error of a full disk while what this spool has written can still be removed, which takes room."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with suppress(OSError):
            size += log.stat().st_size  # all of it is copied to the file
        if shutil.disk_usage(self._path.parent).free < size + _ROOM:
            raise disk_full()

    def _write(self, connection: sqlite3.Connection, block: _Block, tasks: bytes, shown: bytes) -> None:
        first, n = self._next, len(block.rows)
        block.put_into(self._incoming, range(first, first + n))
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (first, n, pack_keys(block.keys), tasks, shown))
        if time.monotonic() > self._touched + _TOUCH:
            self._touched = time.monotonic()
            connection.execute("UPDATE parts SET touched = ? WHERE part = ?", (time.time(), self._part))

    def _close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()
        if self._lock is not None:
            self._lock.release()


class DryRun:
    """Takes the chunks of a plan as a `Spool` does, and reports what would happen to their rows.

    It writes temporary tables only, so that it neither changes the outbox nor waits for those that do. In these tables
    the ref of a row is its place in the input.

    Parameters
    ----------
    connection, path, spec
        As for `Spool`.
    """

    _incoming: Incoming

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: BatchSpec) -> None:
        self._connection = connection
        self._path = path
        self._spec = spec

    def __enter__(self) -> Self:
        try:
            with guard(self._path):
                self._incoming = Incoming(self._connection, self._spec, 0)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        with guard(self._path):
            snapshot(self._connection, self._add, chunk)

    def _add(self, chunk: Chunk) -> None:
        first, new, block = self._incoming.rows, self._incoming.sort(chunk), _Block()
        block.take(chunk, new)
        block.put_into(self._incoming, [first + place for place in (range(len(chunk.rows)) if new is None else new)])

    def forecast(self, keys: Sequence[bytes]) -> Forecast:
        """Return what would become of all rows, and of the first ones one by one; `keys` are those of the first rows.

        Raises
        ------
        BatchExistsError
            If the batch of this name was made of other templates.
        """
        with guard(self._path):
            self._connection.execute("BEGIN")  # one moment of the outbox for all that follows
            try:
                self._incoming.decide()
                return self._forecast(keys)
            finally:
                self._connection.execute("ROLLBACK")

    def _forecast(self, keys: Sequence[bytes]) -> Forecast:
        incoming, connection, n = self._incoming, self._connection, len(keys)
        problems: dict[int, str] = dict(
            connection.execute("SELECT ref, reason FROM incoming WHERE reason IS NOT NULL AND ref < ?", (n,))
        )
        new = number(connection, "SELECT count(*) FROM incoming WHERE theirs IS NULL AND reason IS NULL")
        rejected = number(connection, "SELECT count(*) FROM incoming WHERE reason IS NOT NULL")
        if self._spec.name is None and not self._spec.skip and rejected:
            # The rows that are left over would be another batch than the one that the user means.
            return Forecast(tasks=[None] * n, problems=problems, sendable=new, duplicates=incoming.repeated or 0)
        if incoming.overlaps:
            return self._overlapping(problems, new, n)
        target = incoming.target
        for (place,) in connection.execute("SELECT ref FROM incoming WHERE conflict AND ref < ?", (n,)):
            problems[place] = f"the batch {target.label if target else ''} has its key with another request"
        known = f"{KNOWN} AND i.reason IS NULL"
        counted = connection.execute(f"SELECT {SHOWN_STATE}, count(*) {known} GROUP BY 1")
        there = {State(state): count for state, count in counted}
        found = connection.execute(f"SELECT i.ref, {SHOWN_STATE}, try {known} AND i.ref < ?", (n,))
        states = {place: (State(state), attempt) for place, state, attempt in found}
        batch = target.id if target else incoming.new_id()
        new += there.pop(State.UNSENT, 0)  # the sending goes on with these
        return Forecast(
            tasks=[task_id(batch, key, states.get(place, (None, 1))[1]) for place, key in enumerate(keys)],
            states=[_word(states[place][0]) if place in states else "new" for place in range(n)],
            known={_word(state): count for state, count in there.items()},
            problems=problems,
            sendable=new,
            duplicates=incoming.repeated or 0,
            refusal=self._refusal(),
        )

    def _overlapping(self, problems: dict[int, str], new: int, n: int) -> Forecast:
        """Return the forecast for rows without a name of which other batches have some."""
        connection, overlaps = self._connection, self._incoming.overlaps
        connection.execute("CREATE TEMP TABLE shared (ref INTEGER PRIMARY KEY, label TEXT)")
        for one in overlaps:
            connection.execute(f"INSERT OR IGNORE INTO shared SELECT a.ref, ? {one.rows}", (one.label,))
        for ref, label in connection.execute("SELECT ref, label FROM shared WHERE ref < ?", (n,)):
            problems[ref] = f"the batch {label} has this row"
        return Forecast(
            tasks=[None] * n,
            known={f"in {one.label}": one.shared for one in overlaps},
            problems=problems,
            sendable=new - number(connection, "SELECT count(*) FROM shared"),
            duplicates=self._incoming.repeated or 0,
            refusal=self._refusal(),
        )

    def _refusal(self) -> str:
        errors = self._incoming.errors
        return next((plain_reason(error) for error in errors if isinstance(error, BatchExistsError)), "")


def _chosen(items: Sequence[T], wanted: Sequence[int] | None) -> Sequence[T]:
    return items if wanted is None else [items[index] for index in wanted]


def _word(state: State) -> str:
    return "in the queue" if state is State.SENT else state.name.lower()
