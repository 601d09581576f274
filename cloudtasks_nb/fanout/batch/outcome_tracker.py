"""Decide from the log, the statistics and the queue what became of each row of a batch.

Cloud Tasks deletes a task when it succeeds and when it gives up. Only the operations log distinguishes the two:
*succeeded* is a task with an OK entry, *failed* one without, whose last possible attempt is in the log. Every other row
that left the queue is *gone*. Nothing here takes a guess for a fact.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from cloudtasks_nb._names import CODES, QueueName
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Outcome, State
from cloudtasks_nb.fanout.plan.identity import batch_of, try_of
from cloudtasks_nb.service.oplog import Entry
from cloudtasks_nb.service.watch import Pending, Snapshot

__all__ = ["OutcomeTracker", "QueueReader", "decide"]

_SECOND = 1_000_000
_SMALL = 300  # rows that are looked up one by one rather than with the whole queue
_SUSPICION = 3.0  # seconds for which rows have to be missing from the statistics before the queue is searched
_ROUTINE = 30.0  # seconds between two searches if the queue has no statistics
_FIRST_LAG = 60 * _SECOND  # how late an entry may be before the first one was seen

#: How a task left its queue: the reason of a row in state `gone`.
_DELETED, _PURGED, _CLOSED = "deleted from the queue", "not in the queue since it was purged", "the queue was deleted"


class QueueReader(Protocol):
    """What is needed of the watcher of queues."""

    async def listing(self, queue: QueueName) -> Mapping[str, Pending]:
        """Return every task in a queue, by short id."""

    async def lookup(self, queue: QueueName, tasks: Iterable[str]) -> Mapping[str, Pending | None]:
        """Return the named tasks (short ids) of a queue; None for those that are not in it."""


def decide(entries: Sequence[Entry], max_attempts: int | None) -> tuple[State | None, Entry]:
    """Return the state of one task by its log entries (None: not known yet), and the entry that shows it.

    Parameters
    ----------
    entries : sequence of Entry
        All of one task, in any order.
    max_attempts : int, optional
        How many attempts end a task; None: there is no such number.
    """
    answered = [entry for entry in entries if entry.status == "OK" and not entry.deleted]
    if answered:
        return State.SUCCEEDED, max(answered, key=lambda entry: entry.attempt)
    attempts = [entry for entry in entries if not entry.deleted]
    last = max(attempts or entries, key=lambda entry: (entry.attempt, entry.time))
    if attempts and max_attempts is not None and last.attempt >= max_attempts:
        return State.FAILED, last
    return (State.GONE if any(entry.deleted for entry in entries) else None), last


class OutcomeTracker:
    """Decides the states of the rows of one batch, snapshot by snapshot, and stores them."""

    def __init__(self, outbox: Outbox, record: BatchRecord, reader: QueueReader, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._outbox = outbox
        self._reader = reader
        place = record.place
        self._batch = record.id
        self._queue = QueueName(project=place.project, location=place.location, queue=place.queue)
        self._google = place.endpoint == "google"
        self._created = int(record.created.timestamp() * _SECOND)
        retry = record.description.get("_retry") or {}
        self._own_attempts: int | None = retry.get("max_attempts")
        self._own_duration = bool(retry.get("max_retry_duration"))
        self._due: int | None = record.description.get("_due")
        self._spread = bool(record.description.get("_spread"))
        self._retrying: dict[int, tuple[int, int | None]] = {}
        self._absent: dict[int, int] = {}
        self._unstored: dict[str, list[Entry]] = defaultdict(list)  # by task, until their outcome is stored
        self._missing_since: float | None = None
        self._sent: int | None = None  # as far as was known when the last snapshot was taken
        self._searched = self._clock.ticks()
        self._search_took = 0.0
        self.max_attempts: int | None = None
        self.snapshot: Snapshot | None = None
        self.sources: dict[str, dt.datetime] = {}

    def load(self) -> None:
        """Read from the outbox which rows were tried before."""
        known = self._outbox.batches.settings(self._batch).get("max_attempts")
        self.max_attempts = int(known) if known is not None else None
        for page in self._outbox.rows.pages(self._batch, states={State.SENT}):
            for ref, attempts, due in zip(page.refs, page.attempts, page.schedule_time, strict=True):
                if attempts:
                    self._retrying[ref] = (attempts, due)

    def correctable(self, counts: Mapping[State, int]) -> bool:
        """Return whether a later log entry may still correct a final outcome."""
        readable = self.snapshot is not None and self.snapshot.log_until is not None
        return readable and bool(counts[State.FAILED] or counts[State.GONE])

    def seen(self, tasks: Sequence[str]) -> dict[str, bool | None]:
        """Return True for the tasks that have a log entry; None for the others, which are not known."""
        located = self._outbox.rows.locate(self._batch, tasks)
        known = {
            ref
            for page in self._outbox.rows.pages(self._batch, states=set(State))
            for ref, attempts, state in zip(page.refs, page.attempts, page.states, strict=True)
            if attempts or state in (State.SUCCEEDED, State.FAILED)
        }
        return {task: True if located.get(task) in known else None for task in tasks}

    async def apply(self, snapshot: Snapshot, *, sent: int) -> bool:
        """Decide the rows that one snapshot is about; return whether it is time to `search` the queue.

        `sent` rows are in the queue as far as is known.
        """
        self.snapshot = snapshot
        await self._learn_limit(snapshot)
        for entry in snapshot.entries:
            if batch_of(entry.task) == self._batch:
                self._unstored[entry.task].append(entry)
        # Rows that were acknowledged since the last snapshot: this one may have been made before they were there.
        fresh = max(0, sent - self._sent) if self._sent is not None else 0
        if self._unstored:
            sent -= await self._outbox.run(self._store, self._unstored)
            self._unstored.clear()
        self._sent = sent
        self.sources["queue"] = _moment(snapshot.at)
        if snapshot.log_until is not None:  # its outcomes are stored: tomorrow the log is read from here on
            self.sources["log"] = _moment(snapshot.log_until)
        return sent > 0 and self._suspicious(snapshot, sent, fresh)

    async def search(self) -> None:
        """Search the queue for the rows; those that are missing for long enough are gone.

        This takes long if the queue is large: the service allows few list calls a minute.
        """
        started = self._clock.ticks()
        waiting = await self._outbox.run(self.sent_rows)
        there = await self._find([task for _, task, _ in waiting])
        snapshot, now = self.snapshot, round(self._clock.now() * _SECOND)
        outcomes = []
        for ref, task, attempt in waiting:
            found = there.get(task)
            if found is not None:
                self._absent.pop(ref, None)
                if found.attempts and found.last_status:
                    outcomes.append(_retrying(ref, attempt, found))
                continue
            # A clock that was set back would let the row wait until it has caught up.
            since = self._absent[ref] = min(self._absent.get(ref, now), now)
            if snapshot is not None and self._log_had_time(snapshot, since):
                del self._absent[ref]
                self._retrying.pop(ref, None)
                outcomes.append(Outcome(ref=ref, attempt=attempt, state=State.GONE, reason=self._reason(snapshot)))
        if outcomes:
            await self._outbox.run(self._outbox.outcomes.record, self._batch, outcomes)
        self._searched = self._clock.ticks()
        self._search_took = self._searched - started

    def split(self, counts: Mapping[State, int], now: int) -> dict[str, int | None]:
        """Return how many of the rows in the queue are scheduled, ready, running and retrying; None where unknown."""
        sent = counts[State.SENT]
        if sent == 0:
            return {"scheduled": 0, "ready": 0, "running": 0, "retrying": 0}
        snapshot = self.snapshot
        if snapshot is None or snapshot.log_until is None:
            return {"scheduled": None, "ready": None, "running": None, "retrying": None}
        retrying = min(len(self._retrying), sent)
        untried = sent - retrying
        running = self._running(snapshot, sent)
        if running is None or (self._spread and untried):
            return {"scheduled": None, "ready": None, "running": running, "retrying": retrying}
        first = min(running, untried)
        retrying -= min(running - first, retrying)
        waiting = untried - first
        scheduled = waiting if self._due is not None and self._due > now else 0
        return {"scheduled": scheduled, "ready": waiting - scheduled, "running": running, "retrying": retrying}

    def retry_note(self, now: int) -> str | None:
        """Return how far the retrying rows are: ``attempt 3 of 5, next in 12 min``."""
        if not self._retrying:
            return None
        attempts = max(done for done, _ in self._retrying.values()) + 1
        of = f" of {self._limit}" if self._limit is not None else ""
        due = [at for _, at in self._retrying.values() if at is not None and at > now]
        wait = (min(due) - now) / _SECOND if due else 0
        after = f", next in {duration_text(round(wait))}" if due else ""
        return f"attempt {attempts}{of}{after}"

    @property
    def _limit(self) -> int | None:
        """After how many attempts a task is given up; None: no such number."""
        limit = self._own_attempts if self._own_attempts is not None else self.max_attempts
        values = self.snapshot.values if self.snapshot is not None else None
        lasting = self._own_duration or bool(values and values.get("max_retry_duration"))
        return limit if limit is not None and limit > 0 and not lasting else None

    async def _learn_limit(self, snapshot: Snapshot) -> None:
        """Remember the largest number of attempts that the queue had since sending."""
        now = None if snapshot.values is None else snapshot.values["max_attempts"]
        if now is None or self.max_attempts == -1 or (self.max_attempts is not None and 0 <= now <= self.max_attempts):
            return
        self.max_attempts = now
        await self._outbox.run(self._outbox.batches.set_setting, self._batch, "max_attempts", str(now))

    def _store(self, tasks: Mapping[str, Sequence[Entry]]) -> int:
        """Store the outcomes that log entries show; return how many rows became final."""
        outcomes = []
        for task, ref in self._outbox.rows.locate(self._batch, tasks).items():
            state, entry = decide(tasks[task], self._limit)
            if state is None:
                self._retrying[ref] = (entry.attempt, entry.retry_time)
            else:
                self._retrying.pop(ref, None)
            attempt = try_of(task)
            if attempt is not None:
                outcomes.append(_outcome(ref, attempt, state, entry))
        return self._outbox.outcomes.record(self._batch, outcomes)

    def _suspicious(self, snapshot: Snapshot, sent: int, fresh: int) -> bool:
        """Return whether rows seem to have left the queue without an entry in the log.

        While rows are sent, only those that are not `fresh` are certain to be there: to search the queue for all of
        them would cost more than the sending.
        """
        if snapshot.gone:
            return True
        if snapshot.values is None:
            return False
        now = self._clock.ticks()
        tasks = snapshot.values.get("tasks")
        if tasks is not None and tasks < sent - fresh:
            self._missing_since = now if self._missing_since is None else self._missing_since
            return self._purged(snapshot) or now - self._missing_since > _SUSPICION
        self._missing_since = None
        if tasks is not None and (fresh or tasks == sent) and not self._absent:
            return False
        return now - self._searched > max(_ROUTINE, 20 * self._search_took)

    def sent_rows(self) -> list[tuple[int, str, int]]:
        """Return ref, task and try of each row in state `sent`."""
        return [
            (ref, task, attempt)
            for page in self._outbox.rows.pages(self._batch, states={State.SENT})
            for ref, task, attempt in zip(page.refs, page.tasks, page.tries, strict=True)
            if task is not None
        ]

    async def _find(self, tasks: Sequence[str]) -> Mapping[str, Pending | None]:
        if self.snapshot is not None and self.snapshot.gone:
            return {}
        if len(tasks) <= _SMALL:
            return await self._reader.lookup(self._queue, tasks)
        return await self._reader.listing(self._queue)

    def _log_had_time(self, snapshot: Snapshot, since: int) -> bool:
        """Return whether the log should by now contain the outcome of a task that is missing since then."""
        values = snapshot.values
        silent = values is not None and not values["log_sampling_ratio"]
        denied = any(isinstance(error, PermissionDeniedError) for error in snapshot.errors)
        if silent or denied:
            return True
        if snapshot.log_until is None:
            return False
        late = _FIRST_LAG if snapshot.lag is None else max(5 * _SECOND, 2 * snapshot.lag + 2 * _SECOND)
        if self._purged(snapshot) or snapshot.gone:
            # It is known why they are missing; only the answer to an attempt may still come.
            least = (10 if self._google else 1) * _SECOND
            late = least if snapshot.lag is None else late if self._google else max(least, 2 * snapshot.lag)
        return snapshot.log_until > since + late

    def _purged(self, snapshot: Snapshot) -> bool:
        """Return whether the queue was purged after the batch was created."""
        return snapshot.values is not None and (snapshot.values.get("purge_time") or 0) > self._created

    def _reason(self, snapshot: Snapshot) -> str | None:
        """Return how tasks that are missing left the queue, if that is known."""
        if snapshot.gone:
            return _CLOSED
        return _PURGED if self._purged(snapshot) else None

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
        last_status=CODES.index(entry.status) if entry.status in CODES else 2,
        schedule_time=entry.retry_time if state is None else None,
        last_attempt_time=entry.time - round((entry.duration or 0) * _SECOND),
        duration=None if entry.duration is None else round(entry.duration * _SECOND),
    )


def _retrying(ref: int, attempt: int, found: Pending) -> Outcome:
    return Outcome(
        ref=ref,
        attempt=attempt,
        attempts=found.attempts,
        last_status=CODES.index(found.last_status) if found.last_status in CODES else None,
        last_message=found.last_message,
        schedule_time=found.schedule_time,
    )


def _moment(at: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
