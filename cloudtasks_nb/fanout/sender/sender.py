"""Sends a batch from the outbox: 100 rows a call, many calls in flight, until each row's task is there once.

A task's name is derived from its row, so that sending twice creates once: the service answers ALREADY_EXISTS while the
task is there, and for at least an hour after it left. Where that hour may be over, rows are looked up before they are
sent again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

from cloudtasks_nb._names import code_name
from cloudtasks_nb.errors import CloudTasksError, EndpointError, UnavailableError
from cloudtasks_nb.fanout.outbox.locks import Hold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, State
from cloudtasks_nb.fanout.outbox.requests import MAX_TASKS
from cloudtasks_nb.fanout.sender.caller import RawClient, RpcCaller, StopSignal
from cloudtasks_nb.fanout.sender.courier import SendLoop, SendStats
from cloudtasks_nb.fanout.sender.delivery import Delivery, Lookup, Operation
from cloudtasks_nb.fanout.sender.pace import Meter, constant, ramp
from cloudtasks_nb.fanout.wire import name_request

__all__ = ["RawClient", "SendReport", "send"]

_SINGLES = 64  # calls of CreateTask and GetTask in flight
_LOOK_AGAIN = 0.5  # seconds between two looks whether another sender has ended
_ASK_AGAIN = 2.0  # seconds between two questions whether the service answers again

# Raw messages: those of the client library cost ten times the rest of a call.
_Metadata = types.BatchCreateTasksMetadata.pb()
_Response = types.BatchCreateTasksResponse.pb()
_State = types.BatchCreateTasksMetadata.State
_WHOLE = (int(_State.SUCCEEDED), int(_State.PARTIALLY_SUCCEEDED))


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """What one sending did."""

    sent: int  #: rows whose task is there now
    already_there: int  #: of these, how many were there before the batch was first sent: another outbox has sent them
    rejected: int  #: rows that the service refused
    elapsed_s: float


async def send(  # noqa: PLR0913 - options and clocks, keyword-only
    outbox: Outbox,
    batch: str,
    client: RawClient,
    *,
    send_rate: float | None = None,
    in_flight: int = 16,
    on_sent: Callable[[int], None] = lambda _: None,
    on_trouble: Callable[[CloudTasksError], None] = lambda _: None,
    on_wait: Callable[[Mapping[str, Any] | None], None] = lambda _: None,
    lookup: Lookup | None = None,
    also_retry: Callable[[CloudTasksError], bool] = lambda _: False,
    who: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
    ticks: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> SendReport:
    """Send what is unsent of a batch; where another process does so, wait until it is done or has ended.

    While nothing answers at the endpoint, another connection or process may send: it may have a better address.

    Parameters
    ----------
    send_rate : float, optional
        Rows a second. Without it, as fast as it goes; on Google's endpoint 500 a second, more with time.
    in_flight : int
        Batch calls at the same time, at most.
    on_sent : callable
        Hears how many more rows are sent, after that is written down.
    on_trouble : callable
        Hears every error after which the sender tries again.
    on_wait : callable
        Hears `who` sends instead, and None when this one does.
    lookup : coroutine function, optional
        Asked about tasks that may have been created long ago and are not in the queue.
    also_retry : callable
        Says of an error that would end the sending whether to try again: a queue that was just made is not known
        everywhere at once.
    who : mapping, optional
        What others may know of this sender, as JSON.
    clock, ticks, sleep : callable
        Seconds since 1970; seconds of a clock that does not jump; what waits.

    Raises
    ------
    CloudTasksError
        What ended the sending before its end: the queue is not there, a permission is missing, the outbox cannot be
        written. What was not sent stays unsent.
    """
    started, total = ticks(), SendStats()

    def send_loop(record: BatchRecord, stop: StopSignal) -> SendLoop:
        batches, singles = (
            RpcCaller(client, stop, ceiling=ceiling, on_trouble=on_trouble, also_retry=also_retry)
            for ceiling in (in_flight, _SINGLES)
        )
        delivery = Delivery(
            outbox, record, batches, singles, stop, parse=_operation, lookup=lookup, clock=clock, ticks=ticks
        )
        meter, rows = _pace(send_rate, ticks(), google=client.google)
        return SendLoop(outbox, delivery, stop, meter=meter, rows=rows, now=clock, ticks=ticks, on_sent=on_sent)

    while hold := await _become_sender(outbox, batch, sleep, on_wait):
        stop = StopSignal(sleep)
        try:
            record = await outbox.run(_begin, outbox, batch, who)
            sending = send_loop(record, stop)
            await sending.run()
            total.include(sending.stats)
            if stop.error is not None and not isinstance(stop.error, EndpointError):
                raise stop.error
        finally:
            hold.release()
        if stop.error is None:
            break
        await _until_answered(outbox, record, client, on_trouble, sleep)
    return SendReport(
        sent=total.sent, already_there=total.already, rejected=total.rejected, elapsed_s=ticks() - started
    )


def _begin(outbox: Outbox, batch: str, who: Mapping[str, Any] | None) -> BatchRecord:
    """Note that a sending begins, and whose it is."""
    outbox.batches.set_setting(batch, "sender", who)
    return outbox.batches.get(batch)


def _pace(send_rate: float | None, now: float, *, google: bool) -> tuple[Meter | None, int]:
    """Return what paces the rows, if anything does, and how many go into a request."""
    if send_rate is not None:
        return Meter(constant(send_rate), now), min(MAX_TASKS, max(1, math.ceil(send_rate)))
    return Meter(ramp, now) if google else None, MAX_TASKS


async def _become_sender(
    outbox: Outbox,
    batch: str,
    sleep: Callable[[float], Awaitable[None]],
    on_wait: Callable[[Mapping[str, Any] | None], None],
) -> Hold | None:
    """Wait until nobody else sends; None if then nothing is left to send."""
    while True:
        hold = outbox.requests.lock(batch)
        unsent = (await outbox.run(outbox.batches.counts, batch))[State.UNSENT]
        if hold is not None and unsent:
            on_wait(None)
            return hold
        if not unsent:
            if hold is not None:
                hold.release()
            return None
        on_wait((await outbox.run(outbox.batches.settings, batch)).get("sender") or {})
        await sleep(_LOOK_AGAIN)


async def _until_answered(
    outbox: Outbox,
    record: BatchRecord,
    client: RawClient,
    on_trouble: Callable[[CloudTasksError], None],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Wait until the service answers again, whatever it says, or somebody else has sent everything."""
    while (await outbox.run(outbox.batches.counts, record.id))[State.UNSENT]:
        await sleep(_ASK_AGAIN)
        try:
            await client.raw("GetQueue", name_request(record.place.queue_name))
        except UnavailableError as error:
            on_trouble(error)
        except CloudTasksError:
            return
        else:
            return


def _operation(data: bytes) -> Operation:
    """Read what `BatchCreateTasks` and `GetOperation` answer."""
    operation = operations_pb2.Operation.FromString(data)
    metadata = _Metadata.FromString(operation.metadata.value)
    failed = {index: (code_name(status.code), status.message) for index, status in metadata.failed_requests.items()}
    fine = operation.done and not operation.HasField("error")
    whole = fine and metadata.state in _WHOLE
    # Where the state is left out, the tasks that were created have to be counted.
    created = len(_Response.FromString(operation.response.value).tasks) if fine and not whole else 0
    return Operation(name=operation.name, done=operation.done, failed=failed, whole=whole, created=created)
