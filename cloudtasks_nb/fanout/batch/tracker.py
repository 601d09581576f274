"""Track one batch in this process: send its rows, watch its tasks, and store their outcomes.

One loop runs while something has changed. Each turn records what the witnesses tell, reads all that decisions need in
one transaction, decides, begins the jobs that are due, and publishes how the batch is. Lasting state is in the outbox;
state in memory can be read again from it and from the service. All of it runs on the background loop; work on the
outbox runs in a thread of its own, so that it does not block the loop.

A tracker keeps itself alive while it has work; afterwards it lives as long as somebody refers to it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakMethod, WeakSet, WeakValueDictionary

from cloudtasks_nb import _loop
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.times import from_micros
from cloudtasks_nb.errors import BatchNotFoundError, CloudTasksError, EndpointError, OutboxError, PreconditionError
from cloudtasks_nb.fanout.batch.adoption import READING, Adoption
from cloudtasks_nb.fanout.batch.cancellation import Cancellation
from cloudtasks_nb.fanout.batch.completion import CompletionNotifier
from cloudtasks_nb.fanout.batch.gate import Cancels, Gate, gate_of, lift_gate, read_batch
from cloudtasks_nb.fanout.batch.outcome_tracker import OutcomeTracker, Subscribed, outcome_notes
from cloudtasks_nb.fanout.batch.progress import Facts, Progress
from cloudtasks_nb.fanout.batch.report import causes_text
from cloudtasks_nb.fanout.batch.sending import Reading, Sending
from cloudtasks_nb.fanout.batch.status import absent_handlers, progress_of, read_facts, unanswered_note
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Scope
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["PATIENCE", "Tracker"]

#: The most seconds for which what others did is read before a verb answers.
PATIENCE = 30.0

_LOGGER = logging.getLogger(__name__)

# The works of a tracker, as errors name them.
_WATCHING, _FOLLOWING = "watching", "following what others do with"
_LOOKING, _RESTARTING = "looking for a cancel of", "following another connection to"
_SEARCHING, _REREADING, _PACKING = "searching the queue for", "reading the log again for", "packing the results of"
_SOON = 0.1  # seconds in which changes of the sending and of a cancel are gathered
_FOLLOW = 2.0  # seconds between two looks into the outbox for what others do
_SAVE = 5.0  # seconds between two snapshots in the outbox

#: The trackers of this process by outbox and batch: connections do not share theirs.
_trackers: WeakValueDictionary[tuple[Path, str], WeakSet[Tracker]] = WeakValueDictionary()
_busy: set[Tracker] = set()  # those that have work, or open rows


class Tracker:
    """Sends and watches one batch, and counts its rows."""

    deleted = False  #: whether the batch was deleted in this process
    function: Any = None  #: the `Handler` or `Deployment` that the batch was given last in this process

    # Changes so far, how many of them the last turn has seen, and the last one that a turn has to see before the batch
    # is finished: a start, or the end of work.
    _changes = _seen = _required = 0
    _loaded = _closed = False
    _wants_to_send = False  # unsent rows are to be sent when that is possible
    _has_sent = False  # rows, in this process
    _notified = False  # the notifications of this end were begun
    _saved_at = -math.inf
    _gone = 0  # rows at the last turn
    _silent: EndpointError | None = None  # the watcher gets no answer
    _ending: asyncio.Future[None] | None = None  # the end of all work, after the batch was deleted

    def __init__(self, connection: Connection, outbox: Outbox, record: BatchRecord) -> None:
        self.connection = connection
        self.outbox = outbox
        self.record = record  #: as it was read last
        self.batch = record.id
        clock = Clock(connection.clock.micros)
        self.outcomes = OutcomeTracker(outbox, record, connection.watcher, connection.store, clock)
        self.queue = self.outcomes.queue
        self._supervisor = _loop.Supervisor(f"batch {record.id}", self._work_reported)
        self._follower = _loop.Supervisor(f"batch {record.id}", lambda: None)  # for work that calls no listener
        self._cancels = Cancels(outbox, connection.store, record.id)
        self._adoption = Adoption(self.outcomes, changed=self._soon)
        self._sending = Sending(connection, self._adoption, self._supervisor, self._cancels, self._work_ended)
        self.owner = self._sending.owner  #: this process as the owner of the batch; None: no other home can send it
        #: What others did with the batch.
        self.reading = Reading(
            self._sending, lambda: self.record, self._unanswered, self._turn, self.listen, self._search_now
        )
        self._cancellation = Cancellation(self.reading)
        self._notifier = CompletionNotifier(connection, outbox, record.id, self._supervisor, self._changed)
        #: What is known of the batch, and of that what was read from the outbox.
        self.facts = self._stored = read_facts(outbox, record, gate_of(outbox, record), connection.clock.now())
        self.progress = progress_of(self.facts)
        self._absent: Sequence[tuple[str, str | None]] = ()  # handlers that do not listen
        self.displays: set[Any] = set()  #: what shows it in cells that displayed it; `live.py` makes them
        self._snapshots: list[Snapshot] = []  # those that are not recorded
        self._subscribed = Subscribed(connection, self.outcomes, self._arrived, self.progress.sources.get("log"))
        self._listeners: list[Callable[[], None]] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._peers = _trackers.setdefault((outbox.path, record.id), WeakSet())

    @property
    def gate(self) -> Gate:
        """What holds rows back, as it was read last."""
        return self._sending.gate

    @property
    def error(self) -> CloudTasksError | None:
        """The error that ended the sending early."""
        return self._sending.error

    @property
    def sending(self) -> bool:
        """Whether this process sends, cancels or adopts rows, or has not yet counted what that has changed."""
        works = self._sending.active or self._cancellation.active or self.reading.adopts
        return works or self._seen < self._required

    @property
    def finished_here(self) -> bool:
        """Whether every row is final, and nothing here is about to change one."""
        return self.record.done and not self.sending

    def blockers(self) -> list[str]:
        """Return what delays the batch, a sentence each."""
        found = [
            self._sending.trouble.message if self._sending.trouble else None,
            self.outcomes.trouble,
            self._cancellation.trouble,
            self._notifier.trouble,
        ]
        silent = self._unanswered()
        shown = None if silent is None else silent.message
        lines = [trouble for trouble in found if trouble not in (None, shown)][:1]
        lines += [error.message for error in (*self._supervisor.errors, *self._follower.errors)]
        if self.error is not None and not self.sending:
            lines.append(str(self.error))
        if self.record.done:
            return lines
        if self._adoption.reading:
            lines.append(self._adoption.reading)
        elif silent is None and self.reading.adopts:
            lines.append(READING)
        if self._sending.other_sender_note:
            lines.append(self._sending.other_sender_note)
        snapshot = self.outcomes.snapshot
        unread = () if snapshot is None else snapshot.errors
        return lines + [error.message for error in unread if error.message not in (*lines, shown)]

    def notes(self) -> list[str]:
        """Return other notes on the batch, a sentence each."""
        ratio = self.queue_values().get("log_sampling_ratio", 1)
        known = {"has_results": self.outcomes.has_results, "shared": self.owner is not None}
        notes = outcome_notes(self.record, ratio, **known)
        more = (self.connection.clock.warning, self.gate.note)
        return [*notes, *filter(None, more)]

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
        if self._cancellation.active:
            self._cancellation.begin()  # at once, if it pauses after an error
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
            self._loaded = True
            await self.outbox.run(self.outcomes.load)
            await self.reading.load(self._subscribed.read_until)
        self._wants_to_send |= sending
        self._notified = False
        self._subscribed.begin_anew()
        self._changes += 1
        self._required = self._changes
        await self._turn()
        if adopting and not sending and self._waits_to_be_sent():
            self._adoption.stale = True
            self.reading.begin()
            self._publish()

    async def find_out(self, read: Callable[[], Awaitable[object]]) -> None:
        """Await a method of `outcomes` that records more of what results tell; pack them if all rows are final."""
        await read()
        if self.record.done:
            self._supervisor.start(_PACKING, self.outcomes.pack_results)
        self._changed()

    async def cancel(self, rows: Scope) -> None:
        """Store that rows of the batch, or all, are to be cancelled, and begin; from now on it counts as cancelled."""
        self.connection.transport.check_open()
        if await self._cancellation.wish(rows):
            self._wants_to_send = False
        await self.start(sending=False)

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
        await self._sending.stop()
        await self._supervisor.close()
        self._sending.leave()  # also if it had no time to begin
        await self._follower.close()
        self._subscribed.end()
        for timer in self._timers.values():
            timer.cancel()
        self._call_listeners()

    async def finished(self, rows: Scope) -> Progress:
        """Wait until every row is final, or those of an input, and the notifications of the end are created.

        Raises
        ------
        CloudTasksError
            The error that ended the sending early, or with which other work in the background fails again and again.
        PreconditionError
            If rows are unsent and no process sends them, or the canary has failed, or the sending has paused, or the
            connection is closed.
        """
        first = 0  # the ref of the first open row; -1: of a part none is open

        async def is_unsent() -> bool:
            nonlocal first
            if rows.covers(self.record.total):
                return True
            found = await self.outbox.run(self.outbox.rows.first_open, rows, first)
            first, state = (-1, State.SENT) if found is None else found
            return state is not State.SENT

        async def check() -> None:
            if first < 0 or not await is_unsent() or self.sending or self.record.facts.cancel:
                return
            if self.gate.held:
                reason = self.gate.reason(causes_text(self._stored.causes, 1, "{}"))
                hint = "batch.resume() sends them, batch.cancel() drops them"
                raise PreconditionError(reason, resource=self.batch, hint=hint)
            await self._sending.check(self.record)

        self._supervisor.wake()
        await self.reading.wait(PATIENCE)
        if isinstance(self.error, OutboxError):  # what was wrong on this machine may be mended
            await self.start(sending=True)
        await self._until(lambda: self.finished_here or (first < 0 and self.progress.succeeded is not None), check)
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
            if not self.sending or self.gate.running:
                self.connection.watcher.refresh(self.queue)

        since = self.connection.clock.micros()
        await self._until(lambda: self._settled(since, drained=drained), refresh)
        if drained and self.finished_here:
            await self._notifier.finish()

    def job(self, *, cancels: bool) -> str | None:
        """Return what stays undone if this process ends now, or only of a cancel, as a sentence; None for nothing."""
        again = f'tasks.batch("{self.batch}")'
        if self._cancellation.active and not (self._cancellation.waits or self.record.done):
            left = counted(self.record.counts[State.UNSENT] + self.record.counts[State.SENT], "rows")
            return f"batch {self.batch} is being cancelled, {left} are left: they may run until it is opened: {again}"
        unsent = self.gate.unsent - self.gate.waiting
        waits = self._sending.other_sender_note or self._unanswered()
        if cancels or waits or not (self._sending.active and unsent):
            return None
        line = f"batch {self.batch}: {counted(unsent, 'rows')} not sent"
        if self.connection.endpoint.temporary:  # and ends with this process
            return f"{line}; the emulator is temporary: the same cells send all rows again"
        return f"{line}: {again}.resume()"

    async def job_done(self, *, cancels: bool) -> None:
        """Wait until there is no such job."""
        await self._until(lambda: self.job(cancels=cancels) is None)

    async def _until(self, ended: Callable[[], bool], check: Callable[[], Awaitable[None]] | None = None) -> None:
        """Wait until something is true, which is looked at after each change; first call `check` each time.

        Raises
        ------
        CloudTasksError
            What work in the background raises again and again, besides what `check` raises.
        """

        async def check_all() -> None:
            self.there()
            self.connection.transport.check_open()
            self._supervisor.check()
            if check is not None:
                await check()

        await _loop.until(self.listen, ended, check_all)

    def _settled(self, since: int, *, drained: bool) -> bool:
        if self.sending and (not self.gate.running or self.gate.rows[State.UNSENT]):
            return False  # rows are sent; those that wait for the canary are not
        sent = self.record.counts[State.SENT]
        if drained or not sent or not self._subscribed:
            return not (drained and sent)
        snapshot, stored = self.outcomes.snapshot, self._seen == self._changes and not self._snapshots
        return stored and snapshot is not None and snapshot.at >= since

    def _changed(self) -> None:
        """Have the loop turn, because something has changed, or may have."""
        self._changes += 1
        self._supervisor.start(_WATCHING, self._turns)

    def _soon(self) -> None:
        """Have the loop turn in a moment; changes until then are seen with it."""
        self._call_later("soon", _SOON, self._changed)

    def _work_ended(self) -> None:
        self._required = self._changes + 1
        self._changed()
        self.connection.watcher.refresh(self.queue)

    def _arrived(self, snapshot: Snapshot) -> None:
        waiting = self._snapshots[1:]  # the first one is being stored; a busy machine stores the others as one
        entries = (entry for one in (*waiting, snapshot) for entry in one.entries)
        self._snapshots[1:] = [replace(snapshot, entries=tuple(entries))]
        self._changed()

    async def _turns(self) -> None:
        while not self.deleted and (self._snapshots or self._seen < self._changes):
            if self._snapshots:
                await self._record(self._snapshots[0])
                del self._snapshots[0]
                self._changes += 1  # another turn may have read the batch before this was stored
            await self._turn()
            self._supervisor.succeeded(_WATCHING)

    async def _record(self, snapshot: Snapshot) -> None:
        """Store the outcomes that a snapshot shows."""
        log = self.outcomes.witnesses.log
        active = log.active
        missing = await self.outcomes.apply(snapshot, sent=self.record.counts[State.SENT])
        self._silent = next((error for error in snapshot.errors if isinstance(error, EndpointError)), None)
        if missing:
            self._supervisor.start(_SEARCHING, self._search)
        # If an attempt of the batch has ended, its handler listens.
        waits = self.record.counts[State.SENT] and self._silent is None and log.active == active
        asked = self.connection, self.outbox, self.record
        self._absent = await asyncio.to_thread(absent_handlers, *asked) if waits else ()

    async def _turn(self) -> BatchRecord:
        """Read the batch, decide by that, begin what is due, and publish; return its record."""
        number = self._changes
        try:
            record, gate, stored = await self.outbox.run(self._read)
        except BatchNotFoundError:
            self._forget()
            return self.record
        if number < self._seen or self._closed:
            return record  # a later reading was handled before it
        self._seen, self.record, self._stored = number, record, stored
        self._sending.apply_gate(gate)
        self._cancellation.take_up(record)
        if self._wants_to_send and self._waits_to_be_sent() and not record.facts.cancels_all:
            self._wants_to_send, self._has_sent = False, True
            self._sending.begin()
        elif record.done and number >= self._required:  # a start may have come since it was read
            self._wants_to_send = False
        # The notifications are begun before the listeners are called: these may end the process.
        if self.finished_here and not self._notified:
            self._notifier.begin()
        self._notified = self.finished_here
        self._watch()
        gone = record.counts[State.GONE]
        if gone > self._gone:
            recheck = self.outcomes.recheck_gone
            self._supervisor.start(_REREADING, lambda: recheck(lambda: self._gone > 0, self._changed))
        self._gone = gone
        self._see()
        now, at = _now(), self.progress.at
        newest = stored.at is None or (at is not None and at >= stored.at)  # no other process has seen more
        if newest and (record.done or now - self._saved_at >= _SAVE):
            seen = asdict(self.progress)
            await self.outbox.run(self.outbox.batches.change, self.batch, lambda facts: replace(facts, progress=seen))
            self._saved_at = now
        self._call_listeners()
        return record

    def _read(self) -> tuple[BatchRecord, Gate, Facts]:
        """Return the batch, its gate, and what is stored of it.

        Runs on the outbox's thread, like all that the sending stores: no row is sent in between.
        """
        record, gate = read_batch(self.outbox, self.batch)
        return record, gate, read_facts(self.outbox, record, gate, self.connection.clock.now())

    def _waits_to_be_sent(self) -> bool:
        return self.record.counts[State.UNSENT] + self.record.doubtful > 0

    def _watch(self) -> None:
        again = self._subscribed.follow(self.record, self.progress, finished=self.finished_here)
        if again is not None:
            self._call_later("linger", again, self._changed)
        if not self.record.done and self._cancels.shared:
            follow, changed = self._cancels.follow, self._changed
            self._follower.start(
                _LOOKING, lambda: follow(lambda: self.record.done or self.deleted, changed), again=False
            )

    def _see(self) -> None:
        """Compute how the batch is, by what was read last and what is known in this process."""
        record, outcomes, clock = self.record, self.outcomes, self.connection.clock
        split = outcomes.split(record.counts, clock.micros())
        values, at = self.queue_values(), max(outcomes.sources.values(), default=self.progress.at)
        limits = [values.get(name) for name in ("rate", "effective_rate")]
        limit = min((limit for limit in limits if limit), default=None)
        until, settling = outcomes.sources.get("log"), min(outcomes.search.settling, record.counts[State.SENT])
        silent, pace, due = self._unanswered(), outcomes.pace, outcomes.due(clock.micros())
        failed_at = from_micros(1_000_000 * pace.failed) if pace.failed > pace.succeeded else None
        at_once, running = values.get("max_concurrent"), values.get("running")
        note = None
        if silent is not None:
            unsent, endpoint = record.counts[State.UNSENT], self.connection.endpoint
            note = unanswered_note(silent.message, outcomes.sources.get("queue"), endpoint, unsent)
        self.facts = replace(
            self._stored,
            now=clock.now(),
            at=at,
            watched=bool(self._subscribed) and (outcomes.snapshot is not None or self._has_sent),
            silent=note,
            absent=self._absent if split["ready"] != 0 else (),
            owner=None if self.owner is None else self.owner.text,
            error=None if self.error is None else str(self.error),
            troubles=self.blockers(),
            paused=self.queue.queue if values.get("state") == "PAUSED" else None,
            failed_at=failed_at if pace.failed or pace.succeeded else self._stored.failed_at,
            due=from_micros(due),
            rate=None if until is None else pace.per_second(until.timestamp(), limit),
            limit=limit,
            at_once=at_once if at_once and (running or 0) >= at_once else None,
            waiting=sum(split[name] or 0 for name in ("scheduled", "retrying")),
            scheduled=split["scheduled"] or 0,
            settling=settling,
            ahead={other.batch: tasks for other in _busy if (tasks := self._before(other.record, other.progress)) > 0},
            sends=self._stored.sends or self._sending.active or self._sending.follows,
            split=split,
            sources={**self.progress.sources, **outcomes.sources},
            earlier=self.progress.status,
        )
        self.progress = progress_of(self.facts)

    def _before(self, other: BatchRecord, progress: Progress) -> int:
        """Return how many tasks of another batch are before those of this one; those of a schedule are not counted."""
        earlier = other.place == self.record.place and other.created < self.record.created
        waiting = progress.pending - (progress.scheduled or 0) - (progress.retrying or 0)
        return waiting if earlier and not other.description.get("_spread") else 0

    def _publish(self) -> None:
        """Compute how the batch is, and call the listeners."""
        self._see()
        self._call_listeners()

    async def _search_now(self) -> None:
        self._supervisor.start(_SEARCHING, self._search)
        await self._supervisor.join(_SEARCHING)

    async def _search(self) -> None:
        await self.outcomes.find_missing()
        self._changed()

    def _look_later(self) -> None:
        """While somebody listens, look now and then into the outbox for what other processes do with the batch."""
        if self._listeners and not (self.deleted or self._closed):
            self._call_later("look", _FOLLOW, self._look_now)

    def _look_now(self) -> None:
        self._follower.start(_FOLLOWING, self._look)

    async def _look(self) -> None:
        if self._loaded:
            await self._turn()
        self._look_later()

    def there(self) -> Self:
        """Return the tracker; raise BatchNotFoundError if the batch was deleted."""
        if self.deleted:
            hint = "tasks.batches() lists those there are"
            raise BatchNotFoundError(f"batch {self.batch} was deleted", resource=self.batch, hint=hint)
        return self

    def _forget(self) -> None:
        """Stop, because the batch was deleted."""
        self.deleted, self._seen = True, self._changes
        _busy.discard(self)
        self._subscribed.end()
        self._call_listeners()
        self._ending = asyncio.ensure_future(self._supervisor.close())

    def _work_reported(self) -> None:
        self._call_listeners()
        asyncio.get_running_loop().call_soon(self._stay_or_go)  # when the work that reports has ended

    def _stay_or_go(self) -> None:
        """Keep the tracker alive only while it has work or open rows; others may refer to it longer."""
        if self._seen < self._changes and not self.deleted:
            self._supervisor.start(_WATCHING, self._turns)  # it was changed while the last turn ended
        ended = self._closed or self.deleted or (self.finished_here and self._supervisor.idle)
        (_busy.discard if ended else _busy.add)(self)

    def _call_later(self, name: str, seconds: float, function: Callable[[], object]) -> None:
        """Call a method after some seconds, unless a call of this name waits."""
        if name in self._timers or self._closed:
            return
        timers, reference = self._timers, WeakMethod(function)  # so that the timer does not keep the tracker alive

        def call() -> None:
            timers.pop(name, None)
            if (method := reference()) is not None:
                method()

        self._timers[name] = asyncio.get_running_loop().call_later(seconds, call)

    def _call_listeners(self) -> None:
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:
                _LOGGER.exception("a listener of batch %s failed", self.batch)

    def _unanswered(self) -> EndpointError | None:
        """Return that nothing answers at the endpoint; None: it answers."""
        return self._sending.unanswered or self._silent

    def queue_values(self) -> Mapping[str, Any]:
        """Return settings and state of the queue by the newest snapshot that has them; empty before the first one."""
        snapshot = self.outcomes.snapshot
        return {} if snapshot is None or snapshot.values is None else snapshot.values


def _now() -> float:
    """Return the time of the loop, which does not jump, in seconds."""
    return asyncio.get_running_loop().time()
