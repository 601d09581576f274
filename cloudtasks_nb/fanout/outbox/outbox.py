"""The outbox: batches and their rows on disk, from before they are sent until 90 days after their last change.

One SQLite file, shared by every kernel of a person. Its methods block and may be called from any thread; coroutines use
`Outbox.run`, which keeps what takes long on one thread of its own.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

from cloudtasks_nb.errors import CloudTasksError, OutboxError
from cloudtasks_nb.fanout.outbox import batches as batches_module
from cloudtasks_nb.fanout.outbox import completions as completions_module
from cloudtasks_nb.fanout.outbox import known as known_module
from cloudtasks_nb.fanout.outbox import outcomes as outcomes_module
from cloudtasks_nb.fanout.outbox import requests as requests_module
from cloudtasks_nb.fanout.outbox import rows as rows_module
from cloudtasks_nb.fanout.outbox.draft import Draft
from cloudtasks_nb.fanout.outbox.locks import Hold, hold
from cloudtasks_nb.fanout.outbox.records import Ack, BatchRecord, Completion, Outcome, Page, Request, State
from cloudtasks_nb.fanout.outbox.schema import connect, guard, prepare, writing
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

    Raises
    ------
    OutboxError
        If the file cannot be opened, is damaged, or was written by a newer version.
    """

    def __init__(self, path: str | Path, *, timeout: float = 30.0) -> None:
        self.path = Path(path).absolute()
        self._timeout = timeout
        self._threads = threading.local()
        self._open: dict[sqlite3.Connection, threading.Thread] = {}
        self._opening = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="cloudtasks-outbox")
        with guard(self.path):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutboxError(
                    f"the folder {self.path.parent} cannot be made: {error}",
                    resource=str(self.path),
                    hint="set CLOUDTASKS_NB_HOME to a folder that can be written before the kernel starts",
                ) from error
            try:
                self.log = prepare(self._connection, self.path, timeout=timeout)  #: False on a network file system
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
        with self._opening:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._threads = threading.local()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method on the outbox's own thread, so that the event loop goes on.

        Raises
        ------
        OutboxError
            If the outbox was closed, besides what the method raises.
        """
        loop = asyncio.get_running_loop()
        try:
            called = loop.run_in_executor(self._worker, lambda: function(*args, **kwargs))
        except RuntimeError as error:  # what was in the background when the connection was closed hears of it here
            raise OutboxError("the outbox was closed", resource=str(self.path), hint="make a new connection") from error
        return await called

    # Into it

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
            connection = connect(self.path, timeout=self._timeout)
        draft = Draft(
            place=place,
            name=name,
            recipe=recipe_identity,
            description=dict(description or {}),
            skip=errors == "skip",
        )
        return Spool(connection, self.path, draft, self.sweep)

    # Batches

    def batches(
        self,
        *,
        endpoint: str | None = None,
        project: str | None = None,
        location: str | None = None,
        queue: str | None = None,
    ) -> list[BatchRecord]:
        """Return the batches, newest first; only those of a place if parts of it are given."""
        return self._read(batches_module.listed, (endpoint, project, location, queue))

    def batch(self, batch: str | None = None, **place: str | None) -> BatchRecord:
        """Return a batch by its id, the beginning of its id or its name; the newest one without any of them.

        Parameters
        ----------
        place : str, optional
            As for `batches`.

        Raises
        ------
        BatchNotFoundError
            If there is none, or more than one.
        """
        return batches_module.choose(self.batches(**place), batch)

    def counts(self, batch: str) -> dict[State, int]:
        """Return how many rows are in each state; kept up to date, so that it costs nothing to ask."""
        return self._read(batches_module.counts, batch)

    def settings(self, batch: str) -> dict[str, Any]:
        """Return what was set for a batch."""
        return self._read(batches_module.settings, batch)

    def set_setting(self, batch: str, key: str, value: Any) -> None:
        """Set something for a batch; any value that JSON has."""
        self._write(batches_module.set_setting, batch, key, value)

    def snapshot(self, batch: str) -> bytes | None:
        """Return the newest snapshot of a batch."""
        return self._read(batches_module.snapshot, batch)

    def save_snapshot(self, batch: str, snapshot: bytes) -> None:
        """Keep what was seen of a batch, with the time of now."""
        self._write(batches_module.save_snapshot, batch, snapshot, time.time())

    def set_error(self, batch: str, error: CloudTasksError | None) -> None:
        """Note what stopped the sending of a batch; None: nothing."""
        self._write(batches_module.set_error, batch, error)

    # Rows

    def rows(
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
        with guard(self.path):
            yield from rows_module.pages(self._connection, batch, states, after, wire=wire)

    def states(self, batch: str) -> bytes:
        """Return the `State` of each row, one byte a row, in the order of `rows`."""
        return self._read(rows_module.states, batch)

    def causes(self, batch: str) -> dict[int | None, int]:
        """Return how many failed rows had which status (canonical code) last, the most frequent first."""
        return self._read(rows_module.causes, batch)

    def lost(self, batch: str) -> dict[str | None, int]:
        """Return how many gone rows left their queue how; None: that is not known."""
        return self._read(rows_module.lost, batch)

    def known(self, draft: Draft, keys: Sequence[bytes]) -> list[State | None]:
        """Return for each key the state of the row that the draft's batch has; None where a row would be new."""
        return self._read(known_module.known, draft, keys)

    def planned(self, draft: Draft, asked: Asked) -> Forecast:
        """Foretell what sending the rows of a dry run would come to."""
        return self._read(known_module.planned, draft, asked)

    def locate(self, batch: str, tasks: Iterable[str]) -> dict[str, int]:
        """Return the refs of the rows whose newest task has one of these ids; other ids are left out."""
        return self._read(rows_module.locate, batch, tasks)

    def record(self, batch: str, outcomes: Iterable[Outcome]) -> int:
        """Write down what was heard of tasks; return how many rows changed their state.

        News of an older try are ignored; a succeeded row stays so, and a late success corrects any other verdict.
        """
        return self._write(outcomes_module.record, batch, outcomes)

    def new_try(
        self,
        batch: str,
        rows: Iterable[tuple[int, str | None]] | None = None,
        allowed: Collection[State] = (State.FAILED,),
    ) -> int:
        """Open a new try for rows that are in one of the allowed states; return how many will be sent again.

        Parameters
        ----------
        rows : iterable of (ref, task id or None), optional
            All rows of the batch when left out. With a task id, a row is only taken if that is its newest task: the
            same call twice, or from two kernels, sends once.
        allowed : collection of State
            Unsent and sent rows are never taken.
        """
        return self._write(outcomes_module.new_try, batch, rows, allowed)

    # Sending

    def sending(self, batch: str) -> Hold | None:
        """Become the sender of a batch until the answer is released, or the process ends; None: another one is."""
        return hold(self.path, batch)

    def turn(
        self, desk: requests_module.RequestQueue, acks: Collection[Ack], want: int, **options: Any
    ) -> list[Request]:
        """Write answers down and get more requests to send; see `RequestQueue.turn`."""
        with guard(self.path):
            return desk.turn(self._connection, list(acks), want, **options)

    def hand_back(self, desk: requests_module.RequestQueue, requests: Iterable[Request]) -> None:
        """Note that requests were not sent after all."""
        with guard(self.path):
            desk.hand_back(self._connection, requests)

    def cancel(self, batch: str) -> int:
        """Cancel the rows that are not sent; return how many.

        Rows of requests that are under way stay unsent until their sender, or the next `send`, knows whether they were
        created; if so they become sent, and are the caller's to delete.
        """
        return self._write(requests_module.cancel, batch, time.time())

    def cancelled(self, batch: str) -> bool:
        """Tell whether `cancel` was the last that was asked for: no new try and no new row since."""
        return self.batch(batch).cancelled_at is not None

    def void_until(self, batch: str) -> int:
        """Return the number of the newest request that was cancelled. Quick enough for an event loop."""
        return self._read(requests_module.void_until, batch)

    # Told when it is done

    def register_completion(
        self,
        batch: str,
        url: str,
        *,
        service_account: str | None = None,
        audience: str | None = None,
        queue: str | None = None,
    ) -> int:
        """Note that a URL is to be told when the batch is done; the same again changes nothing."""
        return self._write(completions_module.register, batch, url, service_account, audience, queue)

    def completions(self, batch: str) -> list[Completion]:
        """Return who is to be told; `round` is the last one that each was told of."""
        return self._read(completions_module.registered, batch)

    def untold(self, batch: str) -> bool:
        """Return whether every row is final and somebody has not been told of it yet."""
        return self._read(completions_module.untold, batch)

    def claim_completions(self, batch: str) -> list[Completion]:
        """Return who the caller is to tell now; for a minute nobody else gets the same answer."""
        return self._write(completions_module.claim, batch, time.time())

    def confirm_completion(self, batch: str, completion: Completion) -> None:
        """Note that a completion was told."""
        self._write(completions_module.confirm, batch, completion)

    def release_completion(self, batch: str, completion: Completion) -> None:
        """Note that a completion could not be told: the next who asks may try at once."""
        self._write(completions_module.release, batch, completion)

    # Housekeeping

    def sweep(self) -> int:
        """Remove batches unchanged for 90 days and what killed spools left; return how many parts were removed."""
        with guard(self.path):
            return sweep(self._connection, self.path, now=time.time())

    def note(self) -> str | None:
        """Return what has to be said about this outbox, once for each file; None the next time."""
        if self.log:
            return None

        def say_once(connection: sqlite3.Connection) -> bool:
            return connection.execute("INSERT OR IGNORE INTO meta VALUES ('network', 'said')").rowcount > 0

        return (
            f"the outbox {self.path} is on a network file system: slower, and for one machine at a time; "
            "CLOUDTASKS_NB_HOME chooses another folder"
            if self._write(say_once)
            else None
        )

    @property
    def _connection(self) -> sqlite3.Connection:
        """The connection of the calling thread."""
        found: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if found is None:
            found = self._threads.connection = connect(self.path, timeout=self._timeout)
            with self._opening:
                ended = [connection for connection, thread in self._open.items() if not thread.is_alive()]
                for connection in ended:
                    self._open.pop(connection).join()
                    connection.close()
                self._open[found] = threading.current_thread()
        return found

    def _read(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with guard(self.path):
            return work(self._connection, *args, **kwargs)

    def _write(self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with guard(self.path), writing(self._connection) as connection:
            return work(connection, *args, **kwargs)
