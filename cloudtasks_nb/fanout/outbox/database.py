"""The SQLite file of the outbox: its tables, transactions, connections and errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cloudtasks_nb._settings import if_files_open, make_folder
from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.disk import on_network
from cloudtasks_nb.fanout.outbox.tallies import CAUSE
from cloudtasks_nb.fanout.states import State

__all__ = [
    "VERSION",
    "Database",
    "Repository",
    "guard",
    "reading",
    "snapshot",
    "sqlite_error",
    "transact",
    "transaction",
]

P = ParamSpec("P")
R = TypeVar("R", bound="Repository")
T = TypeVar("T")

# Every table that grows with the rows is written in ascending order. The index on the random keys of rows is filled by
# a sort when a spool ends. A row's ref is its part's number (upper half) and its place in the part (lower half), so
# that a part is one range in each table. A batch is visible once `batches` has it, a part once it is a span of it.
_TABLES = (
    """CREATE TABLE batches (
        num INTEGER PRIMARY KEY,  -- number of its first part
        id TEXT NOT NULL UNIQUE, identity BLOB NOT NULL UNIQUE,
        place TEXT NOT NULL,  -- as JSON
        name TEXT, recipe BLOB NOT NULL, description TEXT NOT NULL,
        created REAL NOT NULL, changed REAL NOT NULL,
        begun INTEGER NOT NULL DEFAULT 0,  -- whether there ever was a request
        round INTEGER NOT NULL DEFAULT 1)""",
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
    # keys, tasks and shown: see `blocks.py`
    """CREATE TABLE blocks (
        first INTEGER PRIMARY KEY, n INTEGER NOT NULL, keys BLOB NOT NULL, tasks BLOB NOT NULL, shown BLOB NOT NULL)""",
    # All that is known of a row. Times are microseconds.
    """CREATE TABLE rows (
        ref INTEGER PRIMARY KEY, pos INTEGER NOT NULL,  -- position in the input
        try INTEGER NOT NULL, state INTEGER NOT NULL,
        deleting INTEGER,  -- the try whose task the batch has asked to delete
        fact INTEGER, seen INTEGER,  -- what ended the task, and when the queue was looked at: see `evidence.Row`
        reason TEXT,  -- why it was rejected, or how its task left the queue
        attempts INTEGER, heard INTEGER, status INTEGER, http INTEGER,  -- of the last attempt
        due INTEGER, began INTEGER, duration INTEGER,
        message TEXT, said INTEGER, code INTEGER, cause TEXT,  -- what an attempt tells of its failure
        maker TEXT)  -- who says to have rendered it in another home, until somebody trusts it: see `trust.py`""",
    "CREATE INDEX untrusted ON rows (ref) WHERE maker IS NOT NULL",
    f"CREATE INDEX retrying ON rows (ref >> 32, attempts, due) WHERE state = {State.SENT:d} AND status > 0",
    f"CREATE INDEX causes ON rows ({CAUSE}) WHERE cause IS NOT NULL",
    """CREATE TABLE tallies (
        part INTEGER, state INTEGER, cause, n INTEGER NOT NULL, PRIMARY KEY (part, state, cause)) WITHOUT ROWID""",
    """CREATE TABLE keys (
        num INTEGER NOT NULL, k1 INTEGER NOT NULL, k2 INTEGER NOT NULL,  -- the key's halves
        digest INTEGER NOT NULL,  -- of the request; 0: the row is no request
        ref INTEGER NOT NULL, PRIMARY KEY (num, k1, k2)) WITHOUT ROWID""",
    # Requests that may have been sent and are not answered.
    """CREATE TABLE flights (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER NOT NULL,
        refs TEXT NOT NULL, try INTEGER NOT NULL,  -- rows, as JSON, and the try that all are in
        started REAL NOT NULL, void INTEGER NOT NULL DEFAULT 0)  -- whether they are cancelled""",
    # What was read of the store: see `results.py`.
    """CREATE TABLE objects (
        num INTEGER, name TEXT, size INTEGER NOT NULL,  -- bytes that were read
        bad INTEGER NOT NULL,  -- lines that do not count
        PRIMARY KEY (num, name)) WITHOUT ROWID""",
    """CREATE TABLE results (
        id INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER NOT NULL, task TEXT NOT NULL,
        ok INTEGER NOT NULL, gave_up INTEGER NOT NULL, attempt INTEGER NOT NULL,
        fields TEXT NOT NULL, value TEXT NOT NULL,  -- what the handler told, and what its function returned, as JSON
        UNIQUE (num, task))""",
    "CREATE INDEX given_up ON results (num, id) WHERE gave_up",
    "CREATE INDEX versions ON results (num, coalesce(json_extract(fields, '$.version'), ''))",
    # What is known of a batch as a whole, as JSON: see `facts.py`.
    "CREATE TABLE facts (num INTEGER, name TEXT, value TEXT, PRIMARY KEY (num, name)) WITHOUT ROWID",
)

#: `PRAGMA user_version` of a file with these tables.
VERSION = 20

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


def transact(
    connection: sqlite3.Connection,
    function: Callable[Concatenate[sqlite3.Connection, P], T],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call a function in one transaction that holds the write lock from its start.

    An interrupt leaves no open transaction: `with connection` is entered before the transaction begins, and rolls it
    back in C, where no interrupt is raised. A context manager written in Python could be interrupted before it does.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        result = function(connection, *args, **kwargs)
        connection.commit()
    return result


def snapshot(connection: sqlite3.Connection, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in one transaction that sees one moment of the file, and writes temporary tables only."""
    with connection:
        connection.execute("BEGIN")
        result = function(*args, **kwargs)
        connection.commit()
    return result


def transaction(method: Callable[Concatenate[R, sqlite3.Connection, P], T]) -> Callable[Concatenate[R, P], T]:
    """Make a method of a repository one transaction that may write: it is called with the connection."""

    @wraps(method)
    def run(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._database.write(partial(method, self), *args, **kwargs)

    return run


def reading(method: Callable[Concatenate[R, sqlite3.Connection, P], T]) -> Callable[Concatenate[R, P], T]:
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
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []  # those for reading that nobody uses now; a new one reads the schema
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

    def _set_up(self, connection: sqlite3.Connection) -> str:
        if _version(connection, self.path) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        kind = "DELETE" if on_network(self.path) else "WAL"
        return _set_journal(connection, kind, time.monotonic() + self._timeout)

    def read(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with a connection that nobody else uses meanwhile; errors of SQLite become `OutboxError`.

        After an error, and after `close`, the connection is closed.
        """
        self._check()
        with guard(self.path), ExitStack() as stack:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self.connect()
            stack.enter_context(closing(connection))
            result = function(connection, *args, **kwargs)
            if not self._closed:
                stack.pop_all()
                self._idle.append(connection)
            return result

    def write(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a transaction of the connection for writing; errors of SQLite become `OutboxError`.

        After an error, and after `close`, the connection is closed: one that was opened while the file could not be
        written would stay so.
        """
        self._check()
        with guard(self.path), self._lock:
            connection = self._writer = self._writer or self.connect()
            kept = False
            try:
                result = transact(connection, function, *args, **kwargs)
                kept = not self._closed
            finally:
                if not kept:
                    self._writer = None
                    connection.close()
            return result

    def connect(self) -> sqlite3.Connection:
        """Open another connection, which the caller closes."""
        self._check()
        connection = sqlite3.connect(self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the connections when nobody uses them; what is read or written later opens one for the moment."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

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


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, VERSION):
        raise OutboxError(
            f"the outbox {path} was written by another version of cloudtasks_nb (format {version}; this one reads "
            f"{VERSION})",
            resource=str(path),
            hint=f"pip install -U cloudtasks-nb if it is newer, move the file away if it is older, or use {_ELSEWHERE}",
        )
    return version


def _make_tables(connection: sqlite3.Connection, path: Path) -> bool:
    """Make the tables of a new file; return whether it is new."""
    new = _version(connection, path) == 0
    if new:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    return new


def _set_journal(connection: sqlite3.Connection, mode: str, deadline: float) -> str:
    """Set the journal mode. SQLite does not wait here when another process opens the file at the same time."""
    while True:
        try:
            return str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)  # SQLite tells nobody when the other process is done
