"""Send a batch from the outbox: 100 rows a call, many calls in flight, until each row's task exists once.

A task's name is derived from its row, so that a row that is sent twice creates one task: the service answers
ALREADY_EXISTS while the task exists, and for about an hour after its deletion. After that, rows are looked up before
they are sent again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple, Protocol

from cloudtasks_nb import _loop
from cloudtasks_nb._names import code_name
from cloudtasks_nb.errors import CloudTasksError, EndpointError, QueueNotFoundError, UnavailableError
from cloudtasks_nb.fanout.clock import Clock, seconds_since_boot
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, BatchRecord, Request
from cloudtasks_nb.fanout.outbox.requests import MAX_TASKS
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.sender.operation import parse_operation
from cloudtasks_nb.fanout.sender.pace import Concurrency, Meter, ramp
from cloudtasks_nb.fanout.wire import MAX_BYTES, CreateEncoder, name_request
from cloudtasks_nb.service.retries import RETRIED, RETRIED_SOME, backoff
from cloudtasks_nb.service.transport import Transport

__all__ = ["Holder", "Lease", "Report", "Sender"]

#: Seconds for which a request may be repeated without creating a task twice: the name of a task that was deleted cannot
#: be used again for about an hour, as the service documents.
_REPEATABLE = 50 * 60.0
_MAX_CLOCK_STEP = 60.0  # seconds that a clock may be set back
_SLICES = 5  # requests in which the rows of a second are sent, so that no second has many more
_LOCK_POLL = 0.5  # seconds between two checks whether another sender has ended
_ENDPOINT_POLL = 2.0  # seconds between two checks whether the service answers again
_VOID_SECONDS = 0.05  # for which it is not read again which requests are cancelled
_RESERVE = 8  # requests that are read together, before calls end, so that no call waits for the disk
_SINGLES = 64  # calls of CreateTask and GetTask in flight
_WITHOUT_BATCH = 4  # requests that are sent row by row at the same time
_SOME_TRIES = 8  # most tries after codes that may mean a permanent fault
_OPERATION_TIMEOUT = 60.0  # seconds
_LATE = 60.0  # seconds after which the service does not carry out a request that had no answer
_SILENCE = 5.0  # seconds without an answer after which the service is asked for its time before a row is sent
_DEADLINE = 30.0  # seconds of a request that creates tasks, connecting included
_POLL = 0.1  # seconds before the first poll of an operation, the pause grows by half each time
_POLL_LONGEST = 5.0
_PAUSES = 0.25, 30.0  # seconds after a failure at most: the first, and the longest

#: Codes with which the service refuses a single task for good.
_REFUSED = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})

#: Codes of GetTask after which it is not known whether the task ever existed.
_UNKNOWN_TASK = frozenset({"NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What has just happened in a sending."""

    sent: int = 0  #: so many more rows are stored as sent
    error: CloudTasksError | None = None  #: after this the sender tries again
    other: Mapping[str, Any] | None = None  #: the owner of another sender that this one waits for


class Holder(Protocol):
    """Keeps others from something."""

    def release(self) -> None:
        """Let others do it."""


class Lease(Protocol):
    """What allows this home to send a batch that other homes may send too."""

    def lock(self) -> Holder | None:
        """Return what keeps other processes of this home from sending until it is released; None: one sends."""

    async def begin(self) -> None:
        """Get it; raise a CloudTasksError if another home has it."""

    def check(self) -> None:
        """Raise a CloudTasksError unless it is valid at this moment."""

    async def end(self, *, held: bool = False) -> None:
        """Give it back, after all requests were answered; with rows that are `held` back, when they are gone."""


class _Reply(NamedTuple):
    """The result of a call."""

    data: bytes | None = None  #: the answer
    error: CloudTasksError | None = None  #: why there is no answer; if both are None, the call was not wanted any more
    unclear: bool = False  #: an earlier try got no answer, so it may have been executed


@dataclass(slots=True)
class _Results:
    """The refs of one request's rows, by their result. A row that may have been created is left out."""

    sent: list[int] = field(default_factory=list)
    already: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)  #: surely not created
    gone: list[int] = field(default_factory=list)

    def settle(self, ref: int, code: str, text: str, *, maybe_created: bool) -> bool:
        """Note the result of a failed row, and return True, if another try would not change it."""
        if code == "ALREADY_EXISTS":
            self.sent.append(ref)
            self.already += not maybe_created  # somebody else created it
        elif code in _REFUSED:
            self.rejected[ref] = text if text.startswith(code) else f"{code}: {text}"
        else:
            return False
        return True

    def ack(self, request: Request) -> Ack | None:
        """Return the results for the outbox; None if a row is left out: the same request has to be sent again."""
        rows = {name: sorted(getattr(self, name)) for name in ("sent", "again", "gone")}
        if sum(map(len, rows.values())) + len(self.rejected) < len(request.refs):
            return None
        return Ack(seq=request.seq, rejected=self.rejected, **rows)


@dataclass(eq=False, kw_only=True)
class Sender:
    """Sends the unsent rows of one batch.

    Parameters
    ----------
    key : bytes
        The key of the batch, by which each task gets its tag.
    report : callable
        Called after each change.
    until : callable
        Returns the last ref whose row may be sent now; None: all rows, 0: none, so that the sending ends.
    were_created : coroutine function
        Called with tasks that are not in the queue, and the time in seconds since 1970 since when they may have been
        created; returns whether they were. None, or left out: not known.
    send_rate : float, optional
        Rows a second. Without it, as fast as possible; on Google's endpoint 500 a second, more with time.
    in_flight : int
        The most batch calls at the same time.
    owner : mapping, optional
        Description of this sender for other senders; stored as JSON.
    lease : Lease, optional
        Without it no other home can send the batch.
    prepare : coroutine function, optional
        Called before the first row is sent, when nobody else sends the batch; returns the newest row to be sent.
    """

    outbox: Outbox
    record: BatchRecord
    key: bytes
    transport: Transport
    report: Callable[[Report], None]
    until: Callable[[], int | None]
    were_created: Callable[[Sequence[str], float], Awaitable[Mapping[str, bool | None]]]
    send_rate: float | None = None
    in_flight: int = 16
    owner: Mapping[str, Any] | None = None
    lease: Lease | None = None
    prepare: Callable[[], Awaitable[int]] | None = None
    clock: Clock = field(default_factory=Clock)

    #: Whether it ended because rows may have been sent from elsewhere since: they are looked up before it goes on.
    gap: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._batch = self.record.id
        self._queue = self.record.place.queue_name
        self._encoder = CreateEncoder(self._queue, self.key)
        self._already = 0
        self._void: Collection[int] = ()  # cancelled requests
        self._void_until, self._cancels = 0.0, 0  # until when that is certain, unless this process cancels others

    async def run(self) -> int:
        """Send all rows; while another process does that, wait until it has ended.

        Returns how many tasks existed before the first sending, created from another outbox.

        While nothing answers at the endpoint, another connection or process may send: its address may work.

        Raises
        ------
        CloudTasksError
            The error that ended the sending early, such as a missing queue, a missing permission or an unwritable
            outbox. Rows that were not sent stay unsent.
        """
        run, batches = self.outbox.run, self.outbox.batches
        while await run(self.outbox.requests.waiting, self.record.whole):
            lock = self.outbox.requests.lock(self._batch) if self.lease is None else self.lease.lock()
            if lock is None:
                self.report(Report(other=(await run(batches.facts, self._batch)).sender or {}))
                await self.clock.sleep(_LOCK_POLL)
                continue
            try:
                self.report(Report())
                await run(batches.change, self._batch, lambda facts: replace(facts, sender=self.owner))
                error = await self._send_owned()
            finally:
                lock.release()
            if self.gap or (error is None and (self.until() is not None or not self._left_out)):
                break
            if isinstance(error, EndpointError):
                await self._until_answered()
            elif error is not None:
                raise error
        return self._already

    async def _send_owned(self) -> CloudTasksError | None:
        """Send as `_send_all` does, if this home may, and something answers."""
        held = False
        try:
            if self.lease is not None:
                await self.lease.begin()
            self._newest = math.inf if self.prepare is None else await self.prepare()
            error = await self._send_all()
            if self.lease is not None:
                rows_left = error is None and await self.outbox.run(self.outbox.requests.waiting, self.record.whole)
                held = rows_left and not self.gap and self.until() is not None
                if self._unclear:
                    await self.clock.sleep(max(0.0, max(self._unclear.values()) + _LATE - self.clock.ticks()))
        except EndpointError as silent:
            self.report(Report(error=silent))
            return silent
        finally:
            if self.lease is not None:
                await self.lease.end(held=held)
        return error

    async def _until_answered(self) -> None:
        """Wait until the service answers again, also with an error, or another sender has sent all rows."""
        while await self.outbox.run(self.outbox.requests.waiting, self.record.whole):
            await self.clock.sleep(_ENDPOINT_POLL)
            try:
                await self.transport.raw("GetQueue", name_request(self._queue), resource_name=self._queue)
            except UnavailableError as error:
                self.report(Report(error=error))
            except CloudTasksError:
                return
            else:
                return

    async def _send_all(self) -> CloudTasksError | None:
        """Send until no row is left, or until an error that retrying cannot fix; return that error.

        All answers are stored before this ends, also if it is cancelled.
        """
        self._begin()
        try:
            async with asyncio.TaskGroup() as group:
                launching = group.create_task(self._launch(group))
                await self._feed()
                launching.cancel()
        except ExceptionGroup as group:
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise error from group
        finally:
            # Shielded: a cancelled sending also stores its answers.
            await asyncio.shield(asyncio.ensure_future(self._store_rest()))
        return self._end.result() if self._end.done() else None

    def _begin(self) -> None:
        rate = self.send_rate
        pace = ramp if rate is None else lambda _: rate
        limited = rate is not None or self.transport.google
        self._meter = Meter(pace, self.clock.ticks()) if limited else None
        self._rows = MAX_TASKS if rate is None else min(MAX_TASKS, math.ceil(rate / _SLICES))  # in a request
        self._reserve = 1 if limited else _RESERVE
        self._batches = Concurrency(self.in_flight, start=max(2, self.in_flight // 4))
        self._singles = Concurrency(_SINGLES, start=_SINGLES // 4)
        self._batching = True  # the service knows BatchCreateTasks
        self._pauses = backoff(*_PAUSES)  # after answers with failed rows
        self._end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()  # gets the error
        self._requests = self.outbox.requests.queue(self._batch)
        self._ready: deque[Request] = deque()
        self._heard = seconds_since_boot()
        self._began = self.clock.now(), self._heard
        self._flying = 0
        self._unclear = dict[bytes, float]()  # requests without an answer, and when they were handed out
        self._acks: list[Ack] = []
        self._exchanging: asyncio.Future[None] | None = None
        self._exhausted = False  # the outbox has no more requests
        self._left_out = False  # it is not known of all rows whether they were created
        self._changed = asyncio.Event()

    @property
    def _limit(self) -> int:
        """How many requests may be in flight."""
        return self._batches.limit if self._batching else _WITHOUT_BATCH

    async def _feed(self) -> None:
        """Store answers and read requests until all rows are sent, or the sending ends."""
        while True:
            last = self._exhausted or self._end.done()
            want = 0 if last else max(0, self._limit + self._reserve - self._flying - len(self._ready))
            # Answers are stored together while requests wait: each time costs a write to the disk.
            awaits_more = self._meter is None and 0 < want < self._reserve and self._ready and self._flying > 1
            if (self._acks or want) and not awaits_more:
                # Cancelling must not lose requests that the outbox has marked as taken.
                self._exchanging = asyncio.ensure_future(self._exchange(want))
                await asyncio.shield(self._exchanging)
            elif last and not self._flying and not self._ready:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until requests have come or a request has ended."""
        self._changed.clear()
        await self._changed.wait()

    async def _exchange(self, want: int) -> None:
        acks, self._acks = self._acks, []
        try:
            now, until = self.clock.now(), self.until()
            requests = await self.outbox.run(self._requests.turn, acks, want, now=now, size=self._rows, until=until)
        except CloudTasksError as error:
            self._finish(error)
            return
        self._ready.extend(requests)
        self._exhausted = (self._exhausted or len(requests) < want) and not any(ack.again for ack in acks)
        self._changed.set()
        if sent := sum(len(ack.sent) for ack in acks):
            self.report(Report(sent=sent))

    async def _store_rest(self) -> None:
        """Store the last answers, and return unsent requests to the outbox."""
        if self._exchanging is not None:
            await asyncio.wait({self._exchanging})
        self._acks += [Ack(seq=request.seq, again=request.refs) for request in self._ready if not request.tried]
        if self._acks:
            await self._exchange(0)

    async def _launch(self, group: asyncio.TaskGroup) -> None:
        """Start to send each request as soon as it may be sent; at the end of the sending, they come back unsent."""
        while True:
            while not self._ready or self._flying >= self._limit:
                await self._wait()
            if self._meter is not None:
                if wait := self._meter.wait(self.clock.ticks()):
                    await self._sleep(wait)
                self._meter.spend(len(self._ready[0].refs), self.clock.ticks())
            self._flying += 1
            group.create_task(self._send(self._ready.popleft()))

    async def _send(self, request: Request) -> None:
        """Send a request, and keep the results of its rows if all are known."""
        results = _Results()
        try:
            await self._send_rows(request, results)
            if ack := results.ack(request):
                self._acks.append(ack)
                self._already += results.already
            else:
                self._left_out = True
        finally:
            self._flying -= 1
            self._changed.set()

    async def _send_rows(self, request: Request, results: _Results) -> None:
        """Create the tasks of a request: in one call, or row by row if the service does not take that."""
        key = request_id(self._batch, request.seq, request.tasks)
        data = self._encoder.batch(request.tasks, request.wire, key) if self._batching else b""
        if not 0 < len(data) <= MAX_BYTES:
            await self._one_by_one(request, results, maybe_created=request.tried)
            return
        reply = await self._call(self._batches, "BatchCreateTasks", data, request)
        maybe_created = request.tried or reply.unclear
        if reply.data is not None:
            failed = await self._wait_for(reply.data, len(request.refs))
            if failed is None:
                await self._one_by_one(request, results, maybe_created=True)
            else:
                await self._read_failures(request, failed, results, maybe_created=maybe_created)
        elif reply.error is not None and reply.error.code in {"UNIMPLEMENTED", *_REFUSED}:
            # A single bad task causes a refusal; separate calls find out which one it is.
            self._batching = self._batching and reply.error.code != "UNIMPLEMENTED"
            await self._one_by_one(request, results, maybe_created=maybe_created)
        else:
            if reply.error is not None:
                self._finish(reply.error)
            rows = dict(zip(request.refs, request.tasks, strict=True))
            await self._resolve(request, rows, results, maybe_created=maybe_created)

    async def _wait_for(self, data: bytes, rows: int) -> Mapping[int, Any] | None:
        """Wait for an operation; return the status of the rows that failed, None if it does not name them."""
        deadline, pause = self.clock.ticks() + _OPERATION_TIMEOUT, _POLL
        while not (operation := parse_operation(data, rows)).done:
            await self.clock.sleep(pause)  # also at the end: before it is told, this has an answer
            pause = min(_POLL_LONGEST, 1.5 * pause)
            reply = await self._call(self._batches, "GetOperation", name_request(operation.name), deadline=deadline)
            if reply.data is None:
                return None
            data = reply.data
        return operation.failed

    async def _read_failures(
        self, request: Request, failed: Mapping[int, Any], results: _Results, *, maybe_created: bool
    ) -> None:
        transient = None
        for index, ref in enumerate(request.refs):
            status = failed.get(index)
            if status is None:
                results.sent.append(ref)
                continue
            code, text = code_name(status.code), status.message
            if results.settle(ref, code, text, maybe_created=maybe_created):
                continue
            results.again.append(ref)
            if code in RETRIED or code in RETRIED_SOME:
                transient = UnavailableError(f"{self._queue}: {text}", code=code)
            else:
                self._finish(self.transport.refused("BatchCreateTasks", status, resource_name=self._queue))
        if transient is None:
            self._pauses = backoff(*_PAUSES)
        else:
            self._batches.failed(self._batches.epoch)
            self.report(Report(error=transient))
            await self._sleep(next(self._pauses))

    async def _one_by_one(self, request: Request, results: _Results, *, maybe_created: bool) -> None:
        """Create each task with a call of its own."""
        unsent: dict[bool, dict[int, str]] = {False: {}, True: {}}  # by whether they may have been created

        async def create(ref: int, task: str, wire: bytes) -> None:
            reply = await self._call(self._singles, "CreateTask", self._encoder.create(task, wire), request)
            uncertain, error = maybe_created or reply.unclear, reply.error
            if reply.data is not None:
                results.sent.append(ref)
            elif error is None or not results.settle(ref, error.code or "", error.message, maybe_created=uncertain):
                unsent[uncertain][ref] = task
                if error is not None:
                    self._finish(error)

        await _loop.gather(map(create, request.refs, request.tasks, request.wire))
        for uncertain, rows in unsent.items():
            if rows:
                await self._resolve(request, rows, results, maybe_created=uncertain)

    async def _resolve(
        self, request: Request, rows: Mapping[int, str], results: _Results, *, maybe_created: bool
    ) -> None:
        """Find out the result of rows whose call was not made.

        The sending ends, they are cancelled or held back, or they may have been sent long ago.
        """
        if not maybe_created:
            results.again += rows
            return
        is_kept = not await self._is_cancelled(request) and (self._is_held(request) or self._is_repeatable(request))
        missing = await self._look_up(rows, results)
        if not missing or self._end.done():
            return
        known = await self.were_created([*missing.values()], request.started)
        for ref, task in missing.items():
            was_created = known.get(task)
            if was_created is not None:
                (results.sent if was_created else results.again).append(ref)
            elif not is_kept:
                results.gone.append(ref)

    async def _look_up(self, rows: Mapping[int, str], results: _Results) -> Mapping[int, str]:
        """Ask for the task of each row, and return the rows whose task is not in the queue."""
        missing: dict[int, str] = {}

        async def get(ref: int, task: str) -> None:
            reply = await self._call(self._singles, "GetTask", name_request(f"{self._queue}/tasks/{task}"))
            if reply.data is not None:
                results.sent.append(ref)
            elif reply.error is not None and reply.error.code in _UNKNOWN_TASK:
                missing[ref] = task
            elif reply.error is not None:
                self._finish(reply.error)

        await _loop.gather(map(get, rows.keys(), rows.values()))
        return missing

    async def _is_cancelled(self, request: Request) -> bool:
        cancels = self.outbox.requests.cancels
        if time.monotonic() > self._void_until or cancels != self._cancels:
            self._void = await self.outbox.run(self.outbox.requests.void, self._batch)
            self._void_until, self._cancels = time.monotonic() + _VOID_SECONDS, cancels
        return request.seq in self._void

    def _is_held(self, request: Request) -> bool:
        """Return whether rows of the request may not be sent now."""
        until = self.until()
        return until is not None and request.refs[-1] > until

    async def _may_send(self, request: Request, *, unclear: bool) -> bool:
        """Return whether a request may be sent, of which an earlier try may have been executed if it is `unclear`."""
        await self._learn_time()
        if await self._is_cancelled(request) or self._is_held(request):
            return False
        if unclear or request.tried:
            return self._is_repeatable(request)
        seconds = max(self.clock.now() - self._began[0], seconds_since_boot() - self._began[1])
        if seconds > _REPEATABLE or request.refs[-1] > self._newest:
            self.gap = True
            self._finish()
        return not self.gap

    async def _learn_time(self) -> None:
        """After a silence, as of a machine that has slept, have the service say what time it has."""
        while (asked := seconds_since_boot()) - self._heard > _SILENCE:
            with suppress(CloudTasksError):
                await self.transport.raw("GetQueue", name_request(self._queue), resource_name=self._queue)
            self._heard = max(self._heard, asked)

    def _is_repeatable(self, request: Request) -> bool:
        """Return whether the names of its tasks are surely not free again, should it have been sent."""
        return -_MAX_CLOCK_STEP <= self.clock.now() - request.started <= _REPEATABLE

    async def _call(
        self, pace: Concurrency, rpc: str, data: bytes, request: Request | None = None, *, deadline: float = math.inf
    ) -> _Reply:
        """Call until the service answers; if nothing answers at the endpoint, end the sending.

        No more call is made when the sending ends or, with a `deadline`, when the clock has passed that; nor if
        `request` may not be sent any more.
        """
        unclear, pauses = False, backoff(*_PAUSES)
        for tries in count(1):
            async with pace as epoch:
                began, asked = self.clock.ticks(), seconds_since_boot()
                if began >= deadline or (self._end.done() and deadline == math.inf):
                    break
                if request is not None and not await self._may_send(request, unclear=unclear):
                    break
                try:
                    answer = await self._hand_over(rpc, data, creates=request is not None)
                except EndpointError as error:
                    # Nothing was sent. Retrying here would block other senders, which may have a working address.
                    self.report(Report(error=error))
                    self._finish(error)
                    break
                except CloudTasksError as error:
                    is_new = isinstance(error, QueueNotFoundError) and self.transport.is_new(self._queue)
                    if not (is_new or _is_temporary(error, tries)):
                        return _Reply(error=error, unclear=unclear)
                    if not (is_new or error.code == "RESOURCE_EXHAUSTED"):
                        unclear = True
                        self._unclear |= {} if request is None else {data: began}
                    pace.failed(epoch)
                    self.report(Report(error=error))
                else:
                    self._heard = max(self._heard, asked)  # an answer may be read long after it came
                    self._unclear.pop(data, None)
                    pace.succeeded()
                    return _Reply(data=answer, unclear=unclear)
            await (self._sleep if deadline == math.inf else self.clock.sleep)(next(pauses))
        return _Reply(unclear=unclear)

    async def _hand_over(self, rpc: str, data: bytes, *, creates: bool) -> bytes:
        """Hand a request to the transport; one that creates tasks only while this home may send, and for a short time.

        Other homes wait longer than that before they go on.
        """
        if not creates or self.lease is None:
            return await self.transport.raw(rpc, data, resource_name=self._queue)
        self.lease.check()
        try:
            async with asyncio.timeout(_DEADLINE):
                return await self.transport.raw(rpc, data, resource_name=self._queue)
        except TimeoutError:
            text = f"{rpc} had no answer within {_DEADLINE:.0f} s"
            raise UnavailableError(text, resource=self._queue, code="DEADLINE_EXCEEDED") from None

    def _finish(self, error: CloudTasksError | None = None) -> None:
        """End the sending: no new call begins, and every wait ends."""
        if not self._end.done():
            self._end.set_result(error)

    async def _sleep(self, seconds: float) -> None:
        """Wait for some seconds, or until the sending ends."""
        waking: asyncio.Future[Any] = asyncio.ensure_future(self.clock.sleep(seconds))
        try:
            await asyncio.wait({waking, self._end}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()


def _is_temporary(error: CloudTasksError, tries: int) -> bool:
    if error.code in RETRIED_SOME:
        return tries < _SOME_TRIES
    return error.code in RETRIED or isinstance(error, UnavailableError)
