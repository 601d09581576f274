"""Track one batch in this process: send its rows, watch its tasks, and store their outcomes.

Lasting state is in the outbox; state in memory can be read again from it and from the service. All of it runs
on the background loop; work on the outbox runs in a thread of its own, so that it does not block the loop.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, OutboxError
from cloudtasks_nb.fanout.batch.adoption import Adoption, unseen_note
from cloudtasks_nb.fanout.batch.cancellation import Cancellation
from cloudtasks_nb.fanout.batch.completion import CompletionNotifier
from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.outcome_tracker import NO_LOG, OutcomeTracker, names_handler
from cloudtasks_nb.fanout.batch.progress import Progress, Rate, pack, unpack
from cloudtasks_nb.fanout.batch.send_supervisor import SendSupervisor
from cloudtasks_nb.fanout.batch.unanswered import Unanswered
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Snapshot, Subscription, now_micros

__all__ = ["Tracker"]

_LOGGER = logging.getLogger(__name__)

_CLOCK_MARGIN = 300_000_000  # microseconds by which this machine's clock may be ahead of the service's
_LATE_ENTRY = 600_000_000  # microseconds by which a log entry may arrive late
_LINGER = 60.0  # seconds after the end in which a late log entry may still correct an outcome
_RECHECKS = (0.0, 60.0, 120.0, 240.0, 480.0)  # seconds before the log is read again for rows that are gone
_NEAR_END = 2.0  # seconds before the expected end
_EVERY, _EVERY_NEAR_END = 1.0, 0.2  # seconds between two reads of the queue
_ADOPTING, _PUBLISHING = "reading what was sent of", "publishing the state of"
_SAVE = 5.0  # seconds between two snapshots in the outbox


class Tracker:
    """Sends and watches one batch, and counts its rows."""

    deleted = False  #: whether the batch was deleted in this process
    _rechecked = 0  # rows that were gone when the last rechecks began

    def __init__(self, connection: Connection, outbox: Outbox, record: BatchRecord) -> None:
        self._connection = connection
        self._outbox = outbox
        self.record = record
        self.queue = QueueName.parse(record.place.queue_name)
        self._outcomes = OutcomeTracker(outbox, record, connection.watcher, connection.store)
        self._rate = Rate()
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue()
        self._unapplied: Snapshot | None = None
        self._subscription: Subscription | None = None
        self._listeners: list[Callable[[], None]] = []
        self._supervisor = _loop.Supervisor(f"batch {record.id}", self._call_listeners)
        self._changes = 0  # that `_publish_changes` has to publish
        self._adoption = Adoption(outbox, record, self._outcomes, connection.watcher, changed=self._publish)
        self._sending = SendSupervisor(
            connection.transport,
            outbox,
            record,
            self._adoption,
            supervisor=self._supervisor,
            changed=self._rows_sent,
            ended=self._work_ended,
        )
        self._cancellation = Cancellation(
            connection,
            outbox,
            record,
            self._sending,
            supervisor=self._supervisor,
            publish=self._publish,
            ended=self._work_ended,
        )
        self._notifier = CompletionNotifier(connection, outbox, record.id, self._supervisor, self._update)
        self._counts = dict(record.counts)
        self._loaded = False
        self._saved = 0.0
        self._search_trouble: str | None = None
        self._unwatched: Unanswered | None = None
        self._failure_limit = FailureLimit(outbox, record.id)
        self.progress = self._stored_progress()
        self._read_until = self.progress.sources.get("log")

    @property
    def batch(self) -> str:
        """Id of the batch."""
        return self.record.id

    @property
    def sending(self) -> bool:
        """Whether this process sends, cancels or adopts rows, or has not yet counted what that has changed."""
        return self._sending.active or self.cancelling or any(map(self._supervisor.running, (_PUBLISHING, _ADOPTING)))

    @property
    def cancelling(self) -> bool:
        """Whether its tasks are being deleted."""
        return self._cancellation.active

    @property
    def unanswered(self) -> Unanswered | None:
        """Since when nothing answers at the endpoint; None: it answers."""
        return self._sending.unanswered or self._unwatched

    @property
    def error(self) -> CloudTasksError | None:
        """The error that ended the sending early."""
        return self._sending.error

    @property
    def watching(self) -> bool:
        """Whether the log is read; a later entry may change an outcome."""
        return self._supervisor.running("watching")

    def blockers(self) -> list[str]:
        """Return the reasons why rows are not done, a sentence each."""
        troubles = [self._sending.trouble, self._search_trouble, self._cancellation.trouble, self._notifier.trouble]
        unanswered = self.unanswered
        said = None if unanswered is None else unanswered.error.message
        lines = [trouble for trouble in troubles if trouble not in (None, said)][:1]
        lines += [error.message for error in self._supervisor.errors]
        if self.error is not None and not self.sending:
            lines.append(str(self.error))
        if self.progress.finished:
            return lines
        if unanswered is not None:
            lines.append(unanswered.note(self._connection.endpoint, self.progress.unsent))
        if self._adoption.reading:
            lines.append(self._adoption.reading)
        if self._sending.other_sender_note:
            lines.append(self._sending.other_sender_note)
        snapshot = self._outcomes.snapshot
        unread = () if snapshot is None else snapshot.errors
        lines += [error.message for error in unread if error.message not in (*lines, said)]
        if self._queue_values().get("state") == "PAUSED" and not self.cancelling:
            lines.append(f"the queue {self.queue.queue} is paused and dispatches nothing: queue.resume()")
        return lines + (self._absent_handlers() if self.progress.ready else [])

    def notes(self) -> list[str]:
        """Return other notes on the batch, a sentence each."""
        notes = []
        settings = self._outbox.batches.settings(self.batch)
        if already := settings.get("already"):
            notes.append(
                f"{already:,} tasks existed before: created from another machine, or before the outbox was deleted"
            )
        if settings.get("adopted"):
            notes.append("rows were sent from elsewhere: their states are those of the log of the last 30 days")
        if unseen := settings.get("unseen"):
            notes.append(unseen_note(unseen))
        elif 0 < (ratio := self._queue_values().get("log_sampling_ratio", 1)) < 1:
            notes.append(unseen_note(f"the queue logs {ratio:.0%} of its operations"))
        if corrected := settings.get("corrected"):
            rows = counted(corrected, "rows")
            notes.append(f"{rows} had another outcome first, corrected by log entries that came late")
        if self._queue_values().get("log_sampling_ratio") == 0:
            if not self._outcomes.has_results and (self.progress.gone or not names_handler(self.record.description)):
                notes.append(NO_LOG.format(queue="the queue"))
            notes.append(unseen_note("the queue writes no log"))
        if limit_note := self._failure_limit.note(self.progress):
            notes.append(limit_note)
        return notes

    def retry_note(self) -> str | None:
        """Return the attempt of the retrying rows and the time of the next one."""
        return self._outcomes.retry_note(now_micros())

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` on the background loop after each change; return a function that ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    # The following run on the background loop.

    async def start(self, *, sending: bool, adopting: bool = False) -> None:
        """Begin to watch the batch and, if `sending`, to send its unsent rows; do not wait for either.

        With `adopting`, unsent rows that were sent from elsewhere are found, and nothing is sent.
        """
        self._connection.transport.check_open()
        self.record = await self._outbox.run(self._outbox.batches.get, self.batch)
        await self._failure_limit.load(self.record)
        self._counts = dict(self.record.counts)
        if not self._loaded:
            self._loaded = True
            await self._outbox.run(self._outcomes.load)
            await self._cancellation.take_up()
        if sending and self._counts[State.UNSENT]:
            self._sending.begin()
        elif adopting and self._counts[State.UNSENT]:
            self._supervisor.start(_ADOPTING, self._adopt)
        if not self.record.done:
            self._supervisor.start("watching", self._watch)
        await self._publish()

    async def close(self) -> None:
        """Stop sending and watching, and wake threads that wait for the end; the outbox allows resuming later."""
        await self._supervisor.close()
        if self._subscription is not None:
            self._subscription.close()
        self._call_listeners()

    async def finished(self) -> Progress:
        """Wait until every row is final, and the notifications of the end are created.

        Raises
        ------
        CloudTasksError
            The error that ended the sending early, or with which other work in the background fails again and again.
        PreconditionError
            If rows are unsent and no process sends them, or the connection is closed.
        """
        changed = asyncio.Event()
        end = self.listen(changed.set)
        try:
            while self.sending or not self.progress.finished:
                self._connection.transport.check_open()
                self._supervisor.check()
                if not self.sending:
                    await self._sending.check(self.progress.unsent)
                await changed.wait()
                changed.clear()
            await self._notifier.finish()
            return self.progress
        finally:
            end()

    async def begin_cancel(self) -> None:
        """Begin to cancel; from now on the batch counts as being cancelled."""
        await self.start(sending=False)
        self._cancellation.begin()

    def _work_ended(self) -> None:
        """Count the rows anew after a sending or a cancellation."""
        self._connection.watcher.refresh(self.queue)
        self._changes += 1
        self._supervisor.start(_PUBLISHING, self._publish_changes)

    async def _publish_changes(self) -> None:
        published = None
        while published != self._changes:
            published = self._changes
            await self._publish()

    def _rows_sent(self, count: int) -> None:
        self._counts[State.UNSENT] -= count
        self._counts[State.SENT] += count
        self._update()

    async def _adopt(self) -> None:
        """Find the rows that were sent from elsewhere."""
        await self._adoption.run(self._sending.will_retry)
        await self._publish()

    async def _watch(self) -> None:
        """Apply snapshots until no outcome can change any more; run again, it begins with the one that failed."""
        if self._subscription is None:
            self._snapshots = asyncio.Queue()
            self._subscription = self._connection.watcher.subscribe(
                self.queue, self._snapshots.put_nowait, since=self._unread_since(), every=_EVERY
            )
        ended: float | None = None
        while ended is None or time.monotonic() < ended + _LINGER:
            if self._unapplied is None:
                self._unapplied = await self._next(_LINGER if ended is not None else None)
            if self._unapplied is not None:
                await self._apply(self._unapplied)
                self._unapplied = None
                self._supervisor.succeeded("watching")
            if not self.progress.finished or self.sending:
                ended = None
            elif not self._outcomes.correctable(self._counts):
                break
            else:
                ended = time.monotonic() if ended is None else ended
        self._subscription.close()
        self._subscription = None

    def _unread_since(self) -> int:
        """Return the time from which the log may have outcomes that are not stored, in microseconds since 1970."""
        created = int(self.record.created.timestamp() * 1_000_000)
        read = self._outcomes.sources.get("log") or self._read_until
        if read is None or read > dt.datetime.now(dt.UTC):  # the clock was set back
            return created - _CLOCK_MARGIN
        return max(created, int(read.timestamp() * 1_000_000) - _LATE_ENTRY) - _CLOCK_MARGIN

    async def _next(self, timeout: float | None) -> Snapshot | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._snapshots.get()
        except TimeoutError:
            return None

    async def _apply(self, snapshot: Snapshot) -> None:
        """Store the outcomes that a snapshot shows."""
        self._unwatched = Unanswered.after(self._unwatched, snapshot.errors)
        if await self._outcomes.apply(snapshot, sent=self._counts[State.SENT]):
            self._supervisor.start("searching the queue for", self._search)  # snapshots are applied meanwhile
        await self._publish()

    async def _search(self) -> None:
        self._search_trouble = None
        try:
            await self._outcomes.search()
        except OutboxError:
            raise
        except CloudTasksError as error:  # of the service: the next suspicious snapshot begins another search
            self._search_trouble = error.message
        await self._publish()

    async def _recheck(self) -> None:
        """Read the log again, at growing intervals, for rows that are gone."""
        for pause in _RECHECKS:
            await asyncio.sleep(pause)
            if not self._counts[State.GONE]:
                return
            try:
                await self._outcomes.recheck()
            except OutboxError:
                raise
            except CloudTasksError as error:
                _LOGGER.info("the log was not read again for batch %s: %s", self.batch, error.message)
            else:
                await self._publish()

    async def _publish(self) -> None:
        self._counts = dict(await self._outbox.run(self._outbox.batches.counts, self.batch))
        # Not `self.sending`: this may be the last time that anything is published.
        working = self._sending.active or self.cancelling
        if not self._counts[State.UNSENT] + self._counts[State.SENT] and not working:
            self._notifier.begin()  # before listeners are called: they may end this process
        if self._counts[State.GONE] > self._rechecked:
            self._supervisor.start("reading the log again for", self._recheck)
        self._rechecked = self._counts[State.GONE]
        self._update()
        now = time.monotonic()
        if self.progress.finished or now - self._saved > _SAVE:
            self._saved = now
            await self._outbox.run(self._outbox.batches.save_snapshot, self.batch, pack(self.progress))
        self._hurry()
        if not self.cancelling and await self._failure_limit.reached(self.progress):
            self._cancellation.begin()

    def _hurry(self) -> None:
        """Have an emulator's queue read more often near the end, so that `wait` returns soon after it."""
        if self._subscription is None or not self._connection.endpoint.local:
            return  # Google's service has a quota of reads
        left = self._rate.seconds_left(self._counts[State.UNSENT] + self._counts[State.SENT])
        every = _EVERY if left is None or left > _NEAR_END else _EVERY_NEAR_END
        if every < self._subscription.every:
            self._connection.watcher.refresh(self.queue)
        self._subscription.every = every

    def _update(self) -> None:
        """Compute the progress anew and call the listeners."""
        if self._queue_values().get("state", "RUNNING") == "RUNNING" and not self.cancelling:
            # Cancelled and lost rows must not change the estimate of how fast the others are done.
            self._rate.note(time.monotonic(), self._counts[State.SUCCEEDED] + self._counts[State.FAILED])
        else:
            self._rate.stop()
        pending = self._outcomes.split(self._counts, now_micros())
        now = dt.datetime.now(dt.UTC)
        left = self._counts[State.UNSENT] + self._counts[State.SENT]
        seconds = self._rate.seconds_left(left)
        self.progress = Progress(
            total=sum(self._counts.values()),
            unsent=self._counts[State.UNSENT],
            rejected=self._counts[State.REJECTED],
            succeeded=self._counts[State.SUCCEEDED],
            failed=self._counts[State.FAILED],
            cancelled=self._counts[State.CANCELLED],
            gone=self._counts[State.GONE],
            settling=min(self._outcomes.settling, self._counts[State.SENT]),
            done_per_second=self._rate.per_second(),
            eta=now + dt.timedelta(seconds=seconds) if seconds is not None and seconds < 1e9 else None,  # noqa: PLR2004 - beyond it is no estimate
            sources=self._outcomes.sources,
            at=now,
            **pending,
        )
        self._call_listeners()

    def _call_listeners(self) -> None:
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:
                _LOGGER.exception("a listener of batch %s failed", self.batch)

    def _stored_progress(self) -> Progress:
        """Return the progress that an earlier process has stored, with its time; else the stored counts."""
        packed = self._outbox.batches.snapshot(self.batch)
        if packed is not None:
            return unpack(packed)
        names = {State.UNSENT: "unsent", State.REJECTED: "rejected", State.SUCCEEDED: "succeeded"}
        names |= {State.FAILED: "failed", State.CANCELLED: "cancelled", State.GONE: "gone"}
        counts: dict[str, Any] = {name: self.record.counts[state] for state, name in names.items()}
        unknown = None if self.record.counts[State.SENT] else 0
        pending = dict.fromkeys(("scheduled", "ready", "running", "retrying"), unknown)
        return Progress(total=self.record.total, **counts, **pending)

    def _queue_values(self) -> Mapping[str, Any]:
        """Return settings and state of the queue by the newest snapshot; empty before the first one."""
        snapshot = self._outcomes.snapshot
        return {} if snapshot is None or snapshot.values is None else snapshot.values

    def _absent_handlers(self) -> list[str]:
        """Return which handlers of this machine the tasks wait for, a sentence each."""
        addresses = self._connection.absent_handlers(str(self.queue))
        target = str(self.record.description.get("url", ""))
        name = target.removeprefix("handler:") if target.startswith("handler:") else ""
        return [describe_absent(address, f"http://{address}/{name}") for address in addresses]
