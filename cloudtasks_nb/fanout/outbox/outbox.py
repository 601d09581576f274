"""The outbox: batches and their rows on disk, from before they are sent until 90 days after their last change.

One SQLite file, shared by every kernel of a person. Its methods block and may be called from any thread; coroutines use
`Outbox.run`, which calls them on a thread of the outbox's own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self, TypeVar

from cloudtasks_nb.errors import OutboxError
from cloudtasks_nb.fanout.outbox import known as known_module
from cloudtasks_nb.fanout.outbox.batches import Batches
from cloudtasks_nb.fanout.outbox.completions import Completions
from cloudtasks_nb.fanout.outbox.database import Database, guard
from cloudtasks_nb.fanout.outbox.draft import Draft
from cloudtasks_nb.fanout.outbox.outcomes import Outcomes
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.outbox.requests import Requests
from cloudtasks_nb.fanout.outbox.rows import Rows
from cloudtasks_nb.fanout.outbox.spool import Spool
from cloudtasks_nb.fanout.outbox.sweep import sweep
from cloudtasks_nb.fanout.plan.chunk import Asked, Forecast
from cloudtasks_nb.fanout.plan.identity import Place

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
    batches, rows, requests, outcomes, completions
        What is stored, each part with its own methods.
    journal : bool
        Whether the file has a write-ahead log; not on a network file system.

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
        self.completions = Completions(self._database)
        try:
            self.journal = self._database.prepare()
            self.sweep()
        except BaseException:
            self.close()
            raise

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

    def spool(
        self,
        place: Place,
        *,
        recipe_identity: bytes,
        name: str | None = None,
        description: Mapping[str, Any] | None = None,
        errors: Literal["raise", "skip"] = "raise",
    ) -> Spool:
        """Begin to bring planned rows in: a context manager with `add(chunk)` and, at the end, `commit()`.

        Parameters
        ----------
        place : Place
            The queue.
        recipe_identity : bytes
            What the requests are made of, digested: rows belong to one batch only if it is the same.
        name : str, optional
            The batch's name, or the id of one that is there; without a name the rows themselves are its identity.
        description : mapping, optional
            Kept with a new batch, as JSON; said when another recipe comes under its name.
        errors : {"raise", "skip"}
            Whether rows with the same key raise, or only the first is sent.
        """
        with guard(self.path):
            connection = self._database.connect()
        draft = Draft(
            place=place,
            name=name,
            recipe=recipe_identity,
            description=dict(description or {}),
            skip=errors == "skip",
        )
        return Spool(connection, self.path, draft, self.sweep)

    def known(self, draft: Draft, keys: Sequence[bytes]) -> list[State | None]:
        """Return for each key the state of the row that the draft's batch has; None where a row would be new."""
        with self._database.reading() as connection:
            return known_module.known(connection, draft, keys)

    def planned(self, draft: Draft, asked: Asked) -> Forecast:
        """Foretell what sending the rows of a dry run would come to."""
        with self._database.reading() as connection:
            return known_module.planned(connection, draft, asked)

    def sweep(self) -> int:
        """Remove batches unchanged for 90 days and what killed spools left; return how many parts were removed."""
        with self._database.reading() as connection:
            return sweep(connection, self.path, now=time.time())

    def note(self) -> str | None:
        """Return a warning about this outbox, once for each file; None the next time."""
        if self.journal:
            return None
        with self._database.writing() as connection:
            first = connection.execute("INSERT OR IGNORE INTO meta VALUES ('network', 'said')").rowcount > 0
        return (
            f"the outbox {self.path} is on a network file system: slower, and for one machine at a time; "
            "CLOUDTASKS_NB_HOME chooses another folder"
            if first
            else None
        )
