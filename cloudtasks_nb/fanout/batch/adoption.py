"""Find out which rows of a batch were sent from elsewhere, before this home sends any.

The log, the stored results and the queue show it.

A batch is the same on every machine, because its id and those of its tasks are derived from its rows. What another home
has sent of it is recorded as if this one had sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cloudtasks_nb.errors import CloudTasksError, EndpointError, OutboxError, PermissionDeniedError, StoreError
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.witnesses import Witness
from cloudtasks_nb.fanout.evidence import Evidence, Source
from cloudtasks_nb.fanout.outbox.records import BatchFacts
from cloudtasks_nb.fanout.outbox.sql import ALL
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.oplog import RETENTION, Wanted

__all__ = ["LATE", "READING", "Adoption"]

#: What is done while the unsent rows of a batch may have been sent from elsewhere.
READING = "reading what was sent from elsewhere"

#: Seconds by which a log entry is late at most.
LATE = 120.0

_LOGGER = logging.getLogger(__name__)

_SECOND = 1_000_000
_OVERLAP = 900.0  # seconds by which entries may be late, and clocks differ
_FRESH = 60.0  # seconds after a read in which rows in their first try are sent without another one
_PATIENCE = 10.0  # seconds for which the first rows wait for the log
_NAMED = 250  # rows for which the log is asked by name, when it was read before
_ASKED = 50  # rows, the first and the last ones, that are asked for by name when the log is slow
_LISTED = 10  # results that are read in order in the time in which one is looked up
_COMMIT = 1.0  # seconds in which an emulator surely stores the entry of a task that it has just removed
_ENDPOINT_POLL = 2.0  # seconds between two tries while nothing answers


@dataclass(eq=False)
class Adoption:
    """Adopts rows of one batch that were sent from elsewhere."""

    outcomes: OutcomeTracker
    changed: Callable[[], None]  #: called when rows have changed

    def __post_init__(self) -> None:
        self.outbox, self.record = self.outcomes.outbox, self.outcomes.record
        self.watcher, self.clock = self.outcomes.watcher, self.outcomes.clock
        self.batch, self.queue = self.outcomes.batch, self.outcomes.queue
        self.reading: str | None = None  #: how far the reading is, as a sentence; None: nothing is read
        self.stale = False  #: rows have come from another home since the last reading
        self.others: bool | None = False  #: whether another home has owned the batch; None: no home has
        self.newest = ALL  #: the newest row that may be sent: others were added later, and are looked for in the log
        self.known_later = False  #: of some tasks the log may tell later whether they were created
        self._scan: asyncio.Task[bool] | None = None  # looks for entries of the batch, while rows are sent already
        self._running, self._finishing = asyncio.Lock(), asyncio.Lock()

    async def seen(self, tasks: Sequence[str], since: float) -> dict[str, bool | None]:
        """Return which tasks that are not in the queue have an entry in the log, which is read again.

        True for those that have one. False for the others if the log has every entry since a time (in seconds since
        1970), so that these tasks were never created; else None, which is not known.
        """
        complete = False
        with contextlib.suppress(CloudTasksError):  # then it is not known
            logged = (await self.watcher.read_queue(self.queue))["log_sampling_ratio"] == 1
            immediate = await self.watcher.log_is_immediate()
            await self.clock.sleep(_COMMIT if immediate else 0)
            async for evidence in self.outcomes.witnesses.log.read(tasks, round((since - _OVERLAP) * _SECOND)):
                await self.outcomes.tell(evidence)
            self.changed()
            complete = logged and (immediate or self.watcher.now() / _SECOND - since > LATE)
            self.known_later |= logged and not complete
        tried = await self.outbox.run(self.outbox.rows.tried, self.batch, tasks)
        return {task: True if task in tried else False if complete else None for task in tasks}

    async def run(self, will_retry: Callable[[CloudTasksError | None], None] | None = None) -> bool:
        """Adopt what was sent from elsewhere since the last time, if rows are unsent; the log may be unreadable.

        While nothing answers at an emulator's endpoint, `will_retry` is called with the error, and at the end with
        None. Return whether the log is slow, so that rows may be sent while `finish` reads on.

        Raises
        ------
        OutboxError
            If the outbox cannot be used.
        EndpointError
            If nothing answers at an emulator's endpoint, without `will_retry`.
        """
        async with self._running:
            while self._scan is None and (last := await self.outbox.run(self._last_read)) is not None:
                if await self._adopt(last, will_retry):
                    break
        if will_retry is not None:
            will_retry(None)
        return self._scan is not None

    async def finish(self) -> None:
        """Adopt what a log that is slow has of rows that were sent from elsewhere."""
        async with self._finishing:
            if self._scan is not None:
                await self._adopt(0, None, last_time=True)
                self._scan = None

    async def hold_for_answer(self, owner: str, since: float) -> None:
        """Hold rows until the user confirms that another owner has not sent them, if nothing tells whether it has.

        That are log, results and queue. The silence of a log that has every entry is evidence, as long as it has those
        of the time of the other home.
        """
        facts = await self.outbox.run(self.outbox.batches.facts, self.batch)
        if facts.held_for is not None or not await self.outbox.run(self.outbox.requests.untried, self.batch):
            return
        with contextlib.suppress(CloudTasksError):
            await self.outcomes.learn_queue()
        whole = self.outcomes.limit.values.get("log_sampling_ratio") == 1 and not self.outcomes.search.sampled
        read = facts.log_read is not None and not facts.log_error
        if whole and read and since * _SECOND > self.watcher.now() - RETENTION:
            return
        await self.read_queue()
        at = dt.datetime.fromtimestamp(since, dt.UTC)
        who = f"{owner}, who owned the batch until {at:%Y-%m-%d %H:%M} UTC"
        await self._change(lambda facts: facts if facts.held_for is not None else replace(facts, held_for=who))

    async def read_queue(self) -> CloudTasksError | None:
        """Record as sent the rows whose tasks are in the queue; return why it could not be read."""
        try:
            await self._read(self.outcomes.witnesses.queue, "tasks of the queue", 0)
        except CloudTasksError as error:
            return error
        finally:
            self.reading = None
        return None

    def _last_read(self) -> float | None:
        """Return when the log was read last, 0 for never; None if it need not be read now."""
        if not self.outbox.requests.waiting(self.record.whole):
            return None
        facts = self.outbox.batches.facts(self.batch)
        last, self.newest = facts.log_read or 0.0, facts.log_rows or ALL
        fresh = 0 <= self.watcher.now() / _SECOND - last <= _FRESH and not self.stale
        new = self.newest < self.outbox.rows.newest(self.batch)
        return last if new or not fresh or self.outbox.requests.repeats(self.batch) else None

    async def _adopt(
        self, last: float, will_retry: Callable[[CloudTasksError | None], None] | None, *, last_time: bool = False
    ) -> bool:
        """Read the witnesses; `last` is when they were read before. Return False if nothing answers: then try again."""
        try:
            await self._read_all(last)
        except OutboxError:
            raise
        except CloudTasksError as error:
            if not last_time and isinstance(error, EndpointError) and self.record.place.endpoint != "google":
                if will_retry is None:
                    raise
                will_retry(error)
                await self.clock.sleep(_ENDPOINT_POLL)
                return False
            self.newest = ALL
            if self.others is not None:
                await self._read_results(first=not last)
            # If the results told of rows, the batch counts as read, without a note about the log.
            why = error.message
            await self._change(lambda facts: replace(facts, log_error="" if facts.sent_by_others and not last else why))
        finally:
            self.reading = None
        return True

    async def _read_all(self, last: float) -> None:
        await self.outcomes.learn_queue()  # the answer also tells the time
        started = self.watcher.now()
        ever, since = started - RETENTION, max(started - RETENTION, round((last - _OVERLAP) * _SECOND))
        logged, newest = last > 0, await self.outbox.run(self.outbox.rows.newest, self.batch)
        if not logged:
            scan = self._scan
            if scan is None:
                # Rows may be sent after that, before it ends: their entries are not what it looks for.
                until = started + round(_PATIENCE * _SECOND)
                wanted = Wanted(since=since, until=until, batch=self.batch)
                scan = asyncio.create_task(self.watcher.is_logged(self.queue, wanted))
                if not await self._awaited(scan, since):
                    self._scan = scan
                    return
            logged = await scan
        witnesses, tasks = self.outcomes.witnesses, None
        counts = await self.outbox.run(self.outbox.batches.counts, self.record.whole)
        added = last and self.newest < newest  # rows whose entries may be older than the last reading
        if last and counts[State.UNSENT] <= _NAMED:
            # A few rows are tried again: another home that has done so has made tasks of the same tries, or later ones.
            search = self.outcomes.search
            refs = await search.in_state(State.UNSENT)
            tasks = await search.tasks(refs) + await search.tasks(refs, later=1)
            since = ever if added else since
        elif added and await self._are_logged(ever, after=self.newest):
            since = ever
        found = await self._read(witnesses.log, "log entries", since, tasks) if logged else 0
        if logged or self.others is not None:  # else nobody has sent the batch
            found += await self._read_results(first=not last)
        if logged or found:
            counts = await self.outbox.run(self.outbox.batches.counts, self.record.whole)
            if not last and counts[State.UNSENT]:
                with contextlib.suppress(PermissionDeniedError):  # names protect what the queue would tell
                    await self._read(witnesses.queue, "tasks of the queue", since)
            await self.outbox.run(self._set_round)
            self.changed()
        at, self.newest = started / _SECOND, newest if logged else ALL
        await self._change(lambda facts: replace(facts, log_error=None, log_read=at, log_rows=self.newest))
        self.stale = False

    async def _awaited(self, scan: asyncio.Task[bool], since: int) -> bool:
        """Return whether a scan of the log is awaited: False if it is slow and rows may be sent before it ends.

        They may if nothing tells that the batch was sent from elsewhere: no other owner, no entry of the first and the
        last rows by their names. The names of tasks protect rows for an hour.
        """
        try:
            done, _ = await asyncio.wait({scan}, timeout=_PATIENCE)
            if done or self.others:
                return True
            return await self._are_logged(since) or scan.done()
        except BaseException:
            scan.cancel()
            raise

    async def _are_logged(self, since: int, after: int = 0) -> bool:
        """Return whether the log has an entry of the first or the last rows behind a ref."""
        tasks = await self.outbox.run(self.outbox.rows.outermost_tasks, self.batch, _ASKED, after)
        return await self.watcher.is_logged(self.queue, Wanted(since=since, tasks=tasks))

    async def _read(self, witness: Witness, what: str, since: int, tasks: Sequence[str] | None = None) -> int:
        """Record what a witness tells; return how many rows were not known to be sent.

        A stored result tells only that its task was created: it is no outcome while the task is in the queue.
        """
        found = read = 0
        async for evidence in witness.read(tasks, since):
            results = evidence and evidence[0].source is Source.RESULTS
            told = [Evidence(task=one.task, source=one.source) for one in evidence] if results else evidence
            recorded = await self.outcomes.tell(told)
            await self.outcomes.explain()
            found += recorded.unsent
            read += len(evidence)
            self.reading = f"{READING}: {read:,} {what} so far"
            self.changed()
        return found

    async def _read_results(self, *, first: bool) -> int:
        """Record as sent the rows whose tasks have a stored result; return how many were not known to be sent."""
        tasks, search = None, self.outcomes.search
        counts = await self.outbox.run(self.outbox.batches.counts, self.record.whole)
        if not first and counts[State.UNSENT] * _LISTED < sum(counts.values()):
            tasks = await search.tasks(await search.in_state(State.UNSENT))
        found = 0
        try:
            for witness in self.outcomes.witnesses.stored:
                found += await self._read(witness, "results", 0, tasks)
        except StoreError as error:
            reason = error.message
            _LOGGER.warning("rows of batch %s that were sent from elsewhere may be missed: %s", self.batch, reason)
        return found

    def _set_round(self) -> None:
        """Continue the count of rounds: a notified round ended, and rows that were active later are in the next one."""
        log = self.outcomes.witnesses.log
        number, at = log.notified
        counts = self.outbox.batches.counts(self.record.whole)
        open_ = counts[State.UNSENT] or counts[State.SENT] or log.active > at
        if number:
            self.outbox.outcomes.raise_round(self.batch, number + bool(open_))

    async def _change(self, change: Callable[[BatchFacts], BatchFacts]) -> None:
        await self.outbox.run(self.outbox.batches.change, self.batch, change)
