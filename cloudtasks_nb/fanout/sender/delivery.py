"""Brings one request to the service and finds out what became of each of its rows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cloudtasks_nb.errors import (
    CloudTasksError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    ServiceError,
    UnavailableError,
)
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, BatchRecord, Request
from cloudtasks_nb.fanout.plan.identity import request_id
from cloudtasks_nb.fanout.sender.caller import RpcCaller, Stopped, StopSignal
from cloudtasks_nb.fanout.wire import CreateEncoder, name_request
from cloudtasks_nb.service.status import RETRIED, RETRIED_SOME

__all__ = ["Delivery", "Lookup", "Operation"]

#: Tells of tasks, by their ids, whether they were ever created; None, or nothing at all, where that is not known.
Lookup = Callable[[Sequence[str]], Awaitable[Mapping[str, bool | None]]]

_SAFE = 50 * 60.0  # seconds for which a name is surely taken after its task left; the service promises about an hour
_SKEW = 60.0  # seconds that a clock may be set back
_SINGLES = 64  # rows of a request that are sent at the same time
_WITHOUT_BATCH = 4  # requests that are sent row by row at the same time
_PATIENCE = 120.0  # seconds for an operation to finish
_POLL = 0.1  # seconds before the first look at an operation, half as much again each time
_POLL_LONGEST = 5.0

#: Codes by which the service refuses one task, whatever becomes of the others.
_REFUSED = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})

#: Codes of GetTask that leave open whether the task ever was.
_NOT_THERE = frozenset({"NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED"})

_FATAL: dict[str, type[CloudTasksError]] = {
    "NOT_FOUND": NotFoundError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "FAILED_PRECONDITION": PreconditionError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the service says of a batch call."""

    name: str
    done: bool
    failed: Mapping[int, tuple[str, str]]  #: index in the request -> code and text
    whole: bool = False  #: every row was tried, and those that failed are all named
    created: int = 0  #: tasks in the answer

    def tells(self, rows: int) -> bool:
        """Whether it says of each row of the request what became of it."""
        return self.whole or len(self.failed) == rows or self.created + len(self.failed) == rows


@dataclass(slots=True, kw_only=True)
class _Found:
    """What became of the rows of one request."""

    sent: list[int] = field(default_factory=list)
    already: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unclear: bool = False  #: of some rows it is not known

    def ack(self, seq: int) -> Ack | None:
        """Return it for the outbox; None if the request has to be taken up again as it is."""
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


class Delivery:
    """Brings requests to the service, in one call or row by row.

    Parameters
    ----------
    outbox : Outbox
    record : BatchRecord
        The batch whose requests they are.
    batches, singles : RpcCaller
        For batch calls; for calls about one task.
    stop : StopSignal
        Turned off by what no other try can mend.
    parse : callable
        Reads what a batch call answers.
    """

    def __init__(  # noqa: PLR0913 - the parts of a sending
        self,
        outbox: Outbox,
        record: BatchRecord,
        batches: RpcCaller,
        singles: RpcCaller,
        stop: StopSignal,
        *,
        parse: Callable[[bytes], Operation],
        lookup: Lookup | None,
        clock: Callable[[], float],
        ticks: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self.batch = record.id
        self._place = record.place
        self._batches = batches
        self._singles = singles
        self._stop = stop
        self._parse = parse
        self._lookup = lookup
        self._clock = clock
        self._ticks = ticks
        self._batching = True

    def limit(self) -> int:
        """Return how many requests may be under way."""
        return self._batches.concurrency.limit if self._batching else _WITHOUT_BATCH

    async def deliver(self, request: Request) -> Ack | None:
        """Bring a request to the service, and return what became of its rows; None if that is not known of all."""
        found = _Found()
        encoder = CreateEncoder(replace(self._place, queue=request.queue).queue_name)
        for part in encoder.cut(request.tasks, request.wire):
            piece = replace(request, refs=request.refs[part], tasks=request.tasks[part], wire=request.wire[part])
            if self._batching:
                await self._in_one_call(piece, encoder, found)
            else:
                await self._one_by_one(piece, encoder, found, ours=piece.tried)
        return found.ack(request.seq)

    async def _in_one_call(self, request: Request, encoder: CreateEncoder, found: _Found) -> None:
        key = request_id(self.batch, request.seq, request.tasks)
        reply = await self._batches.call(
            "BatchCreateTasks", encoder.batch(request.tasks, request.wire, key), self._wanted(request)
        )
        ours = request.tried or reply.unclear
        if reply.data is not None:
            failed = await self._failures(self._parse(reply.data), len(request.refs))
            if failed is None:
                await self._one_by_one(request, encoder, found, ours=True)
            else:
                await self._judge_all(request, failed, found, ours=ours)
        elif reply.error is None:
            await self._unwanted(request, found, unclear=reply.unclear)
        elif reply.error.code == "UNIMPLEMENTED":
            self._batching = False
            await self._one_by_one(request, encoder, found, ours=ours)
        elif reply.error.code in _REFUSED:
            # One bad task is enough for that; alone it is told apart from the others.
            await self._one_by_one(request, encoder, found, ours=ours)
        else:
            self._give_up(request.refs, reply.error, found, ours=ours)

    async def _failures(self, operation: Operation, rows: int) -> Mapping[int, tuple[str, str]] | None:
        """Wait for an operation; return code and text of the rows that failed, None if it does not tell."""
        deadline, pause = self._ticks() + _PATIENCE, _POLL
        while not operation.done:
            await self._stop.sleep(pause)
            pause = min(_POLL_LONGEST, 1.5 * pause)
            reply = await self._batches.call(
                "GetOperation", name_request(operation.name), lambda _: self._ticks() < deadline
            )
            if reply.data is None:
                return None
            operation = self._parse(reply.data)
        return operation.failed if operation.tells(rows) else None

    async def _judge_all(
        self, request: Request, failed: Mapping[int, tuple[str, str]], found: _Found, *, ours: bool
    ) -> None:
        trouble = None
        for index, ref in enumerate(request.refs):
            if index not in failed:
                found.sent.append(ref)
            else:
                trouble = self._judge(ref, *failed[index], found, ours=ours) or trouble
        if trouble is None:
            self._batches.rested()
        else:
            await self._batches.rest(trouble)

    def _judge(self, ref: int, code: str, text: str, found: _Found, *, ours: bool) -> CloudTasksError | None:
        """Note what an error means for its row; return it if the row is to be sent again after a while."""
        if code == "ALREADY_EXISTS":
            found.sent.append(ref)
            found.already += not ours
            return None
        if code in _REFUSED:
            found.rejected[ref] = text if text.startswith(code) else f"{code}: {text}"
            return None
        found.again.append(ref)
        if code in RETRIED or code in RETRIED_SOME:
            return UnavailableError(f"{self._place.queue_name}: {text}", code=code)
        self._stop.set(
            _FATAL.get(code, ServiceError)(
                f"{self._place.queue_name}: {text}", resource=self._place.queue_name, code=code
            )
        )
        return None

    async def _one_by_one(self, request: Request, encoder: CreateEncoder, found: _Found, *, ours: bool) -> None:
        """Create each task with a call of its own."""
        todo, left = deque(range(len(request.refs))), []
        wanted = self._wanted(request)

        async def work() -> None:
            while todo:
                index = todo.popleft()
                reply = await self._singles.call(
                    "CreateTask", encoder.create(request.tasks[index], request.wire[index]), wanted
                )
                ref, mine = request.refs[index], ours or reply.unclear
                if reply.data is not None:
                    found.sent.append(ref)
                elif reply.error is None:
                    left.append((index, mine))
                elif reply.error.code in _REFUSED or reply.error.code == "ALREADY_EXISTS":
                    self._judge(ref, reply.error.code, reply.error.message, found, ours=mine)
                else:
                    self._give_up([ref], reply.error, found, ours=mine)

        await _together(work() for _ in range(min(_SINGLES, len(todo))))
        for unclear in (False, True):
            if chosen := [index for index, mine in left if mine is unclear]:
                await self._unwanted(_only(request, chosen), found, unclear=unclear)

    def _give_up(self, refs: Iterable[int], error: CloudTasksError, found: _Found, *, ours: bool) -> None:
        """End the sending because of an error that comes of no single row."""
        self._leave(refs, found, ours=ours)
        self._stop.set(error)

    def _leave(self, refs: Iterable[int], found: _Found, *, ours: bool) -> None:
        """Leave rows to the next sending: as they are if they may have been created, else as new."""
        if ours:
            found.unclear = True
        else:
            found.again += refs

    async def _unwanted(self, request: Request, found: _Found, *, unclear: bool) -> None:
        """Deal with rows that were not to be tried any more: the sending ends, or they are cancelled or in doubt."""
        if self._stop.is_set:
            self._leave(request.refs, found, ours=request.tried or unclear)
        else:
            await self._settle(request, found, unclear=unclear)

    async def _settle(self, request: Request, found: _Found, *, unclear: bool) -> None:
        """Find out whether rows were created that are no longer wanted, or that may have been long ago."""
        void = self._void(request)
        if not (request.tried or unclear):
            found.cancelled += request.refs
            return
        missing: list[tuple[int, str]] = []
        name = replace(self._place, queue=request.queue).queue_name

        async def look(ref: int, task: str) -> None:
            reply = await self._singles.call("GetTask", name_request(f"{name}/tasks/{task}"), lambda _: True)
            if reply.data is not None:
                found.sent.append(ref)
            elif reply.error is None:
                self._leave([ref], found, ours=True)
            elif reply.error.code in _NOT_THERE:
                missing.append((ref, task))
            else:
                self._give_up([ref], reply.error, found, ours=True)

        await _together(look(ref, task) for ref, task in zip(request.refs, request.tasks, strict=True))
        known: Mapping[str, bool | None] = {}
        if missing and self._lookup is not None and not found.unclear:
            known = await self._lookup([task for _, task in missing])
        for ref, task in missing:
            existed = known.get(task)
            if existed:
                found.sent.append(ref)
            elif existed is None:
                found.gone.append(ref)
            else:
                (found.cancelled if void else found.again).append(ref)

    def _void(self, request: Request) -> bool:
        return self._outbox.requests.void_until(self.batch) >= request.seq

    def _wanted(self, request: Request) -> Callable[[bool], bool]:
        """Return what tells, before each try, whether the request may be sent."""

        def wanted(unclear: bool) -> bool:  # noqa: FBT001 - the one fact that it is asked about
            if self._void(request):
                return False
            return not (unclear or request.tried) or -_SKEW <= self._clock() - request.started <= _SAFE

        return wanted


def _only(request: Request, indexes: Sequence[int]) -> Request:
    """Return a request with some of its rows."""
    return replace(
        request,
        refs=[request.refs[index] for index in indexes],
        tasks=[request.tasks[index] for index in indexes],
        wire=[request.wire[index] for index in indexes],
    )


async def _together(coroutines: Iterable[Coroutine[None, None, None]]) -> None:
    """Run coroutines at the same time.

    Raises
    ------
    Stopped
        If one of them was; not as a group, which nobody expects.
    """
    stopped = False
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except* Stopped:
        stopped = True
    if stopped:
        raise Stopped
