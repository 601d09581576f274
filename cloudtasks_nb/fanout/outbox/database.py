"""The SQLite file of the outbox: its tables, one connection for each thread, transactions and errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.disk import on_network

__all__ = ["VERSION", "Database", "Repository", "guard", "transact", "transaction"]

P = ParamSpec("P")
R = TypeVar("R", bound="Repository")
T = TypeVar("T")

# Every table that grows with the rows is written in ascending order. The one index on random keys is filled by a sort
# when a spool ends. A row's ref is its part's number (upper half) and its place in the part (lower half), so that a
# part is one range in each table. A batch is visible once `batches` has it, a part once its status is 1.
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    """CREATE TABLE batches (
        num INTEGER PRIMARY KEY,  -- number of its first part
        id TEXT NOT NULL UNIQUE, identity BLOB NOT NULL UNIQUE,
        endpoint TEXT NOT NULL, project TEXT NOT NULL, location TEXT NOT NULL, queue TEXT NOT NULL,
        name TEXT, recipe BLOB NOT NULL, description TEXT NOT NULL,
        created REAL NOT NULL, changed REAL NOT NULL,
        issued INTEGER NOT NULL DEFAULT 0,  -- number of the newest request
        void INTEGER NOT NULL DEFAULT 0,  -- requests up to this one are cancelled
        cancelled_at REAL, round INTEGER NOT NULL DEFAULT 1, snapshot BLOB, snapshot_at REAL)""",
    """CREATE TABLE parts (
        part INTEGER PRIMARY KEY AUTOINCREMENT, num INTEGER,
        status INTEGER NOT NULL,  -- 0 spooling, 1 live, 2 to be removed
        next INTEGER NOT NULL, last INTEGER NOT NULL,  -- refs from `next` to `last` are in no request yet
        touched REAL NOT NULL)""",
    "CREATE INDEX parts_of_batch ON parts (num, part)",
    # keys, tasks and shown: see `blocks.py`
    """CREATE TABLE blocks (
        first INTEGER PRIMARY KEY, n INTEGER NOT NULL, raw INTEGER NOT NULL,
        keys BLOB NOT NULL, tasks BLOB NOT NULL, shown BLOB NOT NULL)""",
    """CREATE TABLE rows (
        ref INTEGER PRIMARY KEY, row INTEGER NOT NULL, try INTEGER NOT NULL, state INTEGER NOT NULL)""",
    """CREATE TABLE outcomes (
        ref INTEGER PRIMARY KEY, attempts INTEGER, last_status INTEGER, last_message TEXT,
        schedule_time INTEGER, last_attempt_time INTEGER, duration INTEGER, reason TEXT,
        http_status INTEGER,  -- of the last attempt; NULL: not known
        cause TEXT)""",  # of last_message; NULL: it tells no more than the status
    """CREATE TABLE keys (
        num INTEGER NOT NULL, k1 INTEGER NOT NULL, k2 INTEGER NOT NULL,  -- the key's halves
        digest INTEGER NOT NULL,  -- of the request; 0: the row is no request
        ref INTEGER NOT NULL, PRIMARY KEY (num, k1, k2)) WITHOUT ROWID""",
    "CREATE TABLE counts (num INTEGER, state INTEGER, n INTEGER NOT NULL, PRIMARY KEY (num, state)) WITHOUT ROWID",
    """CREATE TABLE requests (
        num INTEGER, seq INTEGER,
        try INTEGER NOT NULL, refs BLOB NOT NULL,  -- rows, all in the same try; 8 bytes each
        started REAL,  -- NULL: not sent
        tried INTEGER NOT NULL,  -- an earlier request had these rows
        PRIMARY KEY (num, seq)) WITHOUT ROWID""",
    """CREATE TABLE completions (
        id INTEGER PRIMARY KEY, num INTEGER NOT NULL, url TEXT NOT NULL, service_account TEXT, audience TEXT,
        queue TEXT,
        told INTEGER NOT NULL DEFAULT 0, claimed INTEGER NOT NULL DEFAULT 0, claimed_at REAL)""",
    "CREATE TABLE settings (num INTEGER, key TEXT, value TEXT, PRIMARY KEY (num, key)) WITHOUT ROWID",
    "CREATE TABLE deletions (ref INTEGER PRIMARY KEY, try INTEGER NOT NULL)",  # tasks that are to be deleted
    """CREATE TABLE causes (
        num INTEGER, state INTEGER, cause, n INTEGER NOT NULL, PRIMARY KEY (num, state, cause)) WITHOUT ROWID""",
)

# The table `causes` has how many failed rows (state 5) and rows that are tried again (counted as state 3) have which
# cause, and how many gone rows (state 8) which reason; '' for none. They are counted as they change, because they are
# read several times a second. The cause of a failure is that of its message, else its status.


def _count(change: int, row: str, outcome: str, tables: str, where: str) -> str:
    """Return the statement that adds `change` to the cause of each row in these tables that has one."""
    state = f"""CASE WHEN {row}.state IN (5, 8) THEN {row}.state
        WHEN {row}.state IN (2, 3) AND {outcome}.last_status > 0 THEN 3 END"""
    cause = f"coalesce(iif({row}.state = 8, {outcome}.reason, coalesce({outcome}.cause, {outcome}.last_status)), '')"
    return f"""INSERT INTO causes SELECT p.num, {state} AS counted, {cause}, {change} * count(*)
        FROM {tables} WHERE {where} AND counted IS NOT NULL GROUP BY 1, 2, 3
        ON CONFLICT DO UPDATE SET n = n + excluded.n;"""  # noqa: S608 - names of our tables


def _count_state(change: int, row: str) -> str:
    tables = f"parts p LEFT JOIN outcomes o ON o.ref = {row}.ref"
    return _count(change, row, "o", tables, f"p.part = {row}.ref >> 32")


def _count_outcome(change: int, outcome: str) -> str:
    return _count(change, "r", outcome, "rows r JOIN parts p ON p.part = r.ref >> 32", f"r.ref = {outcome}.ref")


def _count_none(change: int, outcome: str) -> str:
    """Return the statement that counts a final row as one without an outcome."""
    return f"""INSERT INTO causes SELECT p.num, r.state, '', {change}
        FROM rows r JOIN parts p ON p.part = r.ref >> 32 WHERE r.ref = {outcome}.ref AND r.state IN (5, 8)
        ON CONFLICT DO UPDATE SET n = n + excluded.n;"""  # noqa: S608 - names of our tables


_TRIGGERS = (
    f"""CREATE TRIGGER states_changed AFTER UPDATE OF state ON rows
        WHEN NOT (OLD.state IN (2, 3) AND NEW.state IN (2, 3)) BEGIN
        {_count_state(-1, "OLD")} {_count_state(1, "NEW")} END""",
    f"""CREATE TRIGGER outcomes_made AFTER INSERT ON outcomes BEGIN
        {_count_none(-1, "NEW")} {_count_outcome(1, "NEW")} END""",
    f"""CREATE TRIGGER outcomes_changed AFTER UPDATE OF last_status, cause, reason ON outcomes BEGIN
        {_count_outcome(-1, "OLD")} {_count_outcome(1, "NEW")} END""",
    f"""CREATE TRIGGER outcomes_removed AFTER DELETE ON outcomes BEGIN
        {_count_outcome(-1, "OLD")} {_count_none(1, "OLD")} END""",
)

#: `PRAGMA user_version` of a file with these tables and triggers.
VERSION = 1

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
        raise _failure(path, error) from error


def _failure(path: Path, error: sqlite3.Error) -> OutboxError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    what, hint = _FAILURES.get(code, (f"cannot be used: {error}", _ELSEWHERE))
    return OutboxError(f"the outbox {path} {what}", resource=str(path), hint=hint)


def transact(
    connection: sqlite3.Connection,
    function: Callable[Concatenate[sqlite3.Connection, P], T],
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


def transaction(method: Callable[Concatenate[R, sqlite3.Connection, P], T]) -> Callable[Concatenate[R, P], T]:
    """Make a method of a repository one transaction that may write: it is called with the connection."""

    @wraps(method)
    def run(self: R, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._database.write(partial(method, self), *args, **kwargs)

    return run


class Database:
    """The connections to one SQLite file. Methods may be called from any thread.

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
        self.writes = 0  #: grows after each write of this object
        self._local = threading.local()
        self._open: dict[sqlite3.Connection, threading.Thread] = {}
        self._used: Counter[sqlite3.Connection] = Counter()  # how many calls use a connection now
        self._lock = threading.RLock()  # a generator that is collected may end its use inside of a use
        self._closed = False
        self._file: tuple[int, int] | None = None  # device and inode of the file that has the tables

    def prepare(self) -> bool:
        """Create the folder and the tables if they do not exist; return whether the file has a write-ahead log.

        Raises
        ------
        OutboxError
            If the file cannot be opened, is damaged, or was written by another version of this package.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutboxError(
                f"the folder {self.path.parent} cannot be created: {error}",
                resource=str(self.path),
                hint="set CLOUDTASKS_NB_HOME to a folder that can be written before the kernel starts",
            ) from error
        with suppress(OSError):  # SQLite tells why
            if not self.path.exists():
                self.path.touch(mode=0o600)  # it holds bodies and headers
        with self.reading() as connection:
            if _version(connection, self.path) == 0:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            kind = "DELETE" if on_network(self.path) else "WAL"
            mode = _set_journal(connection, kind, time.monotonic() + self._timeout)
        self.write(_make_tables, self.path)
        self._file = self._found()
        return mode == "wal"

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the calling thread's connection; errors of SQLite become `OutboxError`."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        with ExitStack() as stack:
            try:
                if found is None:
                    found = stack.enter_context(closing(self.connect()))
                    if self._keep(found):
                        stack.pop_all()
                else:
                    self._check()
                with self._using(found):
                    yield found
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                    # It stays so when the file can be written again; the next call opens another one.
                    self._local.__dict__.pop("connection", None)
                raise _failure(self.path, error) from error

    @contextmanager
    def _using(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Keep a connection open while it is used: Python crashes when another thread closes it then."""
        with self._lock:
            self._used[connection] += 1
        try:
            yield
        finally:
            with self._lock:
                self._used[connection] -= 1
                if not self._used[connection]:
                    del self._used[connection]
                    if self._closed and connection not in self._open:
                        connection.close()

    def write(self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function with the calling thread's connection, as `transact`; errors become `OutboxError`."""
        try:
            with self.reading() as connection:
                return transact(connection, function, *args, **kwargs)
        finally:
            self.writes += 1

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
        """Close the connections of all threads, those that are used now when that has ended.

        What is read later opens a connection for the moment.
        """
        with self._lock:
            self._closed = True
            for connection, thread in self._open.items():
                # An interrupt may leave a use of the calling thread uncounted; it runs no statement now.
                if connection not in self._used or thread is threading.current_thread() or not thread.is_alive():
                    connection.close()
            self._open.clear()
            self._local = threading.local()

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

    def _keep(self, opened: sqlite3.Connection) -> bool:
        """Keep a connection for the calling thread, unless the file is closed; close those of threads that ended."""
        with self._lock:
            if self._closed:
                return False
            ended = [connection for connection, thread in self._open.items() if not thread.is_alive()]
            for connection in ended:
                self._open.pop(connection).join()
                connection.close()
            self._open[opened] = threading.current_thread()
            self._local.connection = opened
        return True


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
            hint=f"pip install -U cloudtasks-nb if it was a newer one, or use {_ELSEWHERE}",
        )
    return version


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables and triggers of a new file."""
    if _version(connection, path) == 0:
        for statement in (*_TABLES, *_TRIGGERS):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


def _set_journal(connection: sqlite3.Connection, mode: str, deadline: float) -> str:
    """Set the journal mode. SQLite does not wait here when another process opens the file at the same time."""
    while True:
        try:
            return str(connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)
