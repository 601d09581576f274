"""The outbox: batches and their rows on disk, from before they are sent until 90 days after their last change.

One SQLite file, shared by every kernel of a person. Its methods block and may be called from any thread; coroutines use
`Outbox.run`, which calls them on a thread of the outbox's own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox.batches import Batches, HomeId, sweep
from cloudtasks_nb.fanout.outbox.causes import Causes
from cloudtasks_nb.fanout.outbox.database import Database, guard
from cloudtasks_nb.fanout.outbox.incoming import BatchSpec
from cloudtasks_nb.fanout.outbox.outcomes import Outcomes
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.outbox.requests import DeletionQueue, Requests
from cloudtasks_nb.fanout.outbox.results import Results
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.outbox.spool import DryRun, Spool

__all__ = ["Outbox"]

P = ParamSpec("P")
T = TypeVar("T")


class Outbox:
    """The batches of one home.

    Parameters
    ----------
    path : str or Path
        The file; it and its folder are made when missing.
    timeout : float
        Seconds to wait for another process that writes.

    Attributes
    ----------
    batches, rows, requests, outcomes, causes, results, home
        What is stored, each part with its own methods.
    note : str or None
        A warning for who has made the file.

    Raises
    ------
    OutboxError
        If the file cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path, *, timeout: float = 30.0) -> None:
        self.path = Path(path).absolute()
        self._database = Database(self.path, timeout=timeout)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-outbox")
        self.batches = Batches(self._database)
        self.rows = Rows(self._database)
        self.requests = Requests(self._database)
        self.outcomes = Outcomes(self._database)
        self.causes = Causes(self._database)
        self.results = Results(self._database)
        self.home = HomeId(self._database)
        try:
            slow = self._database.prepare()
            self.sweep()
        except BaseException:
            self.close()
            raise
        self.note = (
            f"the outbox {self.path} is on a network file system: slower, and for one machine at a time; "
            "CLOUDTASKS_NB_HOME chooses another folder"
            if slow
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Nothing is lost without it."""
        self._worker.shutdown()
        self._database.close()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method on the outbox's own thread, so that the event loop is not blocked.

        Raises
        ------
        OutboxError
            If the outbox was closed, besides what the method raises.
        """
        loop = asyncio.get_running_loop()
        try:
            called = loop.run_in_executor(self._worker, lambda: function(*args, **kwargs))
        except RuntimeError as error:
            raise OutboxError("the outbox was closed", resource=str(self.path), hint="make a new connection") from error
        return await called

    def deletions(self, rows: Scope) -> DeletionQueue:
        """Return the tasks of rows that are in the queue, page by page, to delete them."""
        return DeletionQueue(self._database, rows)

    @contextmanager
    def spool(self, spec: BatchSpec) -> Iterator[Spool]:
        """Take planned rows by `add(chunk)` and, at the end, `commit()`; without that they are removed."""
        try:
            with self._begin(Spool, spec) as spool, closing(spool):
                yield spool
        finally:
            with suppress(OutboxError):  # what was committed is safe, and the next process repeats the sweep
                self.sweep()

    def dry_run(self, spec: BatchSpec) -> AbstractContextManager[DryRun]:
        """Find out what `spool` would do, by `add(chunk)` and `forecast()`."""
        return self._begin(DryRun, spec)

    @contextmanager
    def _begin(self, kind: Callable[[sqlite3.Connection, Path, BatchSpec], T], spec: BatchSpec) -> Iterator[T]:
        with ExitStack() as stack:
            with guard(self.path):  # not around what the caller does: the data may come from another database
                connection = stack.enter_context(closing(self._database.connect()))
                begun = kind(connection, self.path, spec)
            yield begun

    def sweep(self, limit: float = 2.0) -> int:
        """Remove what no batch needs, batches unchanged for 90 days too; return how many parts were removed.

        Parameters
        ----------
        limit : float
            Seconds after which the rest is left for the next time.
        """
        return self._database.read(sweep, self.path, now=time.time(), limit=limit)
