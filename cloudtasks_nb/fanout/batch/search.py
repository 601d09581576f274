"""Search the queue for the rows of a batch, and stored results and the log for those that left it without an entry.

Such a row is *settling*: its entry is awaited. A stored result decides it at once. The others are decided by a read of
the log by task name that is made long enough after the row was missed: see `fanout/evidence.py` for what it means.

`SingleTasks` does the same for tasks that `queue.wait` names.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import BatchNotFoundError, PermissionDeniedError, StoreError
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.witnesses import Limit, Witnesses, pending_evidence, result_evidence
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Row, Source, fold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Recorded
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.refs import Refs
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.oplog import NAMES, PAGE, RETENTION, Wanted
from cloudtasks_nb.service.watch import Pending, Snapshot, Watcher
from cloudtasks_nb.store.results import StoredResult, results_of_task

__all__ = ["CLOCK_MARGIN", "Search", "SingleTasks", "left_queue"]

_SECOND = 1_000_000
#: Microseconds by which the service's clock may have been behind what was known of it.
CLOCK_MARGIN = 300 * _SECOND
_SUSPICION = 3.0  # seconds for which rows have to be missing from the statistics before the queue is searched
_ROUTINE = 30.0  # seconds between two searches if the queue has no statistics
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60.0  # seconds between two searches while rows are settling
_SHARE = 4  # times as long as its last search took, a queue without a log is left alone
_COMMIT = 1.0  # seconds in which an emulator surely stores the entry of a task that it has just removed
_SHORTEST_WAIT, _LONGEST_WAIT = 120 * _SECOND, 900 * _SECOND  # for the entry of a row that was missed
_LATENESS_FACTOR = 20  # by which the longest delay seen is multiplied to get that wait
_EVER = 0  # the time from which all that is left of a log is read
_TOGETHER = 1_000  # rows that are recorded together
_ASKED = 100_000  # rows about which the stored results are asked together: each time all that are new are read
_WITHOUT_PAUSE = 10_000  # rows that are looked at before the event loop does other work

#: How a task left its queue: the reason of a row in state `gone`.
_PURGED, _CLOSED = "not in the queue since it was purged", "the queue was deleted"


@dataclass(eq=False)
class Search:
    """Searches for the rows of one batch."""

    outbox: Outbox
    record: BatchRecord
    watcher: Watcher
    witnesses: Witnesses
    tell: Callable[[Iterable[Evidence]], Awaitable[Recorded]]  #: is awaited with evidence, and records it
    clock: Clock

    def __post_init__(self) -> None:
        self.batch = self.record.id
        self.sampled = False  #: the log may lack entries: not every operation was logged, or the queue was deleted
        self._created = int(self.record.created.timestamp() * _SECOND)
        self._settling: dict[int, Refs] = {}  # by the time since when the rows are missing, of the service
        self._unread = Refs()  # settling rows whose stored results are not read yet
        self._missing_since: float | None = None
        self._ended = self.clock.ticks()
        self._took = self._pause = 0.0
        self._lateness = 0

    @property
    def settling(self) -> int:
        """How many rows left the queue without a log entry that is awaited still."""
        return sum(map(len, self._settling.values()))

    def ended(self, refs: Iterable[int]) -> None:
        """Await the entries of rows no longer: it is known what became of them."""
        for ref in refs:
            for rows in self._settling.values():
                rows.discard(ref)

    def wanted(self, snapshot: Snapshot, sent: int, fresh: int) -> bool:
        """Return whether to search now, because rows seem to have left the queue without an entry in the log.

        While rows are sent, only those of the `sent` ones that are not `fresh` are certain to be there: to search the
        queue for all of them would cost more than the sending.
        """
        now = self.clock.ticks()
        if now < self._ended + self._pause:
            return False
        if snapshot.gone:
            return True
        if snapshot.values is None:
            return False
        tasks = snapshot.values.get("tasks")
        if tasks is not None and tasks < sent - fresh:
            self._missing_since = now if self._missing_since is None else self._missing_since
            if snapshot.values["log_sampling_ratio"]:
                seconds, since = _SUSPICION, self._missing_since
            else:  # no entry will come, so that only a search finds outcomes
                seconds, since = min(_SHARE * self._took, _ROUTINE), self._ended
            return _purged(snapshot, self._created) or now - since > seconds
        self._missing_since = None
        if tasks is not None and (fresh or tasks == sent) and not self.settling:
            return False
        return now - self._ended > max(_ROUTINE, 20 * self._took)

    async def run(self, snapshot: Snapshot | None) -> None:
        """Search the queue, then results and the log; rows for which all were searched for long enough are final.

        This takes long if the queue is large: the service allows few list calls a minute.

        Raises
        ------
        CloudTasksError
            If the queue or the log cannot be read, or, after all else, the results.
        """
        started, now = self.clock.ticks(), self.watcher.now()
        before = await self._round()
        missing = await self._missing(snapshot)
        sent = await self.in_state(State.SENT)
        if snapshot is None or await self._round() != before:
            return  # rows that were sent again meanwhile look missing
        earlier, self._settling = [(since, refs) for since, refs in self._settling.items() if refs], {}
        for since, refs in [*earlier, (now, missing)]:
            # A clock that was set back would let the rows wait until it has caught up.
            kept = self._settling.setdefault(min(since, now), Refs())
            for page in paged(refs, _WITHOUT_PAUSE):
                for ref in page:
                    if missing.has(ref) and sent.has(ref):
                        kept.add(ref)
                        missing.discard(ref)
                        if refs is missing:  # once is enough: a result is stored before its task leaves the queue
                            self._unread.add(ref)
                await asyncio.sleep(0)
        unreadable = None
        try:
            await self.read_results(self._unread)
            self._unread = Refs()
        except StoreError as error:
            unreadable = error
        await self._settle(snapshot, now, before, unreadable=unreadable is not None)
        self._ended = self.clock.ticks()
        self._took = self._ended - started
        longer = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._pause = longer if self.settling else 0.0
        if unreadable is not None:
            raise unreadable

    async def recheck(self, snapshot: Snapshot | None) -> None:
        """Read the log by name and the results for the rows that are gone: what comes late corrects them.

        Raises
        ------
        CloudTasksError
            If the log or the results cannot be read.
        """
        round_, now = await self._round(), self.watcher.now()
        try:
            await self._read_log(await self.in_state(State.GONE))
            # An incomplete log tells no more than before.
            if snapshot is not None and self._left(snapshot, now, readable=True)[0] is Fact.LEFT_LOGGED:
                await self._tell_left(await self.in_state(State.GONE), snapshot, now, round_, readable=True)
        finally:
            await self.read_results(await self.in_state(State.GONE))

    async def read_failed_log(self) -> None:
        """Read the log once more for rows that failed by elimination: a success may have come very late.

        Raises
        ------
        CloudTasksError
            If the log cannot be read.
        """
        await self._read_log(await self.in_state(State.FAILED, Fact.LEFT_LOGGED))

    async def read_results(self, refs: Refs) -> None:
        """Read the stored results of rows: a failed row may have a success after its last failure.

        Raises
        ------
        StoreError
            If the results cannot be read.
        """
        for page in paged(refs, _ASKED):
            tasks = await self.tasks(page)
            for witness in self.witnesses.stored:
                async for evidence in witness.read(tasks, _EVER):
                    await self.tell(evidence)

    async def _missing(self, snapshot: Snapshot | None) -> Refs:
        """Return the rows that were sent and are not in the queue; what the queue has of the others is recorded."""
        sent = await self.in_state(State.SENT)
        if snapshot is not None and snapshot.gone:
            return sent
        tasks = await self.tasks(sent) if len(sent) <= self.witnesses.queue.looked_up else None
        async for evidence in self.witnesses.queue.read(tasks, _EVER):
            located = await self.outbox.run(self.outbox.rows.locate, self.batch, [one.task for one in evidence])
            for ref in located.values():
                sent.discard(ref)
            # That untried tasks are there is not stored: these rows are open, and there may be a million of them.
            await self.tell([one for one in evidence if one.attempts])
        return sent

    async def _settle(self, snapshot: Snapshot, now: int, round_: int, *, unreadable: bool) -> None:
        """Read the log for the rows that are missing; those that have waited long enough for their entry are final.

        If their results are `unreadable`, they wait as for an entry that comes late.
        """
        wait = _SHORTEST_WAIT if unreadable else await _entry_wait(self.watcher, snapshot, self._lateness)
        # An entry often comes a moment after its task has left the queue: read at the second search.
        read = Refs(self._missed_until(now - min(wait, 1)))
        if not read:
            return
        if not wait:
            await self.clock.sleep(_COMMIT)
        readable, before = True, {since: len(refs) for since, refs in self._settling.items()}
        try:
            due = any(self._missed_until(now - wait))
            await self._read_log(read, _EVER if due else self._created - CLOCK_MARGIN)
        except PermissionDeniedError:
            readable, wait = False, await _entry_wait(self.watcher, snapshot, readable=False)
        # The log was read until then, and it did not have the entries of the rows of which it has them now.
        read_until = snapshot.log_until or 0
        late = [read_until - since for since, refs in self._settling.items() if len(refs) < before[since]]
        self._lateness = max(self._lateness, *late, 0)
        await self._tell_left(Refs(self._missed_until(now - wait)), snapshot, now, round_, readable=readable)

    def _missed_until(self, at: int) -> Iterator[int]:
        """Yield the settling rows that are missing since a time, or longer."""
        return (ref for since, refs in self._settling.items() if since <= at for ref in refs)

    async def _tell_left(self, refs: Refs, snapshot: Snapshot, now: int, round_: int, *, readable: bool) -> None:
        """Record that the tasks of rows had left the queue by now, and whether the log has all entries of them.

        If there is another round than `round_` by now, the newest tasks may be others than those that had left.
        """
        fact, reason = self._left(snapshot, now, readable=readable)
        for page in paged(refs, _TOGETHER):
            tasks = await self.tasks(page)
            if await self._round() != round_:
                return
            await self.tell(
                Evidence(task=task, source=Source.QUEUE, fact=fact, seen=now, reason=reason) for task in tasks
            )

    async def _read_log(self, refs: Refs, since: int = _EVER) -> None:
        """Read the log for rows by the names of their tasks, or that of the whole batch if this takes fewer reads."""
        counts = await self.outbox.run(self.outbox.batches.counts, self.record.whole)
        by_name = len(refs) / NAMES <= 1 + (sum(counts.values()) - len(refs)) / PAGE
        async for evidence in self.witnesses.log.read(await self.tasks(refs) if by_name else None, since):
            await self.tell(evidence)

    async def in_state(self, state: State, fact: Fact | None = None) -> Refs:
        """Return the rows in a state, or only those of them of which a fact is known."""
        found, after = Refs(), 0
        while page := await self.outbox.run(self.outbox.rows.refs, self.batch, state, after, fact=fact):
            for ref in page:
                found.add(ref)
            after = page[-1]
        return found

    async def tasks(self, refs: Iterable[int], later: int = 0) -> list[str]:
        """Return the newest tasks of rows, or those of so many tries later."""
        return await self.outbox.run(self.outbox.rows.tasks, self.batch, refs, later)

    async def _round(self) -> int:
        return (await self.outbox.run(self.outbox.batches.get, self.batch)).round

    def _left(self, snapshot: Snapshot, now: int, *, readable: bool) -> tuple[Fact, str | None]:
        return left_queue(snapshot, self._created, now, logged=readable and not self.sampled)


async def _entry_wait(watcher: Watcher, snapshot: Snapshot, lateness: int = 0, *, readable: bool = True) -> int:
    """Return for how long the log entry of a task that has left its queue is awaited, in microseconds.

    Parameters
    ----------
    lateness : int
        The longest delay of an entry that was awaited, in microseconds.
    readable : bool
        False: the log may not be read, so that only stored results can tell more.
    """
    if readable and await watcher.log_is_immediate():
        return 0
    if snapshot.values is not None and not snapshot.values["log_sampling_ratio"]:  # the queue writes no log
        return round(_SUSPICION * _SECOND)
    return min(max(_SHORTEST_WAIT, _LATENESS_FACTOR * lateness), _LONGEST_WAIT)


def left_queue(snapshot: Snapshot, created: int, now: int, *, logged: bool) -> tuple[Fact, str | None]:
    """Return what it means that a task has left its queue, and, if all of its tasks left, how.

    Parameters
    ----------
    created : int
        When the task, or its batch, was created: microseconds since 1970, of the service, as `now`.
    logged : bool
        Whether the log was read, and every operation of the queue was logged.
    """
    purged = _purged(snapshot, created)
    complete = logged and snapshot.values is not None and not (snapshot.gone or purged or created < now - RETENTION)
    reason = _CLOSED if snapshot.gone else _PURGED if purged else None
    return Fact.LEFT_LOGGED if complete else Fact.LEFT, reason


def _purged(snapshot: Snapshot, created: int) -> bool:
    """Return whether the queue was purged after a time."""
    return snapshot.values is not None and (snapshot.values.get("purge_time") or 0) > created


_LOOKUPS = 20  # tasks of Google's that are looked up in a second
_LOG_PAUSE = 5 * _SECOND  # between two reads of the log for the same tasks
_CHECK = 1.0  # seconds after which to look whether the connection is closed


class SingleTasks:
    """Tasks of one queue that are looked at one by one, whether a batch has made them or not, and what became of each.

    The witnesses are those of a batch, and `fold` decides; only the rows are kept in memory, and each task is one.

    Parameters
    ----------
    outbox : callable
        Returns the outbox, for the results of tasks that a batch has made.
    created : mapping
        By the short ids of the tasks: when they were created, by the service, in microseconds since 1970. None: the
        queue tells it if the task is there. Log entries and results that are older are those of an earlier task with
        the same name.
    """

    def __init__(
        self, connection: Connection, outbox: Callable[[], Outbox], queue: QueueName, created: Mapping[str, int | None]
    ) -> None:
        self.rows = {task: Row(ref=0, tries=1, state=State.SENT) for task in created}
        self._connection, self._watcher, self._outbox, self._name = connection, connection.watcher, outbox, queue
        self._created = dict(created)
        self._limit, self._sampled = Limit({}), False
        self._witnesses = Witnesses.of(self._watcher, queue, None, self._limit, self)
        self.results: dict[str, StoredResult] = {}  #: of each task the one that counts
        self._pending: Mapping[str, Pending] = {}
        self._missing: dict[str, int] = {}  # since when tasks are not in the queue
        self._log_read = 0
        self._snapshot: Snapshot | None = None
        self._read = asyncio.Event()

    @property
    def open(self) -> list[str]:
        """The tasks that are not final."""
        return [task for task, row in self.rows.items() if row.state == State.SENT]

    @property
    def note(self) -> str:
        """A word on the tasks that are not final: what most of them do."""
        paused = self._snapshot is not None and (self._snapshot.values or {}).get("state") == "PAUSED"
        states = Counter(one.state for one in self._pending.values())
        return "the queue is paused" if paused else states.most_common(1)[0][0] if states else ""

    async def wait(self) -> None:
        """Return when all are final.

        Raises
        ------
        CloudTasksError
            If the queue does not exist, queue, log or store cannot be read, or the connection is closed.
        """
        subscription = self._watcher.subscribe(self._name, self._keep)
        try:
            while self.open:
                self._connection.transport.check_open()
                with suppress(TimeoutError):  # no snapshot tells that the connection was closed
                    async with asyncio.timeout(_CHECK):
                        await self._read.wait()
                if self._read.is_set() and self._snapshot is not None:
                    self._read.clear()
                    await self._look(self._snapshot)
        finally:
            subscription.close()

    def _keep(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._read.set()

    async def _look(self, snapshot: Snapshot) -> None:
        """Ask the queue for the tasks, then results and the log for those that are not there."""
        if snapshot.gone and not self._connection.transport.is_new(str(self._name)):
            raise snapshot.errors[0]
        if snapshot.values is not None:
            self._limit.values = snapshot.values
            self._sampled |= snapshot.values["log_sampling_ratio"] < 1
        now, asked = self._watcher.now(), self.open
        found = {task: one async for page in self._witnesses.queue.pending(asked) for task, one in page.items()}
        self._pending = {task: found[task] for task in asked if task in found}
        self._tell(pending_evidence(task, one, now) for task, one in self._pending.items())
        for task, one in self._pending.items():
            self._created[task] = self._created[task] or one.create_time
        before = self._missing
        self._missing = {task: before.get(task, now) for task in asked if task not in self._pending}
        new = [task for task in self._missing if task not in before]
        for witness in self._witnesses.stored:  # once is enough: a result is stored before its task leaves the queue
            async for evidence in witness.read(new, 0):
                self._tell(evidence)
        await self._settle(snapshot, now, new=bool(new))
        if not self._connection.endpoint.local:
            await asyncio.sleep(len(asked) / _LOOKUPS)

    def _tell(self, told: Iterable[Evidence]) -> None:
        for one in told:
            self.rows[one.task] = fold(self.rows[one.task], one, 1, one.cause)

    async def _settle(self, snapshot: Snapshot, now: int, *, new: bool) -> None:
        """Read the log for the tasks that are missing; those that have waited long enough for their entry are final."""
        missing = [task for task in self._missing if self.rows[task].state == State.SENT]
        wait = max(await _entry_wait(self._watcher, snapshot), round(_COMMIT * _SECOND))
        left = [task for task in missing if self._missing[task] <= now - wait]
        readable = True
        if missing and (new or left or now - self._log_read >= _LOG_PAUSE):
            self._log_read = now
            try:
                await self._read_log(missing)
            except PermissionDeniedError:
                readable, wait = False, await _entry_wait(self._watcher, snapshot, readable=False)
        for task in missing:
            if self._missing[task] <= now - wait:
                logged = readable and not self._sampled
                fact, reason = left_queue(snapshot, self._created[task] or 0, now, logged=logged)
                self._tell([Evidence(task=task, source=Source.QUEUE, fact=fact, seen=now, reason=reason)])

    async def _read_log(self, tasks: Sequence[str]) -> None:
        wanted = Wanted(since=min(map(self._from, tasks)), tasks=tasks)
        async for entries in self._watcher.task_log(self._name, wanted):
            self._tell(self._witnesses.log.evidence(one for one in entries if one.time >= self._from(one.task)))

    def _from(self, task: str) -> int:
        """Return the time before which nothing is about the task."""
        return max((self._created[task] or 0) - CLOCK_MARGIN, 0)

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:  # noqa: ARG002 - results have no order in time
        """Yield what handlers have stored of tasks, whether a batch has made them or not, as a `Witness`."""
        batches = defaultdict[str | None, list[str]](list)
        for task in tasks or ():
            batches[batch_of(task)].append(task)
        reads = [_loop.to_thread(self._of_task, task) for task in batches.pop(None, ())]
        reads += [_loop.to_thread(self._of_rows, str(batch), rows) for batch, rows in batches.items()]
        for found in await asyncio.gather(*reads):
            for result in found:
                if (known := self.results.get(result.task)) is None or result.rank > known.rank:
                    self.results[result.task] = result
            yield [result_evidence(result, self._limit) for result in found]

    def _of_task(self, task: str) -> list[StoredResult]:
        # A handler writes by the clock of its machine, which does not go with an emulator's that was moved forward.
        earliest = self._from(task) - max(self._connection.clock.ahead, 0)
        found = results_of_task(self._connection.store, self._name.queue, task)
        return [result for result in found if result.started.timestamp() * _SECOND >= earliest]

    def _of_rows(self, batch: str, tasks: Sequence[str]) -> list[StoredResult]:
        stored = StoredResults(self._outbox(), self._connection.store, batch)
        with suppress(BatchNotFoundError):  # it was made elsewhere
            if (unreadable := stored.sync()) is not None:
                raise unreadable
            return [result for result in stored.read(tasks) if result is not None]
        return []
