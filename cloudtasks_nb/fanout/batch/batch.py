"""The batch: the object with which an analyst follows and controls a fan-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn, Self, overload

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._settings import check_limit, is_count, near_names, parse_duration
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.notify import in_notebook, notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchTimeoutError, InvalidInputError, OutboxError, PreconditionError
from cloudtasks_nb.fanout.batch.completion import register
from cloudtasks_nb.fanout.batch.deletion import Others
from cloudtasks_nb.fanout.batch.errors import (
    NewTries,
    attempts_frame,
    check_rendered,
    codes_of,
    errors_frame,
    pending_tasks,
)
from cloudtasks_nb.fanout.batch.live import Card, display, end_displays, ended_rows, read_first
from cloudtasks_nb.fanout.batch.outcome_tracker import names_handler
from cloudtasks_nb.fanout.batch.parquet import target_folder, write_parts
from cloudtasks_nb.fanout.batch.progress import Progress, Status
from cloudtasks_nb.fanout.batch.row_query import join_results, result_notes
from cloudtasks_nb.fanout.batch.table import RowFrames
from cloudtasks_nb.fanout.batch.tracker import Tracker
from cloudtasks_nb.fanout.batch.versions import notify_versions, stale_rows
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.plan.recipe import TaskOptions
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.oplog import RETENTION, Entry, Wanted
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.ownership import Purpose

__all__ = ["Batch", "batch_view"]

_ROWS_A_FILE = 20_000


@near_names
class Batch:
    """A growing set of rows, each with its newest task. Made by `queue.fan_out`, found again by `tasks.batch(id)`.

    What `fan_out`, `backfill` and `map` return is for the rows of their input: their frames have its index and order,
    `progress` and `wait` are about these rows, and `retry_failed`, `resend` and `cancel` change no others. If the batch
    has more rows, the frames of all of them are those of `whole`. The rest is always about the batch: `status`,
    `resume`, `on_complete`, `delete`, its id and its name. Two objects are equal if they are for the same rows.

    Sending and watching go on in the background; `await batch` and `wait()` wait for the end. Methods that return rows
    first read what other homes and earlier kernels did, for 30 seconds at most; methods that send read all of it.

    Examples
    --------
    >>> batch = queue.fan_out(df, url=handler)
    >>> batch.wait()
    3 rows: 2 succeeded, 1 failed
    >>> batch.failed()[["day", "origin", "last_status"]]
                day origin last_status
    row
    2    2013-02-30    EWR       ERROR
    """

    def __init__(
        self,
        tracker: Tracker,
        open_panel: Callable[..., Any],
        delete: Callable[[str, Others], None],
        rows: Scope,
        shown: bytes = b"",
    ) -> None:
        self._own_tracker = tracker
        self._rows = rows
        self._connection, self._outbox = tracker.connection, tracker.outbox
        self._open_panel = open_panel
        self._delete = delete
        self._view = BatchView(tracker, self._rows)
        framed = not tracker.record.description.get("backfill")
        without = shown if rows.input and not rows.rows else b""  # of an input without rows
        self._frames = RowFrames(self._outbox.rows, self._rows, self._view.now, framed=framed, shown=without)

    @property
    def id(self) -> str:
        """Eight hexadecimal digits; they are part of each task's id.

        Examples
        --------
        >>> tasks.batch(batch.id) == batch  # also in another kernel
        True
        """
        return self._own_tracker.batch

    @property
    def name(self) -> str | None:
        """The name that `fan_out` was given, also if it is the id; None if there was none.

        Examples
        --------
        >>> queue.fan_out(df, url=handler, name="january").name
        'january'
        """
        return self._own_tracker.record.given_name

    @property
    def queue(self) -> str:
        """Short id of the queue.

        Examples
        --------
        >>> batch.queue
        'reports'
        """
        return self._own_tracker.queue.queue

    @property
    def owner(self) -> str | None:
        """Who sends the batch from a store that others share, as user@host; None without such a store, or an owner.

        Examples
        --------
        >>> batch.owner is None  # the store of this home
        True
        """
        owner = self._tracker.owner
        found = None if owner is None else _loop.run(owner.look())
        return None if found is None or found.owner.purpose is Purpose.DELETED else found.owner.person

    @property
    def whole(self) -> Batch:
        """The batch with all its rows, as `tasks.batch(id)` returns it.

        Examples
        --------
        >>> first = queue.fan_out(df.head(2), url=handler, name="january")
        >>> batch = queue.fan_out(df.tail(1), url=handler, name="january")
        warning: batch january (...) has none of these rows; 1 new one will be sent
        >>> batch
        1 of the 3 rows of batch january on queue reports  [LOCAL]
        ...
        >>> len(batch.tasks()), len(batch.whole.tasks())
        (1, 3)
        """
        return Batch(self._own_tracker, self._open_panel, self._delete, self._own_tracker.record.whole)

    def panel(self, *, read_only: bool = False, tz: Any = None) -> Any:
        """Return a widget with the batch, live: its bar, what failed and why, its calendar, and its verbs.

        Parameters
        ----------
        read_only : bool
            Leave out everything that changes anything.
        tz : str, optional
            The zone in which times are shown; that of the browser when left out. The user may choose another one.

        Returns
        -------
        cloudtasks_nb.panels.BatchPanel

        Examples
        --------
        >>> batch.panel(read_only=True)
        <BatchPanel Batch ... on reports [LOCAL]>
        """
        return self._open_panel(self, read_only=read_only, tz=tz)

    def progress(self) -> Progress:
        """Return how far the batch is, as of the watcher's newest snapshot; never calls the service.

        Of a part of a batch, it counts these rows. The state is that of the batch until they are final.

        Examples
        --------
        >>> batch.progress().failed
        1
        """
        self._own_tracker.there()
        return self._view.progress()

    def status(self) -> Status:
        """Return how the batch is, in one word and one sentence; never calls the service.

        Examples
        --------
        >>> batch.status()
        failed: 1 failed (ValueError: day ... 1) → batch.retry_failed()
        >>> batch.status().state
        'failed'
        """
        return self._view.status()

    def wait(self, timeout: Any = None) -> Progress:
        """Wait until every row is final; an interrupt stops the waiting, not the sending.

        Parameters
        ----------
        timeout : duration, optional
            ``"10min"``, a Timedelta or seconds.

        Returns
        -------
        Progress
            The final one.

        Raises
        ------
        BatchTimeoutError
            If it takes longer; the batch goes on.
        PreconditionError
            If rows are unsent and no process sends them, or `canary` or `pause_at` of `fan_out` holds them back.
        CloudTasksError
            What ended the sending early.

        Examples
        --------
        >>> batch = queue.fan_out(df, url=handler)
        >>> batch.wait("10min")
        3 rows: 2 succeeded, 1 failed
        """
        seconds = None if timeout is None else parse_duration(timeout, "timeout").total_seconds()
        try:
            with Card(self._view) as card:
                return self._view.wait(card, seconds)
        except TimeoutError:
            span = duration_text(timeout) if isinstance(timeout, (int, float)) else timeout
            raise BatchTimeoutError(
                f"batch {self.id} is not done after {span}: {self.progress()!r}",
                resource=self.id,
                hint="the batch continues: batch.wait() waits longer, batch.progress() shows its state",
            ) from None

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Batch) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)  # a batch that grows has parts that were all of it

    def _key(self) -> tuple[str, Scope]:
        tracker = self._own_tracker
        whole = self._rows.covers(tracker.progress.total)
        return tracker.record.place.endpoint, tracker.record.whole if whole else self._rows

    @property
    def _tracker(self) -> Tracker:
        return self._own_tracker.there()

    def __await__(self) -> Generator[Any, None, Progress]:
        async def finish(tracker: Tracker) -> Progress:
            await tracker.finished(self._rows)
            return await asyncio.to_thread(self._view.progress)

        return asyncio.wrap_future(_loop.submit(finish(self._tracker))).__await__()

    def tasks(self) -> pd.DataFrame:
        """Return every row with its newest task.

        Returns
        -------
        pandas.DataFrame
            The index of the input, so that both frames join: ``df.join(batch.tasks()[["state"]])``. It is `row`, the
            position in the input, if that has no index of its own or not a unique one. The columns of the input that
            key, URL, body, headers and schedule use, then ``url, task, try, state, attempts, last_status,
            last_http_status, last_message, schedule_time, last_attempt_time, duration``. One of the input with such a
            name has the suffix ``_in``. The log has no HTTP statuses: `last_http_status` is known where the handler
            stores its results, and of tasks that are in the queue. It is that of a service that the function called,
            if this made the function fail. Another exception of the function has none: its `last_status` is ``ERROR``,
            and ``INTERNAL`` where only the log tells.

        Examples
        --------
        >>> batch.tasks()[["day", "origin", "state", "attempts"]]
                    day origin      state  attempts
        row
        0    2013-01-01    JFK  succeeded         1
        1    2013-01-02    LGA  succeeded         1
        2    2013-02-30    EWR     failed         1
        """
        read_first(self._tracker)
        return self._frames.frame(pending=self._pending())

    def failed(self) -> pd.DataFrame:
        """Return the rows in state `failed`, with the columns of `tasks()` and `error`.

        `last_message` is what the handler stored, else what was seen while the task was in the queue: the log has no
        error text. `error` is the same if the function has told it, as in `results()`, but missing where Cloud Tasks
        says no more than the status, such as "INTERNAL(13): HTTP status code 500". `errors()` counts the causes, and
        has a traceback of each.

        Examples
        --------
        >>> batch.failed()[["last_status", "error"]]
            last_status          error
        row
        2         ERROR  ValueError...
        """
        read_first(self._tracker)
        return self._frames.failed()

    @overload
    def results(self) -> pd.DataFrame: ...

    @overload
    def results(self, *, page: int) -> Iterator[pd.DataFrame]: ...

    def results(self, *, page: int | None = None) -> pd.DataFrame | Iterator[pd.DataFrame]:
        """Return every row with what its function returned, from the store to which the handler writes.

        The newest try of a row counts. May be called at any time, also from another machine with the same store. A line
        is printed if rows were computed by different versions of the function: `stale` returns those of earlier ones.

        Parameters
        ----------
        page : int, optional
            Return an iterator of frames with so many rows at most, for batches that do not fit into memory. Each of
            them has the columns of its own results. One bar shows how far they are of all rows.

        Returns
        -------
        pandas.DataFrame
            Index and columns of the input as in `tasks()`, ``state``, the fields of the results as columns if all of
            them are dicts, else one column ``result``, and ``error``: the last line of the traceback, else the
            ``last_message`` of `tasks()`. A field with the name of another column gets the suffix ``_result``. A
            function that returned None leaves missing values. Lists and dicts stay what they are. ``to_parquet``
            writes lists and structs where those of a column are alike; a column of several types, or with an empty
            dict, becomes JSON text in the file.

        Raises
        ------
        StoreError
            If the store does not answer.

        Examples
        --------
        >>> batch.results()[["day", "state", "weekday"]]
                    day      state    weekday
        row
        0    2013-01-01  succeeded    Tuesday
        1    2013-01-02  succeeded  Wednesday
        2    2013-02-30     failed       <NA>
        >>> batch.results()["error"].dropna().item()
        'ValueError: day ...'
        """
        if page is not None and not is_count(page):
            raise InvalidInputError(f"page={page!r} is not a number of rows", hint="batch.results(page=50_000)")
        problem = self._read_results()
        notify_versions(self._tracker, self._rows)
        if page is None:
            rows = self._frames.frame(pending=self._pending(), brief=True)
            (found,) = self._with_results([rows], lambda: problem)
            return found
        return self._with_results(self._frames.pages(page), lambda: problem)

    def as_completed(self) -> Iterator[pd.DataFrame]:
        """Yield the results of rows as they come: of those that have ended since the last frame, each row once.

        The loop ends when every row is final. An interrupt or ``break`` ends the loop, not the batch; another loop
        begins with all rows that have ended until then.

        Yields
        ------
        pandas.DataFrame
            As `results`, for some rows in the order of the input; never empty.

        Raises
        ------
        PreconditionError, CloudTasksError
            As by `wait`, after the rows that have ended.
        StoreError
            If the store does not answer.

        Examples
        --------
        >>> batch = queue.fan_out(df, url=handler)
        >>> sum(len(part) for part in batch.as_completed())
        3
        >>> pd.concat(batch.as_completed())["state"].tolist()
        ['succeeded', 'succeeded', 'failed']
        """
        problem: str | None = None

        def pages() -> Iterator[pd.DataFrame]:
            nonlocal problem
            with Card(self._view) as card:
                for refs in ended_rows(self._tracker, card, self._rows):
                    problem = self._tracker.outcomes.stored.bring()
                    yield self._frames.frame(refs=refs, brief=True)

        return self._with_results(pages(), lambda: problem)

    def to_parquet(self, folder: Any) -> None:
        """Write `results` to a folder of Parquet files, part by part, so that a batch of any size fits into memory.

        Parameters
        ----------
        folder : path
            On this machine. It is made if there is none. Its files are ``part-00000.parquet`` and so on, with 20,000
            rows each. They replace those of an earlier call.

        Raises
        ------
        InvalidInputError
            If the folder cannot be made, or pyarrow is not installed.
        StoreError
            If the store does not answer.

        Notes
        -----
        All files have the same columns. The index becomes columns, periods become text, and values that have no type in
        common JSON text.

        Examples
        --------
        >>> batch.to_parquet("done")
        >>> pd.read_parquet("done")[["row", "day", "state"]]
           row         day      state
        0    0  2013-01-01  succeeded
        1    1  2013-01-02  succeeded
        2    2  2013-02-30     failed
        """
        path = target_folder(folder)
        write_parts(self.results(page=_ROWS_A_FILE), path)

    def stale(self) -> pd.DataFrame:
        """Return the rows that were computed by an earlier version of the function: ``batch.resend(batch.stale())``.

        These are the final rows whose result is of another version than `Handler.version` of the handler that
        `fan_out` was given last, which failed rows have, too. A `Deployment` has a version as well.

        Returns
        -------
        pandas.DataFrame
            The columns of `tasks()`.

        Raises
        ------
        PreconditionError
            If `fan_out` was given no handler, or one whose source is not known.
        StoreError
            If the store does not answer.

        Examples
        --------
        >>> queue.fan_out(df, url=ct.serve(lambda day, origin: origin, name="text")).wait()
        3 rows: 3 succeeded
        >>> handler = ct.serve(lambda day, origin: f"{origin} on {day}", name="text")
        text is served already: the function was replaced, the URL stays http://127.0.0.1:...
        >>> batch = queue.fan_out(df, url=handler)
        batch ... has 3 of these rows already; nothing new to send
        3 of these rows were computed by an earlier version of text: batch.resend(batch.stale()) computes them again
        >>> batch.resend(batch.stale()).wait()
        3 rows: 3 succeeded
        >>> len(batch.stale())
        0
        """
        self._read_results()
        return self._frames.frame(refs=stale_rows(self._tracker, self._rows))

    def errors(self) -> pd.DataFrame:
        """Return why rows failed: rows in state `failed`, and rows that are tried again as their last attempt failed.

        Rows have one cause if their exceptions are of one type and from one line of your code, and if a service that
        answered with an HTTP status has made them, of one status. An exception of a library belongs to the line that
        called the library. Where no traceback is known, messages that differ only in numbers, ids and quoted values are
        one cause.

        Returns
        -------
        pandas.DataFrame
            One row a cause, the most frequent first. `cause` is the message of its first row; where no traceback is
            known, it has "…" in place of what differs between rows, and is the status if there is no message. `rows` is
            the sum of `failed` and `retrying`; `first` and `last` are times of last attempts; `row` is the first row of
            the input that has the cause, `error` its traceback or message. `where` is function and line: of a cell
            ``report, cell [1] line 12``, of a module ``report, etl.py line 12``. `common` has up to two values of the
            input's columns that most rows of the cause have and few others: ``shop=berlin 100 %``. It is from a sample
            of 100 rows of the cause, for the 50 most frequent causes, and missing if there is no such value, or if it
            may be chance, as in two rows of four.

        Examples
        --------
        >>> batch.errors()[["rows", "failed", "retrying", "row"]]
           rows  failed  retrying  row
        0     1       1         0    2
        >>> batch.errors()["where"].item()
        'report, ... line ...'
        >>> print(batch.errors()["error"].item())
        Traceback (most recent call last):
        ...
        ValueError: day ...
        """
        read_first(self._tracker)
        return errors_frame(self._outbox, self._tracker.outcomes.stored, self._rows, self._frames)

    def attempts(self, limit: int | None = 10_000, *, status: Any = None, secrets: bool = False) -> pd.DataFrame:
        """Read the attempts on the batch's tasks from the operations log, also those of earlier tries, newest first.

        Parameters
        ----------
        limit : int or None
            The most rows to return; None for all. Each thousand uses one of the 60 reads a minute.
        status, secrets : optional
            As for `queue.attempts`.

        Returns
        -------
        pandas.DataFrame
            The columns of `queue.attempts` behind `row`, the row of the input.

        Examples
        --------
        >>> batch.attempts().sort_values("row")[["row", "attempt", "status"]].to_string(index=False).splitlines()
        [' row  attempt           status', '   0        1               OK', '   1        1               OK', ...]
        """
        statuses = () if status is None else codes_of(status)
        wanted = Wanted(since=self._connection.clock.micros() - RETENTION, batch=self.id, statuses=statuses)
        asked = (self._connection, self._tracker.queue, lambda: self._outbox, wanted, check_limit(limit))
        read_first(self._tracker)
        made = attempts_frame(*asked, method="batch.attempts", secrets=secrets, keep=self._keep)
        refs = self._outbox.rows.locate(self.id, made["task"].unique(), any_try=True)
        made.insert(0, "row", self._frames.labels([refs.get(task) for task in made["task"]]))
        return made

    def retry_failed(self, where: Any = None) -> Self:
        """Make a new try for rows in state `failed`, in the background.

        Their stored results are read first: a row that has succeeded after its last attempt was given up is not sent.

        Parameters
        ----------
        where : str, int, list or DataFrame, optional
            Only rows that failed with this status (``"ERROR"``, ``"UNAVAILABLE"``, 503, ``"5xx"``), this cause of
            `errors()`, this exception (``"KeyError"``) or one of a list of these, or that are rows of this frame: of
            `errors()`, or of `tasks()`, `failed()` or `results()`. An HTTP status is one that the target, or a service
            which the function called, has answered: `last_http_status` where that is known.

        Raises
        ------
        InvalidInputError
            If rows failed, but none of these, or if `where` is something else. Nothing is sent then.
        PreconditionError
            As for `resume`.

        Examples
        --------
        >>> batch.failed()["day"].tolist()
        ['2013-02-30']
        >>> handler = ct.serve(lambda day, origin: "corrected", name="report")
        report is served already: the function was replaced, the URL stays http://127.0.0.1:...
        >>> batch.retry_failed(batch.errors().head(1)).wait()
        3 rows: 3 succeeded
        """
        self._connection.transport.check_open()
        read_first(self._tracker, whole=True)
        _loop.run(self._tracker.find_out(self._tracker.outcomes.read_failed))
        return self._go(sending=self._new_tries().retry_failed(where))

    def resend(self, df: pd.DataFrame) -> Self:
        """Make a new try for rows of this batch in any final state, in the background.

        A row is sent again only if its newest task is still the one in the frame: the same frame twice, or from two
        kernels, sends once. Rows of `results()` name no task: they are sent again if their newest task is final.

        Parameters
        ----------
        df : DataFrame
            Rows of `tasks()`, `failed()` or `results()`.

        Raises
        ------
        InvalidInputError
            If it is another frame.
        PreconditionError
            As for `resume`.

        Examples
        --------
        >>> rows = batch.tasks().query("origin == 'JFK'")
        >>> batch.resend(rows).wait()
        3 rows: 2 succeeded, 1 failed
        >>> batch.tasks()[["origin", "try"]]
            origin  try
        row
        0      JFK    2
        1      LGA    1
        2      EWR    1
        """
        self._connection.transport.check_open()
        read_first(self._tracker, whole=True)
        self._new_tries().resend(df)
        return self._go(sending=True)

    def cancel(self) -> Self:
        """Stop sending, and delete the tasks that are not final, in the background; those of a part only.

        The wish is stored when this returns. If the kernel ends before all tasks are deleted, the next one that opens
        the batch goes on. Homes that share the store send none of these rows from then on.

        Examples
        --------
        >>> batch = queue.pause().fan_out(df, url=handler)
        >>> batch.cancel().wait()
        3 rows: 3 cancelled
        """
        _loop.run(self._tracker.cancel(self._rows))
        return self

    def resume(self) -> Self:
        """Send what is unsent, in the background; also what `canary` or `pause_at` of `fan_out` holds back.

        A paused batch counts failures anew. If the kernel was killed while the canary ran, the canary goes on; call it
        once more to send the other rows without waiting for that.

        A home sends only what its own cells have rendered: a shared store has no requests.

        Raises
        ------
        PreconditionError
            If this home did not render some of the rows: the cell that made the batch renders them. Nothing is sent
            then. Or if another home owns the batch, and lives: `take_over` continues it here.

        Examples
        --------
        >>> batch = tasks.batch(batch.id)  # in a new kernel
        >>> batch.resume().wait()
        3 rows: 2 succeeded, 1 failed
        """
        self._connection.transport.check_open()
        self._check_owner()
        read_first(self._tracker, whole=True)
        check_rendered(self._outbox, self._tracker.record.whole, {State.UNSENT})
        _loop.run(self._tracker.resume())
        return self

    def take_over(self) -> Self:
        """Own the batch in place of the home that owns it now, and send what that has not sent, in the background.

        Only the home that owns a batch in a shared store sends it. The other one stops within seconds; if it does not
        answer, as a laptop that sleeps, the sending begins after two minutes. For a batch that is this home's, or
        without a shared store, it does nothing.

        Raises
        ------
        StoreError
            If the store does not answer.

        Examples
        --------
        >>> batch.take_over().wait()
        3 rows: 2 succeeded, 1 failed
        """
        self._connection.transport.check_open()
        owner = self._tracker.owner
        if owner is not None and _loop.run(owner.take_over()):
            _loop.run(self._tracker.start(sending=True))
        return self

    def delete(self, *, others: bool = False) -> None:
        """Delete the batch: its rows and their outcomes here, and its objects in the store, the results too.

        A printed line says how much was deleted. Every method of this object raises `BatchNotFoundError` afterwards.

        The log and the names of the tasks remain: for 30 days, the same cell finds in the log which rows were sent, and
        sends only the others. On a queue without a log it sends all rows again, about an hour after their tasks have
        ended, when their names are free. A new ``name=`` sends all at once. A cell without a name finds what was sent
        if the batch began with its rows; ``name=`` with the id of the batch does in any case.

        Parameters
        ----------
        others : bool
            Also rows of the batch that other homes have made.

        Raises
        ------
        PreconditionError
            While it is being sent or cancelled, or has tasks in the queue: `cancel()` first. If it has rows of other
            homes: the error says how many. If this is a part of it: `batch.whole` is all of it.
        StoreError
            If the store does not answer; nothing is deleted here then.

        Examples
        --------
        >>> batch.delete()
        deleted batch ...: 3 rows, ... results
        """
        tracker = self._tracker
        total = sum(self._outbox.batches.counts(tracker.record.whole).values())
        if not self._rows.covers(total):
            raise PreconditionError(
                f"batch {self.id} is not deleted: this is {self._rows.rows:,} of its {counted(total, 'rows')}",
                resource=self.id,
                hint="batch.whole.delete() deletes all of it",
            )
        self._check_owner()
        self._delete(tracker.batch, "delete" if others else "ask")

    def on_complete(
        self, url: Any, *, service_account: str | None = None, audience: str | None = None, queue: Any = None
    ) -> Self:
        """Notify a URL when every row is final: one task with a JSON summary, delivered at least once.

        The process that watches the batch creates it, this kernel or ``cloudtasks-nb watch``; when none does, the next
        that attaches. `retry_failed` and `resend` open a new round with a notification of its own. May be called after
        the end. If the task fails, `status` says why, and the same call again sends it once more.

        Parameters
        ----------
        url : str or Handler
        service_account, audience : str, optional
            E-mail of the account whose OIDC token goes along, and for whom the token is (default: the URL's origin).
        queue : str or Queue, optional
            The queue that carries the notification; the batch's own when left out.

        Raises
        ------
        InvalidInputError
            If the queue sends its tasks elsewhere (`queue.route`), or the URL cannot be reached from there.

        Examples
        --------
        >>> finished = ct.serve(lambda **summary: summary["succeeded"], name="finished")
        >>> batch = batch.on_complete(finished)
        the batch is done: http://127.0.0.1:.../finished/... is notified now
        """
        task = TaskOptions(url=url, service_account=service_account, audience=audience)
        notify(register(self._connection, self._outbox, self._tracker.record, task, queue))
        return self._go(sending=False)

    def _check_owner(self) -> None:
        """Refuse a verb that sends while another home owns the batch and lives."""
        if self._tracker.owner is not None:
            _loop.run(self._tracker.owner.check_verb())

    def _new_tries(self) -> NewTries:
        self._check_owner()
        end_displays(self._tracker)
        self._view.before = None
        return NewTries(outbox=self._outbox, rows=self._rows, tasks=self.tasks)

    def _go(self, *, sending: bool) -> Self:
        _loop.run(self._tracker.start(sending=sending))
        return self

    def _keep(self, entries: list[Entry]) -> list[Entry]:
        """Return those of the attempts on tasks of the batch that are on these rows."""
        if self._view.part is None:
            return entries
        refs = self._outbox.rows.locate(self.id, (entry.task for entry in entries), any_try=True)
        inside = set(self._outbox.rows.within(self._rows, refs.values()))
        return [entry for entry in entries if refs.get(entry.task) in inside]

    def _pending(self) -> dict[str, Pending]:
        """Look up the tasks that are in the queue."""
        return pending_tasks(self._connection, self._tracker.queue, self._outbox, self._rows)

    def _read_results(self) -> str | None:
        """Bring new results into the home, and record what they tell; return why some may be missing."""
        with Bar(f"new results of batch {self.id}", unit="results") as bar:
            problem = self._tracker.outcomes.stored.bring(bar.to)
        with suppress(OutboxError):  # after `close`: what is stored is shown
            read_first(self._tracker, results=False)
            _loop.run(self._tracker.find_out(self._tracker.outcomes.record_results))
        return problem

    def _with_results(self, pages: Iterable[pd.DataFrame], problem: Callable[[], str | None]) -> Iterator[pd.DataFrame]:
        outcomes, notified = self._tracker.outcomes, set[str]()
        handler = names_handler(self._tracker.record.description) or outcomes.has_results
        with Bar(f"results of batch {self.id}", sum(self._outbox.batches.counts(self._rows).values())) as bar:
            for rows in pages:
                why = problem()
                joined = join_results(rows, outcomes.stored.answers, why)
                bar.add(len(rows))
                for subject, note in result_notes(joined, self._connection.store.url, why, handler=handler).items():
                    if subject not in notified:
                        notified.add(subject)
                        notify(note)
                yield joined.frame

    def __iter__(self) -> NoReturn:
        raise TypeError("a Batch is no sequence: batch.tasks() is a frame of its rows, and has their number")

    __len__ = __iter__

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError(f'a Batch belongs to its process: hand on the id, tasks.batch("{self.id}") is the batch there')

    def __repr__(self) -> str:
        return f"<batch {self.id}, deleted>" if self._own_tracker.deleted else self._view.report(drawn=True).text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/plain": repr(self)} if self._own_tracker.deleted else self._view.report(drawn=True).bundle()

    def _ipython_display_(self) -> None:
        if self._own_tracker.deleted or not in_notebook():
            print(repr(self))  # noqa: T201 - IPython asks to be shown the object
            return
        display(self._tracker, self._view)


def batch_view(batch: Batch) -> BatchView:
    """Return what a panel shows of a batch that was not deleted."""
    batch._own_tracker.there()  # noqa: SLF001 - not for users, so it is no public name of Batch
    return batch._view  # noqa: SLF001 - same
