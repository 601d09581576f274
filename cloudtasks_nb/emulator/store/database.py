"""The SQLite file behind the store: writes are collected, applied and committed in groups.

Rows are appended in the order of their keys, because random keys cost ten times more: each would dirty a page of its
own, twice with the write-ahead log. Look-ups by name are answered from memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from cloudtasks_nb.errors import EmulatorError

__all__ = ["Statement", "TaskDatabase"]

# Tombstones are names that cannot be used again yet.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queues(
    q INTEGER PRIMARY KEY, name TEXT, config BLOB, usable_at INTEGER, deleted_until INTEGER);
CREATE TABLE IF NOT EXISTS tasks(
    seq INTEGER PRIMARY KEY, made INTEGER, due INTEGER, id TEXT, head BLOB, body BLOB);
CREATE TABLE IF NOT EXISTS attempts(
    seq INTEGER PRIMARY KEY, due INTEGER, dispatches INTEGER, responses INTEGER, failures INTEGER, executions INTEGER,
    first_dispatched INTEGER, scheduled INTEGER, dispatched INTEGER, responded INTEGER, code INTEGER,
    http_status INTEGER);
CREATE TABLE IF NOT EXISTS tombstones(seq INTEGER PRIMARY KEY, q INTEGER, id TEXT, until INTEGER);
CREATE INDEX IF NOT EXISTS tombstones_until ON tombstones(until);
CREATE TABLE IF NOT EXISTS purged_ranges(q INTEGER, upto INTEGER, until INTEGER, PRIMARY KEY(q, upto)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS operations(seq INTEGER PRIMARY KEY, name TEXT, made INTEGER, wire BLOB);
CREATE TABLE IF NOT EXISTS log(
    seq INTEGER PRIMARY KEY, q INTEGER, kind INTEGER, at INTEGER, received INTEGER, task TEXT, target TEXT,
    target_type TEXT, due INTEGER, code INTEGER, dispatches INTEGER, responses INTEGER, duration INTEGER,
    retry_at INTEGER, cause TEXT);
"""
_TABLES = ("settings", "queues", "tasks", "attempts", "tombstones", "purged_ranges", "operations", "log")
_CACHE_KIB = 2_048  # a row is written once and read once: a larger cache gains nothing
# Twice SQLite's default, for new files: a commit of many tasks writes half the pages, and takes a fifth less time.
_PAGE = 8192
# The file gives free pages back if it has more than this many of them, and more of them than of others.
_MOST_FREE = 128
_CONNECTION: dict[str, Any] = {"isolation_level": None, "check_same_thread": False, "timeout": 30}
_VERSION = 4  # of the schema; a new file has 0


class Statement(StrEnum):
    """All statements that write, in the order in which those of a group are applied."""

    SETTING = "INSERT OR REPLACE INTO settings VALUES (?, ?)"
    QUEUE = "INSERT OR REPLACE INTO queues VALUES (?, ?, ?, ?, ?)"
    TASK = "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)"
    ATTEMPTS = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ADD_PURGE = "INSERT OR REPLACE INTO purged_ranges VALUES (?, ?, ?)"
    # Tasks end one by one, or in ranges of their keys. The rows may be of the same group.
    KEEP_NAMES = "INSERT INTO tombstones(q, id, until) SELECT ?, id, ? FROM tasks WHERE seq BETWEEN ? AND ?"
    END_TASKS = "DELETE FROM tasks WHERE seq BETWEEN ? AND ?"
    END_ATTEMPTS = "DELETE FROM attempts WHERE seq BETWEEN ? AND ?"
    END_PURGE = "DELETE FROM purged_ranges WHERE q = ? AND upto = ?"
    FREE_NAME = "DELETE FROM tombstones WHERE seq = ?"
    FREE_ALL_NAMES = "DELETE FROM tombstones WHERE q = ?"
    OPERATION = "INSERT INTO operations VALUES (?, ?, ?, ?)"
    LOG = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    SWEEP_OPERATIONS = "DELETE FROM operations WHERE seq <= ?"
    SWEEP_LOG = "DELETE FROM log WHERE seq <= ?"


class TaskDatabase:
    """The SQLite file, with one connection for writing and one that reads committed data.

    Parameters
    ----------
    path : Path
        The SQLite file; created if it does not exist.
    durable : bool
        Whether a commit waits for the disk, so that it survives a loss of power. It survives the end of the process
        either way.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self._durable = durable
        self._pending: dict[Statement, list[tuple[Any, ...]]] = {write: [] for write in Statement}
        with ExitStack() as opened, _readable(path, "if it is damaged, remove it or choose another folder"):
            self._writer = opened.enter_context(closing(sqlite3.connect(path, **_CONNECTION)))
            _configure(self._writer)
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
            self._check_version("main", path, "remove the file or choose another folder: it cannot be converted")
            self._writer.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT")
            self._reader = opened.enter_context(closing(sqlite3.connect(path, **_CONNECTION)))
            _configure(self._reader)
            self._reader.execute("PRAGMA query_only = ON")
            opened.pop_all()  # `close` closes them from now on

    def __len__(self) -> int:
        return sum(map(len, self._pending.values()))

    def put(self, write: Statement, *rows: tuple[Any, ...]) -> None:
        """Collect writes of one kind; they are neither visible nor on the disk before `commit`."""
        self._pending[write].extend(rows)

    def end_tasks(self, q: int, first: int, last: int, until: int, *, tried: bool = True) -> None:
        """Delete the tasks whose keys are in a range, as soon as they are in the file.

        Parameters
        ----------
        q : int
            Number of their queue.
        until : int
            Microseconds since 1970, when their names may be used again; 0: at once.
        tried : bool
            False: none of them was attempted.
        """
        if until:
            self.put(Statement.KEEP_NAMES, (q, until, first, last))
        self.put(Statement.END_TASKS, (first, last))
        if tried:
            self.put(Statement.END_ATTEMPTS, (first, last))

    def pending(self, write: Statement) -> bool:
        """Return whether writes of one kind are collected and not applied yet."""
        return bool(self._pending[write])

    def apply(self) -> None:
        """Execute the collected writes in one transaction, which stays open."""
        self._writer.execute("BEGIN IMMEDIATE")
        for write, rows in self._pending.items():
            if rows:
                self._writer.executemany(write, rows)
                rows.clear()

    def commit(self) -> None:
        """Commit the open transaction; may run in another thread while writes are collected."""
        self._writer.execute("COMMIT")

    def roll_back(self) -> None:
        """Drop the open transaction and the writes that were collected since."""
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        for rows in self._pending.values():
            rows.clear()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query over the committed data."""
        return self._reader.execute(sql, parameters).fetchall()

    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Return a cursor over the committed data; exhaust it, because an open cursor lets the write-ahead log grow."""
        return self._reader.execute(sql, parameters)

    def erase(self) -> None:
        """Delete everything in one transaction."""
        self._replace("DELETE FROM {0}")

    def save_to(self, path: Path) -> None:
        """Copy the committed data to another file."""
        with closing(sqlite3.connect(path)) as copy:
            self._reader.backup(copy)

    def load_from(self, path: Path) -> None:
        """Replace everything with the content of another file; after an error nothing has changed.

        Raises
        ------
        EmulatorError
            If that file cannot be used.
        """
        self.roll_back()
        with _readable(path, "if it is damaged, take a new snapshot"):
            self._writer.execute("ATTACH ? AS source", (str(path),))
            try:
                self._check_version("source", path, "take a new snapshot: this one cannot be converted")
                # Row by row: a copy of the pages would bring the other file's page size and version.
                self._replace("DELETE FROM {0}", "INSERT INTO {0} SELECT * FROM source.{0}")
            finally:
                self.roll_back()
                self._writer.execute("DETACH source")

    def _replace(self, *statements: str) -> None:
        """Execute statements for each table, in one transaction, and drop what was put before."""
        self.roll_back()
        self._writer.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            for statement in statements:
                self._writer.execute(statement.format(table))
        self._writer.execute("COMMIT")

    def shrink(self, pages: int) -> bool:
        """Give free pages back to the file system, if most of the file is free; no transaction may be open.

        Parameters
        ----------
        pages : int
            The most pages to give back, because each takes some time.

        Returns
        -------
        bool
            Whether there may be more.
        """
        if self._mostly_free() and self._writer.execute("PRAGMA auto_vacuum").fetchone()[0]:
            with suppress(sqlite3.Error):  # without space on the disk; it is tried again later
                # Not by `execute`, which frees a single page: the statement frees one in each step.
                self._writer.executescript(f"PRAGMA incremental_vacuum({pages})")
                return True
        return False

    def close(self) -> None:
        """Shrink the file if most of it is free, and close it; changes that are not committed are lost."""
        self._reader.close()
        if self._durable and self._mostly_free():
            self._writer.execute("PRAGMA temp_store = FILE")
            with suppress(sqlite3.Error):  # without space on the disk the file stays as it is
                self._writer.execute("VACUUM")
        self._writer.close()

    def _mostly_free(self) -> bool:
        (free,), (pages,) = (
            self._writer.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count")
        )
        return bool(free > max(_MOST_FREE, pages // 2))

    def _check_version(self, schema: str, path: Path, hint: str) -> None:
        [(version,)] = self._writer.execute(f"PRAGMA {schema}.user_version")
        if version not in {0, _VERSION}:
            raise EmulatorError(
                f"{path} has the tables of another version of the emulator ({version} instead of {_VERSION})",
                resource=str(path),
                hint=hint,
            )


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # for new files, and for others at their next VACUUM
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")


@contextmanager
def _readable(path: Path, hint: str) -> Iterator[None]:
    """Name the file in SQLite's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise EmulatorError(f"{path} cannot be used: {error}", resource=str(path), hint=hint) from error
