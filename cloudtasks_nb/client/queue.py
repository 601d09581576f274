"""One queue: change its settings, create and list its tasks, and send batches to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, Unpack, overload

import pandas as pd

from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QueueKeywords, near_names
from cloudtasks_nb.client import mapping
from cloudtasks_nb.client.create_task import create_task
from cloudtasks_nb.client.queue_card import queue_card
from cloudtasks_nb.client.queue_settings import change_route, change_settings, check_settings, shows_settings
from cloudtasks_nb.client.reads import queue_attempts, tasks_frame
from cloudtasks_nb.client.task_verbs import delete_tasks, run_tasks
from cloudtasks_nb.client.wait import wait_for_tasks
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.batch.backfill import Backfill
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.request import BackfillKeywords, FanOutKeywords, make_request, takes
from cloudtasks_nb.fanout.batch.versions import advise
from cloudtasks_nb.fanout.periods.partitions import partition
from cloudtasks_nb.fanout.plan.plan import Plan
from cloudtasks_nb.fanout.plan.recipe import TaskKeywords, check_token
from cloudtasks_nb.service.connection import Connection

if TYPE_CHECKING:  # they load aiohttp, which only handlers need
    from cloudtasks_nb.handlers.deploy import Deployment
    from cloudtasks_nb.handlers.handler import Handler

__all__ = ["Queue"]


@near_names
class Queue:
    """One queue of Cloud Tasks. Made by `tasks.queue(name)`, which makes no call.

    Every method raises `QueueNotFoundError` when the queue does not exist, and another
    `cloudtasks_nb.errors.CloudTasksError` when the service refuses.

    Examples
    --------
    >>> queue = tasks.queue("reports", create=True, rate=50, max_concurrent=8)
    made queue reports with log_sampling_ratio=1.0 ...
    >>> batch = queue.fan_out(df, url=handler)
    >>> batch.wait("10min").succeeded
    2
    """

    def __init__(self, connection: Connection, catalog: Catalog, name: QueueName) -> None:
        self._connection = connection
        self._catalog = catalog
        self._name = name

    @property
    def id(self) -> str:
        """The short name.

        Examples
        --------
        >>> tasks.queue("reports").id
        'reports'
        """
        return self._name.queue

    @property
    def name(self) -> str:
        """The resource name, as `queue_path` of Google's client builds it: ``projects/P/locations/L/queues/Q``.

        Examples
        --------
        >>> tasks.queue("reports").name
        'projects/local/locations/us-central1/queues/reports'
        """
        return str(self._name)

    @takes(TaskKeywords)
    def enqueue(
        self, url: Any, body: Any = None, *, task_id: str | None = None, **options: Unpack[TaskKeywords]
    ) -> pd.DataFrame:
        """Create one task: an HTTP request that Cloud Tasks sends until it is answered with 2xx.

        Parameters
        ----------
        url : str, Handler or callable
            ``http(s)://…``, what `ct.serve` returned, or a function, which is served.
        body : optional
            A dict, list or number is sent as JSON, a str or bytes as they are; None is no body.
        method : str, optional
            POST by default.
        headers : mapping, optional
        task_id : str, optional
            ``[A-Za-z0-9_-]{1,500}``. The same id is refused while the task exists and for up to 24 hours after that.
            By default a random id, so that a call that is repeated after a lost answer creates one task.
        at, delay : optional
            When it is due: a time (``"2026-01-02 06:00+09:00"``) or a duration from now (``"10min"``), at most 30 days
            ahead.
        tz : str, optional
            The time zone of an `at` that has none. A local time that its clocks skip, or show twice, is refused with
            the two times that may be meant.
        service_account, audience : str, optional
            E-mail of the account whose OIDC token is sent along, and the audience of the token (default: the URL's
            origin, ``https://svc.example``; for a Cloud Function the URL without its query).
        dispatch_deadline : duration, optional
            How long an attempt may take, 15 s to 30 min; the service's default is 10 min.
        retry : mapping, optional
            `max_attempts`, `max_retry_duration`, `min_backoff`, `max_backoff`, `max_doublings` of this task only.

        Returns
        -------
        pandas.DataFrame
            The created task: one row with the columns of `tasks()`.

        Raises
        ------
        InvalidInputError
            For a bad argument; nothing is sent.
        AlreadyExistsError
            If a task with this `task_id` exists or existed lately.

        Examples
        --------
        >>> task = queue.enqueue("https://svc.example/run", {"day": "2013-01-01"}, delay="10min")
        >>> task[["url", "state"]]
                                                              url      state
        task
        ...  https://svc.example/run  scheduled
        """
        url = mapping.target(self._connection, url, options)
        return create_task(self._connection, self._name, {"url": url, "body": body, **options}, task_id=task_id)

    @takes(TaskKeywords)
    def schedule(
        self, url: Any, body: Any = None, *, task_id: str | None = None, **options: Unpack[TaskKeywords]
    ) -> pd.DataFrame:
        """Create one task that is due later: `enqueue` with one of `at` and `delay` required.

        Parameters
        ----------
        url, body : as for `enqueue`
        at : time, optional
            ``"2026-01-02 06:00+09:00"``, a datetime or a Timestamp.
        delay : duration, optional
            ``"60s"``, ``"10min"``, a Timedelta or seconds.
        task_id, tz, headers, method, service_account, audience, dispatch_deadline, retry : optional
            As for `enqueue`.

        Returns
        -------
        pandas.DataFrame
            The created task: one row with the columns of `tasks()`.

        Raises
        ------
        InvalidInputError
            If neither or both are given.
        TypeError
            For an unknown argument.

        Examples
        --------
        >>> task = queue.schedule("https://svc.example/run", {"day": "2013-01-01"}, delay="60s")
        >>> task["state"].item()
        'scheduled'
        """
        if (options.get("at") is None) == (options.get("delay") is None):
            raise InvalidInputError(
                "schedule() needs at= or delay=, and not both", hint='delay="10min", or at="2026-01-02 06:00+09:00"'
            )
        return self.enqueue(url, body, task_id=task_id, **options)

    @overload
    def fan_out(
        self, data: Any, url: Any, *, dry_run: Literal[False] = False, **options: Unpack[FanOutKeywords]
    ) -> Batch: ...

    @overload
    def fan_out(self, data: Any, url: Any, *, dry_run: Literal[True], **options: Unpack[FanOutKeywords]) -> Plan: ...

    @takes(FanOutKeywords)
    def fan_out(self, data: Any, url: Any, *, dry_run: bool = False, **options: Any) -> Batch | Plan:
        """Create one task for each row; returns when every row is stored in the outbox, and sends in the background.

        Running the same cell again, also after a restart of the kernel, attaches to the batch and sends only the rows
        that the batch does not have. The batch that is returned answers for the rows of this input: `Batch.whole` has
        all of them. In templates, text in braces names a column; other text is literal.

        Parameters
        ----------
        data : DataFrame, iterable of DataFrames, or the result of a query
            Also a Series, a list of dictionaries, a LazyFrame of Polars, a dataset of pyarrow, or the path of a CSV or
            Parquet file, or of a folder of Parquet files. Files, datasets and lazy frames may be larger than memory:
            they are read in parts, and only the columns that are used. In all that is read in parts whole numbers are
            integers, as no part shows what the rest of a column holds. A result is anything with
            ``__arrow_c_stream__``, `to_arrow_iterable`, `to_arrow`, `to_dataframe_iterable` or `to_dataframe`, as
            those of BigQuery and DuckDB. Of a groupby each group is a row: its key, and `rows`, a list of the group's
            rows as dictionaries of the other columns.
        url : str, Handler, callable or UrlFunction
            ``"https://svc/run/{origin}"``, values percent-encoded; what `ct.serve` returned; a function, which is
            served; ``ct.url(fn)`` for a function that returns the URL of a row. A row whose path would have a part
            ``.`` or ``..`` cannot become a task.
        body : optional
            None: the whole row as JSON, with the levels of its index that have names; a handler gets the index `row` of
            frames of a batch only if its function has this parameter. Else a list of columns; a dict with columns in
            braces; a function of the row.
        key : list of str, str or `ct.ROW`, optional
            The columns that identify a row; by default everything that is rendered from it. The same instant in another
            time zone, a Decimal in place of a float, and True in place of 1 make another row.
        at, delay, tz : optional
            When a row is due: one value for all rows, or from a column (``at="{when}"``). In a column of times, one
            that the clocks of `tz` skip is the first instant after the gap, and one that comes twice the first of both.
        headers, method, service_account, audience, dispatch_deadline, retry : optional
            As for `enqueue`; header values may name columns.
        name : str, optional
            Name of the batch; a new name sends all rows again. Without a name, rows extend the batch without a name
            that has some of them already, if it is of the same templates. The id of such a batch is its name on
            another disk.
        errors : {"raise", "skip"}
            "raise": bad and duplicate rows are an error, and nothing is sent. "skip": they are left out and listed as
            `rejected`.
        send_rate : float, optional
            Tasks created in a second, at most; by default, on Google, the recommended gradual increase
            (https://cloud.google.com/tasks/docs/manage-cloud-task-scaling).
        canary : int, float or str, optional
            Send so many rows first, or this share of all rows (``"1%"``), and the others once all of these have
            succeeded. If one of them ends otherwise, the others are not sent: ``batch.retry_failed()`` repeats the
            canary, ``batch.resume()`` sends them anyway, ``batch.cancel()`` drops them. The canary is the first rows of
            the batch: once it has succeeded, rows that are added later are sent at once.
        pause_at : int, float or str, optional
            Stop sending when this number of rows has failed, or when more than this share (``"5%"`` or 0.05) of the
            rows that have succeeded or failed have failed, once there are 20 of them. Tasks that are in the queue
            already go on; ``queue.pause()`` stops these too, and `send_rate` keeps them few. ``batch.resume()`` and
            ``batch.retry_failed()`` go on with the sending, and failures count anew from there; ``batch.cancel()``
            drops the other rows.
        progress : bool
            Show a bar while planning.
        dry_run : bool
            Send nothing; return the `Plan`.

        Raises
        ------
        RowsError, DuplicateRowsError, TemplateError, BatchExistsError, QueueNotFoundError
            Nothing is sent or stored.
        TypeError
            For an unknown argument; `rate` and `max_concurrent` are settings of the queue.

        Notes
        -----
        Each row is sent at least once. It is sent twice only when the log (of 30 days, with every entry), the stored
        results and the reserved names of tasks (about an hour) are all silent. Where neither log nor results tell
        whether another home that shares the store has sent rows, these stay unsent, and the batch is ``held`` until
        ``batch.resume()``.

        Examples
        --------
        >>> plan = queue.fan_out(df, url="https://svc.example/{origin}", body=["day"], dry_run=True)
        >>> plan.frame[["url", "body"]]
                                 url                  body
        row
        0    https://svc.example/JFK  {"day":"2013-01-01"}
        1    https://svc.example/LGA  {"day":"2013-01-02"}
        2    https://svc.example/EWR  {"day":"2013-02-30"}
        >>> batch = queue.fan_out(df, url=handler)
        >>> batch.wait()
        3 rows: 2 succeeded, 1 failed
        >>> careful = queue.fan_out(df.iloc[::-1], url=handler, name="careful", canary=1)
        >>> careful.wait()
        Traceback (most recent call last):
            ...
        cloudtasks_nb.errors.PreconditionError: canary: 1 of 1 rows failed (ValueError: day ...): the other 2 rows ...
          → batch.resume() sends them, batch.cancel() drops them
        >>> careful.resume().wait()
        3 rows: 2 succeeded, 1 failed
        """
        url = mapping.target(self._connection, url, options)
        request = make_request(self._name, data, {"url": url, **options})
        self._connection.check_target(self._name, url, options["service_account"])
        self._connection.check_store(url)
        return self._catalog.dry_run(request) if dry_run else self._catalog.fan_out(request)

    @takes(FanOutKeywords)
    def map(
        self,
        fn: Callable[..., Any] | Handler | Deployment,
        data: Any,
        *more: Any,
        workers: int | None = None,
        processes: int | None = None,
        give_up_on: type[BaseException] | Iterable[type[BaseException]] = (),
        stale: Literal["resend", "keep"] = "resend",
        failed: Literal["resend", "keep"] = "keep",
        **options: Unpack[FanOutKeywords],
    ) -> pd.DataFrame:
        """Call a function with each row, wait with a bar, and return the rows with what it returned.

        This is `ct.serve`, `fan_out`, `Batch.wait` and `Batch.results` in one call. The same cell again attaches to
        the batch and sends only the rows that it does not have, and those that an earlier version of the function has
        computed: all rows are of one version when it returns. An interrupt stops the waiting: the batch goes on, and a
        line says how to come back to it.

        Parameters
        ----------
        fn : callable, Handler or Deployment
            A function, which is served; or what `ct.serve` or `ct.deploy` returned. Google cannot call a function of
            this machine: there, it is what `ct.deploy` returned.
        data : DataFrame, Series, list, array, …
            The columns are the arguments of the function, as for `fan_out`. Equal rows are computed once, and each of
            them has the result; rows with the same `key=` are an error. A Series, a list, a set, an array or an
            iterator of values becomes the column of the first parameter; a function whose parameters have no names,
            such as `len`, gets the value itself. What `map` and `Batch.results` return can be mapped again: their index
            `row` is an argument only of a function that has this parameter. Where no column is named `row`, a parameter
            of this name gets the whole row as a dict, as in ``df.apply(f, axis=1)``.
        *more : iterable
            With these, as for `map` of Python, each iterable has the values of one parameter; all are of one length.
        workers, processes : int, optional
            As for `ct.serve`: how many calls run at a time, in threads or in processes.
        give_up_on : class or several, optional
            As for `ct.serve`: exceptions after which a row has failed at once.
        stale : str
            ``"resend"``: rows of the batch that an earlier version of the function has computed (`Batch.stale`) are
            computed again, also those that were in flight when it changed, each of them twice at most in one call. A
            line says how many, and which are left. ``"keep"``: they stay as they are.
        failed : str
            ``"keep"``: rows that failed stay so when the cell runs again; ``"resend"``: they are sent again, as by
            `Batch.retry_failed`. With ``stale="keep"`` only they are.
        service_account, audience : str, optional
            Who signs the tasks. A function that is served here accepts only tasks that this account has signed.
        name : str, optional
            Name of the batch; a new name sends all rows again. A lambda is served under it, so that the cell can
            attach.
        body, key, at, delay, tz, headers, method, dispatch_deadline, retry : optional
            As for `fan_out`.
        errors, send_rate, canary, pause_at, progress : optional
            As for `fan_out`.

        Returns
        -------
        pandas.DataFrame
            As `Batch.results`. Rows that failed do not raise: their `error` says why, and a line finds their batch.
            ``attrs["batch"]`` is its id.

        Raises
        ------
        InvalidInputError
            For a plain function on Google, values for a function without a parameter, another `stale` or `failed`, or
            columns with which the function cannot be called; the hint is a `body` with which it can.
        CloudTasksError
            As `fan_out`, `Batch.wait` and `Batch.results`.

        Examples
        --------
        >>> found = queue.map(report, df)
        1 did not succeed: batch = tasks.batch("...") finds their batch, failed="resend" sends failed ones again
        >>> found[["day", "state", "weekday"]]
                    day      state    weekday
        row
        0    2013-01-01  succeeded    Tuesday
        1    2013-01-02  succeeded  Wednesday
        2    2013-02-30     failed       <NA>
        >>> def square(x):
        ...     return x * x
        >>> squares = queue.map(square, [1, 2, 3])
        >>> squares["result"].tolist()
        [1, 4, 9]
        >>> def halve(result):
        ...     return {"half": result / 2}
        >>> queue.map(halve, squares[["result"]])["half"].tolist()
        [0.5, 2.0, 4.5]
        """
        mapping.check_choice("stale", stale)
        mapping.check_choice("failed", failed)
        served: dict[str, Any] = {"workers": workers, "processes": processes, "give_up_on": give_up_on}
        handler = mapping.callee(self._connection, fn, options, **served)
        function: Any = getattr(handler, "function", fn)
        rows, options["body"] = mapping.arguments(function, (data, *more), options["body"])
        with mapping.short_interrupts():
            with advise("", failed='failed="resend" sends {} again' if failed == "keep" else ""):
                batch, repeats = mapping.fan_out_once(self.fan_out, rows, {"url": handler, **options})
            found = mapping.finish(batch, stale=stale, failed=failed)
            return found if repeats is None else repeats.spread(found)

    @overload
    def backfill(
        self,
        start: Any,
        end: Any,
        freq: Any,
        url: Any,
        *,
        dry_run: Literal[False] = False,
        **options: Unpack[BackfillKeywords],
    ) -> Batch: ...

    @overload
    def backfill(
        self, start: Any, end: Any, freq: Any, url: Any, *, dry_run: Literal[True], **options: Unpack[BackfillKeywords]
    ) -> Plan: ...

    @takes(BackfillKeywords, tz="UTC", newest_first=False)
    def backfill(
        self, start: Any, end: Any, freq: Any, url: Any, *, dry_run: bool = False, **options: Any
    ) -> Batch | Plan:
        """Create one task for each period of a range; returns when all are stored, and sends in the background.

        The columns are `start`, `end` (where the next period starts), `partition` (a short label) and those of
        `across`. Calls with the same templates, `freq`, `tz` and columns of `across` share one batch: run the cell
        again with a longer range or another value of `across`, and only the new rows are added. The batch that is
        returned answers for the rows of this range: `Batch.whole` has all of them. To send some rows
        again use ``batch.resend(rows)``; to send all again, give a new `name`.

        Parameters
        ----------
        start, end : str, date, datetime or Timestamp
            Both are included, as in `pd.date_range`; a period that is only partly in the range is included whole.
        freq : str or pandas offset
            ``"D"``, ``"h"``, ``"15min"``, ``"W"`` (from Sundays), ``"W-MON"``, ``"MS"``, ``"QS"``, ``"YS"`` or a
            multiple; ``"ME"``, ``"QE"`` and ``"YE"`` mean the same periods as ``"MS"``, ``"QS"`` and ``"YS"``.
        url : str, Handler, callable or UrlFunction
            As for `fan_out`: ``"https://svc/day/{partition}"``, ``"https://svc/{start:%Y}/{start:%j}"``.
        across : mapping of name to values, or DataFrame, optional
            Each period is crossed with each combination of these.
        tz : str or tzinfo
            The time zone of the periods' boundaries, and of times without a zone. ``"{tz}"`` names a column of `across`
            with a zone for each shop; then `start` and `end` are local times of each.
        newest_first : bool
            Create the newest periods first. Cloud Tasks does not guarantee any order.
        dry_run : bool
            Send nothing; return the `Plan`, whose frame has a `verdict` (``send`` or ``skip``) and the reason `why`.
        body, at, delay, headers, method, service_account, audience, dispatch_deadline, retry : optional
            As for `fan_out`; ``body=None`` is the whole row.
        name, errors, send_rate, canary, pause_at, progress : optional
            As for `fan_out`. How many tasks run at once is a setting of the queue: ``queue.update(max_concurrent=8)``.

        Raises
        ------
        InvalidInputError, TemplateError, BatchExistsError, QueueNotFoundError
            Nothing is sent or stored.
        TypeError
            For an unknown argument; the key of a backfill is always `start` with the columns of `across`.

        Examples
        --------
        >>> def load(start, end, partition):
        ...     return f"loaded {partition}"
        >>> handler = ct.serve(load)
        >>> queue.backfill("2013-01-01", "2013-12-31", freq="MS", url=handler).wait()
        12 rows: 12 succeeded
        >>> queue.backfill("2013-01-01", "2014-03-31", freq="MS", url=handler).wait()  # sends the new months only
        batch backfill-... (...) has 12 of these rows already; 3 new ones will be sent
        15 rows: 15 succeeded
        """
        url = mapping.target(self._connection, url, options)
        partitions = partition(start, end, freq=freq, tz=options["tz"])
        backfill = Backfill(self._catalog, self._name, partitions, {"url": url, **options})
        self._connection.check_target(self._name, url, options["service_account"])
        self._connection.check_store(url)
        return backfill.plan() if dry_run else backfill.send()

    def tasks(self, limit: int | None = 1000, *, body: bool = False, secrets: bool = False) -> pd.DataFrame:
        """List the tasks that are in the queue.

        Finished tasks are not in it: Cloud Tasks deletes a task when it has succeeded or has no attempt left.
        `attempts()` shows them.

        Parameters
        ----------
        limit : int or None
            The most rows to return; None for all. One call reads a thousand.
        body : bool
            Add the decoded body of each task (JSON, text or bytes); needs ``cloudtasks.tasks.fullView``.
        secrets : bool
            Show secrets in URLs, headers and bodies instead of dots: what is named ``token``, ``password``,
            ``api_key``, ``signature``, ``Authorization`` and the like.

        Returns
        -------
        pandas.DataFrame
            One row a task, index `task`. ``attrs["fetched_at"]`` is the time of reading as ISO text,
            ``attrs["truncated"]`` is True if there are more. A file that Arrow writes cannot hold bodies of several
            types; ``frame.assign(body=frame["body"].map(json.dumps))`` makes them text.

        Examples
        --------
        >>> task = queue.enqueue("https://svc.example/run", {"day": "2013-01-01"}, delay="1h")
        >>> queue.tasks(body=True)[["url", "body"]]
                                                              url                   body
        task
        ...  https://svc.example/run  {'day': '2013-01-01'}
        """
        return tasks_frame(self._connection, self._catalog, self._name, limit, body=body, secrets=secrets)

    def attempts(
        self,
        since: Any = None,
        limit: int | None = 1000,
        *,
        batch: Any = None,
        task: Any = None,
        status: Any = None,
        secrets: bool = False,
    ) -> pd.DataFrame:
        """Read the newest attempts from the operations log.

        Parameters
        ----------
        since : duration or time, optional
            ``"1h"`` back from now, or a point in time. When left out, the last hour; with `batch` or `task` 30 days.
        limit : int or None
            The most rows to return, newest first; None for all. Each thousand uses one of the 60 reads a minute.
        batch, task : optional
            Only attempts on the tasks of a batch (the batch, its id or its name), or on these tasks (ids or a frame).
        status : str, int or list, optional
            Only attempts that ended with ``"OK"``, ``"INTERNAL"``, 503, ``"5xx"``, or one of a list of these. The log
            has canonical codes only; an HTTP status stands for the code that Cloud Tasks makes of it.
        secrets : bool
            Show secrets in URLs, as `tasks` does.

        Returns
        -------
        pandas.DataFrame
            One row an attempt. `wait` is the time from when it was due until its start. The log has no messages:
            `message` is that of the newest attempt, if it is known. ``attrs["fetched_at"]`` is the time of reading as
            ISO text, ``attrs["truncated"]`` is True if there are more.

        Raises
        ------
        InvalidInputError
            If a filter names no status, or a batch or tasks of another queue.

        Examples
        --------
        >>> batch = queue.fan_out(df, url=handler)
        >>> batch.wait()
        3 rows: 2 succeeded, 1 failed
        >>> queue.attempts(since="10min").groupby("status").size()
        status
        INTERNAL    1
        OK          2
        dtype: int64
        >>> queue.attempts(batch=batch, status="5xx")["message"].item()
        the log has no HTTP statuses: status='5xx' is read as DEADLINE_EXCEEDED, INTERNAL, ...
        'ValueError: day ...'
        """
        filters = (since, limit, batch, task, status)
        return queue_attempts(self._connection, self._catalog, self._name, *filters, secrets=secrets)

    def wait(self, tasks: Any, timeout: Any = None) -> pd.DataFrame:
        """Wait until tasks have left the queue, with a bar, and return what became of each.

        The log, the stored results and the queue tell it, as for the rows of a batch. A task that has left without
        an entry in the log and without a stored result is `gone`. An interrupt stops the waiting, not the tasks.

        Parameters
        ----------
        tasks : DataFrame, Series, Index, list or str
            What `enqueue` or `schedule` returned, another frame with tasks, or task ids. With a frame that has
            `create_time`, nothing counts that an earlier task with the same id has left.
        timeout : duration, optional
            ``"10min"``, a Timedelta or seconds.

        Returns
        -------
        pandas.DataFrame
            The frame with the columns ``state``, ``attempts``, ``last_status``, ``result`` (what a function returned,
            if its handler stores results where this connection reads them) and ``error`` (the last line of its
            traceback, what the queue told of the last attempt, or how the task left). Of a frame of tasks, the other
            columns about attempts are new too, and ``responses`` is not known. Ids make a frame of the first five
            columns with the index `task`. A row without a task has no values.

        Raises
        ------
        BatchTimeoutError
            If it takes longer; the tasks stay in the queue.
        StoreError
            If the store does not answer.

        Notes
        -----
        Results of tasks that are of no batch are not signed: whoever can write to the store can forge them. They stay
        in ``results/tasks`` of the store until somebody deletes that folder.

        Examples
        --------
        >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"})
        >>> queue.wait(task, "1min")[["state", "attempts", "result"]]
                  state  attempts                  result
        task
        ...   succeeded         1  {'weekday': 'Tuesday'}
        """
        return wait_for_tasks(self._connection, self._catalog, self._name, tasks, timeout)

    def pause(self) -> Self:
        """Stop dispatching; tasks are still accepted, and running attempts continue.

        Examples
        --------
        >>> queue.pause()
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> tasks.queues()["state"].item()
        'PAUSED'
        """
        return self._call("PauseQueue")

    def resume(self) -> Self:
        """Dispatch again.

        Examples
        --------
        >>> batch = queue.pause().fan_out(df, url=handler)
        >>> queue.resume()
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> batch.wait()
        3 rows: 2 succeeded, 1 failed
        """
        return self._call("ResumeQueue")

    def purge(self) -> Self:
        """Delete all tasks of the queue; this cannot be undone, and may take the service a minute.

        Examples
        --------
        >>> task = queue.enqueue("https://svc.example/run", delay="1h")
        >>> queue.purge()
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> len(queue.tasks())
        0
        """
        return self._call("PurgeQueue")

    def delete(self) -> Self:
        """Delete the queue with all its tasks; the name cannot be used again for up to 3 days.

        On the emulator ``tasks.clock.advance("3d")`` moves its time past that.

        Examples
        --------
        >>> queue.delete()
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> tasks.queues().index.tolist()
        []
        """
        self._connection.transport.forget_new(self.name)
        self._call("DeleteQueue")
        self._connection.transport.mark_deleted(self.name)
        return self

    @shows_settings
    def update(self, **settings: Unpack[QueueKeywords]) -> Self:
        """Change settings of the queue, also while it dispatches.

        Parameters
        ----------
        rate, max_concurrent, log_sampling_ratio : number, optional
            Dispatches a second, attempts at a time, and the share of attempts that the log has.
        max_attempts, max_retry_duration, min_backoff, max_backoff, max_doublings : optional
            How often and when a task that fails is tried again; durations as ``"10min"``, timedelta or seconds.
        **settings
            There are no others. Those that are not given stay as they are.

        Raises
        ------
        InvalidInputError
            For an unknown setting or a bad value.

        Examples
        --------
        >>> queue.update(rate=5, max_concurrent=2)
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> tasks.queues()[["rate", "max_concurrent"]]
                 rate  max_concurrent
        queue
        reports   5.0               2
        """
        check_settings(self._name, settings)
        if settings:
            self._connection.call("GetQueue", name=self.name)  # UpdateQueue would create a queue that does not exist
            change_settings(self._connection, self._name, settings)
        return self

    def route(self, url: Any = None, *, service_account: str | None = None, audience: str | None = None) -> Self:
        """Send all waiting and new tasks of this queue to another URL, with the token of a service account.

        Sets the queue-level ``http_target`` (https://cloud.google.com/tasks/docs/configuring-queues); without arguments
        removes it.

        Parameters
        ----------
        url : str or Handler, optional
            Parts that it does not have, such as the path or the query, are taken from each task.
        service_account, audience : str, optional
            E-mail of the account whose OIDC token is sent along, and the audience of the token (default: the URL's
            origin; without a URL, that of each task).

        Raises
        ------
        InvalidInputError
            If it is not an http(s) URL, the account is not an e-mail address, or `audience` is given without one.

        Examples
        --------
        >>> queue.route("https://svc.example")
        <Queue projects/local/locations/us-central1/queues/reports>
        >>> tasks.queues()["target"].item()
        'https://svc.example:443/*'
        >>> queue.route()  # tasks go to their own URLs again
        <Queue projects/local/locations/us-central1/queues/reports>
        """
        account, audience = check_token({"url": url, "service_account": service_account, "audience": audience})
        change_route(self._connection, self._name, url, service_account=account, audience=audience)
        return self

    def run(self, df: Any) -> pd.DataFrame:
        """Dispatch tasks now, regardless of the limits of the queue and also while it is paused.

        Parameters
        ----------
        df : DataFrame, Series, Index, list or str
            A frame with tasks, or task ids. Google allows 60 a minute.

        Returns
        -------
        pandas.DataFrame
            One row a task: `task, ok, error`; a failure does not stop the others.

        Examples
        --------
        >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1h")
        >>> queue.run(task)[["ok", "error"]]
             ok error
        0  True  <NA>
        """
        return run_tasks(self._connection, self._name, df)

    def delete_tasks(self, df: Any) -> pd.DataFrame:
        """Delete tasks that have not finished.

        Parameters
        ----------
        df : DataFrame, Series, Index, list or str
            A frame with tasks, or task ids.

        Returns
        -------
        pandas.DataFrame
            One row a task: `task, ok, error`; a failure does not stop the others.

        Examples
        --------
        >>> task = queue.enqueue(handler, {"day": "2013-01-01", "origin": "JFK"}, delay="1h")
        >>> queue.delete_tasks(task)[["ok", "error"]]
             ok error
        0  True  <NA>
        >>> len(queue.tasks())
        0
        """
        return delete_tasks(self._connection, self._name, df)

    def panel(self, *, read_only: bool = False, tz: Any = None) -> Any:
        """Return a live widget with the queue, its tasks and their attempts.

        Parameters
        ----------
        read_only : bool
        tz : str, optional
            As for `Client.panel`.

        Returns
        -------
        cloudtasks_nb.panels.Dashboard

        Examples
        --------
        >>> queue.panel()
        <Dashboard Queue reports [LOCAL]>
        """
        from cloudtasks_nb import panels  # noqa: PLC0415 - ipywidgets is loaded with the first panel

        context = panels.PanelContext.of_queue(
            self._name,
            connection=self._connection,
            catalog=self._catalog,
            open_queue=lambda name: Queue(self._connection, self._catalog, name),
            read_only=read_only,
            tz=tz,
        )
        return panels.Dashboard(context, only=self._name)

    def _call(self, rpc: str) -> Self:
        self._connection.call(rpc, name=self.name)
        self._connection.watcher.refresh(self._name)
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f'a Queue belongs to its process: hand on the id, tasks.queue("{self.id}") is the queue there')

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return queue_card(self._connection, self._catalog, self._name)
