"""Watch queues: while there are subscriptions, read their statistics and log and publish immutable snapshots.

A connection has one watcher, to which batches, panels and the command line subscribe instead of polling. It runs on the
background loop and keeps within the service's quotas: 60 log reads a minute, and a tenth of the 600 list calls a minute
(https://cloud.google.com/logging/quotas, https://cloud.google.com/tasks/docs/quotas).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import CloudTasksError, EndpointError, TaskNotFoundError
from cloudtasks_nb.service import oplog
from cloudtasks_nb.service.convert import last_attempt, micros, queue_values
from cloudtasks_nb.service.oplog import Entry, LogReader, Wanted
from cloudtasks_nb.service.quota import CallBudget
from cloudtasks_nb.service.rpcs import STATS_MASK
from cloudtasks_nb.service.transport import Transport

__all__ = ["Pending", "Snapshot", "Subscription", "Watcher"]

_LOGGER = logging.getLogger(__name__)
_LONGEST_PAUSE = 30.0  # seconds; between two reads of an overloaded service
_PAUSE_EACH = 0.005  # seconds for each subscriber, between two reads of a queue that are asked for
_Listener = Callable[["Snapshot"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the watcher read of a queue at one time."""

    queue: QueueName
    at: int  #: time of the read by the clock of the service, microseconds since 1970
    values: Mapping[str, Any] | None = None  #: settings and statistics as `queue_values` gives them; None: not known
    gone: bool = False  #: the queue does not exist
    entries: tuple[Entry, ...] = ()  #: log entries that were not in an earlier snapshot, oldest first
    log_until: int | None = None  #: the log is read up to this time; None: not read, for the reason in `errors`
    lag: int | None = None  #: longest delay of an entry until it appeared in the log, microseconds; None: no entry yet
    errors: tuple[CloudTasksError, ...] = ()  #: what could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A task that is in its queue."""

    state: str  #: scheduled, ready, running or retrying
    attempts: int
    schedule_time: int  #: microseconds since 1970
    last_status: str | None
    last_message: str | None
    create_time: int | None = None  #: microseconds since 1970; None: not known


@dataclass(eq=False, slots=True, kw_only=True)
class Subscription:
    """A listener's subscription to a queue; `close()` ends it."""

    listener: _Listener
    every: float  #: seconds between two reads
    since: int | None  #: read the log from this time on, microseconds since 1970; None: do not read it
    _leave: Callable[[Subscription], None] = field(repr=False)

    def close(self) -> None:
        """End the subscription. May be called from any thread, and twice."""
        _loop.call_soon(self._leave, self)


@dataclass(eq=False, slots=True)
class _Watched:
    """A queue that is watched."""

    subscriptions: list[Subscription] = field(default_factory=list)
    reader: LogReader | None = None  #: of its log
    wake: asyncio.Event = field(default_factory=asyncio.Event)  #: set: read it now


class Watcher:
    """Watches the queues that have subscriptions.

    Parameters
    ----------
    log_reads : int
        The most log reads in a minute.
    """

    def __init__(self, transport: Transport, *, log_reads: int = 60) -> None:
        self.log_budget = CallBudget(log_reads, burst=5)
        self._list_budget = CallBudget(60, burst=10)
        self._transport = transport
        self.now = transport.service_clock.micros  #: the time of the service, microseconds since 1970
        self._queues: dict[QueueName, _Watched] = {}
        self._supervisor = _loop.Supervisor("queue", lambda: None)  # a failing read is in the snapshot

    def subscribe(
        self, queue: QueueName, listener: _Listener, *, since: int | None = None, every: float = 1.0
    ) -> Subscription:
        """Call `listener` on the background loop with each new snapshot of a queue.

        Parameters
        ----------
        listener : callable
            Must return quickly. An exception that it raises is logged, and does not affect other listeners.
        since : int, optional
            Deliver the log's entries from this time on (microseconds since 1970). None: the log is not read.
        every : float
            Seconds between two reads.
        """
        subscription = Subscription(listener=listener, every=every, since=since, _leave=self._leave)
        _loop.call_soon(self._join, queue, subscription)
        return subscription

    def refresh(self, queue: QueueName) -> None:
        """Read a watched queue as soon as possible. May be called from any thread."""
        _loop.call_soon(self._wake_up, queue)

    async def read_queue(self, queue: QueueName) -> dict[str, Any]:
        """Return settings and statistics of a queue, as `queue_values` gives them.

        Raises
        ------
        CloudTasksError
            If the queue cannot be read.
        """
        try:
            found = await self._transport.call("GetQueueStats", name=str(queue), read_mask={"paths": STATS_MASK})
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            found = await self._transport.call("GetQueue", name=str(queue))
        return queue_values(found)

    async def pages(self, queue: QueueName) -> AsyncIterator[dict[str, Pending]]:
        """Yield the tasks in a queue by short id, page by page (BASIC view), within the quota of list calls.

        Raises
        ------
        CloudTasksError
            If the queue cannot be listed.
        """
        token, caller = "", object()
        while True:
            await self._list_budget.turn(caller)
            answer = await self._transport.call("ListTasks", parent=str(queue), page_size=1000, page_token=token)
            now = self.now()
            yield {task.name.rpartition("/")[2]: _pending(task, now) for task in answer.tasks}
            token = answer.next_page_token
            if not token:
                return

    async def log_is_immediate(self) -> bool:
        """Return whether log entries can be read as soon as they are written."""
        return await self._transport.log_is_immediate()

    async def is_logged(self, queue: QueueName, wanted: Wanted) -> bool:
        """Return whether the log has one of the entries that are wanted, or one of another kind.

        Raises
        ------
        CloudTasksError
            If the log cannot be read.
        """
        for filter_ in replace(wanted, every_kind=True).filters(queue):
            found = oplog.pages(self._transport, queue, filter_, self.log_budget, newest_first=True, size=1)
            async with aclosing(found) as answers:
                async for answer in answers:
                    if answer.entries:
                        return True
        return False

    async def task_log(self, queue: QueueName, wanted: Wanted) -> AsyncIterator[list[Entry]]:
        """Yield the entries that are wanted, page by page, within the quota of log reads.

        They are found whenever the log received them.

        Raises
        ------
        CloudTasksError
            If the log cannot be read.
        """
        for filter_ in wanted.filters(queue):
            async for answer in oplog.pages(self._transport, queue, filter_, self.log_budget):
                yield oplog.entries_in(answer)

    async def lookup(self, queue: QueueName, tasks: Iterable[str]) -> dict[str, Pending | None]:
        """Return the named tasks (short ids) of a queue; None for those that are not in it.

        Raises
        ------
        CloudTasksError
            If the service answers with another error.
        """
        gate = asyncio.Semaphore(16)

        async def one(task: str) -> Pending | None:
            async with gate:
                try:
                    found = await self._transport.call("GetTask", name=str(TaskName(queue=queue, task=task)))
                except TaskNotFoundError:
                    return None
                return _pending(found, self.now())

        names = list(tasks)
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def close(self) -> None:
        """Stop watching."""
        for watched in self._queues.values():
            watched.subscriptions.clear()
        await self._supervisor.close()

    def _join(self, queue: QueueName, subscription: Subscription) -> None:
        if queue not in self._queues:
            self._queues[queue] = _Watched()
            self._supervisor.start(f"watching {queue}", lambda: self._watch(queue))
        watched = self._queues[queue]
        watched.subscriptions.append(subscription)
        if subscription.since is not None:
            # A new reader also reads entries again that were delivered already, so listeners must accept duplicates.
            # It starts no earlier than needed: reading a long log from its start can use up the quota for minutes.
            start = subscription.since
            watched.reader = LogReader(start if watched.reader is None else min(start, watched.reader.unread_since()))
        watched.wake.set()

    def _leave(self, subscription: Subscription) -> None:
        for watched in self._queues.values():
            if subscription in watched.subscriptions:
                watched.subscriptions.remove(subscription)
                if not watched.subscriptions:
                    watched.wake.set()

    def _wake_up(self, queue: QueueName) -> None:
        if queue in self._queues:
            self._queues[queue].wake.set()

    async def _watch(self, queue: QueueName) -> None:
        slowdown, watched = 1.0, self._queues[queue]
        while watched.subscriptions:
            began = asyncio.get_running_loop().time()
            watched.wake.clear()
            snapshot = await self._read(queue, watched)
            for subscription in tuple(watched.subscriptions):
                _deliver(subscription.listener, snapshot)
            overloaded = any(isinstance(error, oplog.OVERLOADED) for error in snapshot.errors)
            slowdown = min(slowdown * 2, _LONGEST_PAUSE) if overloaded else 1.0
            every = min((one.every for one in watched.subscriptions), default=0.0)
            pause = min(every * slowdown, max(_LONGEST_PAUSE, every))
            took = 0.0 if overloaded else asyncio.get_running_loop().time() - began
            with suppress(TimeoutError):
                async with asyncio.timeout(max(pause - took, pause / 4)):  # on a busy machine reads take long
                    await watched.wake.wait()
            # Each subscriber has work with each snapshot: many that come or ask one after another share the next one.
            shortest = min(every, _PAUSE_EACH * len(watched.subscriptions))
            await asyncio.sleep(began + shortest - asyncio.get_running_loop().time())
        del self._queues[queue]
        self.log_budget.leave(queue)

    async def _read(self, queue: QueueName, watched: _Watched) -> Snapshot:
        """Return a snapshot; what could not be read, for whatever reason, is in its errors."""
        snapshot, reader = await self._statistics(queue), watched.reader
        if reader is None or all(one.since is None for one in watched.subscriptions):
            self.log_budget.leave(queue)
            return snapshot
        if any(isinstance(error, EndpointError) for error in snapshot.errors) and self._transport.endpoint.local:
            return snapshot  # the log is at the same address: its read would wait for a connection as long again
        try:
            immediate = self._transport.logs_at_once
            entries = await reader.read(self._transport, queue, self.log_budget, now=self.now(), immediate=immediate)
            error = reader.error
        except Exception as caught:  # noqa: BLE001 - subscribers are told
            # A new reader also returns the entries that this one has read and not returned.
            if watched.reader is reader:
                watched.reader = LogReader(reader.unread_since())
            entries, error = [], _loop.as_toolkit_error(f"reading the log of queue {queue.queue}", caught)
        errors = snapshot.errors if error is None else (*snapshot.errors, error)
        return replace(snapshot, entries=tuple(entries), log_until=reader.until, lag=reader.lag, errors=errors)

    async def _statistics(self, queue: QueueName) -> Snapshot:
        at = self.now()
        try:
            return Snapshot(queue=queue, at=at, values=await self.read_queue(queue))
        except Exception as caught:  # noqa: BLE001 - subscribers are told
            error = _loop.as_toolkit_error(f"reading queue {queue.queue}", caught)
            return Snapshot(queue=queue, at=at, gone=error.code == "NOT_FOUND", errors=(error,))


def _pending(task: Any, now: int) -> Pending:
    state, status, message, _ = last_attempt(task, now)
    return Pending(
        state=state,
        attempts=task.dispatch_count,
        schedule_time=micros(task.schedule_time),
        last_status=status,
        last_message=message,
        create_time=micros(task.create_time) or None,
    )


def _deliver(listener: _Listener, snapshot: Snapshot) -> None:
    try:
        listener(snapshot)
    except Exception:
        _LOGGER.exception("a listener of queue %s failed", snapshot.queue)
