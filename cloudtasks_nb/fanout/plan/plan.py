"""The plan of a dry run: counts, sizes, time and price, and the tasks themselves as a frame."""

from __future__ import annotations

import datetime as dt
import html
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._frames import column
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import near_names, wrong_argument
from cloudtasks_nb.display.card import html_card, next_html, table_html
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import escape_controls, mask_text, mask_value
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.recipe import Recipe
from cloudtasks_nb.fanout.plan.render import Chunk, Forecast, plan_chunks, plan_row, read_task
from cloudtasks_nb.fanout.plan.simulation import Simulation, simulate
from cloudtasks_nb.service.convert import default_audience
from cloudtasks_nb.service.costs import PRICING, Item, estimate, log_bytes, operations

__all__ = ["Plan", "Sizes", "Trial", "make_plan"]

_SHOWN = 3  # rendered tasks in the repr
_HOSTS = 5  # that the repr names
#: Host and port of a URL. A backslash ends the host for some readers of URLs, not for others: then it is all of it.
_HOST = re.compile(r"https?://(?:[^/?#\\]*@)?([^/?#]*)")
_LONGEST = 1_000  # characters of a body or a result in the repr of a trial
_KEPT = 1_000  # rows that a plan shows of an input that is read in parts
_ON_TOP = f"retries and the time of the service come on top ({PRICING})"
_DEADLINE = dt.timedelta(minutes=10)  # of a task without one
_TO_SEND = ("new", "unsent")  # states of rows that the same cell, run again, sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of the bodies of all tasks."""

    min: int
    median: int
    max: int
    total: int

    def __str__(self) -> str:
        return f"{_bytes(self.median)} median, {_bytes(self.min)} to {_bytes(self.max)}, {_bytes(self.total)} in all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a target answered to one row's request, which was sent without a task; made by `Plan.try_one`."""

    status: int | None  #: HTTP status; None: there was no answer
    result: Any = None  #: what the target returned, decoded from JSON
    error: str | None = None  #: the traceback of a function of this process, else what the target answered
    duration: float | None = None  #: seconds; None: the function was not called
    request: str = field(default="", repr=False)  #: the request in a line
    note: str = field(default="", repr=False)  #: in which way it was not like a task's

    @property
    def ok(self) -> bool:
        """Whether a row with this answer would succeed."""
        return self.error is None and (self.status or 500) < 300  # noqa: PLR2004 - Cloud Tasks counts 2xx as success

    def __repr__(self) -> str:
        after = "" if self.duration is None else f" after {duration_text(self.duration)}"
        head = f"{'no answer' if self.status is None else self.status}{after}"
        request = mask_text(self.request)[:_LONGEST]
        lines = [request, f"{head}: {mask_value(self.result)!r}"[:_LONGEST] if self.ok else head]
        if self.error is not None:
            lines.append(mask_text(self.error).rstrip())
        return escape_controls("\n".join([*lines, self.note] if self.note else lines))


@near_names
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A fan-out that has been rendered and checked, of which nothing has been sent.

    Examples
    --------
    >>> plan = queue.fan_out(df, url=handler, dry_run=True)
    >>> plan.rows, plan.sendable, plan.duplicates
    (3, 3, 0)
    >>> plan.frame["body"].iloc[0]
    '{"day":"2013-01-01","origin":"JFK"}'
    """

    frame: pd.DataFrame  #: a row a task: `url, body, schedule_time, task, problem`, and `verdict, why` of a backfill
    rows: int  #: rows of the input
    rejected: int  #: rows that cannot become tasks
    duplicates: int  #: rows with the key of an earlier row
    sendable: int  #: tasks that are left to create
    body_bytes: Sizes
    costs: Sequence[Item]  #: of creating and delivering each task once, and of knowing what became of it
    queue: str
    method: str
    errors: str  #: what `submit` does with bad rows and duplicates: "raise" or "skip"
    rate: float | None  #: dispatches a second that the queue allows; None: not known
    max_concurrent: int | None
    spent: bool  #: the input was an iterator, and is read
    action: Callable[[], Any]
    attempt: Callable[[int], Trial]
    simulation: Callable[[Any, float], Simulation] | None  #: does `simulate`; None: the queue's settings are not known
    about: Mapping[str, str] = field(default_factory=dict)  #: further facts about the plan, by name
    refusal: str = ""  #: what `submit` would raise, whatever `errors` is, as batches have some of the rows
    first_rejected: str = ""  #: the first row that cannot become a task, and why
    hosts: tuple[str, ...] = ()  #: hosts that the tasks call, with ports, in the order of the data
    halted: str = ""  #: the queue's state, if it dispatches nothing in it: "paused"

    def submit(self) -> Any:
        """Send it: render again, spool and start, as `fan_out` without ``dry_run`` does; return the Batch.

        Raises
        ------
        InvalidInputError
            If the input was an iterator: the dry run has read it.

        Examples
        --------
        >>> plan.submit().wait()
        3 rows: 2 succeeded, 1 failed
        """
        self._check_unread("call fan_out with a new iterator and without dry_run=True")
        return self.action()

    def try_one(self, row: int = 0) -> Trial:
        """Send the request of one row to its target, without a task, and show the answer.

        The target is really called, with the row's body, headers and method, be it a function of this kernel or a
        service elsewhere. No task is created, nothing is retried, and no result is stored. The token that Cloud Tasks
        adds for `service_account` is missing.

        Parameters
        ----------
        row : int
            Position of the row in the input.

        Returns
        -------
        Trial
            With `status`, `result`, `error` (of a function of this kernel, the traceback) and `duration` in seconds.

        Raises
        ------
        InvalidInputError
            If there is no such row, or it cannot become a task, or the input was an iterator.

        Examples
        --------
        >>> def double(x):
        ...     return 2 * x
        >>> plan = queue.fan_out(pd.DataFrame({"x": [1, 2]}), url=ct.serve(double), dry_run=True)
        >>> plan.try_one(row=1).result
        4
        """
        self._check_unread("plan a few rows in a DataFrame: queue.fan_out(df, ..., dry_run=True).try_one()")
        if not isinstance(row, (int, np.integer)) or isinstance(row, bool) or row < 0:
            raise wrong_argument("row", row, "is not the position of a row", "the first is plan.try_one(row=0)")
        return self.attempt(int(row))

    def simulate(self, duration: Any = "2s", failures: float = 0.05) -> Simulation:
        """Compute when this plan would end on its queue, and what limits it.

        Nothing is sent or drawn. The end follows from the settings of the queue when the plan was made, its rate and
        burst, `max_concurrent` and the retries of its tasks; the rows are created and due as planned, and `send_rate`
        holds. In the tests of this package the emulator takes as long, within 10 %.

        The queue is empty at the start and goes on at once if it is paused. Left out is what nobody can know: how the
        service slows down a queue that was idle or whose target answers 429 or 503, and what the brakes of `fan_out`
        hold back.

        Parameters
        ----------
        duration : duration
            How long an attempt takes: ``"2s"``, a Timedelta or seconds. One that takes longer than the task's deadline
            fails at it.
        failures : float
            Share of the attempts that fail.

        Returns
        -------
        Simulation

        Raises
        ------
        InvalidInputError
            If an argument cannot be used, or the queue's settings are not known.

        Examples
        --------
        >>> pages = pd.DataFrame({"page": range(1_000)})
        >>> slow = tasks.queue("slow", create=True, rate=100, max_concurrent=8)
        made queue slow with ...
        >>> plan = slow.fan_out(pages, url="https://svc", dry_run=True)
        >>> plan.simulate("2s", failures=0)
        ends after about 4 min 10 s (limit: max_concurrent)
        """
        if self.simulation is None:
            hint = "it needs an account that may read the queue: roles/cloudtasks.viewer"
            raise InvalidInputError(f"the settings of queue {self.queue} are not known", resource="queue", hint=hint)
        return self.simulation(duration, failures)

    def _check_unread(self, hint: str) -> None:
        if self.spent:
            raise InvalidInputError("the dry run has read the iterator to its end", hint=hint)

    @property
    def time_to_drain(self) -> pd.Timedelta | None:
        """The least time that the queue's rate needs for all tasks; None if the rate is not known.

        How long the target takes for a task, and so how far `max_concurrent` slows this down, is not known.

        Examples
        --------
        >>> plan.time_to_drain  # three tasks at 500 a second
        Timedelta('0 days 00:00:00.006000')
        """
        return pd.Timedelta(seconds=self.sendable / self.rate) if self.rate else None

    @property
    def price(self) -> float:
        """Estimate in US dollars: the sum of `prices`; 0 on an emulator, where nothing has a price.

        Examples
        --------
        >>> plan.price
        0.0
        """
        return sum(self.prices.values(), 0.0)

    @property
    def prices(self) -> dict[str, float]:
        """The parts of the price in US dollars, by name and in this order; a part that does not occur is left out.

        ``operations``
            Of Cloud Tasks: a call for one task and a delivery are one each, for each 32 KB of the task; a million a
            month are free (https://cloud.google.com/tasks/pricing).
        ``queue log``
            Three entries a task, as large as measured on the emulator's log, at the queue's ``log_sampling_ratio``; 50
            GiB of all logs a month are free (https://cloud.google.com/stackdriver/pricing).
        ``writing results``
            If the connection's store is in ``gs://``: an object for the results of 8 calls, which is as many as a
            service of `ct.deploy` answers at once (https://cloud.google.com/storage/pricing, class A). Fewer calls
            share one where they last longer than a write, so the price may be up to 8 times as high.
        ``reading results``
            Once, by listing and reading these objects (class B). What was read is kept.

        What else the project uses in the month comes on top: retries, the time of the service and its log of requests,
        tasks that are listed, and one call a second while a batch is watched.

        Examples
        --------
        >>> plan.prices
        {}
        """
        return {name: price for name, price, _ in self.costs}

    @property
    def cost(self) -> str:
        """The estimate in words; empty on an emulator.

        Examples
        --------
        >>> plan.cost
        ''
        """
        parts = ", ".join(f"{name} ${price:,.2f}" for name, price in self.prices.items())
        return f"about ${self.price:,.2f}: {parts}; {_ON_TOP}" if parts else ""

    def facts(self) -> dict[str, str]:
        """Return the facts about the plan, by name.

        Examples
        --------
        >>> plan.facts()["tasks"]
        '3'
        """
        found = {**self.about, "rows": f"{self.rows:,}", "tasks": f"{self.sendable:,}"}
        if self.rejected:
            found["rejected"] = f"{self.rejected:,} ({mask_text(self.first_rejected)})"
        if self.duplicates:
            found["duplicates"] = f"{self.duplicates:,} with the key of an earlier row"
        found["bodies"] = str(self.body_bytes)
        found["time to drain"] = self._drain()
        lines = {name: f"${price:,.2f}: {why}" for name, price, why in self.costs}
        return {**found, "price": f"about ${self.price:,.2f}: {_ON_TOP}", **lines} if lines else found

    def _drain(self) -> str:
        least = self.time_to_drain
        if least is None:
            return "not known: the queue's rate is not"
        at_once = "" if self.max_concurrent is None else f", at most {self.max_concurrent:,} at once"
        later = f"the queue is {self.halted} and dispatches nothing: queue.resume(); then " if self.halted else ""
        span = duration_text(least.total_seconds())
        return f'{later}{span} at {self.rate:g} a second{at_once}; longer if the target is slower: plan.simulate("2s")'

    @property
    def _next(self) -> str:
        if self.spent:
            return "to send it: fan_out with a new iterator and without dry_run=True"
        why = []
        if self.rejected and self.errors == "raise":
            why.append('errors="skip" leaves them out')
        if self.duplicates and self.errors == "raise":
            why.append('for duplicates: key=[…], key=ct.ROW or errors="skip"')
        if self.refusal:
            why.append(mask_text(self.refusal))
        return f"plan.submit() would raise: {'; '.join(why)}" if why else "plan.submit()"

    def _examples(self) -> list[str]:
        sent = self.frame["problem"].isna()
        if "verdict" in self.frame:
            sent &= self.frame["verdict"] == "send"
        good = self.frame[sent].head(_SHOWN)
        lines = []
        for url, body, due in zip(good["url"], good["body"], good["schedule_time"], strict=True):
            when = "" if pd.isna(due) else f" at {due.isoformat()}"
            line = mask_text(f"{self.method} {url}{when} {'' if pd.isna(body) else body}")
            lines.append(line[:300].rstrip())
        return lines

    def __repr__(self) -> str:
        facts, examples = self.facts(), self._examples()
        width = max(map(len, facts))
        shown = [*facts.items(), *zip(("first tasks", *[""] * _SHOWN), examples, strict=False)]
        lines = [f"  {name:<{width}}  {text}" for name, text in shown]
        head = f"Plan for queue {self.queue} (nothing was sent)"
        return escape_controls("\n".join([head, *lines, f"→ {self._next}"]))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's
        facts = [(f"<b>{html.escape(name)}</b>", html.escape(text)) for name, text in self.facts().items()]
        tasks = "".join(f"<li><code>{html.escape(line)}</code></li>" for line in self._examples())
        parts = (table_html((), facts), f"First tasks:<ol>{tasks}</ol>", next_html(self._next))
        shown = html_card(f"Plan for queue {self.queue}", *parts, badge="nothing was sent")
        return {"text/plain": repr(self), "text/html": shown}


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1_000:  # noqa: PLR2004 - decimal units
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:,.0f} B"
        size /= 1_000
    return f"{size:,.1f} GB"


class _Summary:
    """Counts the rows of a dry run, and keeps the first ones; `limit` is how many, None for all."""

    def __init__(self, limit: int | None, *, leads: bool) -> None:
        self._limit = limit
        self._leads = leads  # whether the data decides the hosts
        self.hosts: dict[str, str] = {}  #: host -> the first URL of a valid row with it
        self._sizes = array("q")
        self._dues = array("q")
        self._operations = self._targets = 0  # of valid rows; characters of URLs
        self._kept: list[tuple[str | None, bytes, int | None]] = []
        self.keys: list[bytes] = []  #: of the kept rows
        self.rows = self.rejected = 0
        self.first_rejected = ""

    def add(self, chunk: Chunk) -> None:
        """Count the rows of a chunk."""
        for index, (row, key, task) in enumerate(zip(chunk.rows, chunk.keys, chunk.tasks, strict=True)):
            problem = chunk.rejected.get(index)
            url, body, due = read_task(task)
            if problem is None:
                self._sizes.append(len(body))
                self._dues.append(due or 0)
                self._operations += operations(len(task))
                self._targets += len(url)
                if (self._leads or not self.hosts) and (host := _HOST.match(url)):
                    self.hosts.setdefault(host[1].lower(), url)
            else:
                self.first_rejected = self.first_rejected or f"row {row}: {problem}"
            if self._limit is None or len(self._kept) < self._limit:
                self._kept.append((None if problem else url, body, due))
                self.keys.append(key)
        self.rows += len(chunk.rows)
        self.rejected += len(chunk.rejected)

    def sizes(self) -> Sizes:
        """Return the sizes of the bodies of valid rows."""
        sizes = np.frombuffer(self._sizes or array("q", [0]), dtype=np.int64)
        return Sizes(min=int(sizes.min()), median=int(np.median(sizes)), max=int(sizes.max()), total=int(sizes.sum()))

    def costs(self, sendable: int, queue: QueueName, method: str, *, log_ratio: float, stored: bool) -> list[Item]:
        """Return what `sendable` tasks cost that are, on average, as all valid rows are."""
        valid = max(len(self._sizes), 1)
        used = round(sendable / valid * self._operations)
        logged = sendable * log_ratio * log_bytes(queue, len(method) + 1 + round(self._targets / valid))
        return list(estimate(used, logged, log_ratio, sendable if stored else 0))

    def calls(self, recipe: Recipe) -> str:
        """Return whom the tasks call, and with whose tokens; empty if the URL of the first task says it all."""
        account, audience = recipe.service_account, recipe.audience
        if not self.hosts or not (account or self._leads):
            return ""
        names = ", ".join([*self.hosts][:_HOSTS] + ["…"] * (len(self.hosts) > _HOSTS))
        hosts = f"{counted(len(self.hosts), 'hosts')}: {names}"
        own = default_audience(next(iter(self.hosts.values())))
        if recipe.url.columns == () or (not self._leads and own.count("/") == 2):  # noqa: PLR2004 - without a path
            audience = audience or own  # that of all tasks
        given = f" for the audience {audience}" if audience else ", each for its own URL"
        return f"{hosts}; with tokens of {account}{given}" if account else hosts

    def simulation(
        self, settings: Mapping[str, Any], deadline: dt.timedelta, sendable: int, now: dt.datetime, rate: float | None
    ) -> Callable[[Any, float], Simulation]:
        """Return what simulates the sending of `sendable` tasks, `rate` of them a second; None: at once.

        Which rows are to be sent is known of the first rows only: those of a part are evenly spread over all.
        """
        dues = np.frombuffer(self._dues or array("q", [0]), dtype=np.int64)  # a plan does not keep the rest of it

        def run(duration: Any, failures: float) -> Simulation:
            chosen = dues[np.linspace(0, len(dues) - 1, sendable).astype(np.int64)]
            created = np.arange(sendable) / (rate or math.inf)
            arrivals, seconds = np.sort(np.maximum(chosen / 1e6 - now.timestamp(), created)), deadline.total_seconds()
            return simulate(settings, deadline=seconds, arrivals=arrivals, duration=duration, failures=failures)

        return run

    def frame(self, forecast: Forecast, *, verdicts: bool) -> pd.DataFrame:
        """Return the kept rows."""
        problems = [forecast.problems.get(row) for row in range(len(self._kept))]
        tasks = [None if bad else task for task, bad in zip(forecast.tasks, problems, strict=True)]
        frame = pd.DataFrame(
            {
                "url": column([url for url, _, _ in self._kept], "text"),
                "body": column([body.decode() or None for _, body, _ in self._kept], "text"),
                "schedule_time": column([due for _, _, due in self._kept], "time"),
                "task": column(tasks, "text"),
                "problem": column(problems, "text"),
            },
            index=pd.RangeIndex(len(self._kept), name="row").astype("int64"),
        )
        if verdicts:
            why = ["problem" if bad else state for state, bad in zip(forecast.states, problems, strict=True)]
            frame["verdict"] = column(["send" if state in _TO_SEND else "skip" for state in why], "text")
            frame["why"] = column(why, "text")
        frame.attrs["truncated"] = len(frame) < self.rows
        return frame


def _row_task(data: Any, recipe: Recipe, row: int, now: dt.datetime) -> Any:
    task = plan_row(data, recipe, row, now=now)
    if isinstance(task, str):
        raise InvalidInputError(
            f"row {row:,} cannot become a task: {task}", resource="row", hint="plan.frame has the problem of each row"
        )
    return task


def _refusal(check: Callable[[int], None], tasks: int) -> str:
    try:
        check(tasks)
    except InvalidInputError as error:
        return f"{error.message}: {error.hint}"
    return ""


def make_plan(  # noqa: PLR0913 - facts about the queue, keyword-only
    data: Any,
    recipe: Recipe,
    *,
    add: Callable[[Chunk], object],
    forecast: Callable[[Sequence[bytes]], Forecast],
    now: dt.datetime,
    queue: QueueName,
    limits: Mapping[str, Any],
    submit: Callable[[], Any],
    send: Callable[[Any], Trial],
    errors: str = "raise",
    send_rate: float | None = None,
    check: Callable[[int], None] = lambda _tasks: None,
    priced: bool = True,
    stored: bool = False,
    verdicts: bool = False,
    on_progress: Callable[[int], object] = lambda _: None,
    on_note: Callable[[str], object] = lambda _: None,
) -> Plan:
    """Render the whole input as `plan_chunks` does, find out what sending it would do, send nothing.

    Parameters
    ----------
    data, recipe, now, on_progress, on_note
        As for `plan_chunks`. Bad rows never raise here: they are what a dry run is to show.
    add, forecast : callable
        Take each chunk, and return what spooling all of them would do, by the keys of the first rows.
    queue : QueueName
        The queue that the tasks would be created in.
    limits : mapping
        The queue's settings and its state; empty if they are not known.
    submit : callable
        Does it for real; `Plan.submit` returns what it returns.
    send : callable
        Called with the raw Task of a row; sends its request without creating the task.
    errors : {"raise", "skip"}
        What `submit` will do with bad rows and duplicates.
    send_rate : float, optional
        Tasks created a second; when left out, as many as the queue takes.
    check : callable
        Raises what `submit` would raise for so many tasks.
    priced : bool
        Whether tasks have a price, which those of an emulator have not.
    stored : bool
        Whether their results are stored in a bucket of Cloud Storage.
    verdicts : bool
        Whether the frame has the columns `verdict` ("send" or "skip") and `why`.
    """
    summary = _Summary(None if isinstance(data, pd.DataFrame) else _KEPT, leads=recipe.url.leads)
    for chunk in plan_chunks(data, recipe, now=now, errors="skip", on_progress=on_progress, on_note=on_note):
        add(chunk)
        summary.add(chunk)
    found = forecast(summary.keys)
    log_ratio, state = limits.get("log_sampling_ratio", 1.0), limits.get("state", "RUNNING")
    costs = summary.costs(found.sendable, queue, recipe.method, log_ratio=log_ratio, stored=stored)
    settings, deadline = {**limits, **(recipe.retry or {})}, recipe.dispatch_deadline or _DEADLINE
    about = {"calls": summary.calls(recipe), "known": ", ".join(f"{n:,} {where}" for where, n in found.known.items())}
    return Plan(
        about={name: text for name, text in about.items() if text},
        frame=summary.frame(found, verdicts=verdicts),
        rows=summary.rows,
        rejected=summary.rejected,
        first_rejected=summary.first_rejected,
        duplicates=found.duplicates,
        sendable=found.sendable,
        refusal=found.refusal or _refusal(check, found.sendable),
        hosts=tuple(summary.hosts),
        body_bytes=summary.sizes(),
        costs=costs if priced else (),
        queue=queue.queue,
        method=recipe.method,
        action=submit,
        attempt=lambda row: send(_row_task(data, recipe, row, now)),
        simulation=summary.simulation(settings, deadline, found.sendable, now, send_rate) if limits else None,
        spent=isinstance(data, Iterator),
        errors=errors,
        rate=limits.get("rate"),
        max_concurrent=limits.get("max_concurrent"),
        halted="" if state == "RUNNING" else state.lower(),
    )
