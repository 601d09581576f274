"""Requests of which nobody knows whether they arrived: looked up before anything is sent again, cancelled or held."""

from collections import Counter
from typing import Any

import pytest

from cloudtasks_nb.errors import ServiceError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Request, whole
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import (
    NOW,
    FakeClock,
    FakeObserver,
    Service,
    all_rows,
    assert_each_once,
    chunks,
    error,
    raising,
    refs,
    run_send,
    spool,
    take,
)

HOUR = 3_600.0
DAY = 24 * HOUR


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of 250 rows, none sent."""
    return spool(outbox, chunks(range(250))).batch


def left_unanswered(outbox: Outbox, batch: str, service: Service, created: int) -> Request:
    """Leave a request as a killed sender does; so many of its rows were created."""
    (request,) = outbox.requests.queue(batch).turn([], 1, now=NOW)
    for task in request.tasks[:created]:
        service.create(task)
    return request


def two_days_later(outbox: Outbox, batch: str, created: int, **options: Any) -> tuple[Service, FakeClock]:
    """Return a service with these options, and a clock that shows two days after a request was left unanswered."""
    service, clock = Service(**options), FakeClock()
    left_unanswered(outbox, batch, service, created)
    clock.time += 2 * DAY
    return service, clock


def test_within_the_hour_it_is_sent_again_as_it_was(outbox: Outbox, batch: str) -> None:
    """While names are surely taken, a request is sent again with the same id; what was there is our own."""
    service, clock = Service(), FakeClock()
    left_unanswered(outbox, batch, service, 60)
    clock.time += 49 * 60
    report = run_send(outbox, batch, service, clock)
    assert (report.sent, report.already_there) == (250, 0)
    assert service.calls == {"BatchCreateTasks": 3}
    assert set(service.created.values()) == {1}


@pytest.mark.parametrize("later", [51 * 60, 2 * DAY, -2 * DAY], ids=["51 minutes", "two days", "clock set back"])
def test_after_an_hour_it_is_looked_up_first(outbox: Outbox, batch: str, later: float) -> None:
    """Rows that may have been created, run and forgotten are not sent again unasked."""
    service, clock = Service(), FakeClock()
    request = left_unanswered(outbox, batch, service, 60)
    service.live -= set(request.tasks[:20])  # these have run
    clock.time += later
    run_send(outbox, batch, service, clock)
    assert service.calls == {"GetTask": 100, "BatchCreateTasks": 2}
    assert set(service.created.values()) == {1}
    assert outbox.batches.counts(whole(batch))[State.GONE] == 60
    assert outbox.rows.states(whole(batch))[:100] == bytes([State.GONE] * 20 + [State.SENT] * 40 + [State.GONE] * 40)


def test_the_log_tells_what_the_queue_does_not(outbox: Outbox, batch: str) -> None:
    """What the log knows was sent, what it knows was not is sent now, and the rest is gone."""
    service, clock = Service(), FakeClock()
    request = left_unanswered(outbox, batch, service, 60)
    service.live.clear()

    known = {task: True if at < 60 else None if at < 70 else False for at, task in enumerate(request.tasks) if at != 65}
    observer = FakeObserver(created=known)
    clock.time += 2 * DAY
    run_send(outbox, batch, service, clock, observer)
    assert sorted(observer.asked) == sorted(request.tasks)
    assert outbox.rows.states(whole(batch))[:100] == bytes([State.SENT] * 60 + [State.GONE] * 10 + [State.SENT] * 30)
    assert set(service.created.values()) == {1}


@cases(("PERMISSION_DENIED", 100, State.GONE), ("UNIMPLEMENTED", 100, State.GONE), ("UNAVAILABLE", 49, State.SENT))
def test_look_ups_that_fail(outbox: Outbox, batch: str, code: str, times: int, state: State) -> None:
    """Rows that may not be looked up are gone, unless the log knows them; without an answer it is tried again."""
    service, clock = two_days_later(outbox, batch, 100, before=raising(code, times, "GetTask"))
    run_send(outbox, batch, service, clock)
    assert outbox.rows.states(whole(batch)) == bytes([state] * 100 + [State.SENT] * 150)


def test_an_outage_of_more_than_an_hour_raises_doubts(outbox: Outbox, batch: str) -> None:
    """Requests that this very process has tried for too long are looked up, too, before they are sent again."""
    clock = FakeClock()
    service = Service()

    def lost(rpc: str, number: int) -> None:
        if clock.time < NOW + 2 * HOUR:
            raise error("UNAVAILABLE")

    service.after = lost
    run_send(outbox, batch, service, clock)
    assert outbox.batches.counts(whole(batch))[State.SENT] == 250
    assert set(service.created.values()) == {1}
    assert service.calls["GetTask"] >= 250


@cases(("UNAUTHENTICATED", "GetTask"), ("PERMISSION_DENIED", "BatchCreateTasks"))
def test_an_end_while_looking_leaves_doubts_as_they_are(outbox: Outbox, batch: str, code: str, rpc: str) -> None:
    """When an error ends the sending, rows that were not looked up are not gone, and are looked up the next time."""
    service, clock = two_days_later(outbox, batch, 100, before=raising(code, 100, rpc))
    with pytest.raises(ServiceError, match=code):
        run_send(outbox, batch, service, clock)
    assert outbox.rows.states(whole(batch))[:100] == bytes([State.SENT] * 100)  # as of rows in doubt
    service.before = lambda rpc, number: None  # noqa: ARG005 - the signature of what it stands for
    run_send(outbox, batch, service, clock)
    assert service.created == Counter(all_rows(outbox, batch, "tasks"))
    assert outbox.batches.counts(whole(batch))[State.SENT] == 250


# Cancel


@pytest.mark.parametrize(("batching", "stop", "most"), [(True, 10, 4_000), (False, 150, 300)])
def test_cancel_stops_a_sender_before_its_next_request(outbox: Outbox, *, batching: bool, stop: int, most: int) -> None:
    """What is in flight is answered, what is not is cancelled, and nothing is in between; also one by one."""
    batch = spool(outbox, chunks(range(5_000))).batch

    def cancel(rpc: str, number: int) -> None:
        if number == stop and (batching or rpc == "CreateTask"):
            sum(outbox.requests.cancel(whole(batch)))

    service = Service(batching=batching, before=cancel)
    run_send(outbox, batch, service, FakeClock())
    counts = outbox.batches.counts(whole(batch))
    assert counts[State.SENT] == len(service.created) < most
    assert counts[State.SENT] + counts[State.CANCELLED] == 5_000
    assert set(all_rows(outbox, batch, "tasks", states={State.SENT})) == set(service.created)


def test_cancel_ends_an_outage(outbox: Outbox, batch: str) -> None:
    """Requests that are tried again and again are looked up when they are no longer wanted."""
    service = Service()

    def trouble(rpc: str, number: int) -> None:
        if rpc == "BatchCreateTasks":
            if number == 20:
                sum(outbox.requests.cancel(whole(batch)))
            raise error("UNAVAILABLE")

    service.after = trouble

    never = dict.fromkeys(all_rows(outbox, batch, "tasks"), False)
    run_send(outbox, batch, service, FakeClock(), FakeObserver(created=never))
    counts = outbox.batches.counts(whole(batch))
    assert (counts[State.SENT], counts[State.UNSENT]) == (len(service.created), 0)
    assert service.calls["GetTask"] == 250


# A gate that closes


def log_of(outbox: Outbox, batch: str, service: Service) -> dict[str, bool | None]:
    """Return what a complete log says: whether each task was created."""
    return {task: task in service.created for task in all_rows(outbox, batch, "tasks")}


@cases(
    (0, True, 0),
    (0, False, 0),
    (60, True, 0),
    (0, True, 20),
    ids=["the log knows", "nobody knows", "some were sent", "behind a canary"],
)
def test_no_row_that_was_read_ahead(outbox: Outbox, batch: str, there: int, *, logged: bool, canary: int) -> None:
    """While the gate is closed the canary alone is created; others are looked up, in the queue and in the log."""
    take(outbox, batch)  # all rows
    service, tasks = Service(), all_rows(outbox, batch, "tasks")
    for task in tasks[:there]:
        service.create(task)
    service.live -= set(tasks[:20])  # these have run
    observer = FakeObserver(created=log_of(outbox, batch, service) if logged else {})
    observer.until = refs(outbox, batch)[canary - 1] if canary else 0
    run_send(outbox, batch, service, observer=observer)
    assert set(service.created) == set(tasks[: there + canary])
    assert canary or set(service.calls) == {"GetTask"}
    sent = there + canary
    assert not logged or outbox.rows.states(whole(batch)) == bytes([State.SENT] * sent + [State.UNSENT] * (250 - sent))
    observer.until = None
    run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service, 250)


def test_an_answer_that_is_lost_while_the_gate_closes(outbox: Outbox, batch: str) -> None:
    """The request is not tried again before the gate opens."""
    observer = FakeObserver()
    observer.created = dict.fromkeys(all_rows(outbox, batch, "tasks"), False)

    def lose(rpc: str, number: int) -> None:
        if rpc == "BatchCreateTasks" and number == 1:
            observer.until = 0
            raise error("UNAVAILABLE")

    service = Service(before=lose)
    run_send(outbox, batch, service, observer=observer, in_flight=1)
    assert len(service.created) == 0
    observer.until = None
    run_send(outbox, batch, service, observer=observer)
    assert_each_once(outbox, batch, service, 250)
