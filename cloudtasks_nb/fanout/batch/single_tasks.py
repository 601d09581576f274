"""What became of tasks that are looked at one by one, whether a batch has made them or not.

The witnesses are those of a batch, and `fold` decides; only the rows are kept in memory, and each task is one of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import BatchNotFoundError, PermissionDeniedError
from cloudtasks_nb.fanout.batch.search import entry_wait, left_queue
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.witnesses import CLOCK_MARGIN, Limit, Witnesses, pending_evidence, result_evidence
from cloudtasks_nb.fanout.evidence import Evidence, Row, Source, fold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.oplog import Wanted
from cloudtasks_nb.service.watch import Pending, Snapshot
from cloudtasks_nb.store.results import StoredResult, results_of_task

__all__ = ["SingleTasks"]

_SECOND = 1_000_000
_LOOKUPS = 20  # tasks of Google's that are looked up in a second
_LOG_PAUSE = 5 * _SECOND  # between two reads of the log for the same tasks
_CHECK = 1.0  # seconds after which to look whether the connection is closed
_COMMIT = 1 * _SECOND  # in which an emulator surely stores the entry of a task that it has just removed


class SingleTasks:
    """Tasks of one queue, each with what became of it.

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
        self,
        connection: Connection,
        outbox: Callable[[], Outbox],
        queue: QueueName,
        created: Mapping[str, int | None],
    ) -> None:
        self.rows = {task: Row(ref=0, tries=1, state=State.SENT) for task in created}
        self._connection, self._watcher, self._outbox, self._name = connection, connection.watcher, outbox, queue
        self._created = dict(created)
        self._limit, self._sampled = Limit({}), False
        stored = _Results(connection, outbox, queue, self._limit, self._from)
        self._witnesses = Witnesses.of(self._watcher, queue, None, self._limit, stored)
        self.results: Mapping[str, StoredResult] = stored.counting  #: of each task the one that counts
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
        wait = max(await entry_wait(self._watcher, snapshot), _COMMIT)
        left = [task for task in missing if self._missing[task] <= now - wait]
        readable = True
        if missing and (new or left or now - self._log_read >= _LOG_PAUSE):
            self._log_read = now
            try:
                await self._read_log(missing)
            except PermissionDeniedError:
                readable, wait = False, await entry_wait(self._watcher, snapshot, readable=False)
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


@dataclass(eq=False)
class _Results:
    """What handlers have stored of tasks, whether a batch has made them or not."""

    connection: Connection
    outbox: Callable[[], Outbox]
    queue: QueueName
    limit: Limit
    earliest: Callable[[str], int]  #: returns the time before which nothing is about a task
    counting: dict[str, StoredResult] = field(default_factory=dict)  #: of each task the result that counts

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:  # noqa: ARG002 - results have no order in time
        """Yield what results tell of tasks."""
        batches = defaultdict[str | None, list[str]](list)
        for task in tasks or ():
            batches[batch_of(task)].append(task)
        reads = [_loop.to_thread(self._of_task, task) for task in batches.pop(None, ())]
        reads += [_loop.to_thread(self._of_rows, str(batch), rows) for batch, rows in batches.items()]
        for found in await asyncio.gather(*reads):
            for result in found:
                if (known := self.counting.get(result.task)) is None or result.rank > known.rank:
                    self.counting[result.task] = result
            yield [result_evidence(result, self.limit) for result in found]

    def _of_task(self, task: str) -> list[StoredResult]:
        # A handler writes by the clock of its machine, which does not go with an emulator's that was moved forward.
        earliest = self.earliest(task) - max(self.connection.clock.ahead, 0)
        found = results_of_task(self.connection.store, self.queue.queue, task)
        return [result for result in found if result.started.timestamp() * _SECOND >= earliest]

    def _of_rows(self, batch: str, tasks: Sequence[str]) -> list[StoredResult]:
        stored = StoredResults(self.outbox(), self.connection.store, batch)
        with suppress(BatchNotFoundError):  # it was made elsewhere
            if (unreadable := stored.sync()) is not None:
                raise unreadable
            return [result for result in stored.read(tasks) if result is not None]
        return []
