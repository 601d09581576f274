"""Decide from the log, the stored results, the statistics and the queue what became of each row of a batch.

A task leaves its queue when it succeeds, when it is deleted and when it is given up. The operations log has the first
two. So a task with an OK entry has *succeeded*, and one that left without either has *failed* if its last attempt did:
at once if that attempt is the last possible one, else after it was searched for. A result that its handler stored tells
the same, once the task has left the queue; a stored success counts even if the log has a failure. Every other row that
left the queue is *gone*.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudtasks_nb._names import CODES, QueueName, code_of
from cloudtasks_nb._settings import parse_duration
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.errors import PermissionDeniedError, StoreError
from cloudtasks_nb.fanout.batch.search import Search
from cloudtasks_nb.fanout.causes import exception_line
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Outcome, State
from cloudtasks_nb.fanout.outbox.tallies import paged
from cloudtasks_nb.fanout.plan.identity import batch_of, try_of
from cloudtasks_nb.service.costs import LOG_PRICE
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Snapshot, Watcher
from cloudtasks_nb.store.results import StoredResult, read_results, result_tasks
from cloudtasks_nb.store.store import Store

__all__ = ["NO_LOG", "OutcomeTracker", "decide", "decide_result", "names_handler"]

#: The note on outcomes of a queue without a log.
NO_LOG = (
    "{queue} writes no log, so outcomes are known only where the handler stores its results: "
    f"queue.update(log_sampling_ratio=1.0); {LOG_PRICE}"
)

_SECOND = 1_000_000
_STORE_PAUSE = 30.0  # seconds after a failed read of error texts
_PROBED = 100  # rows that are tried again whose results are read at a time, until one has a result
_TOGETHER = 1_000  # results that are read together: a traceback may have 100 KB
_LISTED = 10  # results that are listed in the time in which one is looked up by name
_MOST_UNEXPLAINED = 10_000  # failed rows that wait for their error texts
_DELETED = "deleted from the queue"  #: how a task left its queue: the reason of a row in state `gone`
_LEFT = (State.UNSENT, State.SENT)  # states that are not final


def decide(entries: Sequence[Entry], max_attempts: int | None, *, lowered: bool = False) -> tuple[State | None, Entry]:
    """Return the state of one task by its log entries (None: not known yet), and the entry that shows it.

    Parameters
    ----------
    entries : sequence of Entry
        All of one task, in any order.
    max_attempts : int, optional
        How many attempts end a task; None: there is no such number.
    lowered : bool
        Whether it was more before: then an attempt may be made that is beyond it.
    """
    answered = [entry for entry in entries if entry.status == "OK" and not entry.deleted]
    if answered:
        return State.SUCCEEDED, max(answered, key=lambda entry: entry.attempt)
    attempts = [entry for entry in entries if entry.status and not entry.deleted]
    last = max(attempts or entries, key=lambda entry: (entry.attempt, entry.time))
    beyond = lowered and last.retry_time is not None
    if attempts and max_attempts is not None and last.attempt >= max_attempts and not beyond:
        return State.FAILED, last
    return (State.GONE if any(entry.deleted for entry in entries) else None), last


def names_handler(description: Mapping[str, Any]) -> bool:
    """Return whether the tasks of a batch call a handler of this machine, by the batch's description."""
    return str(description.get("url", "")).startswith("handler:")


def decide_result(result: StoredResult, max_attempts: int | None) -> State | None:
    """Return the state of a task that left its queue by its newest stored result; None: it does not show it."""
    if result.ok:
        return State.SUCCEEDED
    return State.FAILED if max_attempts is not None and (result.attempt or 0) >= max_attempts else None


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
        self.search = Search(
            self.outbox, self.record, self.watcher, self.clock, self._store_found, self._store_left, self._forget
        )
        self._values: Mapping[str, Any] = {}  # settings of the queue, as far as they were read
        self._lowered = False  # the queue gives up after fewer attempts than before
        facts = self.record.description
        self._retry: Mapping[str, Any] = facts.get("_retry") or {}  # of the tasks, instead of the queue's
        self._due: int | None = facts.get("_due")
        self._spread = bool(facts.get("_spread"))
        self._retrying: dict[int, tuple[int, int | None]] = {}
        self._unstored: list[Entry] = []  # until their outcomes are stored
        # By row, the task and the try of which an attempt has just failed, and whether it was the last one.
        self._unexplained: dict[int, tuple[str, int, bool]] = {}
        self._explain_from = 0.0
        self._sent: int | None = None  # as far as was known when the last snapshot was taken

    def load(self) -> None:
        """Read from the outbox which rows were tried before."""
        settings = self.outbox.batches.settings(self.batch)
        self.search.sampled = bool(settings.get("sampled"))
        self.search.adopted = bool(settings.get("adopted"))
        self.has_results = bool(settings.get("results"))
        for page in self.outbox.rows.pages(self.batch, states={State.SENT}):
            for ref, attempts, due in zip(page.refs, page.attempts, page.schedule_time, strict=True):
                if attempts:
                    self._retrying[ref] = (attempts, due)

    async def apply(self, snapshot: Snapshot, *, sent: int) -> bool:
        """Decide the rows that one snapshot is about; return whether it is time to `search` the queue.

        `sent` rows are in the queue as far as is known.
        """
        self.snapshot, before = snapshot, self._limit
        self._values = snapshot.values or self._values
        self._lowered |= before is not None and (self._limit or before) < before
        if self._values.get("log_sampling_ratio", 1) < 1 and not self.search.sampled:
            self.search.sampled = True
            await self.outbox.run(self.outbox.batches.set_setting, self.batch, "sampled", True)
        self._unstored += [entry for entry in snapshot.entries if batch_of(entry.task) == self.batch]
        # Rows that were acknowledged since the last snapshot: this one may have been made before they were there.
        fresh = max(0, sent - self._sent) if self._sent is not None else 0
        if self._unstored:
            sent -= await self.outbox.run(self.store, self._unstored)
            self._unstored.clear()
            await self.explain()
        self._sent = sent
        self.sources["queue"] = _moment(snapshot.at)
        if snapshot.log_until is not None:  # its outcomes are stored: tomorrow the log is read from here on
            self.sources["log"] = _moment(snapshot.log_until)
        return sent > 0 and self.search.wanted(snapshot, sent, fresh)

    async def recheck(self) -> None:
        """Read the log again for the rows that are gone."""
        await self.learn_queue()
        await self.search.recheck(self.snapshot)

    async def learn_queue(self) -> None:
        """Read after how many attempts the queue gives up, unless a snapshot had it or it may not be read."""
        if not self._values:
            with contextlib.suppress(PermissionDeniedError):
                self._values = await self.watcher.read_queue(QueueName.parse(self.record.place.queue_name))

    async def stored_tasks(self, *, all_rows: bool) -> AsyncIterator[Sequence[str]]:
        """Yield the tasks of the batch that have a stored result, page by page.

        Parameters
        ----------
        all_rows : bool
            Else, if few rows are unsent, only their newest tasks are looked up.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        counts = await self.outbox.run(self.outbox.batches.counts, self.batch)
        if all_rows or counts[State.UNSENT] * _LISTED >= sum(counts.values()):
            pages = result_tasks(self.results, self.batch)
            while (listed := await asyncio.to_thread(next, pages, None)) is not None:
                yield listed
            return
        for page in paged(await self.search.in_state(State.UNSENT), _TOGETHER):
            rows = await self.outbox.run(self.outbox.rows.tasks, self.batch, page)
            yield [result.task for _, _, result in await self._results_of(rows)]

    def split(self, counts: Mapping[State, int], now: int) -> dict[str, int | None]:
        """Return how many of the rows in the queue are scheduled, ready, running and retrying; None where unknown."""
        sent = max(0, counts[State.SENT] - len(self.search.settling))
        if sent == 0:
            return {"scheduled": 0, "ready": 0, "running": 0, "retrying": 0}
        snapshot = self.snapshot
        if snapshot is None or snapshot.log_until is None:
            return {"scheduled": None, "ready": None, "running": None, "retrying": None}
        retrying = min(len(self._retrying), sent)
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
        retrying = [*self._retrying.values()]  # a copy, because outcomes are stored in another thread
        if not retrying:
            return None
        attempts = max(done for done, _ in retrying) + 1
        of = f" of {self._limit}" if self._limit is not None else ""
        # A task that is due later than its longest pause was seen by another clock than that of `now`.
        latest = now + self._longest_pause * _SECOND
        due = [at for _, at in retrying if at is not None and now < at <= latest]
        wait = (min(due) - now) / _SECOND if due else 0
        after = f", next in {duration_text(round(wait))}" if due else ""
        return f"attempt {attempts}{of}{after}"

    @property
    def _longest_pause(self) -> float:
        """The most seconds between two attempts, as far as is known."""
        own = self._retry.get("max_backoff")
        known = parse_duration(own, "max_backoff").total_seconds() if own else self._values.get("max_backoff")
        return known or math.inf

    @property
    def _limit(self) -> int | None:
        """After how many attempts a task is given up now; None: no such number, or it is not known."""
        settings = {**self._values, **self._retry}
        limit = settings.get("max_attempts", -1)
        return limit if limit > 0 and not settings.get("max_retry_duration") else None

    def _forget(self, ref: int) -> None:
        """Forget what was noted of a row, which is final now."""
        self._retrying.pop(ref, None)
        self.search.settling.discard(ref)

    async def _store_found(self, entries: Sequence[Entry]) -> None:
        """Store what a search has found in the log."""
        await self.outbox.run(self.store, entries)
        await self.explain()

    async def explain(self) -> None:
        """Store the error texts of attempts that have just failed, as far as their handlers have stored them.

        A failed row whose stored result is a success has succeeded after all: its answer may have come too late for the
        queue.
        """
        failed = dict(self._unexplained)
        if not failed or self.clock.ticks() < self._explain_from:
            return
        try:
            for last in (True, False):
                rows = [(ref, *row[:2]) for ref, row in failed.items() if row[2] is last]
                # Most handlers that are not ours store nothing.
                for page in paged(rows if last or self.has_results else rows[:_PROBED], _TOGETHER):
                    await self._store_results(page, left=last)
        except StoreError:
            self._explain_from = self.clock.ticks() + _STORE_PAUSE
            self._unexplained = dict(list(self._unexplained.items())[-_MOST_UNEXPLAINED:])
            return
        for ref, row in failed.items():
            if self._unexplained.get(ref) is row:  # else a later attempt has failed meanwhile
                self._unexplained.pop(ref, None)

    async def _store_left(self, refs: Sequence[int]) -> None:
        """Store the outcomes that stored results show of rows whose tasks left the queue."""
        await self._store_results(await self.outbox.run(self.outbox.rows.tasks, self.batch, refs))

    async def _store_results(self, rows: Sequence[tuple[int, str, int]], *, left: bool = True) -> None:
        """Store what the results of rows show, given by ref, newest task and its try.

        Those that have not `left` their queue stay open.
        """
        outcomes = [
            _outcome_of(ref, attempt, decide_result(result, self._limit) if left else None, result)
            for ref, attempt, result in await self._results_of(rows)
            if left or not result.ok
        ]
        await self.outbox.run(self.outbox.outcomes.record, self.batch, outcomes)
        for outcome in outcomes:
            if outcome.state is not None:
                self._forget(outcome.ref)

    async def _results_of(self, rows: Sequence[tuple[int, str, int]]) -> list[tuple[int, int, StoredResult]]:
        """Return ref, try and result of those rows that have one."""
        found = await asyncio.to_thread(read_results, self.results, self.batch, [task for _, task, _ in rows])
        results = [
            (ref, attempt, result) for (ref, _, attempt), result in zip(rows, found, strict=True) if result is not None
        ]
        if results and not self.has_results:
            self.has_results = True
            await self.outbox.run(self.outbox.batches.set_setting, self.batch, "results", True)
        return results

    def store(self, entries: Iterable[Entry]) -> int:
        """Store the outcomes that log entries show; return how many sent rows became final."""
        tasks: dict[str, list[Entry]] = defaultdict(list)
        for one in entries:
            tasks[one.task].append(one)
        located = self.outbox.rows.locate(self.batch, tasks)
        before = self.outbox.rows.states_of(located.values())
        outcomes, ended = [], 0
        for task, ref in located.items():
            state, entry = decide(tasks[task], self._limit, lowered=self._lowered)
            if state is State.GONE or not all(one.status for one in tasks[task]):
                self.search.unclear.add(ref)
            if state is not None:
                self._forget(ref)
                ended += before[ref] is State.SENT
            elif before[ref] in _LEFT and entry.attempt >= self._retrying.get(ref, (0, None))[0]:
                self._retrying[ref] = (entry.attempt, entry.retry_time)
            attempt = try_of(task)
            if attempt is not None:
                outcomes.append(_outcome(ref, attempt, state, entry))
                if state is State.FAILED and before[ref] is not State.SUCCEEDED:
                    self._unexplained[ref] = task, attempt, True
                elif state is None and before[ref] in _LEFT and entry.status:
                    self._unexplained[ref] = task, attempt, False
        self.outbox.outcomes.record(self.batch, outcomes, from_log=True)
        return ended

    def _running(self, snapshot: Snapshot, sent: int) -> int | None:
        """Return how many attempts are in flight, if the queue's figure can be this batch's."""
        values = snapshot.values or {}
        tasks, running = values.get("tasks"), values.get("running")
        if tasks is None or running is None or tasks > sent + len(snapshot.entries):
            return None  # others share the queue
        return min(int(running), sent)


def _outcome(ref: int, attempt: int, state: State | None, entry: Entry) -> Outcome:
    if entry.deleted:
        return Outcome(ref=ref, attempt=attempt, state=state, reason=_DELETED)
    return Outcome(
        ref=ref,
        attempt=attempt,
        state=state,
        reason=_DELETED if state is State.GONE else None if state is None else "",
        attempts=entry.attempt,
        last_status=(CODES.index(entry.status) if entry.status in CODES else 2) if entry.status else None,
        schedule_time=entry.retry_time if state is None else None,
        last_attempt_time=entry.time - round((entry.duration or 0) * _SECOND),
        duration=None if entry.duration is None else round(entry.duration * _SECOND),
    )


def _outcome_of(ref: int, attempt: int, state: State | None, result: StoredResult) -> Outcome:
    return Outcome(
        ref=ref,
        attempt=attempt,
        state=state,
        reason=None if state is None else "",
        attempts=result.attempt,
        last_status=code_of(result.status),
        http_status=result.status,
        last_message=None if result.error is None else exception_line(result.error),
        last_attempt_time=round(result.started.timestamp() * _SECOND),
        duration=None if result.duration is None else round(result.duration * _SECOND),
    )


def _moment(at: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
