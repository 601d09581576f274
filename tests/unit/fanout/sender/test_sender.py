"""Sending a batch: every row's task once, whatever the service answers, with batch calls and without, at any pace."""

import asyncio
from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

from cloudtasks_nb.errors import CloudTasksError, ServiceError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.outbox.requests import RequestQueue
from cloudtasks_nb.fanout.sender import sender
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import (
    FakeClock,
    FakeObserver,
    Sent,
    Service,
    all_rows,
    assert_each_once,
    chunks,
    error,
    raising,
    run_send,
    send,
    spool,
)
from tests.unit.fanout.sender.conftest import ROWS


def test_every_row_is_sent_once(outbox: Outbox, batch: str) -> None:
    """A hundred rows a call, each once, and the report says so; a batch that is sent makes no call."""
    observer = FakeObserver()
    service = Service()
    report = run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service)
    assert (report.sent, report.already_there, report.rejected) == (ROWS, 0, 0)
    assert observer.sent == ROWS
    assert sorted(service.sizes) == [50] + [100] * 12
    assert run_send(outbox, batch, service).sent == 0
    assert service.calls == {"BatchCreateTasks": 13}


class Together(Service):
    """Answers calls after the twentieth when eight of them are in flight."""

    async def raw(self, rpc: str, request: bytes, *, resource_name: str) -> bytes:
        """Answer one call."""
        self.waiting += 1
        if self.waiting == 20 + 8:
            self.together.set()
        if self.waiting > 20:
            await self.together.wait()
        return await super().raw(rpc, request, resource_name=resource_name)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.waiting, self.together = 0, asyncio.Event()


def test_calls_in_flight_grow_to_their_bound(outbox: Outbox) -> None:
    """It begins with a few calls and comes to as many as are allowed, never more."""
    batch = spool(outbox, chunks(range(10_000))).batch
    service = Together()
    run_send(outbox, batch, service, in_flight=8)
    assert service.most == 8
    assert_each_once(outbox, batch, service, 10_000)


def test_it_stops_when_no_more_rows_may_be_sent(outbox: Outbox, batch: str) -> None:
    """Rows that were read ahead are given back, and the next sending sends them."""
    observer = FakeObserver()

    def stop(_rpc: str, number: int) -> None:
        observer.until = 0 if number == 3 else observer.until

    service = Service(after=stop)
    sent = run_send(outbox, batch, service, observer=observer, in_flight=8).sent
    assert 300 <= sent < ROWS
    counts = {State.SENT: sent, State.UNSENT: ROWS - sent}
    assert outbox.batches.counts(whole(batch)) == dict.fromkeys(State, 0) | counts
    observer.until = None
    run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service)


def test_after_a_silence_the_service_is_asked_for_its_time(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was read after the machine had slept tells no time but that before it."""
    boot = [0.0]

    def sleep(rpc: str, number: int) -> None:
        boot[0] += 10.0 if (rpc, number) == ("BatchCreateTasks", 3) else 0.0

    monkeypatch.setattr(sender, "seconds_since_boot", lambda: boot[0])
    service = Service(after=sleep)
    run_send(outbox, batch, service, in_flight=1)
    assert service.calls["GetQueue"] > 0
    assert_each_once(outbox, batch, service)


@pytest.mark.parametrize("batching", [True, False])
def test_tasks_that_another_outbox_has_sent_are_told(outbox: Outbox, batch: str, *, batching: bool) -> None:
    """On a first sending, tasks that are there already count as sent and are reported."""
    service = Service(batching=batching)
    for task in all_rows(outbox, batch, "tasks")[:120]:
        service.create(task)
    report = run_send(outbox, batch, service)
    assert (report.sent, report.already_there) == (ROWS, 120)
    assert_each_once(outbox, batch, service)


TEMPORARY = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"]
LASTING = ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED", "FAILED_PRECONDITION"]
BROKEN = ["INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS"]


@pytest.mark.parametrize("when", ["before", "after"])
@cases(*(("BatchCreateTasks", code) for code in TEMPORARY + BROKEN), ("CreateTask", "UNAVAILABLE"))
def test_calls_without_an_answer_are_made_again(outbox: Outbox, batch: str, when: str, rpc: str, code: str) -> None:
    """Whether a call failed or only its answer was lost, each row is there once, and it is our own; also one by one."""
    observer = FakeObserver()
    service = Service(batching=rpc != "CreateTask")
    setattr(service, when, raising(code, range(3, 9), rpc))
    report = run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service)
    assert (report.sent, report.already_there) == (ROWS, 0)
    assert [one.code for one in observer.errors] == [code] * 6


def test_an_outage_is_waited_for(outbox: Outbox, batch: str) -> None:
    """A service that is down for half an hour is tried all the time, and less and less often."""
    clock = FakeClock()
    began = clock.time

    def down(rpc: str, number: int) -> None:
        if clock.time < began + 1_800:
            raise error("UNAVAILABLE")

    service = Service(before=down)
    run_send(outbox, batch, service, clock, in_flight=1)
    assert_each_once(outbox, batch, service)
    assert 60 < service.calls["BatchCreateTasks"] < 500


def test_trouble_makes_fewer_calls_at_once(outbox: Outbox) -> None:
    """While the service asks for patience, fewer and fewer calls are in flight."""
    batch = spool(outbox, chunks(range(20_000))).batch
    flying: list[int] = []
    service = Service()

    def tired(rpc: str, number: int) -> None:
        flying.append(service.flying)
        if 50 <= number < 90:
            raise error("RESOURCE_EXHAUSTED")

    service.before = tired
    run_send(outbox, batch, service)
    assert max(flying[75:95]) <= 4 < max(flying[:50])
    assert_each_once(outbox, batch, service, 20_000)


def test_rows_that_could_not_be_created_now_are_sent_again(outbox: Outbox, batch: str) -> None:
    """An operation may name rows that failed for the moment: they alone go into a new request."""
    tried: dict[str, int] = {}

    def later(task: str) -> tuple[str, str] | None:
        tried[task] = tried.get(task, 0) + 1
        return ("UNAVAILABLE", "busy") if task[0] in "0123" and tried[task] < 3 else None

    observer = FakeObserver()
    service = Service(refuse=later)
    report = run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service)
    assert (report.sent, report.already_there, report.rejected) == (ROWS, 0, 0)
    assert observer.errors


@pytest.mark.parametrize("batching", [True, False])
def test_refused_rows_are_rejected_with_the_reason(outbox: Outbox, batch: str, *, batching: bool) -> None:
    """What the service does not take is rejected with its own words; the other rows are sent."""
    bad, why = set(all_rows(outbox, batch, "tasks")[5:8]), ("INVALID_ARGUMENT", "Task size too large")
    service = Service(batching=batching, refuse=lambda task: why if task in bad else None)
    report = run_send(outbox, batch, service)
    assert (report.sent, report.rejected) == (ROWS - 3, 3)
    assert all_rows(outbox, batch, "rows", states={State.REJECTED}) == [5, 6, 7]
    assert all_rows(outbox, batch, "reasons", states={State.REJECTED}) == ["INVALID_ARGUMENT: Task size too large"] * 3


def test_one_bad_row_does_not_take_its_call_along(outbox: Outbox, batch: str) -> None:
    """Where a whole call is refused, its rows are sent one by one, and only the bad one is rejected."""
    bad = all_rows(outbox, batch, "tasks")[105]
    service = Service(
        before=raising("INVALID_ARGUMENT", 1), refuse=lambda task: ("INVALID_ARGUMENT", "no") if task == bad else None
    )
    report = run_send(outbox, batch, service)
    assert (report.sent, report.rejected) == (ROWS - 1, 1)
    assert service.calls["CreateTask"] == 100
    assert all_rows(outbox, batch, "rows", states={State.REJECTED}) == [105]


@pytest.mark.parametrize("batching", [True, False])
def test_a_fault_in_many_calls_is_raised_as_one(outbox: Outbox, batch: str, *, batching: bool) -> None:
    """However many calls meet it at once, and however deep, an unforeseen error comes out by itself."""

    def fault(name: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_send(outbox, batch, Service(batching=batching, refuse=fault))


@cases(
    *(({"before": raising(code, range(4, 99))}, code) for code in LASTING),
    ({"refuse": lambda task: ("PERMISSION_DENIED", "actAs") if task[0] == "0" else None}, "actAs"),
    ({"after": raising("INTERNAL", 99_999)}, "INTERNAL"),
    ({"batching": False, "before": raising("PERMISSION_DENIED", range(150, 9_999), "CreateTask")}, "PERMISSION_DENIED"),
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_mended_here_ends_the_sending(
    outbox: Outbox, batch: str, faults: dict[str, Any], words: str
) -> None:
    """A missing queue, a permission that calls or rows lack, a fault that stays: the rest is sent later, each once."""
    service = Service(**faults)
    with pytest.raises(CloudTasksError, match=words):
        run_send(outbox, batch, service)
    counts, lost = outbox.batches.counts(whole(batch)), "after" in faults
    assert counts[State.SENT] + counts[State.UNSENT] == ROWS
    assert lost or 0 < counts[State.SENT] == len(service.created) < ROWS
    vars(service).update({name: getattr(Service(), name) for name in faults})
    assert run_send(outbox, batch, service).already_there == 0
    assert_each_once(outbox, batch, service)


@cases(CloudTasksError("the disk is full"), ZeroDivisionError("ours"))
def test_an_outbox_that_fails_ends_the_sending(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """When answers cannot be written down, nothing more is sent; later what is unclear is sent again, once."""
    service, turn, turns = Service(), RequestQueue.turn, []

    def failing(*args: Any, **options: Any) -> Any:
        turns.append(args)
        if len(turns) > 2:
            raise failure
        return turn(*args, **options)

    monkeypatch.setattr(RequestQueue, "turn", failing)
    with pytest.raises(type(failure), match=str(failure)):
        run_send(outbox, batch, service)
    assert outbox.batches.counts(whole(batch))[State.UNSENT] > 0
    monkeypatch.setattr(RequestQueue, "turn", turn)
    run_send(outbox, batch, service)
    assert_each_once(outbox, batch, service)


def test_nobody_waits_when_the_sending_ends(outbox: Outbox, batch: str) -> None:
    """Rows that wait for another try are left when a missing permission ends the sending, and sent later, once."""

    def trouble(rpc: str, number: int) -> None:
        if rpc == "CreateTask" and number < 60:
            raise error("UNAVAILABLE")
        if rpc == "CreateTask" and number == 60:
            raise error("PERMISSION_DENIED")

    class Stopped(FakeClock):
        async def sleep(self, seconds: float) -> None:  # noqa: ARG002 - as the clock has it
            await asyncio.Event().wait()

    service = Service(batching=False, after=trouble)
    with pytest.raises(ServiceError, match="PERMISSION_DENIED"):
        run_send(outbox, batch, service, Stopped())
    service.after = lambda rpc, number: None  # noqa: ARG005 - the signature of what it stands for
    assert run_send(outbox, batch, service).already_there == 0
    assert_each_once(outbox, batch, service)


class Taciturn(Service):
    """Answers as some emulators do: no metadata, only the tasks that were created."""

    def _operation(self, name: str) -> bytes:
        _, failed = self.operations[name]
        count = len(types.BatchCreateTasksRequest.pb().FromString(self.requests[name.rpartition("/")[2]]).requests)
        operation = operations_pb2.Operation(name=name, done=True)
        response = types.BatchCreateTasksResponse.pb()(tasks=[{"name": "x"}] * (count - len(failed)))
        operation.response.Pack(response)
        return bytes(operation.SerializeToString())


def test_an_answer_without_metadata_is_believed_if_it_is_whole(outbox: Outbox, batch: str) -> None:
    """When all tasks come back, all were created; when some are missing, each is asked for alone."""
    there = all_rows(outbox, batch, "tasks")[3]
    service = Taciturn(refuse=lambda task: ("INVALID_ARGUMENT", "no") if task == there else None)
    report = run_send(outbox, batch, service)
    assert (report.sent, report.already_there, report.rejected) == (ROWS - 1, 0, 1)
    assert service.calls == {"BatchCreateTasks": 13, "CreateTask": 100}


class Broken(Service):
    """Finishes every operation with an error that names no row."""

    def _operation(self, name: str) -> bytes:
        operation = operations_pb2.Operation(name=name, done=True)
        operation.error.code = 13
        return bytes(operation.SerializeToString())


def unreadable(code: str) -> Service:
    """Return a service whose operations never finish, and may not be looked at."""
    return Service(unfinished=-1, before=raising(code, 99_999, "GetOperation"))


@cases(
    (Service(unfinished=1), 0),
    (Service(unfinished=7), 0),
    (Service(batching=False), ROWS),
    (Service(unfinished=-1), ROWS),
    (unreadable("PERMISSION_DENIED"), ROWS),
    (unreadable("NOT_FOUND"), ROWS),
    (unreadable("UNIMPLEMENTED"), ROWS),
    (Broken(), ROWS),
    ids=["slow", "slower", "no batches", "never", "may not be read", "not found", "not known", "failed as a whole"],
)
def test_operations_and_what_is_done_without_them(outbox: Outbox, batch: str, service: Service, singles: int) -> None:
    """An operation is looked at until it is done; without one, or after two minutes, many rows are created one by one.

    What an operation that names no row has created or creates is our own.
    """
    report = run_send(outbox, batch, service)
    assert (report.sent, report.already_there, service.calls["CreateTask"]) == (ROWS, 0, singles)
    assert singles or service.calls == {"BatchCreateTasks": 13, "GetOperation": 13 * service.unfinished}
    assert service.batching or 32 <= service.most <= 64 + 16
    assert_each_once(outbox, batch, service)


class Google(Service):
    """Google's own endpoint, where a queue that was idle is warmed up."""

    google = True


@cases(
    (1_250, Service(), 50, {10}, 24.8),  # five requests a second, so that none has a peak
    (10, Service(), 0.5, {1}, 18),
    (5_000, Google(), None, {100}, 9.8),  # 500 a second at first, unless a rate is given
)
def test_the_rate_is_kept(
    outbox: Outbox, rows: int, service: Service, rate: float | None, sizes: set[int], seconds: float
) -> None:
    """Of rows that are created, and so of requests that are made."""
    batch, clock = spool(outbox, chunks(range(rows))).batch, FakeClock()
    run_send(outbox, batch, service, clock, send_rate=rate)
    assert set(service.sizes) == sizes
    assert clock.elapsed == pytest.approx(seconds, rel=0.06)


def send_twice(outbox: Outbox, batch: str, service: Service) -> list[Sent]:
    """Send a batch with two senders at the same time."""

    async def both() -> list[Sent]:
        senders = (send(outbox, batch, service) for _ in range(2))
        return await asyncio.gather(*senders)

    return asyncio.run(both())


def test_two_senders_without_locks_are_harmless(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where locks do not work both send, and each task is there once all the same."""
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: (_ for _ in ()).throw(OSError(38, "no locks")))
    service = Service()

    send_twice(outbox, batch, service)
    assert_each_once(outbox, batch, service)


def test_a_sending_that_is_cancelled_can_be_taken_up(outbox: Outbox, batch: str) -> None:
    """Ending the task keeps what is known, and what was not sent is as new."""
    service = Service()

    async def begin() -> None:
        reached = asyncio.Event()
        service.before = lambda rpc, number: reached.set() if number == 6 else None  # noqa: ARG005 - the signature of what it stands for
        sending = asyncio.create_task(send(outbox, batch, service))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    asyncio.run(begin())
    assert outbox.batches.counts(whole(batch))[State.UNSENT] > 0
    assert run_send(outbox, batch, service).already_there == 0
    assert_each_once(outbox, batch, service)


def test_a_call_that_is_too_large_is_not_made(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that together are larger than servers take are created one by one."""
    monkeypatch.setattr(sender, "MAX_BYTES", 12_000)
    service = Service()
    assert run_send(outbox, batch, service).sent == ROWS
    assert service.calls == {"BatchCreateTasks": 1, "CreateTask": ROWS - 50}
