"""Track one batch in this process: send its rows, watch its tasks, and store their outcomes.

`state.py` decides what to do; this module tells it the events and carries out the effects. Lasting state is in the
outbox; state in memory can be read again from it and from the service. All of it runs on the background loop; work on
the outbox runs in a thread of its own, so that it does not block the loop.

A tracker keeps itself alive while it has work; afterwards it lives as long as somebody refers to it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec
from weakref import WeakMethod, WeakSet, WeakValueDictionary

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import BatchNotFoundError, CloudTasksError, OutboxError, PreconditionError
from cloudtasks_nb.fanout.batch import state as machine
from cloudtasks_nb.fanout.batch.adoption import READING, Adoption, unseen_note
from cloudtasks_nb.fanout.batch.cancellation import Cancellation
from cloudtasks_nb.fanout.batch.completion import CompletionNotifier
from cloudtasks_nb.fanout.batch.failure_limit import FailureLimit
from cloudtasks_nb.fanout.batch.outcome_tracker import NO_LOG, OutcomeTracker, names_handler
from cloudtasks_nb.fanout.batch.progress import PENDING, SNAPSHOT, Progress, unpack
from cloudtasks_nb.fanout.batch.report import DROP, RESUME, main_cause
from cloudtasks_nb.fanout.batch.send_gate import SendGate, lift_gate, store_stop, update_gate
from cloudtasks_nb.fanout.batch.send_supervisor import SendSupervisor
from cloudtasks_nb.fanout.batch.state import Effect
from cloudtasks_nb.fanout.batch.unanswered import Unanswered
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.absent_handlers import describe_absent
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Snapshot, Subscription

__all__ = ["Tracker"]

P = ParamSpec("P")

_LOGGER = logging.getLogger(__name__)

# Work that is done in the order in which it was begun, as errors name it.
_WATCHING, _COUNTING = "watching", "counting the rows of"
_ADOPTING = "reading what was sent of"
_FOLLOWING, _RESTARTING = "following what others do with", "following another connection to"
_SEARCHING, _REREADING = "searching the queue for", "reading the log again for"
_FOLLOW = 2.0  # seconds between two looks into the outbox for what others do
_REREAD_PAUSES = (60.0, 120.0, 240.0, 480.0)  # seconds before the log is read once more for rows that are gone

#: The trackers of this process by outbox and batch: connections do not share theirs.
_trackers: WeakValueDictionary[tuple[Path, str], WeakSet[Tracker]] = WeakValueDictionary()
_busy: set[Tracker] = set()  # those that have work, or open rows


class Tracker:
    """Sends and watches one batch, and counts its rows."""

    deleted = False  #: whether the batch was deleted in this process
    report: Any = None  #: what shows it in the outputs of a notebook; `live.py` makes it

    def __init__(self, connection: Connection, outbox: Outbox, record: BatchRecord) -> None:
        self.connection = connection
        self.outbox = outbox
        self.record = record
        self.batch = record.id
        self.queue = QueueName.parse(record.place.queue_name)
        clock = Clock(connection.clock.micros)
        self._outcomes = OutcomeTracker(outbox, record, connection.watcher, connection.store, clock)
        self._state = machine.BatchState(counts=record.counts, local=connection.endpoint.local)
        self._subscription: Subscription | None = None
        self._pending: dict[str, deque[Callable[[], Awaitable[None]]]] = {_WATCHING: deque(), _COUNTING: deque()}
        self._timer: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[], None]] = []
        self._supervisor = _loop.Supervisor(f"batch {record.id}", self._work_reported)
        self._follower = _loop.Supervisor(f"batch {record.id}", lambda: None)  # for work that calls no listener
        self._adoption = Adoption(self._outcomes, changed=self._rows_changed)
        self._sending = SendSupervisor(
            connection.transport,
            outbox,
            record,
            self._adoption,
            supervisor=self._supervisor,
            changed=lambda count: self._handle(machine.rows_sent, at=_now(), count=count),
            ended=lambda: self._work_changed(sending=False),
            clock=clock,
        )
        self._cancellation = Cancellation(
            connection, outbox, record, self._sending, self._supervisor, self._rows_changed, self._work_changed
        )
        self._notifier = CompletionNotifier(connection, outbox, record.id, self._supervisor, self._publish)
        self._loaded = self._closed = False
        self._search_trouble: str | None = None  # why the last search failed
        self._unanswered: Unanswered | None = None  # since when the watcher gets no answer
        self.progress = self._stored_progress()
        self._read_until = self.progress.sources.get("log")
        self._effects = self._by_effect()
        self._peers = _trackers.setdefault((outbox.path, record.id), WeakSet())

    @property
    def sending(self) -> bool:
        """Whether this process sends, cancels or adopts rows, or has not yet counted what that has changed."""
        return self._state.working or self._supervisor.running(_ADOPTING)

    @property
    def cancelling(self) -> bool:
        """Whether its tasks are being deleted."""
        return self._state.cancelling

    @property
    def unanswered(self) -> Unanswered | None:
        """Since when nothing answers at the endpoint; None: it answers."""
        return self._sending.unanswered or self._unanswered

    @property
    def error(self) -> CloudTasksError | None:
        """The error that ended the sending early."""
        return self._sending.error

    def held(self) -> str | None:
        """Return why rows are not sent until `resume` is called, as a sentence; None if all may be sent."""
        gate = self._sending.gate
        return gate.reason(main_cause(self.outbox.causes.failed(self.batch))) if gate.held else None

    def blockers(self) -> list[str]:
        """Return the reasons why rows are not done, a sentence each."""
        troubles = [
            self._sending.trouble,
            self._search_trouble,
            self._cancellation.trouble,
            self._notifier.trouble,
        ]
        unanswered = self.unanswered
        shown = None if unanswered is None else unanswered.error.message
        lines = [trouble for trouble in troubles if trouble not in (None, shown)][:1]
        lines += [error.message for error in (*self._supervisor.errors, *self._follower.errors)]
        if self.error is not None and not self.sending:
            lines.append(str(self.error))
        if self.progress.finished:
            return lines
        if unanswered is not None:
            lines.append(unanswered.note(self.connection.endpoint, self.progress.unsent))
        if self._adoption.reading:
            lines.append(self._adoption.reading)
        elif unanswered is None and self._supervisor.running(_ADOPTING):
            lines.append(READING)
        if self._sending.other_sender_note:
            lines.append(self._sending.other_sender_note)
        snapshot = self._outcomes.snapshot
        unread = () if snapshot is None else snapshot.errors
        lines += [error.message for error in unread if error.message not in (*lines, shown)]
        if self._queue_values().get("state") == "PAUSED" and not self.cancelling:
            lines.append(f"the queue {self.queue.queue} is paused and dispatches nothing: queue.resume()")
        return lines + (self._absent_handlers() if self.progress.ready else [])

    def notes(self) -> list[str]:
        """Return other notes on the batch, a sentence each."""
        left = self.progress.total - self.progress.done
        notes = [f"being cancelled: {counted(left, 'rows')} left"] if self.cancelling and left else []
        settings, ratio = self.outbox.batches.settings(self.batch), self._queue_values().get("log_sampling_ratio", 1)
        if already := settings.get("already"):
            notes.append(
                f"{already:,} tasks existed before: created from another machine, or before the outbox was deleted"
            )
        if settings.get("adopted"):
            notes.append(
                "rows were sent from elsewhere: their states are those of the log of the last 30 days, and of stored "
                "results"
            )
        if unseen := settings.get("unseen"):
            notes.append(unseen_note(unseen))
        elif 0 < ratio < 1:
            notes.append(unseen_note(f"the queue logs {ratio:.0%} of its operations"))
        if corrected := settings.get("corrected"):
            rows = counted(corrected, "rows")
            notes.append(f"{rows} had another outcome first, corrected by log entries that came late")
        if ratio == 0:
            if not self._outcomes.has_results and (self.progress.gone or not names_handler(self.record.description)):
                notes.append(NO_LOG.format(queue="the queue"))
            if not settings.get("adopted"):
                notes.append(unseen_note("the queue writes no log"))
        held, stopped = self._sending.gate.note, self._state.limit.note(self.progress.cancelled)
        return [*notes, *filter(None, (self.connection.clock.warning, held, stopped))]

    def retry_note(self) -> str | None:
        """Return the attempt of the retrying rows and the time of the next one."""
        return self._outcomes.retry_note(self.connection.clock.micros())

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` on the background loop after each change; return a function that ends that.

        While somebody listens, changes by other processes are noticed too, also when the batch is not watched.
        """
        self._listeners.append(listener)
        _loop.call_soon(self._look_later)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    # The following run on the background loop.

    async def start(self, *, sending: bool, adopting: bool = False) -> None:
        """Begin to watch the batch and, if `sending`, to send its unsent rows; do not wait for either.

        With `adopting`, unsent rows that were sent from elsewhere are found, and nothing is sent. Other trackers of
        the batch in this process begin to watch it too.
        """
        self.connection.transport.check_open()
        self._supervisor.wake()
        await self._start(sending=sending, adopting=adopting)
        self._peers.add(self)
        for peer in self._peers:
            if peer is not self:
                peer.restart()

    def restart(self) -> None:
        """Begin to watch the batch anew, because another connection of this process has changed it."""
        self._supervisor.start(_RESTARTING, lambda: self._start(sending=False), again=False)

    async def _start(self, *, sending: bool, adopting: bool = False) -> None:
        if not self._loaded:
            await self.outbox.run(self.outbox.requests.find_doubtful, self.batch)
        gate = await self.outbox.run(update_gate, self.outbox, self.batch)
        self.record = await self.outbox.run(self.outbox.batches.get, self.batch)
        if not self._loaded:
            self._loaded = True
            await self.outbox.run(self._outcomes.load)
            await self._cancellation.take_up()
            if self._cancellation.active:
                self._work_changed()
        waiting = await self.outbox.run(self.outbox.requests.waiting, self.batch)
        self._sending.apply_gate(gate)
        self._handle(machine.start, counts=self.record.counts, sending=sending and waiting, limit=gate.limit)
        if adopting and not sending and waiting:
            self._supervisor.start(_ADOPTING, self._adopt)
        await self._count()

    async def read_failed(self, *, log: bool) -> None:
        """Find out which failed rows have succeeded after all; say so if what tells it cannot be read.

        Parameters
        ----------
        log : bool
            Also by the log, which may have entries by now that came very late.
        """
        search = self._outcomes.search
        reads = {"results": search.read_results(State.FAILED)} | ({"log": search.read_failed_log()} if log else {})
        for what, read in reads.items():
            try:
                await read
            except CloudTasksError as error:
                notify(f"the {what} of failed rows of batch {self.batch} could not be read: {error.message}")
        self._rows_changed()

    async def resume(self) -> None:
        """Begin to send all unsent rows, also those that are held back."""
        self.connection.transport.check_open()
        await self.outbox.run(lift_gate, self.outbox, self.batch)
        await self.start(sending=True)

    async def close(self) -> None:
        """Stop sending and watching, and wake threads that wait for the end; the outbox allows resuming later."""
        self._peers.discard(self)
        self._closed = True
        _busy.discard(self)
        await self._supervisor.close()
        await self._follower.close()
        self._stop_watching()
        for timer in filter(None, (self._timer, self._next_look)):
            timer.cancel()
        self._call_listeners()

    async def finished(self) -> Progress:
        """Wait until every row is final, and the notifications of the end are created.

        Raises
        ------
        CloudTasksError
            The error that ended the sending early, or with which other work in the background fails again and again.
        PreconditionError
            If rows are unsent and no process sends them, or the canary has failed, or the sending has paused, or the
            connection is closed.
        """

        async def check() -> None:
            if not self.sending:
                if reason := await self.outbox.run(self.held):
                    raise PreconditionError(reason, resource=self.batch, hint=f"{RESUME}, {DROP}")
                await self._sending.check(self.progress.unsent)

        self._supervisor.wake()
        await self._until(lambda: self._state.finished and not self.sending, check)
        await self._notifier.finish()
        return self.progress

    async def settle(self, *, drained: bool) -> None:
        """Wait until all rows are sent that may be, and until it is known what became of them.

        Parameters
        ----------
        drained : bool
            Whether the queue has no tasks: then every row that was sent becomes final, and the notifications of the end
            are created.

        Raises
        ------
        CloudTasksError
            What ended the sending early, or fails again and again.
        """

        async def refresh() -> None:
            if not self.sending or self._sending.gate.running:
                self.connection.watcher.refresh(self.queue)

        since = self.connection.clock.micros()
        await self._until(lambda: self._settled(since, drained=drained), refresh)
        if drained and self._state.finished:
            await self._notifier.finish()

    async def _until(self, ended: Callable[[], bool], check: Callable[[], Awaitable[None]]) -> None:
        """Wait until something is true, which is looked at after each change; first call `check` each time.

        Raises
        ------
        CloudTasksError
            What work in the background raises again and again, besides what `check` raises.
        """
        changed = asyncio.Event()
        end = self.listen(changed.set)
        try:
            while not ended():
                self.connection.transport.check_open()
                self._supervisor.check()
                await check()
                await changed.wait()
                changed.clear()
        finally:
            end()

    def _settled(self, since: int, *, drained: bool) -> bool:
        state, gate = self._state, self._sending.gate
        if self.sending and (not gate.running or gate.rows[State.UNSENT]):
            return False  # rows are sent; those that wait for the canary are not
        sent = state.counts[State.SENT]
        if drained or not sent or not state.watching:
            return not (drained and sent)
        snapshot = self._outcomes.snapshot
        return not state.stale and snapshot is not None and snapshot.at >= since

    def _look_later(self) -> None:
        """While somebody listens, look now and then into the outbox for what other processes do with the batch."""
        if self._listeners and self._next_look is None:
            look = WeakMethod(self._look_now)  # so that the timer does not keep the tracker alive
            self._next_look = asyncio.get_running_loop().call_later(_FOLLOW, lambda: (call := look()) and call())

    def _look_now(self) -> None:
        self._next_look = None
        self._follower.start(_FOLLOWING, self._look)

    async def _look(self) -> None:
        try:
            record = await self.outbox.run(self.outbox.batches.get, self.batch)
        except BatchNotFoundError:
            self.deleted = True
            _busy.discard(self)
            self._stop_watching()
            self._call_listeners()
            return
        state = self._state
        # While the batch is watched, its rows are counted with each snapshot.
        changed = record.round != self.record.round or (not state.watching and record.counts != state.counts)
        if changed and not state.working:
            await self._start(sending=False)
        self._look_later()

    async def begin_cancel(self) -> None:
        """Begin to cancel; from now on the batch counts as being cancelled."""
        await self.start(sending=False)
        self._cancellation.begin()
        self._work_changed()

    def _handle(
        self, event: Callable[Concatenate[machine.BatchState, P], machine.Step], *args: P.args, **facts: P.kwargs
    ) -> None:
        """Have the state machine handle an event, and carry out the effects."""
        self._state, effects = event(self._state, *args, **facts)
        if self._subscription is not None:
            self._subscription.every = self._state.every
        for effect in effects:
            self._effects[effect]()
        if self._timer is not None:
            self._timer.cancel()
        wake, self._timer = self._state.wake, None
        if wake is not None:
            self._timer = asyncio.get_running_loop().call_at(wake, lambda: self._handle(machine.time_passed, at=_now()))
        asyncio.get_running_loop().call_soon(self._stay_or_go)

    def _work_reported(self) -> None:
        self._call_listeners()
        asyncio.get_running_loop().call_soon(self._stay_or_go)  # when the work that reports has ended

    def _stay_or_go(self) -> None:
        """Keep the tracker alive only while it has work or open rows; others may refer to it longer."""
        ended = self._closed or self.deleted or (self._state.finished and self._supervisor.idle)
        (_busy.discard if ended else _busy.add)(self)

    def _by_effect(self) -> Mapping[Effect, Callable[[], None]]:
        """Return what carries out each effect."""
        return {
            Effect.BEGIN_SENDING: self._sending.begin,
            Effect.BEGIN_CANCEL: self._stop,
            Effect.WATCH: self._watch,
            Effect.STOP_WATCHING: self._stop_watching,
            Effect.REFRESH: lambda: self.connection.watcher.refresh(self.queue),
            Effect.COUNT: lambda: self._begin(_COUNTING, self._count),
            Effect.REREAD: lambda: self._supervisor.start(_REREADING, self._reread),
            Effect.NOTIFY: self._notifier.begin,
            Effect.SAVE: lambda: self._begin(_COUNTING, self._save),
            Effect.PUBLISH: self._publish,
        }

    def _rows_changed(self) -> None:
        self._handle(machine.rows_changed)

    def _work_changed(self, *, sending: bool | None = None) -> None:
        sending = self._state.sending if sending is None else sending
        self._handle(machine.work_changed, sending=sending, cancelling=self._cancellation.active)

    def _begin(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Carry out some work, after that which was begun before under this name."""
        self._pending[name].append(work)
        self._supervisor.start(name, lambda: self._carry_out(name))

    async def _carry_out(self, name: str) -> None:
        """Carry out what is pending; run again, it begins with the work that failed."""
        pending = self._pending[name]
        while pending:
            await pending[0]()
            pending.popleft()
            self._supervisor.succeeded(name)

    async def _apply(self, snapshot: Snapshot) -> None:
        """Store the outcomes that a snapshot shows."""
        missing = await self._outcomes.apply(snapshot, sent=self._state.counts[State.SENT])
        self._unanswered = Unanswered.after(self._unanswered, snapshot.errors)
        if missing:
            self._supervisor.start(_SEARCHING, self._search)
        self._handle(machine.rows_changed, dispatching=self._queue_values().get("state", "RUNNING") == "RUNNING")

    async def _count(self) -> None:
        if self._state.stale:
            number = self._state.changes
            counts, limit, gate = await self.outbox.run(self._read, self._state.limit, self._sending.gate)
            self._sending.apply_gate(gate)
            self._handle(machine.rows_counted, at=_now(), number=number, counts=counts, limit=limit)

    def _read(self, limit: FailureLimit, gate: SendGate) -> tuple[Mapping[State, int], FailureLimit, SendGate]:
        """Return the counts of the rows, and the failure limit and the gate by these counts.

        Runs on the outbox's thread, like all that the sending stores: no row is sent in between.
        """
        counts = self.outbox.batches.counts(self.batch)
        if gate.active or limit.exceeded(counts):
            gate = update_gate(self.outbox, self.batch)
            limit = gate.limit
        return counts, limit, gate

    async def _save(self) -> None:
        await self.outbox.run(self.outbox.batches.set_setting, self.batch, SNAPSHOT, self.progress)

    def _stop(self) -> None:
        self._begin(_COUNTING, lambda: self.outbox.run(store_stop, self.outbox, self.batch, self._state.limit))
        self._cancellation.begin()

    async def _adopt(self) -> None:
        """Find the rows that were sent from elsewhere."""
        await self._adoption.run(self._sending.will_retry)
        self._rows_changed()

    async def _search(self) -> None:
        self._search_trouble = None
        try:
            await self._outcomes.search.run(self._outcomes.snapshot)
        except OutboxError:
            raise
        except CloudTasksError as error:  # of the service: the next suspicious snapshot begins another search
            self._search_trouble = error.message
        self._rows_changed()

    async def _reread(self) -> None:
        """Read the log again for the rows that are gone, with growing pauses as long as some are."""
        for pause in (0.0, *_REREAD_PAUSES):
            await asyncio.sleep(pause)
            if not self._state.counts[State.GONE]:
                return
            try:
                await self._outcomes.recheck()
            except OutboxError:
                raise
            except CloudTasksError as error:
                _LOGGER.info("the log was not read again for batch %s: %s", self.batch, error.message)
            self._rows_changed()

    def _watch(self) -> None:
        read = self._outcomes.sources.get("log") or self._read_until
        since = machine.unread_since(
            round(self.record.created.timestamp() * 1_000_000),
            None if read is None else round(read.timestamp() * 1_000_000),
            self.connection.clock.micros(),
        )
        self._subscription = self.connection.watcher.subscribe(
            self.queue, self._arrived, since=since, every=self._state.every
        )

    def _arrived(self, snapshot: Snapshot) -> None:
        self._begin(_WATCHING, lambda: self._apply(snapshot))

    def _stop_watching(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _publish(self) -> None:
        """Compute the progress anew and call the listeners."""
        counts, rate, now = self._state.counts, self._state.rate, self.connection.clock.now()
        split = self._outcomes.split(counts, self.connection.clock.micros())
        waiting = sum(split[name] or 0 for name in ("scheduled", "retrying"))
        free = self._sending.gate.until is None  # else it is not known when the other rows are sent
        seconds = rate.seconds_left(self._state.open, waiting=waiting) if free else None
        self.progress = Progress.of(
            counts,
            settling=min(self._outcomes.search.settling, counts[State.SENT]),
            done_per_second=rate.per_second(),
            eta=now + dt.timedelta(seconds=seconds) if seconds is not None and seconds < 1e9 else None,  # noqa: PLR2004 - beyond it is no estimate
            sources=self._outcomes.sources,
            at=now,
            **split,
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
        stored = self.outbox.batches.settings(self.batch).get(SNAPSHOT)
        if stored and stored["total"] == self.record.total:  # no rows were added since
            return unpack(stored)
        unknown = None if self.record.counts[State.SENT] else 0
        return Progress.of(self.record.counts, **dict.fromkeys(PENDING, unknown))

    def _queue_values(self) -> Mapping[str, Any]:
        """Return settings and state of the queue by the newest snapshot; empty before the first one."""
        snapshot = self._outcomes.snapshot
        return {} if snapshot is None or snapshot.values is None else snapshot.values

    def _absent_handlers(self) -> list[str]:
        """Return which handlers of this machine the tasks wait for, a sentence each."""
        addresses = self.connection.absent_handlers(str(self.queue))
        target = str(self.record.description.get("url", ""))
        name = target.removeprefix("handler:") if target.startswith("handler:") else ""
        return [describe_absent(address, f"http://{address}/{name}") for address in addresses]


def _now() -> float:
    """Return the time of the loop, which does not jump, in seconds."""
    return asyncio.get_running_loop().time()
