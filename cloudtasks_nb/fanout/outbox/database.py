"""The SQLite file of the outbox: its tables, transactions, connections and errors, and the blocks of rows in it.

A block has the rows of one chunk of the plan: keys, compressed tasks and preview columns. Beside the file are locks
that the system frees when their process ends: for the one sender of a batch, and for a running spool.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial, wraps
from itertools import accumulate
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from filelock import FileLock, Timeout

from cloudtasks_nb._loop import hold_interrupts
from cloudtasks_nb._settings import if_files_open, make_folder
from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.disk import on_network
from cloudtasks_nb.fanout.outbox import sql
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.plan.identity import KEY_SIZE
from cloudtasks_nb.fanout.states import State

__all__ = [
    "VERSION",
    "Database",
    "Hold",
    "Repository",
    "StoredBlock",
    "guard",
    "hold",
    "inflate",
    "keys_of",
    "pack_block",
    "pack_keys",
    "pack_tasks",
    "put_tasks",
    "read_block",
    "reading",
    "snapshot",
    "sqlite_error",
    "transact",
    "transaction",
]

P = ParamSpec("P")
R = TypeVar("R", bound="Repository")
T = TypeVar("T")
_Work = Callable[Concatenate[Connection, P], T]

# Every table that grows with the rows is written in ascending order. The index on the random keys of rows is filled by
# a sort when a spool ends. A row's ref is its part's number (upper half) and its place in the part (lower half), so
# that a part is one range in each table. A batch is visible once `batches` has it, a part once it is a span of it.
_TABLES = (
    # `num` is the number of its first part, `place` is JSON, `begun` whether there ever was a request.
    """CREATE TABLE batches (
        num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, identity BLOB NOT NULL UNIQUE, place TEXT NOT NULL, name TEXT,
        recipe BLOB NOT NULL, description TEXT NOT NULL, created REAL NOT NULL, changed REAL NOT NULL,
        begun INTEGER NOT NULL DEFAULT 0, round INTEGER NOT NULL DEFAULT 1)""",
    # Parts that are invisible: they are spooled, or to be removed.
    "CREATE TABLE hidden (part INTEGER PRIMARY KEY AUTOINCREMENT, touched REAL NOT NULL)",
    # Rows that are read together: those of a batch by its number, those of an input by its negative number. A span is
    # rows that follow each other, `place` that of the first one in the input. Those of a batch are its parts.
    """CREATE TABLE spans (
        scope INTEGER, first INTEGER, last INTEGER NOT NULL, place INTEGER NOT NULL,
        PRIMARY KEY (scope, first)) WITHOUT ROWID""",
    # The inputs of a batch, each once, and the labels of its rows, of those inputs only of which a row was known.
    """CREATE TABLE inputs (
        input INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER NOT NULL,
        digest BLOB NOT NULL, n INTEGER NOT NULL, UNIQUE (num, digest))""",
    "CREATE TABLE labels (input INTEGER, place INTEGER, labels BLOB, PRIMARY KEY (input, place)) WITHOUT ROWID",
    # keys, tasks and shown: see `StoredBlock`
    """CREATE TABLE blocks (
        first INTEGER PRIMARY KEY, n INTEGER NOT NULL, keys BLOB NOT NULL, tasks BLOB NOT NULL, shown BLOB NOT NULL)""",
    # All that is known of a row. Times are microseconds. `pos` is its position in the input, `deleting` the try whose
    # task the batch has asked to delete. `reason` says why it was rejected, or how its task left the queue. `elsewhere`
    # is 1 if only another home has rendered it, so that its task is not known here. The others: see `evidence.Row`.
    """CREATE TABLE rows (
        ref INTEGER PRIMARY KEY, pos INTEGER NOT NULL, try INTEGER NOT NULL, state INTEGER NOT NULL, deleting INTEGER,
        fact INTEGER, seen INTEGER, reason TEXT, attempts INTEGER, heard INTEGER, status INTEGER, http INTEGER,
        due INTEGER, began INTEGER, duration INTEGER, message TEXT, said INTEGER, code INTEGER, cause TEXT,
        current INTEGER, elsewhere INTEGER)""",
    "CREATE INDEX elsewhere ON rows (ref) WHERE elsewhere",
    "CREATE INDEX repeated ON rows (ref) WHERE try > 1",
    f"CREATE INDEX retrying ON rows (ref >> 32, attempts, due) WHERE state = {State.SENT:d} AND status > 0",
    f"CREATE INDEX causes ON rows ({sql.CAUSE}) WHERE cause IS NOT NULL",
    """CREATE TABLE tallies (
        part INTEGER, state INTEGER, cause, n INTEGER NOT NULL, PRIMARY KEY (part, state, cause)) WITHOUT ROWID""",
    # `k1` and `k2` are the key's halves, `digest` is that of the request; 0: the row is no request.
    """CREATE TABLE keys (
        num INTEGER NOT NULL, k1 INTEGER NOT NULL, k2 INTEGER NOT NULL, digest INTEGER NOT NULL, ref INTEGER NOT NULL,
        PRIMARY KEY (num, k1, k2)) WITHOUT ROWID""",
    # Requests that may have been sent and are not answered: their rows, as JSON, the try that all are in, and whether
    # they are cancelled.
    """CREATE TABLE flights (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER NOT NULL, refs TEXT NOT NULL, try INTEGER NOT NULL,
        started REAL NOT NULL, void INTEGER NOT NULL DEFAULT 0)""",
    # What was read of the store, see `Results`: of an object its bytes, and how many of its lines do not count; of a
    # task what its handler told (`fields`) and what its function returned (`value`), as JSON.
    """CREATE TABLE objects (
        num INTEGER, name TEXT, size INTEGER NOT NULL, bad INTEGER NOT NULL, PRIMARY KEY (num, name)) WITHOUT ROWID""",
    """CREATE TABLE results (
        id INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER NOT NULL, task TEXT NOT NULL, ok INTEGER NOT NULL,
        gave_up INTEGER NOT NULL, attempt INTEGER NOT NULL, fields TEXT NOT NULL, value TEXT NOT NULL,
        UNIQUE (num, task))""",
    "CREATE INDEX given_up ON results (num, id) WHERE gave_up",
    "CREATE INDEX versions ON results (num, coalesce(json_extract(fields, '$.version'), ''))",
    # What is known of a batch as a whole, as JSON: see `BatchFacts`.
    "CREATE TABLE facts (num INTEGER, name TEXT, value TEXT, PRIMARY KEY (num, name)) WITHOUT ROWID",
)

#: `PRAGMA user_version` of a file with these tables.
VERSION = 24

_LEVEL = 1  # the quickest: bodies of one batch are much alike, so it halves and halves again even so
_WORD = 4
#: Bytes of a decompressed part of a block, several times what is written: a part may come from somebody else's home.
_LARGEST = 1 << 28

_locks = WeakSet[FileLock]()  #: of this process, whether it holds them or not

_ELSEWHERE = "another folder: set CLOUDTASKS_NB_HOME before the kernel starts"
_FAILURES: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_BUSY: ("is locked by another program", "close what holds it, or try again"),
    sqlite3.SQLITE_LOCKED: ("is locked by another program", "close what holds it, or try again"),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", f"make room, or use {_ELSEWHERE}"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk fails or is full", f"make room, or use {_ELSEWHERE}"),
    sqlite3.SQLITE_READONLY: ("cannot be written", f"make it writable, or use {_ELSEWHERE}"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", f"make its folder writable, or use {_ELSEWHERE}"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", f"move the file away to begin a new one, or use {_ELSEWHERE}"),
    sqlite3.SQLITE_NOTADB: ("is damaged", f"move the file away to begin a new one, or use {_ELSEWHERE}"),
}


@contextmanager
def guard(path: Path) -> Iterator[None]:
    """Raise errors of SQLite as `OutboxError`.

    Raises
    ------
    OutboxError
        With the file, the problem and a hint.
    """
    try:
        yield
    except sqlite3.Error as error:
        what, hint = _FAILURES.get(_code(error), (f"cannot be used: {error}", _ELSEWHERE))
        raise OutboxError(f"the outbox {path} {what}", resource=str(path), hint=if_files_open(hint)) from error


def _code(error: sqlite3.Error) -> int:
    """Return the kind of an error; 0 for one that Python's own code has raised."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def sqlite_error(code: int, text: str) -> sqlite3.Error:
    """Return an error as SQLite raises it with a code."""
    error = sqlite3.DatabaseError(text)
    error.sqlite_errorcode = code
    return error


def transact(connection: Connection, function: _Work[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in one transaction that holds the write lock from its start.

    An interrupt leaves no open transaction: `with connection` is entered before the transaction begins, and rolls it
    back in C, where no interrupt is raised. A context manager written in Python could be interrupted before it does.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        return function(connection, *args, **kwargs)


def snapshot(connection: Connection, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in one transaction that sees one moment of the file, and writes temporary tables only."""
    with connection:
        connection.execute("BEGIN")
        return function(*args, **kwargs)


def transaction(method: Callable[Concatenate[R, Connection, P], T]) -> Callable[Concatenate[R, P], T]:
    """Make a method of a repository one transaction that may write: it is called with the connection."""

    @wraps(method)
    def run(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._database.write(partial(method, self), *args, **kwargs)

    return run


def reading(method: Callable[Concatenate[R, Connection, P], T]) -> Callable[Concatenate[R, P], T]:
    """Make a method of a repository one that reads: it is called with a connection."""

    @wraps(method)
    def run(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._database.read(partial(method, self), *args, **kwargs)

    return run


class Database:
    """The connections to one SQLite file: one for writing, and as many as read at the same time, so that none waits.

    Methods may be called from any thread.

    Parameters
    ----------
    path : Path
        The file; it and its folder are created if they do not exist.
    timeout : float
        Seconds to wait for another process that writes.
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        self.path = path
        self._name = str(path)
        self._timeout = timeout
        # The connections that nobody uses now: a new one reads the schema.
        self._writers: list[Connection] = []
        self._readers: list[Connection] = []
        self._lock = threading.RLock()  # of the writer; entered and left in C, where no interrupt is raised
        self._closed = False
        self._file: tuple[int, int] | None = None  # device and inode of the file that has the tables

    def prepare(self) -> bool:
        """Create the folder and the tables if they do not exist; return whether the file is new and has no log.

        Raises
        ------
        OutboxError
            If the file cannot be opened, is damaged, or was written by another version of this package.
        """
        hint = "set CLOUDTASKS_NB_HOME to a folder that can be written before the kernel starts"
        make_folder(self.path.parent, OutboxError, hint=hint)
        with suppress(OSError):  # SQLite tells why
            if not self.path.exists():
                self.path.touch(mode=0o600)  # it holds bodies and headers
        mode = self.read(self._set_up)
        new = self.write(_make_tables, self.path)
        self._file = self._found()
        return new and mode != "wal"

    def _set_up(self, connection: Connection) -> str:
        if _version(connection, self.path) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        kind = "DELETE" if on_network(self.path) else "WAL"
        return _set_journal(connection, kind, time.monotonic() + self._timeout)

    def read(self, function: _Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with a connection that nobody else uses meanwhile; errors of SQLite become `OutboxError`."""
        return self._use(self._readers, function, *args, **kwargs)

    def write(self, function: _Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a transaction of the connection for writing; errors of SQLite become `OutboxError`."""
        with self._lock:
            return self._use(self._writers, transact, function, *args, **kwargs)

    def _use(self, idle: list[Connection], function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function with an idle connection, or a new one.

        After an error, and after `close`, it is closed: one that was opened while the file could not be written would
        stay so.
        """
        self._check()
        with guard(self.path):
            try:
                connection = idle.pop()
            except IndexError:
                connection = self.connect()
            failed = True
            try:
                result = function(connection, *args, **kwargs)
                failed = False
                return result
            finally:
                if failed or self._closed:
                    connection.close()
                else:
                    idle.append(connection)

    def connect(self) -> Connection:
        """Open another connection, which the caller closes."""
        self._check()
        connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        try:
            for setting in ("synchronous = FULL", "secure_delete = OFF", "journal_size_limit = 67108864"):
                connection.execute(f"PRAGMA {setting}")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connections when nobody uses them; what is read or written later opens one for the moment."""
        with self._lock:
            self._closed = True
            for idle in (self._writers, self._readers):
                while idle:
                    idle.pop().close()

    def _check(self) -> None:
        """Raise OutboxError if the file was deleted or replaced: what is written to an open deleted file is lost."""
        if self._file is not None and self._found() != self._file:
            raise OutboxError(
                f"the outbox {self.path} was deleted or replaced while this kernel used it",
                resource=str(self.path),
                hint="put the file back, or restart the kernel, which begins a new one",
            )

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name)  # noqa: PTH116 - a Path takes twice the time, and each call looks
        except OSError:
            return None
        return found.st_dev, found.st_ino


class Repository:
    """The base class for access to one part of the outbox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _select(self, query: str, rows: Scope | str, **others: Any) -> list[tuple[Any, ...]]:
        """Return what a query finds, with the values of `sql.values`."""
        return self._database.read(lambda connection: sql.select(connection, query, rows, **others).fetchall())

    def _firsts(self, query: str, rows: Scope | str, **others: Any) -> list[Any]:
        """Return the first column of what a query finds."""
        return self._database.read(lambda found: [one for one, *_ in sql.select(found, query, rows, **others)])

    def _number(self, query: str, rows: Scope | str, **others: Any) -> int:
        """Return the one number that a query finds."""
        return int(self._firsts(query, rows, **others)[0])


def _version(connection: Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, VERSION):
        raise OutboxError(
            f"the outbox {path} was written by another version of cloudtasks_nb (format {version}; this one reads "
            f"{VERSION})",
            resource=str(path),
            hint=f"pip install -U cloudtasks-nb if it is newer, move the file away if it is older, or use {_ELSEWHERE}",
        )
    return version


def _make_tables(connection: Connection, path: Path) -> bool:
    """Make the tables of a new file; return whether it is new."""
    new = _version(connection, path) == 0
    if new:
        for statement in (*_TABLES, f"PRAGMA user_version = {VERSION}"):
            connection.execute(statement)
    return new


def _set_journal(connection: Connection, mode: str, deadline: float) -> str:
    """Set the journal mode. SQLite does not wait here when another process opens the file at the same time."""
    while True:
        try:
            return str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)  # SQLite tells nobody when the other process is done


def pack_keys(keys: Sequence[bytes]) -> bytes:
    """Join keys, with their checksum behind them: a row with another key would be sent again, under another name."""
    joined = b"".join(keys)
    return joined + zlib.crc32(joined).to_bytes(_WORD, "big")


def pack_tasks(tasks: Sequence[bytes]) -> bytes:
    """Compress tasks, with their lengths in front."""
    return zlib.compress(array("I", map(len, tasks)).tobytes() + b"".join(tasks), _LEVEL)


def pack_block(tasks: Sequence[bytes], shown: bytes) -> tuple[bytes, bytes]:
    """Compress the tasks and the preview columns of a block's rows."""
    return pack_tasks(tasks), zlib.compress(shown, _LEVEL)


class StoredBlock:
    """A block that is read from the outbox.

    Parameters
    ----------
    first : int
        Ref of its first row.
    keys : bytes
        What `pack_keys` made.
    tasks : bytes, optional
        What `pack_tasks` made.
    shown : bytes, optional
        Preview columns that `pack_block` has compressed.

    Raises
    ------
    sqlite3.DatabaseError
        As for any damage to the file, if a checksum does not fit; so do the methods that decompress.
    """

    def __init__(self, first: int, keys: bytes, tasks: bytes = b"", shown: bytes = b"") -> None:
        self.first = first
        self.n = len(keys) // KEY_SIZE
        self.last = first + self.n - 1  #: ref of its last row
        if zlib.crc32(keys[:-_WORD]) != int.from_bytes(keys[-_WORD:], "big"):
            raise _damaged("the checksum of its keys does not fit")
        self.packed_keys, self.packed_tasks, self.packed_shown = keys, tasks, shown

    def key(self, ref: int) -> bytes:
        """Return the key of a row."""
        at = (ref - self.first) * KEY_SIZE
        return self.packed_keys[at : at + KEY_SIZE]

    def keys(self, refs: Sequence[int]) -> bytes:
        """Return the keys of some rows, one behind the other."""
        if refs and len(refs) == refs[-1] - refs[0] + 1:  # without gaps
            return self.packed_keys[(refs[0] - self.first) * KEY_SIZE : (refs[-1] - self.first + 1) * KEY_SIZE]
        return b"".join(map(self.key, refs))

    def tasks(self, refs: Sequence[int]) -> list[bytes]:
        """Return the tasks of some rows, without their names."""
        (raw, ends), first = self._unpacked, self.first
        return [raw[ends[ref - first] : ends[ref - first + 1]] for ref in refs]

    @cached_property
    def shown(self) -> bytes:
        """The preview columns of its rows, as the plan gave them."""
        return inflate(self.packed_shown)

    @cached_property
    def _unpacked(self) -> tuple[bytes, list[int]]:
        raw = inflate(self.packed_tasks)
        head = self.n * _WORD
        return raw, list(accumulate(array("I", raw[:head]), initial=head))


def read_block(connection: Connection, ref: int, columns: str) -> StoredBlock:
    """Return the block that has a row, with some of its columns: `keys`, or more."""
    query = f"SELECT first, {columns} FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1"
    return StoredBlock(*connection.execute(query, (ref,)).fetchone())


def keys_of(connection: Connection, refs: Iterable[int]) -> bytes:
    """Return the keys of rows, one behind the other, which are given by their refs in ascending order."""
    block, keys = StoredBlock(0, b""), list[bytes]()
    for ref in refs:
        if ref > block.last:
            block = read_block(connection, ref, "keys")
        keys.append(block.key(ref))
    return b"".join(keys)


def put_tasks(connection: Connection, pairs: Sequence[tuple[int, int]]) -> None:
    """Give rows that only another home had rendered the tasks of others, which this home has rendered.

    Parameters
    ----------
    pairs : sequence of (ref, ref)
        Rows, ascending, and those whose tasks they get. These may be invisible.
    """
    query = f"SELECT ref FROM rows WHERE {sql.AMONG} AND elsewhere"
    # One that another kernel has rendered meanwhile may have been sent with its task.
    left = {*sql.firsts(connection, query, (sql.as_json(ref for ref, _ in pairs),))}
    mine, block = dict[int, bytes](), StoredBlock(0, b"")
    for source, ref in sorted((source, ref) for ref, source in pairs if ref in left):
        if not block.first <= source <= block.last:
            block = read_block(connection, source, "keys, tasks")
        (mine[ref],) = block.tasks([source])
    end = 0
    for ref in sorted(mine):
        if ref < end:  # its block was written before
            continue
        block = read_block(connection, ref, "keys, tasks")
        end = block.last + 1
        places = range(block.first, end)
        tasks = [mine.get(place, task) for place, task in zip(places, block.tasks(places), strict=True)]
        connection.execute("UPDATE blocks SET tasks = ? WHERE first = ?", (pack_tasks(tasks), block.first))
    connection.execute(f"UPDATE rows SET elsewhere = NULL WHERE {sql.AMONG}", (sql.as_json(mine),))


def inflate(packed: bytes) -> bytes:
    """Decompress, within the memory that a block may need.

    Raises
    ------
    sqlite3.DatabaseError
        If it is damaged, or larger.
    """
    whole = zlib.decompressobj()
    try:
        raw = whole.decompress(packed, _LARGEST)
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if not whole.eof:
        raise _damaged(f"it has more than {_LARGEST:,} bytes, or its end is missing")
    return raw


def _damaged(why: str) -> sqlite3.Error:
    return sqlite_error(sqlite3.SQLITE_CORRUPT, f"a block is damaged: {why}")


class Hold:
    """A lock that this process holds, as far as the file system supports locks.

    Parameters
    ----------
    lock : FileLock, optional
        None if the file system has no locks.
    """

    def __init__(self, lock: FileLock | None) -> None:
        self._lock = lock
        self.certain = lock is not None  #: whether no other process can hold it; False: the file system has no locks

    def release(self) -> None:
        """Remove the lock's file and release the lock.

        Another process that has opened the file at this moment may get the lock of the removed file while a third one
        gets that of a new file. Two senders of a batch do no harm, because a task's name can be used once.
        """
        if self._lock is not None and self._lock.is_locked:  # not so in a process that was forked from the holder
            with hold_interrupts():
                with suppress(OSError):  # Windows removes no file that is open; there, filelock removes it
                    Path(self._lock.lock_file).unlink()
                self._lock.release()
                self._lock = None  # a FileLock has a finalizer: it runs here


def hold(outbox: Path, name: str) -> Hold | None:
    """Take a lock that lies beside the outbox, without waiting; None if another process or sender has it."""
    path = outbox.parent / "locks" / f"{name}.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_interrupts():  # filelock has locks of its own, for all threads of the process
            # Taken on one thread and released on another, which the default would not see as the same.
            lock = FileLock(path, mode=0o600, thread_local=False)
            _locks.add(lock)
            lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError):
        return Hold(None)
    return Hold(lock)


def _forget_locks() -> None:
    """Close the files of the parent's locks in a forked process, which would keep them after the parent's end.

    To release them would unlock them for the parent, too. From 3.31 on, filelock closes them itself.
    """
    for lock in list(_locks):
        context = lock._context  # noqa: SLF001 - nothing else closes the file without unlocking it
        if context.lock_file_fd is not None:
            os.close(context.lock_file_fd)
            context.lock_file_fd = None


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forget_locks)
