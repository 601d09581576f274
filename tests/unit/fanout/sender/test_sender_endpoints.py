"""Sending where there is no batch call, at a given pace, and with several senders: still every task once."""

import asyncio

import pytest
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

from cloudtasks_nb.errors import ServiceError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.sender import sender
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import (
    FakeClock,
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


def test_without_batch_calls_rows_are_sent_one_by_one(outbox: Outbox, batch: str) -> None:
    """Where BatchCreateTasks is not known, many CreateTask calls are in flight instead."""
    service = Service(batching=False)
    report = run_send(outbox, batch, service)
    assert report.sent == ROWS
    assert_each_once(outbox, batch, service)
    assert service.calls["CreateTask"] == ROWS
    assert 32 <= service.most <= 64 + 16


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


@pytest.mark.parametrize("looks", [1, 7])
def test_operations_that_take_their_time_are_waited_for(outbox: Outbox, batch: str, looks: int) -> None:
    """An operation that is not done is looked at until it is."""
    service = Service(unfinished=looks)
    run_send(outbox, batch, service)
    assert_each_once(outbox, batch, service)
    assert service.calls == {"BatchCreateTasks": 13, "GetOperation": 13 * looks}


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
    Service(unfinished=-1),
    unreadable("PERMISSION_DENIED"),
    unreadable("NOT_FOUND"),
    unreadable("UNIMPLEMENTED"),
    Broken(),
    ids=["never finishes", "may not be read", "not found", "not known", "failed as a whole"],
)
def test_an_operation_that_names_no_row_is_given_up(outbox: Outbox, batch: str, service: Service) -> None:
    """Its rows are created one by one, after two minutes at most; what it has created or creates is our own."""
    report = run_send(outbox, batch, service)
    assert (report.sent, report.already_there, service.calls["CreateTask"]) == (ROWS, 0, ROWS)
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
