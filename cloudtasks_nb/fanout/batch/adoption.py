"""Find out which rows of a batch were sent from elsewhere, before this home sends any.

The log, the stored results and the queue show it.

A batch is the same on every machine, because its id and those of its tasks are derived from its rows. What another home
has sent of it is recorded as if this one had sent it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, EndpointError, OutboxError, PermissionDeniedError, StoreError
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker
from cloudtasks_nb.fanout.batch.search import record_pending
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State
from cloudtasks_nb.fanout.plan.identity import round_of, try_of
from cloudtasks_nb.service.oplog import RETENTION, Entry
from cloudtasks_nb.service.watch import Watcher

__all__ = ["LATE", "READING", "Adoption", "unseen_note"]

#: What is done while the unsent rows of a batch may have been sent from elsewhere.
READING = "reading what was sent from elsewhere"

#: Seconds by which a log entry is late at most.
LATE = 120.0

_LOGGER = logging.getLogger(__name__)

_SECOND = 1_000_000
_OVERLAP = 900.0  # seconds by which entries may be late, and clocks differ
_FRESH = 60.0  # seconds after a read in which rows in their first try are sent without another one
_COMMIT = 1.0  # seconds in which an emulator surely stores the entry of a task that it has just removed
_ENDPOINT_POLL = 2.0  # seconds between two tries while nothing answers
_WEAKER = (
    "a row that was sent from elsewhere is sent again once the name of its task is free, about an hour after that ended"
)


@dataclass(eq=False)
class Adoption:
    """Adopts rows of one batch that were sent from elsewhere."""

    outbox: Outbox
    record: BatchRecord
    outcomes: OutcomeTracker
    watcher: Watcher
    changed: Callable[[], None]  #: called when rows have changed
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.batch = self.record.id
        self.queue = QueueName.parse(self.record.place.queue_name)
        self.reading: str | None = None  #: how far the reading is, as a sentence; None: nothing is read
        self._notified: tuple[int, int] = (0, 0)  # the last round whose end was notified, and when
        self._active = 0  # time of the last attempt of a row
        self._again, self._read_again = (
            asyncio.Lock(),
            (-math.inf, math.inf),
        )  # when it was read for tasks in doubt, since when
        self.known_later = False  #: of some tasks the log may tell later whether they were created

    async def seen(self, tasks: Sequence[str], since: float) -> dict[str, bool | None]:
        """Return which tasks that are not in the queue have an entry in the log, which is read again.

        True for those that have one. False for the others if the log has every entry since a time (in seconds since
        1970), so that these tasks were never created; else None, which is not known.
        """
        complete = False
        with contextlib.suppress(CloudTasksError):  # then it is not known
            values = await self.watcher.read_queue(self.queue)
            immediate = await self.watcher.log_is_immediate()
            logged = values["log_sampling_ratio"] == 1
            asked = self.clock.ticks()
            async with self._again:  # one read for all that ask meanwhile
                if asked >= self._read_again[0] or since < self._read_again[1]:
                    await self.clock.sleep(_COMMIT if immediate else 0)
                    read = self.clock.ticks(), since
                    await self._read_log(round((since - _OVERLAP) * _SECOND), first=False)
                    self._read_again = read
            complete = logged and (immediate or self.clock.now() - since > LATE)
            self.known_later |= logged and not complete
        self.reading = None
        tried = await self.outbox.run(self.outbox.rows.tried, self.batch, tasks)
        return {task: True if task in tried else False if complete else None for task in tasks}

    async def run(self, will_retry: Callable[[CloudTasksError], None]) -> None:
        """Adopt what was sent from elsewhere since the last time, if rows are unsent; the log may be unreadable.

        While nothing answers at an emulator's endpoint, `will_retry` is called with the error.

        Raises
        ------
        OutboxError
            If the outbox cannot be used.
        """
        while (last := await self.outbox.run(self._last_read)) is not None:
            started = self.clock.now()
            try:
                await self._adopt(last, started)
            except OutboxError:
                raise
            except CloudTasksError as error:
                if isinstance(error, EndpointError) and self.record.place.endpoint != "google":
                    will_retry(error)
                    await self.clock.sleep(_ENDPOINT_POLL)
                    continue
                await self._read_results(first=not last)
                settings = await self.outbox.run(self.outbox.batches.settings, self.batch)
                by_results = not last and settings.get("adopted")  # the log was never read
                await self._set("unseen", None if by_results else error.message)
                return
            finally:
                self.reading = None
            if (await self.outbox.run(self.outbox.batches.settings, self.batch)).get("unseen"):
                await self._set("unseen", None)
            await self._set("read_elsewhere", started)
            return

    def _last_read(self) -> float | None:
        """Return when the log was read last, 0 for never; None if it need not be read now."""
        if not self.outbox.requests.waiting(self.batch):
            return None
        last = float(self.outbox.batches.settings(self.batch).get("read_elsewhere", 0.0))
        fresh = 0 <= self.clock.now() - last <= _FRESH
        return None if fresh and not self.outbox.requests.repeats(self.batch) else last

    async def _adopt(self, last: float, now: float) -> None:
        since = max(round(now * _SECOND) - RETENTION, round((last - _OVERLAP) * _SECOND))
        logged = last or await self.watcher.is_logged(self.queue, since=since, task=f"-{self.batch}-")
        if logged:
            await self._read_log(since, first=not last)
        found = await self._read_results(first=not last)
        if not (logged or found):
            return
        if not last:
            with contextlib.suppress(PermissionDeniedError):
                await self._read_queue()
        await self.outbox.run(self._set_round)
        self.changed()

    async def _read_log(self, since: int, *, first: bool) -> None:
        """Record what the log tells."""
        if first and not await self.outbox.run(self.outbox.requests.begun, self.batch):
            await self._set_adopted()
        await self.outcomes.learn_queue()
        read = 0
        async for entries in self.watcher.task_log(self.queue, since=since, tasks=[f"-{self.batch}-"]):
            if await self.outbox.run(self._record, entries):
                await self._set_adopted()
            await self.outcomes.explain()
            read += len(entries)
            self._report(f"{counted(read, 'log entries')} so far")

    async def _read_results(self, *, first: bool) -> bool:
        """Record as sent the rows whose tasks have a stored result; return whether one was not known to be sent.

        What became of them is decided like that of all rows that were sent, once their tasks left the queue.
        """
        newer, read = False, 0
        unsent = await self.outbox.run(self._unsent)
        try:
            async for tasks in self.outcomes.stored_tasks(all_rows=first):
                newer |= await self.outbox.run(self._raise_tries, tasks, pending=False)
                read += len(tasks)
                self._report(f"{counted(read, 'results')} so far")
        except StoreError as error:
            reason = error.message
            _LOGGER.warning("rows of batch %s that were sent from elsewhere may be missed: %s", self.batch, reason)
        found = newer or await self.outbox.run(self._unsent) < unsent
        if newer or (found and not await self.outbox.run(self.outbox.requests.begun, self.batch)):
            await self._set_adopted()  # else a killed kernel of this home may have sent them
        return found

    def _unsent(self) -> int:
        return self.outbox.batches.counts(self.batch)[State.UNSENT]

    def _record(self, entries: Sequence[Entry]) -> bool:
        """Record what the log tells of rows that were sent; return whether it has newer tries than this home."""
        attempts: list[Entry] = []
        for entry in entries:
            if try_of(entry.task) is not None:
                attempts.append(entry)
                self._active = max(self._active, entry.time)
            elif (round_of(entry.task) or 0) > self._notified[0]:
                self._notified = round_of(entry.task) or 0, entry.time
        newer = self._raise_tries({entry.task for entry in attempts}, pending=False)
        self.outcomes.store(attempts)
        return newer

    async def _read_queue(self) -> None:
        """Record the rows whose tasks are in the queue, tried or not, if it may be listed: names protect the others."""
        seen = 0
        async for page in self.watcher.pages(self.queue):
            if await self.outbox.run(self._raise_tries, page, pending=True):
                await self._set_adopted()
            await self.outbox.run(record_pending, self.outbox, self.batch, page)
            seen += len(page)
            self._report(f"{counted(seen, 'tasks')} of the queue so far")

    def _raise_tries(self, tasks: Iterable[str], *, pending: bool) -> bool:
        tries: dict[int, int] = {}
        for task, ref in self.outbox.rows.locate(self.batch, tasks, any_try=True).items():
            tries[ref] = max(tries.get(ref, 0), try_of(task) or 0)
        return self.outbox.outcomes.adopt(self.batch, tries, pending=pending) > 0

    def _set_round(self) -> None:
        """Continue the count of rounds: a notified round ended, and rows that were active later are in the next one."""
        number, at = self._notified
        counts = self.outbox.batches.counts(self.batch)
        open_ = counts[State.UNSENT] or counts[State.SENT] or self._active > at
        if number:
            self.outbox.outcomes.raise_round(self.batch, number + bool(open_))

    def _report(self, progress: str) -> None:
        self.reading = f"{READING}: {progress}"
        self.changed()

    async def _set_adopted(self) -> None:
        self.outcomes.search.adopted = True
        await self._set("adopted", True)

    async def _set(self, key: str, value: object) -> None:
        await self.outbox.run(self.outbox.batches.set_setting, self.batch, key, value)


def unseen_note(reason: str) -> str:
    """Return the sentence about rows that cannot be adopted, and what that weakens."""
    return f"rows that were sent from elsewhere cannot be seen: {reason.rstrip('.')}; {_WEAKER}"
