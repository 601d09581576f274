"""Send each task when it is due and the limits of its queue allow it, and record the result of each attempt."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from cloudtasks_nb._names import code_name
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NoSocketError, NotListeningError, is_loopback
from cloudtasks_nb.emulator.dispatch.history import History, instant_text
from cloudtasks_nb.emulator.dispatch.request import Authorize, HttpCall, prepare
from cloudtasks_nb.emulator.dispatch.unreachable import UnreachableTargets, cancel_all
from cloudtasks_nb.emulator.model.attempts import NO_ANSWER, AttemptResult, Attempts
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.oplog import LogSubject
from cloudtasks_nb.emulator.store.state import Claim, QueueState
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["Dispatcher", "TokenBucket"]

# Limits of the due entries that are read, and of the tasks that are sent, before other callbacks of the event loop run.
# Those callbacks free the connections of finished attempts. A task that finds no free connection opens a new one, which
# costs more than the rest of an attempt: with larger limits the emulator spent seconds opening hundreds of connections.
_READ_AT_ONCE = 200
_SENT_AT_ONCE = 10
# A queue with this many tasks for unreachable targets reads no more entries, so tasks for other targets wait too.
_MAX_HELD = 1000
_GATEWAY_TIMEOUT = 504
_NO_SOCKET_PAUSE, _QUIET = 0.5, 60.0  # seconds between two tries, and between two reports of that
# Docker and podman put them into every container.
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
# A bucket is refilled by fractions of a token, and the sum of those that make one token may be rounded to 0.9999999.
_ONE_TOKEN = 1.0 - 1e-9


class TokenBucket:
    """A token bucket, full at first; `configure` sets its limits before it is used."""

    def __init__(self) -> None:
        self._filled_at, self._rate = 0, 0.0
        self._tokens = self._burst = math.inf

    def configure(self, rate: float, burst: int, now: int) -> None:
        """Set the limits and keep the tokens that fit.

        Parameters
        ----------
        rate : float
            Tokens a second.
        burst : int
            Capacity; at least one token, so that slow queues dispatch at all.
        now : int
            Microseconds since 1970.
        """
        self._fill(now)
        self._rate = rate
        self._burst = max(float(burst), 1.0)
        self._tokens = min(self._tokens, self._burst)

    def take(self) -> None:
        """Take a token, for which there was no `wait`."""
        self._tokens = max(self._tokens - 1.0, 0.0)

    def give_back(self) -> None:
        """Return a token that was taken for a dispatch that did not happen."""
        self._tokens = min(self._tokens + 1.0, self._burst)

    def wait(self, now: int) -> int:
        """Return the microseconds until the next token; 0 if there is one."""
        self._fill(now)
        if self._tokens >= _ONE_TOKEN:
            return 0
        return max(1, round((1.0 - self._tokens) / self._rate * SECOND))

    def _fill(self, now: int) -> None:
        elapsed = now - self._filled_at
        if elapsed > 0:
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate / SECOND)
            self._filled_at = now
        elif elapsed < 0:  # the clock was reset
            self._filled_at = now


@dataclass(slots=True)
class _QueueDispatch:
    """The dispatcher's state of a queue."""

    bucket: TokenBucket = field(default_factory=TokenBucket)
    timer: asyncio.TimerHandle | None = None
    # number of a task -> unreachable address, id, when it is due
    held: dict[int, tuple[str, str, int]] = field(default_factory=dict)

    def is_full(self, live: dict[str, int]) -> bool:
        """Return whether too many tasks wait for unreachable targets; `live` has the number of each task by its id."""
        if len(self.held) >= _MAX_HELD:
            self.drop_deleted(live)
        return len(self.held) >= _MAX_HELD

    def drop_deleted(self, live: dict[str, int]) -> None:
        """Forget the held tasks that have been deleted or purged."""
        self.held = {number: held for number, held in self.held.items() if live.get(held[1]) == number}


@dataclass(slots=True, eq=False)
class _Attempt:
    """An attempt in flight."""

    claim: Claim
    call: HttpCall
    subject: LogSubject
    before: Attempts  # the task's attempts before this one
    called_at: int | None  # when RunTask was called; None for a regular dispatch
    deadline: asyncio.Timeout | None = None


class Dispatcher:
    """Dispatches the tasks of all queues.

    Parameters
    ----------
    store : Store
        Queues and tasks.
    clock : Clock
        The current time.
    deliverer : Deliverer
        Sends requests.
    authorize : callable
        Makes the tokens of requests.
    settings : Settings
        The App Engine host, and whether to wait for targets on this machine.
    """

    def __init__(
        self, store: Store, clock: Clock, deliverer: Deliverer, authorize: Authorize, settings: Settings
    ) -> None:
        self._store = store
        self._clock = clock
        self._deliverer = deliverer
        self._prepare = partial(prepare, authorize=authorize, app_engine_base=settings.app_engine_host)
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._queues: defaultdict[int, _QueueDispatch] = defaultdict(_QueueDispatch)
        self._running: dict[_Attempt, asyncio.Task[None]] = {}
        self._unreachable = UnreachableTargets(self._reachable_again)
        self._closed = False
        self._quiet_until = 0.0  # by the time of the loop: a lack of sockets was just reported
        self._released = asyncio.Event()
        self._released.set()
        self.history = History()
        self.ended = 0  #: attempts that have ended since the start
        #: called after a change that must be committed but that no RPC waits for
        self.changed: Callable[[], None] = lambda: None
        #: called with a line about each failed attempt
        self.failed: Callable[[str], None] = lambda _: None
        clock.subscribe(self._advanced)

    def wake(self, queues: list[QueueState]) -> None:
        """Dispatch the due tasks of these queues."""
        for queue in queues:
            self._dispatch_queue(queue)

    def wake_all(self) -> None:
        """Dispatch the due tasks of all queues."""
        self.wake(list(self._store.contents.by_number.values()))

    def run_now(self, queue: QueueState, task_id: str) -> None:
        """Send a task now, regardless of its due time and of the queue's limits.

        Raises
        ------
        RefusedError
            ``NOT_FOUND`` if the task does not exist, ``UNAVAILABLE`` if the emulator is stopping, and ``INTERNAL`` if
            it cannot write to its file.
        """
        if self._closed:
            raise RefusedError("UNAVAILABLE", "The emulator is stopping.")
        if self._store.unwritable:
            raise RefusedError("INTERNAL", self._store.unwritable)
        claim = self._store.claim_now(queue, task_id)
        self._start(claim, self._prepare(claim), called_at=self._clock.now())

    def unreachable(self) -> list[dict[str, object]]:
        """Return the targets that are not listening, with the queues and the numbers of tasks that wait for them."""
        targets = Counter[tuple[str, str]]()
        for queue in self._store.contents.by_number.values():
            state = self._queue_dispatch(queue)
            state.drop_deleted(queue.live)
            targets.update((address, queue.name) for address, *_ in state.held.values())
        return [{"address": address, "queue": queue, "tasks": tasks} for (address, queue), tasks in targets.items()]

    def next_due(self, queue: QueueState) -> int | None:
        """Return when the first task is due, one that waits for its target too; None without tasks."""
        state = self._queue_dispatch(queue)
        state.drop_deleted(queue.live)
        dues = [self._store.next_due(queue), *(due for *_, due in state.held.values())]
        return min((due for due in dues if due is not None), default=None)

    def waiting(self) -> list[dict[str, Any]]:
        """Return each queue that has tasks: how many, its state, when the next one is sent, and absent targets."""
        absent = self.unreachable()
        return [
            {
                "queue": queue.name,
                "tasks": len(queue.live),
                "state": queue.state,
                "next_us": self._next_dispatch_of(queue),
                "absent": [target["address"] for target in absent if target["queue"] == queue.name],
            }
            for queue in self._store.contents.by_number.values()
            if queue.live
        ]

    async def abort(self, *, hold: bool = False) -> None:
        """Cancel all attempts, record no results and clear the state; with `hold` nothing is sent until `release`."""
        if hold:
            self._released.clear()
        for state in self._queues.values():
            if state.timer:
                state.timer.cancel()
        self._queues.clear()
        await self._unreachable.close()
        await cancel_all(self._running.values())
        self.history.clear()  # last, because attempts may have ended while the others were cancelled

    def release(self) -> None:
        """End a hold: tasks are sent again."""
        self._released.set()
        self.wake_all()

    async def wait_released(self) -> None:
        """Return when there is no hold."""
        await self._released.wait()

    async def settle(self, seconds: float) -> bool:
        """Wait until no attempt is in flight and nothing can be sent; return whether that was within the time."""
        end = self._loop.time() + seconds
        await self._released.wait()
        while True:
            left = max(0.0, end - self._loop.time())
            if self._running:
                await asyncio.wait(list(self._running.values()), timeout=left)
            elif (due := self.next_dispatch()) is None or due > self._clock.now():
                return True
            else:
                await asyncio.sleep(0)  # the queue's timer sends it
            if not left:
                return False

    def next_dispatch(self) -> int | None:
        """Return when the next task can be sent, in microseconds since 1970; None if none can without a change."""
        return min(filter(None, map(self._next_dispatch_of, self._store.contents.by_number.values())), default=None)

    def _next_dispatch_of(self, queue: QueueState) -> int | None:
        if not queue.dispatching or queue.in_flight >= queue.config.max_concurrent or self._store.unwritable:
            return None
        state, due = self._queue_dispatch(queue), self._store.next_due(queue)
        if due is None or state.is_full(queue.live):
            return None
        now = self._clock.now()
        return max(due, now + state.bucket.wait(now))

    async def drain(self, grace: float, abort: asyncio.Event) -> None:
        """Start no more attempts, and wait until those in flight have ended.

        Parameters
        ----------
        grace : float
            The most seconds to wait.
        abort : asyncio.Event
            Ends the wait.
        """
        self._closed = True
        aborted: asyncio.Future[Any] = self._loop.create_task(abort.wait())
        ended: asyncio.Future[Any] = asyncio.gather(*self._running.values(), return_exceptions=True)
        await asyncio.wait([aborted, ended], timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        aborted.cancel()

    async def close(self) -> None:
        """Cancel all attempts; their tasks are due again at the next start."""
        self._closed = True
        await self.abort()

    def _queue_dispatch(self, queue: QueueState) -> _QueueDispatch:
        state = self._queues[queue.q]
        state.bucket.configure(queue.config.rate, queue.config.burst, self._clock.now())
        return state

    def _dispatch_queue(self, known: QueueState) -> None:
        queue = self._store.current(known)
        if queue is None or self._closed or not self._released.is_set() or self._store.unwritable:
            return
        state = self._queue_dispatch(queue)
        if state.timer:
            state.timer.cancel()
            state.timer = None
        if queue.dispatching:
            delay = self._dispatch_due(queue, state)
            if delay is not None:
                state.timer = self._loop.call_later(delay / SECOND, self._dispatch_queue, queue)

    def _dispatch_due(self, queue: QueueState, state: _QueueDispatch) -> int | None:
        """Send due tasks; return the microseconds until more can be sent, None if that needs a `wake`."""
        now, sent_before = self._clock.now(), queue.in_flight
        for _ in range(_READ_AT_ONCE):
            if queue.in_flight - sent_before >= _SENT_AT_ONCE:
                return 0
            if queue.in_flight >= queue.config.max_concurrent or state.is_full(queue.live):
                return None
            first = queue.due.first(now)
            if first is None:
                return None
            number, due = first
            wait = max(due - now, state.bucket.wait(now))
            if wait:
                return wait
            queue.due.drop_first()
            claim = self._store.claim(queue, number)
            if claim is not None:
                self._dispatch(claim, state)
        return 0

    def _dispatch(self, claim: Claim, state: _QueueDispatch) -> None:
        call = self._prepare(claim)
        unreachable = self._unreachable.probes
        if unreachable and call.address in unreachable:
            state.held[claim.task.number] = call.address, claim.task.id, claim.attempts.due
            return
        state.bucket.take()
        self._start(claim, call)

    def _start(self, claim: Claim, call: HttpCall, called_at: int | None = None) -> None:
        queue, kind = claim.queue, "APP_ENGINE_HTTP" if call.app_engine else "HTTP"
        subject = LogSubject(queue.q, queue.config.sampling_ratio, claim.task.id, call.target, kind)
        attempt = _Attempt(claim, call, subject, self._store.begin_attempt(claim), called_at)
        task = self._loop.create_task(self._run(attempt))
        self._running[attempt] = task
        task.add_done_callback(lambda _: self._running.pop(attempt, None))

    async def _run(self, attempt: _Attempt) -> None:
        call = attempt.call
        waits = self._settings.wait_for_loopback and is_loopback(call.address)
        # A task that waits for its target was not dispatched, so the entry is logged only after the connection is made.
        if not waits:
            self._log_dispatched(attempt)
        try:
            result = await self._send(attempt, (lambda: self._log_dispatched(attempt)) if waits else None)
        except TimeoutError:
            cause = f"no answer within {call.deadline / SECOND:g} s"
            status = NO_ANSWER if call.app_engine else _GATEWAY_TIMEOUT
            result = AttemptResult(http_status=status, timed_out=True, cause=cause)
        except NotListeningError as error:
            if waits:
                self._hold_task(attempt)
                return
            result = AttemptResult(http_status=NO_ANSWER, cause=str(error))
        finally:
            attempt.deadline = None  # it has ended, and cannot be moved with the clock
        self._finish(attempt, result)

    async def _send(self, attempt: _Attempt, connected: Callable[[], None] | None) -> AttemptResult:
        """Send a request as soon as a socket can be opened for it: until then the target is not called."""
        while True:
            try:
                async with asyncio.timeout(attempt.call.deadline / SECOND) as attempt.deadline:
                    return await self._deliverer.send(attempt.call, connected)
            except NoSocketError:
                attempt.deadline = None
                if self._loop.time() >= self._quiet_until:
                    self._quiet_until = self._loop.time() + _QUIET
                    self._store.report("too many open files: attempts wait for a free one; ulimit -n raises the limit")
                await asyncio.sleep(_NO_SOCKET_PAUSE)

    def _log_dispatched(self, attempt: _Attempt) -> None:
        if attempt.subject.ratio:
            self._store.log.dispatched(attempt.subject, attempt.claim.attempts, self._clock.now())
            self.changed()

    def _finish(self, attempt: _Attempt, result: AttemptResult) -> None:
        claim = attempt.claim
        gone = self._store.end_attempt(claim, result, attempt.call.retry, attempt.subject, called_at=attempt.called_at)
        self.ended += 1
        self.history.record(claim, attempt.call, claim.attempts, cause=result.cause, gone=gone)
        self.changed()
        if not result.succeeded:
            self.failed(_failure(attempt, result, gone=gone))
        self._dispatch_queue(claim.queue)

    def _hold_task(self, attempt: _Attempt) -> None:
        self._unreachable.add(attempt.call.address)
        self._store.undo_attempt(attempt.claim, attempt.before)
        if attempt.called_at is None:
            self._queues[attempt.claim.queue.q].bucket.give_back()
        self._dispatch_queue(attempt.claim.queue)

    def _reachable_again(self, address: str) -> None:
        for queue in self._store.contents.by_number.values():
            held = self._queue_dispatch(queue).held
            for number in [number for number, (at, *_) in reversed(held.items()) if at == address]:
                del held[number]
                queue.due.put_back(number)
        self.wake_all()

    def _advanced(self, duration: int) -> None:
        for attempt in self._running:
            deadline = attempt.deadline
            if deadline is not None and not deadline.expired() and (when := deadline.when()) is not None:
                deadline.reschedule(max(self._loop.time(), when - duration / SECOND))
        self.wake_all()


@cache
def _in_container() -> bool:
    return any(map(os.path.exists, _CONTAINER_FILES))


def _failure(attempt: _Attempt, result: AttemptResult, *, gone: bool) -> str:
    attempts, claim = attempt.claim.attempts, attempt.claim
    reason = f"{code_name(result.code)}({result.code}): {result.cause}" if result.cause else attempts.message
    if result.cause and is_loopback(attempt.call.address) and _in_container():
        reason += " (in a container, this address is the container's own: that of the host is host.docker.internal)"
    then = "no further attempt" if gone else f"next attempt {instant_text(attempts.due)}"
    return (
        f"{instant_text(attempts.responded)} {claim.queue.name}/tasks/{claim.task.id}: attempt {attempts.dispatches} "
        f"of {attempt.call.target} failed with {reason}; {then}"
    )
