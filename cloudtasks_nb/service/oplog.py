"""Read the operations log, into which Cloud Tasks writes the attempts and deletions of tasks.

Field names: https://cloud.google.com/tasks/docs/logging. A queue writes to it only with a ``log_sampling_ratio`` above
0. Payloads, response bodies and error messages are never in it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from cloudtasks_nb._names import QueueName, TaskName, log_name
from cloudtasks_nb.errors import CloudTasksError, QuotaError, UnavailableError
from cloudtasks_nb.service.convert import micros
from cloudtasks_nb.service.quota import CallBudget
from cloudtasks_nb.service.retries import backoff
from cloudtasks_nb.service.transport import Transport

__all__ = [
    "NAMES",
    "OVERLOADED",
    "PAGE",
    "RETENTION",
    "Entry",
    "LogReader",
    "Wanted",
    "entries_in",
    "page",
    "pages",
    "read",
]

T = TypeVar("T")

#: Entries a page; a page is one read of the quota of 60 a minute (https://cloud.google.com/logging/quotas).
PAGE = 1000

#: About as many tasks of a batch as one filter can name.
NAMES = 100

#: Errors after which the same read may succeed later.
OVERLOADED = (QuotaError, UnavailableError)

_FILTER = 18_000  # characters of names in one filter, which may have 20,000: https://cloud.google.com/logging/quotas
_DELETIONS = ("taskDeletionLog", "taskDeleteLog")
_SECOND = 1_000_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: Microseconds for which the log keeps its entries: https://cloud.google.com/logging/quotas
RETENTION = 30 * 86_400 * _SECOND

_LATENESS = 600 * _SECOND  # longest delay with which an entry may arrive in the log
_SKEW = 300 * _SECOND  # by which what we take for the service's time may be ahead: it may not say it
_MOST = 20_000  # entries that are kept in memory before they are delivered; the next look goes on behind them
_TIMEOUT = 60.0  # seconds for a read, as Google's own client allows
_READ_TRIES = 8  # of a page again, while others have used up the quota
_OVERLAP = 2 * _SECOND  # largest difference between arrivals whose order in the index may be reversed
_IMMEDIATE_OVERLAP = _SECOND // 10  # the same where each entry can be read at once: more would be read twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A log entry about a task: an attempt that has ended, or a deletion."""

    insert_id: str  #: unique in the log; the same entry may be delivered twice
    time: int  #: microseconds since 1970
    received: int  #: when the log received it, microseconds since 1970
    task: str  #: short id
    queue: str  #: short id
    deleted: bool  #: the entry is about the deletion of the task
    attempt: int  #: number of the dispatch, from 1; 0 for a deletion
    status: str  #: canonical code name; "": the entry does not have it, so it is not known how the attempt ended
    duration: float | None  #: seconds
    retry_time: int | None  #: when the next attempt is due, microseconds since 1970
    max_attempts: int  #: of the queue; 0 if the entry does not have it
    url: str
    due: int | None = None  #: for when the attempt was scheduled, microseconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which entries about the tasks of a queue are read: attempts and deletions, if nothing else is said."""

    since: int  #: microseconds since 1970
    until: int | None = None  #: only those before this time
    received_from: int | None = None  #: only those that the log received since then
    batch: str | None = None  #: without `tasks` only those on tasks that name this batch
    tasks: Collection[str] | None = None  #: only those on the tasks with these ids
    statuses: Sequence[str] = ()  #: only attempts that ended with one of these canonical codes
    every_kind: bool = False  #: creations and dispatches too

    def filters(self, queue: QueueName) -> Iterator[str]:
        """Yield the filters for the entries of a queue: several if the names of the tasks do not fit into one.

        Tasks are asked for by their full names, which are compared faster than parts of them.
        """
        parts = [
            'resource.type="cloud_tasks_queue"',
            f'resource.labels.queue_id="{queue.queue}"',
            f'resource.labels.location="{queue.location}"',
            f'logName="{log_name(queue.project)}"',
        ]
        if self.statuses:
            parts.append(f"jsonPayload.attemptResponseLog.status=({_any_of(self.statuses)})")
        elif not self.every_kind:
            parts.append("(jsonPayload.attemptResponseLog:* OR jsonPayload.taskDeletionLog:*)")
        parts.append(f'timestamp>="{_iso(self.since)}"')
        if self.until is not None:
            parts.append(f'timestamp<"{_iso(self.until)}"')
        if self.received_from is not None:
            parts.append(f'receiveTimestamp>="{_iso(self.received_from)}"')
        if self.tasks is None:
            yield " AND ".join([*parts, f'jsonPayload.task:"-{self.batch}-"'] if self.batch else parts)
        for names in _lists(str(TaskName(queue=queue, task=task)) for task in self.tasks or ()):
            yield " AND ".join([*parts, f"jsonPayload.task=({_any_of(names)})"])


def _lists(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield names in lists that fit into a filter."""
    part, length = list[str](), 0
    for name in names:
        if part and length + len(name) > _FILTER:
            yield part
            part, length = [], 0
        part.append(name)
        length += len(name) + len('"" OR ')
    if part:
        yield part


async def page(
    transport: Transport, queue: QueueName, filter_: str, token: str, *, newest_first: bool = False, size: int = PAGE
) -> Any:
    """Return one page of the log as its raw answer; the token of the first page is empty."""
    return await transport.call(
        "ListLogEntries",
        resource_name=log_name(queue.project),
        timeout=_TIMEOUT,
        resource_names=[f"projects/{queue.project}"],
        filter=filter_,
        order_by="timestamp desc" if newest_first else "timestamp asc",
        page_size=size,
        page_token=token,
    )


def entries_in(answer: Any) -> list[Entry]:
    """Return the attempts and deletions on a page of the log."""
    return [entry for entry in map(_entry, answer.entries) if entry is not None]


async def pages(
    transport: Transport, queue: QueueName, filter_: str, budget: CallBudget | None = None, **options: Any
) -> AsyncGenerator[Any, None]:
    """Yield the pages of what matches a filter as raw answers, oldest entries first.

    Parameters
    ----------
    budget : CallBudget, optional
        Each page takes one of its calls, and is asked for again while others have used up the quota.
    options
        `newest_first` and `size`, as for `page`.

    Raises
    ------
    CloudTasksError
        If the log cannot be read.
    """
    token, caller = "", object()
    pauses = islice(backoff(1.0, 30.0), _READ_TRIES)
    while True:
        if budget is not None:
            await budget.turn(caller)
        try:
            answer = await page(transport, queue, filter_, token, **options)
        except QuotaError:
            if budget is None or (pause := next(pauses, None)) is None:
                raise
            await budget.sleep(pause)
            continue
        yield answer
        pauses = islice(backoff(1.0, 30.0), _READ_TRIES)
        token = str(answer.next_page_token)  # a page without entries may have one: not everything was searched
        if not token:
            return


async def read(
    transport: Transport,
    queue: QueueName,
    wanted: Wanted,
    limit: int | None,
    keep: Callable[[list[Entry]], list[Entry]] = list,
) -> list[Entry]:
    """Return the newest `limit` of the attempts of a queue that are wanted, newest first; None: all.

    `keep` returns those of some attempts that are wanted besides.
    """
    found: list[Entry] = []
    size = PAGE if limit is None else min(PAGE, limit)
    for filter_ in wanted.filters(queue):
        newest: list[Entry] = []
        async with aclosing(pages(transport, queue, filter_, newest_first=True, size=size)) as answers:
            async for answer in answers:
                newest += keep([entry for entry in entries_in(answer) if not entry.deleted])
                if limit is not None and len(newest) >= limit:
                    break
        found += newest[:limit]
    return sorted(found, key=lambda entry: -entry.time)[:limit]


class LogReader:
    """Reads the log of one queue forward and returns each entry once.

    It reads in passes. A pass is one query over all its pages; it may take several reads if the quota is short.

    Parameters
    ----------
    since : int
        Microseconds since 1970. Earlier entries are left out.
    """

    def __init__(self, since: int) -> None:
        self.since = since
        self.lag: int | None = None  #: longest delay until an entry arrived, microseconds
        self.until: int | None = None  #: start of the last complete pass, microseconds since 1970
        self.error: CloudTasksError | None = None  #: the error of the last read; None if it succeeded
        self._cursor: int | None = None  # entries that the log received before this were returned
        self._received = self._newest = since
        self._seen: dict[str, int] = {}  # id of an entry -> when the log received it
        self._filter: str | None = None  # of the pass in progress
        self._token = ""
        self._started = 0

    async def read(
        self, transport: Transport, queue: QueueName, budget: CallBudget, *, now: int, immediate: bool = False
    ) -> list[Entry]:
        """Return new entries: as many as the budget of reads and the memory allow. After a failure, `error` is set.

        `now` is the time of the service in microseconds since 1970; `immediate`: it logs at once, in order.
        """
        fresh: list[Entry] = []
        if self._filter is None:
            self._started = now
            if now < self.since:  # the clock was set back: `since` lies in the future
                self.since = self._received = self._newest = now - _LATENESS
                self._cursor = None
            overlap = _IMMEDIATE_OVERLAP if immediate else _OVERLAP
            received = None if self._cursor is None else self._cursor - overlap
            (self._filter,) = Wanted(since=self._newest - _LATENESS, received_from=received).filters(queue)
        while self._filter is not None and len(fresh) < _MOST and budget.take(queue):
            try:
                answer = await page(transport, queue, self._filter, self._token)
            except CloudTasksError as error:
                if not isinstance(error, OVERLOADED):
                    self._token = ""  # the token may have expired: start the pass again; duplicates are recognised
                self.error = error
                break
            self.error = None
            fresh += self._add(entries_in(answer))
            if not answer.next_page_token:
                self._finish(one_page=not self._token)
            self._token = answer.next_page_token
        return fresh

    def unread_since(self) -> int:
        """Return the time (microseconds since 1970) before which all entries have been returned."""
        return self.since if self.until is None else max(self.since, self.until - _LATENESS - _SKEW)

    def _finish(self, *, one_page: bool) -> None:
        """End a pass. If it had several pages, entries that arrived meanwhile may have been missed: read them again."""
        self._filter = None
        self.until = self._started
        self._cursor = self._received if one_page else min(self._received, self._started)
        horizon = self._cursor - 30 * _OVERLAP
        self._seen = {name: received for name, received in self._seen.items() if received >= horizon}

    def _add(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries that were not seen before."""
        fresh = []
        for entry in entries:
            self._received = max(self._received, entry.received)
            if entry.insert_id in self._seen or entry.time < self.since:
                continue
            self._seen[entry.insert_id] = entry.received
            self._newest = max(self._newest, entry.time)
            self.lag = max(self.lag or 0, entry.received - entry.time)
            fresh.append(entry)
        return fresh


def _any_of(texts: Sequence[str]) -> str:
    return " OR ".join(f'"{text}"' for text in texts)


def _iso(at: int) -> str:
    return (_EPOCH + dt.timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def _entry(message: Any) -> Entry | None:
    """Convert a raw LogEntry; None if it is about neither an attempt nor a deletion."""
    payload = message.json_payload.fields
    kind = next((kind for kind in ("attemptResponseLog", *_DELETIONS) if kind in payload), None)
    if kind is None:
        return None
    facts, deleted = payload[kind].struct_value.fields, kind in _DELETIONS
    name = payload["task"].string_value
    head, _, task = name.rpartition("/tasks/")
    return Entry(
        insert_id=message.insert_id,
        time=micros(message.timestamp),
        received=micros(message.receive_timestamp),
        task=task,
        queue=head.rpartition("/")[2],
        deleted=deleted,
        attempt=0 if deleted else _count(facts, "dispatchCount"),
        status=facts["status"].string_value,
        duration=_known(lambda text: float(text.removesuffix("s")), facts["attemptDuration"].string_value),
        retry_time=_known(_time, facts["retryTime"].string_value),
        max_attempts=_count(facts, "maxAttempts"),
        url=facts["targetAddress"].string_value.partition(" ")[2],
        due=_known(_time, facts["scheduleTime"].string_value),
    )


def _count(facts: Any, name: str) -> int:
    """Return a count: text, as JSON has integers of 64 bits, or a number; 0 if the entry does not have it."""
    value = facts[name]
    return int(value.string_value) if value.string_value.isdecimal() else int(value.number_value)


def _known(parse: Callable[[str], T], text: str) -> T | None:
    """Return what a text says; None if it has another form, or the entry does not have it."""
    try:
        return parse(text)
    except ValueError:
        return None


def _time(text: str) -> int:
    return (dt.datetime.fromisoformat(text) - _EPOCH) // dt.timedelta(microseconds=1)
