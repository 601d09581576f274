"""The live side of one batch in this process: has it sent, hears of its tasks, and writes down what became of them.

Everything lasting is in the outbox; what is kept here can be read again from there and from the service. Runs on the
background loop; work on the outbox goes to one thread, so that it never holds up the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.batch.completion import CompletionNotifier
from cloudtasks_nb.fanout.batch.deleting import deleting
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker, QueueReader
from cloudtasks_nb.fanout.batch.progress import Progress, Rate, pack, unpack
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Snapshot, now_micros

__all__ = ["Tracker"]

T = TypeVar("T")

_MARGIN = 300_000_000  # microseconds by which this machine's clock may be ahead of the service's
_LOOK_BACK = 600_000_000  # microseconds by which an entry may come later than others of its time
_LINGER = 60.0  # seconds for which a late entry may still correct a finished batch
_SAVE = 5.0  # seconds between two snapshots in the outbox


class Tracker:
    """Sends and watches one batch, and keeps count of it.

    Parameters
    ----------
    connection : Connection
    outbox : Outbox
    record : BatchRecord
    """

    def __init__(self, connection: Connection, outbox: Outbox, record: BatchRecord) -> None:
        self._connection = connection
        self._outbox = outbox
        self.record = record
        self.batch = record.id
        place = record.place
        self.queue = QueueName(project=place.project, location=place.location, queue=place.queue)
        self._outcomes = OutcomeTracker(record)
        self._rate = Rate()
        self._news: asyncio.Queue[Snapshot | None] = asyncio.Queue()
        self._listeners: list[Callable[[], None]] = []
        self._watching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._sending = Sending(
            connection.transport,
            outbox,
            record,
            lookup=self._lookup,
            sent=self._sent,
            heard=self._heard_sending,
            ended=self._end_sending,
        )
        self._notifier = CompletionNotifier(connection, outbox, record.id, self._heard_telling)
        watcher = connection.watcher
        self._reader = QueueReader(listing=watcher.listing, lookup=watcher.lookup, run=outbox.run)
        self._counts = dict(record.counts)
        self._loaded = False
        self._saved = 0.0
        self._cancelling = 0
        self._troubles: dict[str, str] = {}
        self._too_many = bool(outbox.batches.settings(record.id).get("stopped_by"))
        self.progress = self._seen_before()
        self._read_until = self.progress.sources.get("log")

    @property
    def sending(self) -> bool:
        """Whether this process sends the batch, or cancels it."""
        return self._sending.active or self._cancelling > 0

    @property
    def cancelling(self) -> bool:
        """Whether its tasks are being deleted."""
        return self._cancelling > 0

    @property
    def stopped_by(self) -> str | None:
        """Why the rest was cancelled, if nobody asked for it."""
        if not self._too_many:
            return None
        cancelled, limit = self.progress.cancelled, self.record.description.get("stop_after_failures")
        did = f"cancelled the rest, {cancelled:,} of the rows" if cancelled else "too many failed, but nothing was left"
        return f"{did}: stop_after_failures={limit}"

    @property
    def unanswered(self) -> bool:
        """Whether the sending waits until something answers at the endpoint."""
        return self._sending.unanswered

    @property
    def rival(self) -> str | None:
        """Who sends the batch while this process waits for that."""
        return self._sending.rival

    @property
    def stopped(self) -> CloudTasksError | None:
        """What ended the sending before its end."""
        return self._sending.stopped

    @property
    def trouble(self) -> str | None:
        """What keeps sending, watching or telling up."""
        return next(iter(self._troubles.values()), None)

    @property
    def watching(self) -> bool:
        """Whether a later entry of the log may still change something."""
        return self._watching is not None and not self._watching.done()

    @property
    def queue_values(self) -> Mapping[str, Any]:
        """Settings and state of the queue when it was last looked at; empty if it was not yet."""
        snapshot = self._outcomes.snapshot
        return {} if snapshot is None or snapshot.values is None else snapshot.values

    @property
    def unread(self) -> Sequence[CloudTasksError]:
        """What could not be read when the queue and its log were last looked at."""
        snapshot = self._outcomes.snapshot
        return () if snapshot is None else snapshot.errors

    def retry_note(self) -> str | None:
        """Say how far the retrying rows are."""
        return self._outcomes.retry_note(now_micros())

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` on the background loop after each change; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    # The following run on the background loop.

    async def start(self, *, sending: bool, send_rate: float | None = None) -> None:
        """Watch the batch, and send what is unsent if told so; does not wait for either."""
        self._connection.transport.check_open()
        self.record = await self._do(self._outbox.batches.get, self.batch)
        self._counts = dict(self.record.counts)
        if not self._loaded:
            self._loaded = True
            await self._do(self._outcomes.load, self._outbox)
        if sending and self._counts[State.UNSENT]:
            self._sending.begin(send_rate)
        if not self.record.done and (self._watching is None or self._watching.done()):
            self._watching = _loop.spawn(self._watch())
        await self._publish()

    async def close(self) -> None:
        """Stop sending and watching; both can be taken up again from the outbox. Who waits for the end hears of it."""
        await self._sending.close()
        for task in (self._watching, self._looking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._notifier.close()
        for listener in tuple(self._listeners):
            listener()

    async def finished(self) -> Progress:
        """Wait until every row is final, and who is to be told has been.

        Raises
        ------
        CloudTasksError
            What ended the sending before its end.
        PreconditionError
            If rows are unsent and nobody sends them, or the connection is closed.
        """
        changed = asyncio.Event()
        end = self.listen(changed.set)
        try:
            while self.sending or not self.progress.finished:
                self._connection.transport.check_open()
                if not self._cancelling:
                    await self._sending.check(self.progress.unsent)
                await changed.wait()
                changed.clear()
            await self._notifier.told()
            return self.progress
        finally:
            end()

    async def begin_cancel(self) -> None:
        """Begin to cancel; who waits or looks from now on knows of it."""
        await self.start(sending=False)
        self._cancelling += 1
        _loop.spawn(self._cancel_in_the_background())

    async def _cancel_in_the_background(self) -> None:
        try:
            await self.cancel()
        except CloudTasksError as error:
            self._troubles["cancel"] = f"not all is cancelled: {error.message}"
        finally:
            self._cancelling -= 1
        await self._publish()  # now it may be over, and somebody to be told

    async def cancel(self) -> None:
        """Send nothing more, delete the tasks that are in the queue, and write down which were."""
        self._troubles.pop("cancel", None)
        await self._do(self._outbox.requests.cancel, self.batch)
        await self._settle()
        waiting = await self._do(self._outcomes.waiting, self._outbox)
        async for trouble in deleting(self._connection, self.queue, self._outbox, self.batch, waiting):
            if trouble is not None:
                self._troubles["cancel"] = trouble
            await self._publish()
        self._connection.watcher.refresh(self.queue)
        await self._publish()

    async def _settle(self) -> None:
        """Wait until it is known what became of the requests that were under way: tasks they made are to be deleted."""
        left = await self._do(self._outbox.batches.counts, self.batch)
        if left[State.UNSENT]:
            self._sending.begin()
        await self._sending.settle()

    async def _end_sending(self) -> None:
        self._connection.watcher.refresh(self.queue)
        await self._publish()

    def _sent(self, count: int) -> None:
        self._troubles.pop("send", None)
        self._counts[State.UNSENT] -= count
        self._counts[State.SENT] += count
        self._show()

    def _heard_sending(self, error: CloudTasksError | None) -> None:
        """Note what keeps the sending up; None: nothing is tried any more."""
        self._troubles.pop("send", None)
        if error is not None:
            self._troubles["send"] = error.message
        self._show()

    async def _lookup(self, names: Sequence[str]) -> dict[str, bool | None]:
        """Tell of tasks that are not in the queue whether the log has seen them; None where it does not say."""
        return await self._do(self._outcomes.seen, self._outbox, list(names))

    async def _watch(self) -> None:
        since = self._unread_since()
        subscription = self._connection.watcher.subscribe(self.queue, self._news.put_nowait, since=since)
        ended: float | None = None
        try:
            while ended is None or time.monotonic() < ended + _LINGER:
                snapshot = await self._next(_LINGER if ended is not None else None)
                if snapshot is not None:
                    await self._take(snapshot)
                if not self.progress.finished or self.sending:
                    ended = None
                elif not self._outcomes.correctable(self._counts):
                    break
                else:
                    ended = time.monotonic() if ended is None else ended
        finally:
            subscription.close()

    def _unread_since(self) -> int:
        """Return from when on the log may have what is not written down, in microseconds since 1970."""
        created = int(self.record.created.timestamp() * 1_000_000)
        read = self._outcomes.sources.get("log") or self._read_until
        if read is None or read > dt.datetime.now(dt.UTC):  # the clock was set back
            return created - _MARGIN
        return max(created, int(read.timestamp() * 1_000_000) - _LOOK_BACK) - _MARGIN

    async def _next(self, timeout: float | None) -> Snapshot | None:
        try:
            async with asyncio.timeout(timeout):
                return await self._news.get()
        except TimeoutError:
            return None

    async def _take(self, snapshot: Snapshot) -> None:
        """Draw the conclusions of one snapshot."""
        try:
            if await self._outcomes.take(snapshot, self._outbox, self._reader, sent=self._counts[State.SENT]):
                self._look()
            self._troubles.pop("watch", None)
        except CloudTasksError as error:
            self._troubles["watch"] = error.message
        await self._publish()

    def _look(self) -> None:
        """Begin to look for the rows in the queue, unless that is under way; snapshots are taken meanwhile."""
        if self._looking is None or self._looking.done():
            self._looking = _loop.spawn(self._look_through())

    async def _look_through(self) -> None:
        try:
            await self._outcomes.look(self._outbox, self._reader)
            self._troubles.pop("look", None)
        except CloudTasksError as error:
            self._troubles["look"] = error.message
        await self._publish()

    async def _publish(self) -> None:
        self._counts = dict(await self._do(self._outbox.batches.counts, self.batch))
        if not self._counts[State.UNSENT] + self._counts[State.SENT] and not self.sending:
            self._notifier.begin()  # before anybody hears of the end, and may end this process
        self._show()
        now = time.monotonic()
        if self.progress.finished or now - self._saved > _SAVE:
            self._saved = now
            await self._do(self._outbox.batches.save_snapshot, self.batch, pack(self.progress))
        if self.progress.failed:
            await self._check_limit()

    async def _check_limit(self) -> None:
        """Cancel the rest when more rows have failed than were to be borne."""
        limit = self.record.description.get("stop_after_failures")
        if limit is None or self._too_many or self.progress.finished:
            return
        borne = limit * self.progress.total if limit < 1 else limit
        if self.progress.failed >= borne:
            self._too_many = True
            await self._do(self._outbox.batches.set_setting, self.batch, "stopped_by", f"stop_after_failures={limit}")
            await self.cancel()

    def _heard_telling(self, error: CloudTasksError | None) -> None:
        """Note whether the service has taken the notification."""
        self._troubles.pop("tell", None)
        if error is not None:
            self._troubles["tell"] = f"not told that the batch is done: {error.message}"
        self._show()

    def _show(self) -> None:
        if self.queue_values.get("state", "RUNNING") == "RUNNING" and not self._cancelling:
            # What was cancelled or is lost says nothing of how fast the others are done.
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
            done_per_second=self._rate.per_second(),
            eta=now + dt.timedelta(seconds=seconds) if seconds is not None and seconds < 1e9 else None,  # noqa: PLR2004 - beyond it is no estimate
            sources=self._outcomes.sources,
            at=now,
            **pending,
        )
        for listener in tuple(self._listeners):
            listener()

    def _seen_before(self) -> Progress:
        """Return yesterday's figures, with their time."""
        packed = self._outbox.batches.snapshot(self.batch)
        if packed is not None:
            return unpack(packed)
        names = {State.UNSENT: "unsent", State.REJECTED: "rejected", State.SUCCEEDED: "succeeded"}
        names |= {State.FAILED: "failed", State.CANCELLED: "cancelled", State.GONE: "gone"}
        counts: dict[str, Any] = {name: self.record.counts[state] for state, name in names.items()}
        unknown = None if self.record.counts[State.SENT] else 0
        pending = dict.fromkeys(("scheduled", "ready", "running", "retrying"), unknown)
        return Progress(total=self.record.total, **counts, **pending)

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        return await self._outbox.run(function, *args)
