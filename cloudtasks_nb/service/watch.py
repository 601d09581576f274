"""The one watcher of a connection: reads statistics and log, and publishes what it saw as immutable snapshots.

Batches, panels and the command line subscribe; none of them polls. The watcher lives on the background loop, works
only while somebody subscribes, and keeps within the service's quotas: 60 log reads and 600 list calls a minute
(https://cloud.google.com/logging/quotas, https://cloud.google.com/tasks/docs/quotas), of which it takes a tenth.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName, TaskName, code_name
from cloudtasks_nb.errors import CloudTasksError, QuotaError, TaskNotFoundError, UnavailableError
from cloudtasks_nb.service import oplog
from cloudtasks_nb.service.convert import micros, queue_values, task_state
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.rpcs import STATS_MASK
from cloudtasks_nb.service.transport import Transport

__all__ = ["Pending", "Snapshot", "Subscription", "Watcher", "now_micros"]

_LOGGER = logging.getLogger(__name__)
_SECOND = 1_000_000
_LOOK_BACK = 600 * _SECOND  # entries may come this much later than others of the same time
_SKEW = 300 * _SECOND  # our clock may be this much ahead of the service's
_OVERLAP = 2 * _SECOND  # and are indexed up to this much out of order
_SLOWEST = 30.0  # seconds between two looks when the service asks for patience
_PATIENCE = (QuotaError, UnavailableError)  # the service asks for it
_Listener = Callable[["Snapshot"], None]


def now_micros() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the watcher saw of a queue in one look."""

    queue: QueueName
    at: int  #: when, microseconds since 1970
    values: Mapping[str, Any] | None = None  #: settings and statistics as `queue_values` gives them; None: not known
    gone: bool = False  #: the queue does not exist
    entries: tuple[Entry, ...] = ()  #: log entries that were not in an earlier snapshot, oldest first
    log_until: int | None = None  #: the log is read up to this time; None: not read, `errors` says why
    lag: int | None = None  #: the longest time that an entry took to appear in the log, microseconds; None: none seen
    errors: tuple[CloudTasksError, ...] = ()  #: what could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A task that is in its queue."""

    state: str  #: scheduled, ready, running or retrying
    attempts: int
    schedule_time: int  #: microseconds since 1970
    last_status: str | None
    last_message: str | None


@dataclass(eq=False, slots=True, kw_only=True)
class Subscription:
    """Somebody's wish to hear of a queue; `close()` ends it."""

    listener: _Listener
    every: float  #: seconds between two looks
    since: int | None  #: read the log from here on, microseconds since 1970; None: not at all
    _leave: Callable[[Subscription], None] = field(repr=False)

    def close(self) -> None:
        """Hear no more. May be called from any thread, and twice."""
        _loop.call_soon(self._leave, self)


class _Budget:
    """So many calls in any minute: some at once, the others spread over it."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._gap = 60 / (per_minute - burst)
        self._slack = self._gap * (burst - 1)
        self._free_at = 0.0
        self._line: dict[Hashable, None] = {}  # who has been refused, and not served since; the first comes first

    def take(self, asker: Hashable = None) -> bool:
        """Take one call if there is one, and one more for each who has waited longer than `asker`."""
        self._line.setdefault(asker)
        ahead = list(self._line).index(asker)
        start = max(self._free_at, time.monotonic() - self._slack)
        if start + ahead * self._gap > time.monotonic():
            return False
        del self._line[asker]
        self._free_at = start + self._gap
        return True

    def leave(self, asker: Hashable) -> None:
        """Wait no longer."""
        self._line.pop(asker, None)

    async def turn(self) -> None:
        """Take one call, waiting for it if need be."""
        start = max(self._free_at, time.monotonic() - self._slack)
        self._free_at = start + self._gap
        await asyncio.sleep(max(0.0, start - time.monotonic()))


class _Reader:
    """Reads one queue's log forward, each entry once: pass after pass, a pass being one query over all its pages."""

    def __init__(self, since: int) -> None:
        self.since = since
        self.lag: int | None = None
        self.until: int | None = None
        self.error: CloudTasksError | None = None  # why the last read failed; stays until one succeeds
        self._cursor: int | None = None  # what the log took before this is read
        self._received = self._newest = since
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()
        self._where: str | None = None  # the pass that goes on: it may take several looks when the budget is short
        self._token = ""
        self._started = 0

    async def read(self, transport: Transport, queue: QueueName, budget: _Budget) -> list[Entry]:
        """Return the entries that have come since, as far as the budget allows; `error` says what stopped it."""
        fresh: list[Entry] = []
        if self._where is None:
            self._started = now_micros()
            if self._started < self.since:  # the clock was set back: the wish is of a time that is yet to come
                self.since = self._received = self._newest = self._started - _LOOK_BACK
                self._cursor = None
            received = None if self._cursor is None else self._cursor - _OVERLAP
            self._where = oplog.log_filter(queue, since=self._newest - _LOOK_BACK, received_from=received)
        while self._where is not None and budget.take(queue):
            try:
                entries, following = await oplog.page(transport, queue, self._where, self._token)
            except CloudTasksError as error:
                if not isinstance(error, _PATIENCE):
                    self._token = ""  # it may be too old: the pass begins again, and hands nothing over twice
                self.error = error
                break
            self.error = None
            fresh += self._take(entries)
            if not following:
                self._finish(one_page=not self._token)
            self._token = following
        return fresh

    def unread_since(self) -> int:
        """Return from when on there may be entries that were not handed over (microseconds since 1970)."""
        return self.since if self.until is None else max(self.since, self.until - _LOOK_BACK - _SKEW)

    def _finish(self, *, one_page: bool) -> None:
        """End a pass. What came while it went on may have been placed on pages that were read before."""
        self._where = None
        self.until = self._started
        self._cursor = self._received if one_page else min(self._received, self._started)
        horizon = self._cursor - 30 * _OVERLAP
        while self._order and self._order[0][0] < horizon:
            self._seen.discard(self._order.popleft()[1])

    def _take(self, entries: Iterable[Entry]) -> list[Entry]:
        fresh = []
        for entry in entries:
            self._received = max(self._received, entry.received)
            if entry.insert_id in self._seen or entry.time < self.since:
                continue
            self._seen.add(entry.insert_id)
            self._order.append((entry.received, entry.insert_id))
            self._newest = max(self._newest, entry.time)
            self.lag = max(self.lag or 0, entry.received - entry.time)
            fresh.append(entry)
        return fresh


class Watcher:
    """Watches the queues that somebody subscribes to.

    Parameters
    ----------
    transport : Transport
    """

    def __init__(self, transport: Transport, *, log_reads: int = 60, list_calls: int = 60) -> None:
        self._transport = transport
        self._log_budget = _Budget(log_reads, burst=5)
        self._list_budget = _Budget(list_calls, burst=10)
        self._subscriptions: dict[QueueName, list[Subscription]] = {}
        self._readers: dict[QueueName, _Reader] = {}
        self._tasks: dict[QueueName, asyncio.Task[None]] = {}
        self._latest: dict[QueueName, Snapshot] = {}
        self._wake: dict[QueueName, asyncio.Event] = {}

    def latest(self, queue: QueueName) -> Snapshot | None:
        """Return the newest snapshot of a queue; None when nobody has watched it yet."""
        return self._latest.get(queue)

    def subscribe(
        self, queue: QueueName, listener: _Listener, *, since: int | None = None, every: float = 1.0
    ) -> Subscription:
        """Call `listener` on the background loop with each new snapshot of a queue.

        Parameters
        ----------
        queue : QueueName
        listener : callable
            Must return quickly; what it raises is logged and stops nobody else.
        since : int, optional
            Hand over the log's entries from this time on (microseconds since 1970); the log is not read without.
        every : float
            Seconds between two looks.
        """
        subscription = Subscription(listener=listener, every=every, since=since, _leave=self._leave)
        _loop.call_soon(self._join, queue, subscription)
        return subscription

    def refresh(self, queue: QueueName) -> None:
        """Look at a queue as soon as possible. May be called from any thread."""
        _loop.call_soon(self._ring, queue)

    async def read_queue(self, queue: QueueName) -> dict[str, Any]:
        """Return settings and statistics of a queue, as `queue_values` gives them.

        Raises
        ------
        CloudTasksError
            If the queue cannot be read.
        """
        return queue_values(await self._queue(queue))

    async def listing(self, queue: QueueName) -> dict[str, Pending]:
        """Return every task in a queue by short id (BASIC view); waits for its share of the list quota.

        Raises
        ------
        CloudTasksError
            If the queue cannot be listed.
        """
        found: dict[str, Pending] = {}
        token = ""
        while True:
            await self._list_budget.turn()
            answer = await self._transport.call(
                "ListTasks", parent=str(queue), page_size=1000, page_token=token, resource_name=str(queue)
            )
            now = now_micros()
            found.update((task.name.rpartition("/")[2], _pending(task, now)) for task in answer.tasks)
            token = answer.next_page_token
            if not token:
                return found

    async def lookup(self, queue: QueueName, tasks: Iterable[str]) -> dict[str, Pending | None]:
        """Return the named tasks (short ids) of a queue; None for those that are not in it.

        Raises
        ------
        CloudTasksError
            If the service does not tell.
        """
        gate = asyncio.Semaphore(16)

        async def one(task: str) -> Pending | None:
            async with gate:
                try:
                    found = await self._transport.call("GetTask", name=str(TaskName(queue=queue, task=task)))
                except TaskNotFoundError:
                    return None
                return _pending(found, now_micros())

        names = list(tasks)
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def close(self) -> None:
        """Stop watching."""
        self._subscriptions.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _join(self, queue: QueueName, subscription: Subscription) -> None:
        self._subscriptions.setdefault(queue, []).append(subscription)
        if subscription.since is not None:
            # The others hear entries twice, and must not depend on that. What they have heard needs no second reading,
            # which would take minutes of the quota where the log is long.
            reader = self._readers.get(queue)
            behind = subscription.since if reader is None else min(subscription.since, reader.unread_since())
            self._readers[queue] = _Reader(behind)
        if queue not in self._tasks:
            self._tasks[queue] = _loop.spawn(self._watch(queue))
        self._ring(queue)

    def _leave(self, subscription: Subscription) -> None:
        for queue, there in list(self._subscriptions.items()):
            if subscription in there:
                there.remove(subscription)
            if not there:
                del self._subscriptions[queue]
                self._ring(queue)

    def _ring(self, queue: QueueName) -> None:
        if queue in self._wake:
            self._wake[queue].set()

    async def _watch(self, queue: QueueName) -> None:
        slower = 1.0
        wake = self._wake[queue] = asyncio.Event()
        try:
            while subscriptions := self._subscriptions.get(queue):
                wake.clear()
                snapshot = await self._look(queue, log=any(one.since is not None for one in subscriptions))
                self._latest[queue] = snapshot
                for subscription in tuple(subscriptions):
                    _hand(subscription.listener, snapshot)
                patience = any(isinstance(one, _PATIENCE) for one in snapshot.errors)
                slower = min(slower * 2, _SLOWEST) if patience else 1.0
                pause = min((one.every for one in self._subscriptions.get(queue, ())), default=0.0) * slower
                await _until(wake, min(pause, max(_SLOWEST, pause / slower)))
        finally:
            self._tasks.pop(queue, None)
            self._wake.pop(queue, None)
            self._readers.pop(queue, None)
            self._log_budget.leave(queue)

    async def _look(self, queue: QueueName, *, log: bool) -> Snapshot:
        snapshot = await self._statistics(queue)
        reader = self._readers.get(queue) if log else None
        if reader is None:
            self._log_budget.leave(queue)
            return snapshot
        entries = await reader.read(self._transport, queue, self._log_budget)
        errors = snapshot.errors if reader.error is None else (*snapshot.errors, reader.error)
        return replace(snapshot, entries=tuple(entries), log_until=reader.until, lag=reader.lag, errors=errors)

    async def _statistics(self, queue: QueueName) -> Snapshot:
        at = now_micros()
        try:
            found = await self._queue(queue)
        except CloudTasksError as error:
            return Snapshot(queue=queue, at=at, gone=error.code == "NOT_FOUND", errors=(error,))
        return Snapshot(queue=queue, at=at, values=queue_values(found))

    async def _queue(self, queue: QueueName) -> Any:
        try:
            return await self._transport.call("GetQueueStats", name=str(queue), read_mask={"paths": STATS_MASK})
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                raise
        return await self._transport.call("GetQueue", name=str(queue))


def _pending(task: Any, now: int) -> Pending:
    last = task.last_attempt
    state = task_state(task, now)
    answered = task.dispatch_count > 0 and state != "running"
    return Pending(
        state=state,
        attempts=task.dispatch_count,
        schedule_time=micros(task.schedule_time),
        last_status=code_name(last.response_status.code) if answered else None,
        last_message=last.response_status.message or None if answered else None,
    )


def _hand(listener: _Listener, snapshot: Snapshot) -> None:
    try:
        listener(snapshot)
    except Exception:
        _LOGGER.exception("a listener of queue %s failed", snapshot.queue)


async def _until(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
