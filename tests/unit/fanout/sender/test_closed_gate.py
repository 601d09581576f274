"""A kill while a gate closes: rows that were read ahead stay unsent until the gate opens, then each is sent once."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import (
    FakeObserver,
    Service,
    all_rows,
    assert_each_once,
    chunks,
    error,
    refs,
    run_send,
    spool,
    take,
)


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of 250 rows, of which a sender had read all ahead when it was killed."""
    made = spool(outbox, chunks(range(250))).batch
    take(outbox, made)
    return made


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


def test_an_answer_that_is_lost_while_the_gate_closes(outbox: Outbox) -> None:
    """The request is not tried again before the gate opens."""
    batch, observer = spool(outbox, chunks(range(250))).batch, FakeObserver()
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
