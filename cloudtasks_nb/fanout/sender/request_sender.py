"""Send one stored request to the service and find out the result of each of its rows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

from cloudtasks_nb._names import code_name
from cloudtasks_nb.errors import (
    CloudTasksError,
    UnavailableError,
)
from cloudtasks_nb.fanout.clock import Clock
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, BatchRecord, Request
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.sender.rpc_caller import RawClient, RpcCaller, SendObserver, Stopped, StopSignal
from cloudtasks_nb.fanout.wire import CreateEncoder, name_request
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME

__all__ = ["RequestSender"]

#: Seconds for which a request may be repeated without creating a task twice: the name of a task that was deleted cannot
#: be used again for about an hour, as the service documents.
_REPEATABLE = 50 * 60.0
_MAX_CLOCK_STEP = 60.0  # seconds that a clock may be set back
_SINGLES = 64  # calls of CreateTask and GetTask in flight, in all and for one request
_WITHOUT_BATCH = 4  # requests that are sent row by row at the same time
_OPERATION_TIMEOUT = 120.0  # seconds
_POLL = 0.1  # seconds before the first poll of an operation, the pause grows by half each time
_POLL_LONGEST = 5.0

# Raw messages: those of the client library cost ten times the rest of a call.
_Metadata = types.BatchCreateTasksMetadata.pb()
_Response = types.BatchCreateTasksResponse.pb()
_State = types.BatchCreateTasksMetadata.State
_ENDED = (int(_State.SUCCEEDED), int(_State.PARTIALLY_SUCCEEDED))

#: Codes with which the service refuses a single task for good.
_REFUSED = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})

#: Codes of GetTask after which it is not known whether the task ever existed.
_UNKNOWN_TASK = frozenset({"NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """The state of a batch call, from an answer of `BatchCreateTasks` or `GetOperation`."""

    name: str
    done: bool
    failed: Mapping[int, Any]  #: index in the request -> raw ``google.rpc.Status``
    complete: bool  #: every row was tried, and `failed` has all that failed
    created: int  #: tasks in the answer

    @classmethod
    def parse(cls, data: bytes) -> _Operation:
        """Read an answer."""
        operation = operations_pb2.Operation.FromString(data)
        metadata = _Metadata.FromString(operation.metadata.value)
        failed = dict(metadata.failed_requests)
        fine = operation.done and not operation.HasField("error")
        complete = fine and metadata.state in _ENDED
        # An answer without a state: count the created tasks.
        created = len(_Response.FromString(operation.response.value).tasks) if fine and not complete else 0
        return cls(name=operation.name, done=operation.done, failed=failed, complete=complete, created=created)

    def covers(self, rows: int) -> bool:
        """Return whether it has the result of each row of the request."""
        return self.complete or len(self.failed) == rows or self.created + len(self.failed) == rows


@dataclass(slots=True, kw_only=True)
class _Results:
    """The refs of one request's rows, by their result."""

    sent: list[int] = field(default_factory=list)
    already: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)  #: to be sent in a new request
    cancelled: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unclear: bool = False  #: some rows may have been created: the same request has to be sent again

    def ack(self, seq: int) -> Ack | None:
        """Return the results as an `Ack` for the outbox; None if the same request has to be sent again."""
        if self.unclear:
            return None
        return Ack(
            seq=seq,
            sent=sorted(self.sent),
            already=self.already,
            rejected=self.rejected,
            again=sorted(self.again),
            cancelled=sorted(self.cancelled),
            gone=sorted(self.gone),
        )

    def postpone(self, refs: Iterable[int], *, maybe_created: bool) -> None:
        """Send rows another time: in the same request if the service may have created them, else in a new one."""
        if maybe_created:
            self.unclear = True
        else:
            self.again += refs


class RequestSender:
    """Sends requests to the service, in one call or row by row.

    Parameters
    ----------
    record : BatchRecord
        The batch whose requests they are.
    stop : StopSignal
        Set by an error that retrying cannot fix.
    in_flight : int
        The largest number of batch calls at the same time.
    """

    def __init__(
        self,
        outbox: Outbox,
        record: BatchRecord,
        client: RawClient,
        stop: StopSignal,
        *,
        observer: SendObserver,
        clock: Clock,
        in_flight: int,
    ) -> None:
        self._outbox = outbox
        self._batch = record.id
        self._place = record.place
        self._client = client
        self._batches = RpcCaller(client, stop, observer, ceiling=in_flight)
        self._singles = RpcCaller(client, stop, observer, ceiling=_SINGLES)
        self._stop = stop
        self._observer = observer
        self._clock = clock
        self._batching = True

    def limit(self) -> int:
        """Return how many requests may be in flight."""
        return self._batches.concurrency.limit if self._batching else _WITHOUT_BATCH

    async def send(self, request: Request) -> Ack | None:
        """Send a request and return the results of its rows; None if some are not known."""
        results = _Results()
        encoder = CreateEncoder(self._place.queue_name)
        for part in encoder.cut(request.tasks, request.wire):
            piece = replace(request, refs=request.refs[part], tasks=request.tasks[part], wire=request.wire[part])
            if self._batching:
                await self._in_one_call(piece, encoder, results)
            else:
                await self._one_by_one(piece, encoder, results, maybe_created=piece.tried)
        return results.ack(request.seq)

    async def _in_one_call(self, request: Request, encoder: CreateEncoder, results: _Results) -> None:
        key = request_id(self._batch, request.seq, request.tasks)
        reply = await self._batches.call(
            "BatchCreateTasks", encoder.batch(request.tasks, request.wire, key), self._may_send(request)
        )
        maybe_created = request.tried or reply.unclear
        if reply.data is not None:
            failed = await self._wait_for(_Operation.parse(reply.data), len(request.refs))
            if failed is None:
                await self._one_by_one(request, encoder, results, maybe_created=True)
            else:
                await self._read_failures(request, failed, results, maybe_created=maybe_created)
        elif reply.error is None:
            await self._resolve_unsent(request, results, unclear=reply.unclear)
        elif reply.error.code == "UNIMPLEMENTED":
            self._batching = False
            await self._one_by_one(request, encoder, results, maybe_created=maybe_created)
        elif reply.error.code in _REFUSED:
            # A single bad task causes this; separate calls find out which one it is.
            await self._one_by_one(request, encoder, results, maybe_created=maybe_created)
        else:
            self._give_up(request.refs, reply.error, results, maybe_created=maybe_created)

    async def _wait_for(self, operation: _Operation, rows: int) -> Mapping[int, Any] | None:
        """Wait for an operation; return the status of the rows that failed, None if it does not name them."""
        deadline, pause = self._clock.ticks() + _OPERATION_TIMEOUT, _POLL
        while not operation.done:
            await self._stop.sleep(pause)
            pause = min(_POLL_LONGEST, 1.5 * pause)
            reply = await self._batches.call(
                "GetOperation", name_request(operation.name), lambda _: self._clock.ticks() < deadline
            )
            if reply.data is None:
                return None
            operation = _Operation.parse(reply.data)
        return operation.failed if operation.covers(rows) else None

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
            if self._settle(ref, code, text, results, maybe_created=maybe_created):
                continue
            results.again.append(ref)
            if code in RETRIED or code in RETRIED_SOME:
                transient = UnavailableError(f"{self._place.queue_name}: {text}", code=code)
            else:
                self._stop.set(self._client.refused("BatchCreateTasks", status))
        if transient is None:
            self._batches.reset_backoff()
        else:
            await self._batches.back_off(transient)

    def _settle(self, ref: int, code: str, text: str, results: _Results, *, maybe_created: bool) -> bool:
        """Note the result of a failed row, and return True, if another try would not change it."""
        if code == "ALREADY_EXISTS":
            results.sent.append(ref)
            results.already += not maybe_created  # somebody else created it
            return True
        if code in _REFUSED:
            results.rejected[ref] = text if text.startswith(code) else f"{code}: {text}"
            return True
        return False

    async def _one_by_one(
        self, request: Request, encoder: CreateEncoder, results: _Results, *, maybe_created: bool
    ) -> None:
        """Create each task with a call of its own."""
        todo, unsent = deque(range(len(request.refs))), []
        may_send = self._may_send(request)

        async def work() -> None:
            while todo:
                index = todo.popleft()
                reply = await self._singles.call(
                    "CreateTask", encoder.create(request.tasks[index], request.wire[index]), may_send
                )
                ref, uncertain = request.refs[index], maybe_created or reply.unclear
                if reply.data is not None:
                    results.sent.append(ref)
                elif reply.error is None:
                    unsent.append((index, uncertain))
                elif reply.error.code in _REFUSED or reply.error.code == "ALREADY_EXISTS":
                    self._settle(ref, reply.error.code, reply.error.message, results, maybe_created=uncertain)
                else:
                    self._give_up([ref], reply.error, results, maybe_created=uncertain)

        await _gather(work() for _ in range(min(_SINGLES, len(todo))))
        for unclear in (False, True):
            if chosen := [index for index, uncertain in unsent if uncertain is unclear]:
                await self._resolve_unsent(_only(request, chosen), results, unclear=unclear)

    def _give_up(self, refs: Iterable[int], error: CloudTasksError, results: _Results, *, maybe_created: bool) -> None:
        """End the sending after an error that does not concern a single row."""
        results.postpone(refs, maybe_created=maybe_created)
        self._stop.set(error)

    async def _resolve_unsent(self, request: Request, results: _Results, *, unclear: bool) -> None:
        """Find out the result of rows whose call was not made: sending ends, they are cancelled, or it is too late."""
        if self._stop.is_set:
            results.postpone(request.refs, maybe_created=request.tried or unclear)
        else:
            await self._check_created(request, results, unclear=unclear)

    async def _check_created(self, request: Request, results: _Results, *, unclear: bool) -> None:
        """Find out whether rows that were cancelled, or may have been sent long ago, were created."""
        is_cancelled = self._is_cancelled(request)
        if not (request.tried or unclear):
            results.cancelled += request.refs
            return
        missing: list[tuple[int, str]] = []
        name = self._place.queue_name

        async def get(ref: int, task: str) -> None:
            reply = await self._singles.call("GetTask", name_request(f"{name}/tasks/{task}"), lambda _: True)
            if reply.data is not None:
                results.sent.append(ref)
            elif reply.error is None:
                results.postpone([ref], maybe_created=True)
            elif reply.error.code in _UNKNOWN_TASK:
                missing.append((ref, task))
            else:
                self._give_up([ref], reply.error, results, maybe_created=True)

        await _gather(get(ref, task) for ref, task in zip(request.refs, request.tasks, strict=True))
        known: Mapping[str, bool | None] = {}
        if missing and not results.unclear:
            known = await self._observer.were_created([task for _, task in missing])
        for ref, task in missing:
            was_created = known.get(task)
            if was_created:
                results.sent.append(ref)
            elif was_created is None:
                results.gone.append(ref)
            else:
                (results.cancelled if is_cancelled else results.again).append(ref)

    def _is_cancelled(self, request: Request) -> bool:
        return self._outbox.requests.void_until(self._batch) >= request.seq

    def _may_send(self, request: Request) -> Callable[[bool], bool]:
        """Return a function that is called before each try and returns whether the request may be sent."""

        def may_send(unclear: bool) -> bool:  # noqa: FBT001 - its only argument
            if self._is_cancelled(request):
                return False
            return (
                not (unclear or request.tried) or -_MAX_CLOCK_STEP <= self._clock.now() - request.started <= _REPEATABLE
            )

        return may_send


def _only(request: Request, indexes: Sequence[int]) -> Request:
    """Return a request with some of its rows."""
    return replace(
        request,
        refs=[request.refs[index] for index in indexes],
        tasks=[request.tasks[index] for index in indexes],
        wire=[request.wire[index] for index in indexes],
    )


async def _gather(coroutines: Iterable[Coroutine[None, None, None]]) -> None:
    """Run coroutines concurrently; raise `Stopped` itself instead of a group."""
    stopped = False
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except* Stopped:
        stopped = True
    if stopped:
        raise Stopped
