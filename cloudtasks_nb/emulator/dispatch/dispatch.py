"""Decides what is sent when: tokens, concurrency, due times, deadlines, and targets where nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudtasks_nb.emulator.dispatch.absent import AbsentTargets
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NobodyListensError, is_loopback
from cloudtasks_nb.emulator.dispatch.history import History
from cloudtasks_nb.emulator.dispatch.request import Authorize, HttpCall, prepare
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, Attempts, Outcome
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.queues import QueueConfig
from cloudtasks_nb.emulator.model.rate import TokenBucket
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.memory import Claim, QueueState
from cloudtasks_nb.emulator.store.oplog import Subject
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.store.transitions import Transitions

__all__ = ["Dispatcher"]

# Due entries looked at before the loop has its turn again, and tasks sent among them. Few: answers that came meanwhile
# free their connections only in the loop's turn, and a task that finds none free opens one, which costs more than all
# the rest. Under load hundreds at once were the way into seconds of nothing but connecting.
_LOOKED_AT = 200
_SENT = 10
# A queue with so many tasks for absent targets looks at no more of them; those for other targets wait behind.
_MAX_PARKED = 1000
_GATEWAY_TIMEOUT = 504


@dataclass(slots=True)
class _Lane:
    """What the dispatcher keeps of a queue."""

    config: QueueConfig
    bucket: TokenBucket
    timer: asyncio.TimerHandle | None = None
    parked: dict[str, dict[int, str]] = field(default_factory=dict)  # address -> number and id of tasks

    def is_full(self, live: dict[str, int]) -> bool:
        """Tell whether too many of the live tasks wait for absent targets."""
        return self._parked_count() >= _MAX_PARKED and self.settle(live) >= _MAX_PARKED

    def settle(self, live: dict[str, int]) -> int:
        """Forget parked tasks that were deleted or purged meanwhile, and return how many are left."""
        self.parked = {
            address: kept
            for address, tasks in self.parked.items()
            if (kept := {number: task for number, task in tasks.items() if live.get(task) == number})
        }
        return self._parked_count()

    def _parked_count(self) -> int:
        return sum(map(len, self.parked.values()))


@dataclass(slots=True, eq=False)
class _Flight:
    """An attempt under way."""

    claim: Claim
    call: HttpCall
    subject: Subject
    before: Attempts
    called_at: int | None
    scope: asyncio.Timeout | None = None


class Dispatcher:
    """Sends the tasks of all queues.

    Parameters
    ----------
    store : Store
        Queues and tasks.
    clock : Clock
        What time it is.
    deliverer : Deliverer
        Sends requests.
    authorize : callable
        Makes the tokens of requests.
    settings : Settings
        Where App Engine is, and whether to wait for targets on this machine.
    """

    def __init__(
        self, store: Store, clock: Clock, deliverer: Deliverer, authorize: Authorize, settings: Settings
    ) -> None:
        self._store = store
        self._transitions = Transitions(store, clock)
        self._clock = clock
        self._deliverer = deliverer
        self._authorize = authorize
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[int, _Lane] = {}
        self._flights: dict[_Flight, asyncio.Task[None]] = {}
        self._absent = AbsentTargets(self._returned)
        self._closed = False
        self._open = asyncio.Event()
        self._open.set()
        self.history = History()
        #: called when something changed that nobody waits for to be committed
        self.changed: Callable[[], None] = lambda: None
        clock.subscribe(self._advanced)

    def wake(self, queues: list[QueueState]) -> None:
        """Look at these queues: something may be due."""
        for queue in queues:
            self._pump(queue)

    def wake_all(self) -> None:
        """Look at all queues."""
        self.wake(list(self._store.contents.by_number.values()))

    def run(self, queue: QueueState, task_id: str) -> None:
        """Send a task now, whatever its time and the queue's limits.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if it is not there.
        """
        claim = self._transitions.claim_now(queue, task_id)
        self._start(claim, self._prepared(claim), called_at=self._clock.now())

    def absent(self) -> list[dict[str, object]]:
        """Return the targets where nobody listens, with the queues and the numbers of tasks that wait for them."""
        queues = self._store.contents.by_number
        return [
            {"address": address, "queue": queues[q].name, "tasks": len(tasks)}
            for q, lane in self._lanes.items()
            if q in queues and lane.settle(queues[q].live)
            for address, tasks in lane.parked.items()
        ]

    async def forget(self, *, hold: bool = False) -> None:
        """Break off what is under way, without a result, and start from nothing; or hold, until `release`."""
        if hold:
            self._open.clear()
        for lane in self._lanes.values():
            if lane.timer:
                lane.timer.cancel()
        self._lanes.clear()
        await self._absent.close()
        flights = list(self._flights.values())
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self.history.clear()  # what ended while the rest was broken off is in it too

    def release(self) -> None:
        """Send again, after a hold."""
        self._open.set()
        self.wake_all()

    async def released(self) -> None:
        """Return when nothing is held."""
        await self._open.wait()

    async def close(self) -> None:
        """Break off what is under way; its tasks are due again at the next start."""
        self._closed = True
        await self.forget()

    def _lane(self, queue: QueueState) -> _Lane:
        lane, config, now = self._lanes.get(queue.q), queue.config, self._clock.now()
        if lane is None:
            lane = self._lanes[queue.q] = _Lane(config, TokenBucket(config.rate, config.burst, now))
        elif lane.config is not config:
            lane.config = config
            lane.bucket.configure(config.rate, config.burst, now)
        return lane

    def _pump(self, queue: QueueState) -> None:
        if self._closed or not self._open.is_set() or self._store.current(queue) is not queue:
            return  # held, deleted, or rebuilt after a failed commit
        lane = self._lane(queue)
        if lane.timer:
            lane.timer.cancel()
            lane.timer = None
        if queue.dispatching:
            delay = self._dispatch_due(queue, lane)
            if delay is not None:
                lane.timer = self._loop.call_later(delay / SECOND, self._pump, queue)

    def _dispatch_due(self, queue: QueueState, lane: _Lane) -> int | None:
        """Send what can be sent, and return the microseconds until there may be more; None to be woken."""
        now, sent_before = self._clock.now(), queue.in_flight
        for _ in range(_LOOKED_AT):
            if queue.in_flight - sent_before >= _SENT:
                return 0
            if queue.in_flight >= queue.config.max_concurrent or lane.is_full(queue.live):
                return None
            due = queue.due.next_due(now)
            if due is None:
                return None
            wait = max(due - now, lane.bucket.wait(now))
            if wait:
                return wait
            number = queue.due.take(now)
            claim = None if number is None else self._transitions.claim(queue, number)
            if claim is not None:
                self._dispatch(claim, lane, now)
        return 0

    def _dispatch(self, claim: Claim, lane: _Lane, now: int) -> None:
        call = self._prepared(claim)
        if self._absent and call.address in self._absent:
            lane.parked.setdefault(call.address, {})[claim.task.number] = claim.task.id
            return
        lane.bucket.take(now)
        self._start(claim, call)

    def _prepared(self, claim: Claim) -> HttpCall:
        return prepare(claim, self._authorize, self._settings.app_engine_host)

    def _start(self, claim: Claim, call: HttpCall, called_at: int | None = None) -> None:
        subject = Subject(
            claim.queue.q,
            claim.queue.config.sampling_ratio,
            claim.task.id,
            call.target,
            "APP_ENGINE_HTTP" if call.app_engine else "HTTP",
        )
        flight = _Flight(claim, call, subject, self._transitions.begin(claim), called_at)
        task = self._loop.create_task(self._fly(flight))
        self._flights[flight] = task
        task.add_done_callback(lambda _: self._flights.pop(flight, None))

    async def _fly(self, flight: _Flight) -> None:
        call = flight.call
        patient = self._settings.wait_for_loopback and is_loopback(call.address)
        if not patient:
            self._log_dispatch(flight)
        try:
            async with asyncio.timeout(call.deadline / SECOND) as flight.scope:
                outcome = await self._deliverer.send(call, (lambda: self._log_dispatch(flight)) if patient else None)
        except TimeoutError:
            outcome = Outcome(http_status=NO_ANSWER if call.app_engine else _GATEWAY_TIMEOUT, timed_out=True)
        except NobodyListensError:
            if patient:
                self._wait_for_target(flight)
                return
            outcome = Outcome(http_status=NO_ANSWER)
        self._land(flight, outcome)

    def _log_dispatch(self, flight: _Flight) -> None:
        if flight.subject.ratio:
            self._store.log.dispatched(flight.subject, flight.claim.attempts, self._clock.now())
            self.changed()

    def _land(self, flight: _Flight, outcome: Outcome) -> None:
        claim = flight.claim
        gone = self._transitions.end(claim, outcome, flight.call.retry, flight.subject, called_at=flight.called_at)
        self.history.record(claim, flight.call, claim.attempts, gone=gone)
        self.changed()
        self._look_again(claim.queue)

    def _wait_for_target(self, flight: _Flight) -> None:
        self._absent.add(flight.call.address)
        self._transitions.undo(flight.claim, flight.before)
        lane = self._lanes.get(flight.claim.queue.q)
        if lane is not None and flight.called_at is None:
            lane.bucket.give_back()
        self._look_again(flight.claim.queue)

    def _look_again(self, queue: QueueState) -> None:
        current = self._store.current(queue)
        if current is not None:
            self._pump(current)

    def _returned(self, address: str) -> None:
        for q, lane in list(self._lanes.items()):
            numbers = lane.parked.pop(address, {})
            queue = self._store.contents.by_number.get(q)
            if queue is not None and numbers:
                for number in reversed(numbers):
                    queue.due.put_back(number)
                self._pump(queue)

    def _advanced(self, duration: int) -> None:
        for flight in self._flights:
            scope = flight.scope
            if scope is not None and not scope.expired() and (when := scope.when()) is not None:
                scope.reschedule(max(self._loop.time(), when - duration / SECOND))
        self.wake_all()
