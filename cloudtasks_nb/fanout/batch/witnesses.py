"""The witnesses of what becomes of a batch's tasks: the operations log, the stored results, and the queue.

A further one is a class with `read`, an item of the list that `Witnesses.of` makes, and a `Source`. Batches ask it, and
`queue.wait` does.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol, Self

from cloudtasks_nb import _loop
from cloudtasks_nb._names import CODES, QueueName, code_of
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.causes import Fault, message_of
from cloudtasks_nb.fanout.evidence import RAISED, Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.identity import batch_of, round_of
from cloudtasks_nb.service.convert import http_status
from cloudtasks_nb.service.oplog import Entry, Wanted
from cloudtasks_nb.service.watch import Pending, Watcher
from cloudtasks_nb.store.results import StoredResult

__all__ = ["Limit", "Log", "Queue", "Results", "Witness", "Witnesses", "pending_evidence", "result_evidence"]

_SECOND = 1_000_000
_TOGETHER = 1_000  # results that are read together: a traceback may have 100 KB


class Witness(Protocol):
    """Tells what it knows of tasks of one batch."""

    def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:
        """Yield evidence, page by page.

        Parameters
        ----------
        tasks : sequence of str, optional
            The tasks that are asked about; None: all of the batch that it knows.
        since : int
            The earliest time that is asked about, of the service, in microseconds since 1970.

        Raises
        ------
        CloudTasksError
            If it cannot be read.
        """
        ...


@dataclass
class Limit:
    """After how many attempts the queue gives a task up, as far as is known."""

    own: Mapping[str, Any]  #: retry settings of the batch's tasks, which count instead of the queue's
    values: Mapping[str, Any] = field(default_factory=dict)  #: settings of the queue, as far as they were read

    @property
    def attempts(self) -> int | None:
        """The number; None: there is no such number, or it is not known."""
        settings = {**self.values, **self.own}
        limit = settings.get("max_attempts", -1)
        return limit if limit > 0 and not settings.get("max_retry_duration") else None

    def reached(self, attempt: int | None) -> bool:
        """Return whether an attempt is the last possible one, by its number."""
        return (attempt or 0) >= (self.attempts or math.inf)


@dataclass(eq=False)
class Log:
    """The operations log of the queue: attempts and deletions."""

    watcher: Watcher
    queue: QueueName
    batch: str | None  #: None: tasks of all batches, and of none
    limit: Limit
    notified: tuple[int, int] = (0, 0)  #: the last round of which the log has the notification, and when it was sent
    active: int = 0  #: time of the newest attempt in the log
    read_until: int = 0  #: time of the newest attempt before which this has read those of all tasks

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:
        """Yield what the log tells."""
        wanted = Wanted(since=since, tasks=tasks, batch=self.batch)
        async for entries in self.watcher.task_log(self.queue, wanted):
            yield self.evidence(entries, every=tasks is None)

    def evidence(self, entries: Iterable[Entry], *, every: bool = True) -> list[Evidence]:
        """Return what log entries tell of the tasks: of all of the batch with `every`, else of some."""
        found = []
        for entry in entries:
            if self.batch in {None, batch_of(entry.task)}:
                self.active = max(self.active, entry.time)
                self.read_until = max(self.read_until, entry.time if every else 0)
                found.append(self._of(entry))
            elif (round_of(entry.task) or 0) > self.notified[0] and f"-{self.batch}-" in entry.task:
                self.notified = round_of(entry.task) or 0, entry.time
        return found

    def _of(self, entry: Entry) -> Evidence:
        if entry.deleted:
            return Evidence(task=entry.task, source=Source.LOG, fact=Fact.DELETED)
        if not entry.status:  # it is not known how the attempt ended
            return Evidence(task=entry.task, source=Source.LOG, attempts=entry.attempt)
        ended = Fact.ANSWERED if entry.status == "OK" else None
        # A limit that was lowered does not end a task that has the time of its next attempt already.
        if ended is None and entry.retry_time is None and self.limit.reached(entry.attempt):
            ended = Fact.LAST_FAILED
        return Evidence(
            task=entry.task,
            source=Source.LOG,
            fact=ended,
            attempts=entry.attempt,
            status=CODES.index(entry.status) if entry.status in CODES else 2,
            due=entry.retry_time if ended is None else None,
            began=entry.time - round((entry.duration or 0) * _SECOND),
            duration=None if entry.duration is None else round(entry.duration * _SECOND),
        )


@dataclass(eq=False)
class Results:
    """What the handlers have stored, before they answered."""

    stored: StoredResults
    limit: Limit
    _told: int = 0  # number of the newest result of which `given_up` has told

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:  # noqa: ARG002 - results have no order in time
        """Yield what results tell, after all that are new; an object that cannot be read is raised at the end."""
        unreadable = await _loop.to_thread(self.stored.sync)
        async for evidence in self.known(tasks):
            yield evidence
        if unreadable:
            raise unreadable

    async def known(self, tasks: Sequence[str] | None, after: int = 0) -> AsyncIterator[Sequence[Evidence]]:
        """Yield what those results tell that the home has; of tasks as `StoredResults.read` returns them."""
        pages: Iterator[Sequence[StoredResult | None]] = self.stored.all()
        if tasks is not None:
            pages = (self.stored.read(page, after) for page in paged(tasks, _TOGETHER))
        while (page := await _loop.to_thread(next, pages, None)) is not None:
            yield [result_evidence(result, self.limit) for result in page if result is not None]

    async def given_up(self, *, sync: bool = True) -> AsyncIterator[Sequence[Evidence]]:
        """Yield what results tell of functions that gave up, those that came since the last call.

        Without `sync` only of those that the home has.
        """

        def read() -> tuple[StoreError | None, list[tuple[int, StoredResult]]]:
            return self.stored.sync(failures=True) if sync else None, self.stored.given_up(self._told)

        unreadable, page = await _loop.to_thread(read)
        while page:
            yield [result_evidence(result, self.limit) for _, result in page]
            self._told = page[-1][0]
            page = await _loop.to_thread(self.stored.given_up, self._told)
        if unreadable:
            raise unreadable


@dataclass(eq=False)
class Queue:
    """The queue: which tasks are in it, and what it has of their last attempts."""

    watcher: Watcher
    queue: QueueName
    batch: str | None  #: as of `Log`
    looked_up: int = 300  #: the most tasks that are looked up one by one, rather than with the whole queue

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:  # noqa: ARG002 - the queue knows only now
        """Yield which tasks are there; if many are asked about, also others of the batch."""
        at = self.watcher.now()
        async for page in self.pending(tasks):
            yield [pending_evidence(task, one, at) for task, one in page.items()]

    async def pending(self, tasks: Sequence[str] | None) -> AsyncIterator[dict[str, Pending]]:
        """Yield what `read` tells as the queue has it."""
        if tasks is not None and len(tasks) <= self.looked_up:
            found = await self.watcher.lookup(self.queue, tasks)
            yield {task: one for task, one in found.items() if one is not None}
            return
        async for page in self.watcher.pages(self.queue):
            yield {task: one for task, one in page.items() if self.batch in {None, batch_of(task)}}


def pending_evidence(task: str, found: Pending, at: int) -> Evidence:
    """Return what the queue tells of a task that it has at a time."""
    tried = found.attempts > 0 and found.last_status is not None
    return Evidence(
        task=task,
        source=Source.QUEUE,
        seen=at,
        attempts=found.attempts if tried else None,
        status=CODES.index(found.last_status) if tried and found.last_status in CODES else None,
        http=http_status(found.last_message),
        message=found.last_message,
        due=found.schedule_time,
    )


def result_evidence(result: StoredResult, limit: Limit) -> Evidence:
    """Return what a stored result tells, of a task that its queue gives up after a limit."""
    answered = RAISED if result.status == HTTPStatus.INTERNAL_SERVER_ERROR else result.status
    failed = Fact.LAST_FAILED if limit.reached(result.attempt) else None
    if result.gave_up is not None:
        failed = Fact.GAVE_UP
    return Evidence(
        task=result.task,
        source=Source.RESULTS,
        fact=Fact.STORED if result.ok else failed,
        attempts=result.attempt,
        status=code_of(result.status),
        http=result.upstream or answered,
        message=message_of(result.error, result.gave_up),
        fault=None if result.error is None else Fault.of(result.error, result.upstream),
        began=round(result.started.timestamp() * _SECOND),
        duration=None if result.duration is None else round(result.duration * _SECOND),
    )


class Witnesses(NamedTuple):
    """The witnesses of one batch, or of single tasks of a queue."""

    log: Log
    queue: Queue
    stored: Sequence[Witness]  #: what handlers, or others, have stored of tasks before these left the queue

    @classmethod
    def of(cls, watcher: Watcher, queue: QueueName, batch: str | None, limit: Limit, results: Witness) -> Self:
        """Return those of a batch, or of single tasks if it is None; `results` tells what handlers have stored."""
        return cls(Log(watcher, queue, batch, limit), Queue(watcher, queue, batch), [results])
