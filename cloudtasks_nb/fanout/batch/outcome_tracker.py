"""Record what the witnesses tell of the rows of a batch, snapshot by snapshot, and show how far the open rows are.

The subscription of a batch to its queue lasts while rows are open, and for a while after the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import IN_QUEUE
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import parse_duration
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.times import from_micros
from cloudtasks_nb.errors import CloudTasksError, OutboxError, PermissionDeniedError, StoreError
from cloudtasks_nb.fanout.batch.progress import Pace, Progress
from cloudtasks_nb.fanout.batch.search import CLOCK_MARGIN, Search
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.witnesses import Limit, Results, Witnesses
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.outcomes import Recorded
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord, Retrying
from cloudtasks_nb.fanout.outbox.sql import paged
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.watch import Snapshot, Subscription, Watcher
from cloudtasks_nb.store.store import Store

__all__ = [
    "NO_LOG",
    "OutcomeTracker",
    "Subscribed",
    "names_handler",
    "outcome_notes",
    "unread_since",
    "unseen_note",
]

#: The note on outcomes of a queue without a log.
NO_LOG = (
    "{queue} writes no log, so outcomes are known only where the handler stores its results: "
    f"queue.update(log_sampling_ratio=1.0); {LOG_PRICE}"
)

_LOGGER = logging.getLogger(__name__)
_RECHECK_PAUSES = (60.0, 120.0, 240.0, 480.0)  # seconds before the log is read once more for rows that are gone
_HELD = "those of another owner that no result tells of either are held"
_WEAKER = (
    "a row that was sent from elsewhere is sent again once the name of its task is free, about an hour after that ended"
)
_SECOND = 1_000_000
_STORE_PAUSE = 30.0  # seconds after a failed read of results
_SURE = 5 * _SECOND  # by which the time of the service is known
_TOGETHER = 10_000  # failed rows about which the results in the home are asked together
_MOST_UNEXPLAINED = 10_000  # failed rows that wait for their error texts


def names_handler(description: Mapping[str, Any]) -> bool:
    """Return whether the tasks of a batch call a handler of this machine, by the batch's description."""
    return str(description.get("url", "")).startswith("handler:")


def outcome_notes(record: BatchRecord, ratio: float, *, has_results: bool, shared: bool) -> list[str]:
    """Return notes on how rows were sent and how their outcomes are known, a sentence each.

    Parameters
    ----------
    ratio : float
        The share of its operations that the queue logs.
    has_results : bool
        Whether a task of the batch has a stored result.
    shared : bool
        Whether homes share its store, so that one of them owns it.
    """
    notes, facts = [], record.facts
    if facts.cancel and not facts.cancels_all:
        notes.append("some of its rows are being cancelled")
    if facts.existing:
        notes.append(
            f"{facts.existing:,} tasks existed before: created from another machine, or before the outbox was deleted"
        )
    if facts.sent_by_others:
        notes.append(
            "rows were sent from elsewhere: their states are those of the log of the last 30 days, and of stored "
            "results"
        )
    if facts.log_error:
        notes.append(unseen_note(facts.log_error, shared=shared))
    elif 0 < ratio < 1:
        notes.append(unseen_note(ratio, shared=shared))
    if facts.corrected:
        rows = counted(facts.corrected, "rows")
        notes.append(f"{rows} had another outcome first, corrected by log entries that came late")
    if ratio == 0:
        if not has_results and (record.counts[State.GONE] or not names_handler(record.description)):
            notes.append(NO_LOG.format(queue="the queue"))
        if not facts.sent_by_others:
            notes.append(unseen_note(ratio, shared=shared))
    return notes


def unseen_note(reason: str | float, *, shared: bool = False) -> str:
    """Return the sentence about rows that cannot be adopted, and what that means.

    `reason` is why, or the share of its operations that the queue logs.
    """
    if not isinstance(reason, str):
        reason = f"the queue logs {reason:.0%} of its operations" if reason else "the queue writes no log"
    return f"rows that were sent from elsewhere cannot be seen: {reason.rstrip('.')}; {_HELD if shared else _WEAKER}"


@dataclass(eq=False)
class OutcomeTracker:
    """Decides the states of the rows of one batch, snapshot by snapshot, and stores them."""

    outbox: Outbox
    record: BatchRecord
    watcher: Watcher
    results: Store  #: where the handlers store their results
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.batch = self.record.id
        self.has_results = False  #: a task of the batch has a stored result
        self.snapshot: Snapshot | None = None
        self.sources: dict[str, dt.datetime] = {}
        self.retrying = Retrying()  #: the rows that are tried again
        self.pace = Pace()
        self.trouble: str | None = None  #: why the last search failed
        facts = self.record.description
        self.limit = Limit(facts.get("_retry") or {})
        self.queue = QueueName.parse(self.record.place.queue_name)
        self.stored = StoredResults(self.outbox, self.results, self.batch)
        self._stored = Results(self.stored, self.limit)
        self.witnesses = Witnesses.of(self.watcher, self.queue, self.batch, self.limit, self._stored)
        self._recorded = 0  # number of the newest result of which failed rows know
        self._listed = 0  # when the tasks were listed last whose functions gave up, of the service
        self.search = Search(self.outbox, self.record, self.watcher, self.witnesses, self.tell, self.clock)
        self._due: int | None = facts.get("_due")
        self._spread = bool(facts.get("_spread"))
        # Tasks of which an attempt has just failed, and whether it was the last one.
        self._unexplained: dict[str, bool] = {}
        self._read_from = 0.0  # when results are read again after an error
        self._sent: int | None = None  # as far as was known when the last snapshot was taken

    def load(self) -> None:
        """Read from the outbox what earlier processes have found out."""
        facts = self.outbox.batches.facts(self.batch)
        self.search.sampled, self.has_results = facts.log_sampled, facts.has_results
        self.retrying = self.outbox.rows.retrying(self.batch, self.watcher.now())

    async def tell(self, evidence: Iterable[Evidence]) -> Recorded:
        """Record evidence; what depends on it in memory follows.

        The log has a success also where a function gave up. Such tasks are listed first, later than the success.
        """
        evidence = list(evidence)
        ends = [(one.began or 0) + (one.duration or 0) for one in evidence if one.fact is Fact.ANSWERED]
        if ends and not max(ends) + _SURE < self._listed <= self.watcher.now() and self._may_read_results():
            try:
                await self._read_given_up()
            except StoreError:  # they count as successes until it can be read
                self._read_from = self.clock.ticks() + _STORE_PAUSE
        recorded = await self.outbox.run(self.outbox.outcomes.record, self.batch, evidence)
        self.search.ended(recorded.ended)
        self._unexplained |= recorded.unexplained
        self.pace.add(recorded.ends, recorded.failed, recorded.succeeded)
        if not self.has_results and any(one.source is Source.RESULTS for one in evidence):
            self.has_results = True
            await self._change(lambda facts: replace(facts, has_results=True))
        return recorded

    async def _change(self, change: Callable[[BatchFacts], BatchFacts]) -> None:
        await self.outbox.run(self.outbox.batches.change, self.batch, change)

    async def _read_given_up(self) -> None:
        """Find out which functions gave up, by a listing."""
        at = self.watcher.now()
        async for evidence in self._stored.given_up():
            await self.tell(evidence)
        self._listed = at

    async def record_results(self) -> bool:
        """Record what the home has of results of failed rows, of functions that gave up, and of later tries.

        Return whether another home has made later tries. A result tells only that such a task was created.
        """
        await self.explain()  # rows that were open when their results were read
        newest = await self.outbox.run(self.outbox.results.newest)
        if newest == self._recorded:
            return False
        async for evidence in self._stored.given_up(sync=False):
            await self.tell(evidence)
        for page in paged(await self.search.in_state(State.FAILED), _TOGETHER):
            async for evidence in self._stored.known(await self.search.tasks(page), self._recorded):
                await self.tell(evidence)
        later = await self.outbox.run(self.outbox.results.of_later_tries, self.batch, self._recorded)
        recorded = await self.tell(Evidence(task=task, source=Source.RESULTS) for task in later)
        self._recorded = newest
        return recorded.newer > 0

    async def pack_results(self) -> None:
        """Put the stored results of a bucket into few objects; without the right to write they stay as they are."""
        try:
            while await _loop.to_thread(self.stored.pack):
                pass
        except CloudTasksError as error:
            _LOGGER.info("the results of batch %s are not packed: %s", self.batch, error.message)

    def _may_read_results(self) -> bool:
        """Return whether the store has not failed lately."""
        return self.clock.ticks() >= self._read_from

    async def apply(self, snapshot: Snapshot, *, sent: int) -> bool:
        """Record what one snapshot tells; return whether it is time to `search` the queue.

        `sent` rows are in the queue as far as is known. After an error it is called with the same snapshot again.
        """
        self.snapshot = snapshot
        self.limit.values = snapshot.values or self.limit.values
        # The tasks of a queue that is deleted leave it without an entry.
        lacking = snapshot.gone or self.limit.values.get("log_sampling_ratio", 1) < 1
        if lacking and not self.search.sampled:
            self.search.sampled = True
            await self._change(lambda facts: replace(facts, log_sampled=True))
        # Rows that were acknowledged since the last snapshot: this one may have been made before they were there.
        fresh = max(0, sent - self._sent) if self._sent is not None else 0
        if snapshot.entries:
            at = self.watcher.now()
            await self.tell(self.witnesses.log.evidence(snapshot.entries))
            await self.explain(listed=at)
        counts, self.retrying = await self.outbox.run(self._open_rows, snapshot.at)
        self._sent = sent = min(sent, counts[State.SENT])
        if snapshot.values is not None or snapshot.gone:
            self.sources["queue"] = from_micros(snapshot.at)
        if snapshot.log_until is not None:  # its outcomes are stored: tomorrow the log is read from here on
            self.sources["log"] = from_micros(snapshot.log_until)
        return sent > 0 and self.search.wanted(snapshot, sent, fresh)

    def _open_rows(self, at: int) -> tuple[Mapping[State, int], Retrying]:
        """Return how many rows are in each state, and those that wait for another attempt."""
        return self.outbox.batches.counts(self.record.whole), self.outbox.rows.retrying(self.batch, at)

    async def read_failed(self) -> None:
        """Find out which failed rows have succeeded, and which functions gave up; say so if that cannot be read.

        The log may have entries by now that came very late.
        """
        for what, read in {"results": self._read_stored, "log": self.search.read_failed_log}.items():
            try:
                await read()
            except CloudTasksError as error:
                notify(f"the {what} of failed rows of batch {self.batch} could not be read: {error.message}")

    async def _read_stored(self) -> None:
        await self._read_given_up()
        await self.search.read_results(await self.search.in_state(State.FAILED))

    async def find_missing(self) -> None:
        """Search the queue for rows that seem to have left it."""
        self.trouble = None
        try:
            await self.search.run(self.snapshot)
        except OutboxError:
            raise
        except CloudTasksError as error:  # of the service: the next suspicious snapshot begins another search
            self.trouble = error.message

    async def recheck_gone(self, is_needed: Callable[[], bool], changed: Callable[[], None]) -> None:
        """Read the log again for the rows that are gone, with growing pauses as long as some are."""
        for pause in (0.0, *_RECHECK_PAUSES):
            await asyncio.sleep(pause)
            if not is_needed():
                return
            try:
                await self.recheck()
            except OutboxError:
                raise
            except CloudTasksError as error:
                _LOGGER.info("the log was not read again for batch %s: %s", self.batch, error.message)
            changed()

    async def recheck(self) -> None:
        """Read the log again for the rows that are gone."""
        await self.learn_queue()
        await self.search.recheck(self.snapshot)

    async def learn_queue(self) -> None:
        """Read after how many attempts the queue gives up, unless a snapshot had it or it may not be read."""
        if not self.limit.values:
            with contextlib.suppress(PermissionDeniedError):
                self.limit.values = await self.watcher.read_queue(self.queue)

    async def explain(self, listed: float = math.inf) -> None:
        """Read the error texts of attempts that have just failed, as far as their handlers have stored them.

        Those that gave up need not be listed again if they were since the time `listed`, in microseconds since 1970.

        A failed row whose stored result is a success has succeeded after all: its answer may have come too late for the
        queue. A row that is still in the queue stays open.
        """
        final = dict(self._unexplained)
        if not final or not self._may_read_results():
            return
        found = set[str]()
        try:
            if self._listed < listed:
                await self._read_given_up()
            async for evidence in self._stored.known(list(final)):
                found.update(one.task for one in evidence)
                await self.tell([one for one in evidence if final.get(one.task) or one.fact is not Fact.STORED])
            # Successes are read only for failed rows of which no failure is stored.
            if tasks := [task for task, last in final.items() if last and task not in found]:
                for witness in self.witnesses.stored:
                    async for evidence in witness.read(tasks, 0):
                        await self.tell(evidence)
        except StoreError:
            self._read_from, self._recorded = self.clock.ticks() + _STORE_PAUSE, 0
            self._unexplained = dict(list(self._unexplained.items())[-_MOST_UNEXPLAINED:])
            return
        # Of the others a later attempt has failed meanwhile.
        self._unexplained = {task: last for task, last in self._unexplained.items() if final.get(task) is not last}

    def split(self, counts: Mapping[State, int], now: int) -> dict[str, int | None]:
        """Return how many of the rows in the queue are scheduled, ready, running and retrying; None where unknown."""
        sent = max(0, counts[State.SENT] - self.search.settling)
        if sent == 0:
            return dict.fromkeys(IN_QUEUE, 0)
        snapshot = self.snapshot
        if snapshot is None or snapshot.log_until is None:
            return dict.fromkeys(IN_QUEUE)
        retrying = min(self.retrying.rows, sent)
        untried = sent - retrying
        running = self._running(snapshot, sent)
        early = self._due is not None and self._due > now
        if running is None and early:  # whoever shares the queue, it runs none of these rows yet
            return {"scheduled": untried, "ready": 0, "running": running, "retrying": retrying}
        if running is None or (self._spread and untried):
            return {"scheduled": None, "ready": None, "running": running, "retrying": retrying}
        first = min(running, untried)
        retrying -= min(running - first, retrying)
        waiting = untried - first
        scheduled = waiting if early else 0
        return {"scheduled": scheduled, "ready": waiting - scheduled, "running": running, "retrying": retrying}

    def retry_note(self, now: int) -> str | None:
        """Return how far the retrying rows are: ``attempt 3 of 5, next in 12 min``."""
        retrying, limit = self.retrying, self.limit.attempts
        if not retrying.rows:
            return None
        of = f" of {limit}" if limit is not None else ""
        due = self.due(now)
        after = f", next in {duration_text(round((due - now) / _SECOND))}" if due else ""
        return f"attempt {retrying.attempts + 1}{of}{after}"

    def due(self, now: int) -> int | None:
        """Return when the next attempt is due, microseconds since 1970; of rows that were never tried, the first one.

        None if that is not known, or was before.
        """
        due, longest = (self.retrying.due, self._longest_pause) if self.retrying.rows else (self._due, math.inf)
        # A task that is due later than its longest pause was seen by another clock than that of `now`.
        return due if due and 0 < due - now <= longest * _SECOND else None

    @property
    def _longest_pause(self) -> float:
        """The most seconds between two attempts, as far as is known."""
        own = self.limit.own.get("max_backoff")
        known = parse_duration(own, "max_backoff").total_seconds() if own else self.limit.values.get("max_backoff")
        return known or math.inf

    def _running(self, snapshot: Snapshot, sent: int) -> int | None:
        """Return how many attempts are in flight, if the queue's figure can be this batch's."""
        values = snapshot.values or {}
        tasks, running = values.get("tasks"), values.get("running")
        if tasks is None or running is None or tasks > sent + len(snapshot.entries):
            return None  # others share the queue
        return min(int(running), sent)


_LATE_ENTRY = 600 * _SECOND  # by which a log entry may arrive late
_LINGER = 60.0  # seconds after the end in which a late log entry may still correct an outcome
_NEAR_END = 2.0  # seconds before the expected end
_FEW = 100  # rows that are left near the end, if no rate is known
_ONE_OR_TWO = 2  # rows that are left, for which somebody waits who called a function once
_EVERY, _EVERY_NEAR_END, _EVERY_OF_ONE = 1.0, 0.2, 0.05  # seconds between two reads of the queue


@dataclass(eq=False)
class Subscribed:
    """Subscribes one batch to its queue. Runs on the background loop."""

    connection: Connection
    outcomes: OutcomeTracker
    arrived: Callable[[Snapshot], None]  #: called with each snapshot
    read_until: dt.datetime | None  #: the time up to which earlier processes have read the log

    def __post_init__(self) -> None:
        self._subscription: Subscription | None = None
        self._ended_at: float | None = None  # when the batch was seen to be finished, while it is watched
        self._lingered = False  # it was watched for long enough after that

    def __bool__(self) -> bool:
        return self._subscription is not None

    def begin_anew(self) -> None:
        """Count the time after the end from the next end on."""
        self._ended_at, self._lingered = None, False

    def follow(self, record: BatchRecord, progress: Progress, *, finished: bool) -> float | None:
        """Watch the queue as long as a batch needs that; return after how many seconds to call this again.

        Parameters
        ----------
        record : BatchRecord
        progress : Progress
            How it was when that was computed last.
        finished : bool
            Nothing in this process is about to change a row.
        """
        if not record.done:
            self.begin_anew()
            subscription = self._subscribe(record)
            if subscription.every != (every := self._pace(record, progress.rate)):
                subscription.every = every
                self.connection.watcher.refresh(self.outcomes.queue)
        elif finished and self._is_correctable(record, progress.since):
            now = asyncio.get_running_loop().time()
            self._ended_at = now if self._ended_at is None else self._ended_at
            if now < self._ended_at + _LINGER:
                self._subscribe(record).every = _EVERY
                return self._ended_at + _LINGER - now
            self._lingered = True
            self.end()
        elif finished:
            self.end()
        return None

    def _is_correctable(self, record: BatchRecord, ended: dt.datetime | None) -> bool:
        """Return whether a late log entry may correct an outcome: nobody has read the log long enough after the end."""
        if self._lingered or not any(record.counts[state] for state in (State.FAILED, State.GONE, State.CANCELLED)):
            return False
        read, watched = self._log_read, self._subscription is not None
        return watched or read is None or ended is None or read < ended + dt.timedelta(seconds=_LINGER)

    @property
    def _log_read(self) -> dt.datetime | None:
        """Until when the log has been read."""
        return self.outcomes.sources.get("log") or self.read_until

    def _subscribe(self, record: BatchRecord) -> Subscription:
        """Return the subscription, a new one if there is none."""
        if self._subscription is None:
            since = unread_since(record.created, self._log_read, self.connection.clock.micros())
            watcher = self.connection.watcher
            self._subscription = watcher.subscribe(self.outcomes.queue, self.arrived, since=since, every=_EVERY)
        return self._subscription

    def end(self) -> None:
        """Stop watching."""
        self._ended_at = None
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _pace(self, record: BatchRecord, rate: float | None) -> float:
        """Return the seconds between two reads: fewer near the end of what an emulator runs, which has no quota."""
        opened = record.counts[State.UNSENT] + record.counts[State.SENT]
        near = max(_FEW, _NEAR_END * (rate or 0))
        # Rows that were just sent may end at once, before any of the batch has ended.
        last = max(self.outcomes.pace.last or 0.0, record.changed.timestamp())
        active = self.connection.clock.micros() / 1e6 - last < _NEAR_END
        if not (self.connection.endpoint.local and active and opened <= near):
            return _EVERY
        return _EVERY_OF_ONE if opened <= _ONE_OR_TWO else _EVERY_NEAR_END


def unread_since(created: dt.datetime, read: dt.datetime | None, now: int) -> int:
    """Return the time from which the log may have outcomes that are not stored, in microseconds since 1970.

    All times are those of the service.

    Parameters
    ----------
    created : datetime
        When the batch was created.
    read : datetime, optional
        Up to when the log was read; None: it was not.
    now : int
        Microseconds since 1970.

    Examples
    --------
    >>> one, three = (dt.datetime(1970, 1, 1, hour, tzinfo=dt.UTC) for hour in (1, 3))
    >>> unread_since(one, three, now=9 * 3_600_000_000) / 3_600_000_000
    2.75
    """
    since = min(round(created.timestamp() * _SECOND), now)
    until = None if read is None else round(read.timestamp() * _SECOND)
    if until is not None and until <= now:  # else the clock was set back
        since = max(since, until - _LATE_ENTRY)
    return since - CLOCK_MARGIN
