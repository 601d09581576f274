"""Tasks that a cancelled batch deletes: what is stored of them before and after, whoever is killed in between."""

from typing import Any

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, whole
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import NOW, all_rows, chunks, put, refs, send_all, spool, take, tell


@pytest.fixture
def sent(outbox: Outbox) -> str:
    """Give a batch of 250 rows that are in the queue."""
    batch = spool(outbox, chunks(range(250))).batch
    send_all(outbox, batch)
    return batch


def lose(outbox: Outbox, batch: str, attempt: int = 1) -> None:
    """Find that no task of the batch is in the queue any more."""
    tell(outbox, batch, refs(outbox, batch), attempt=attempt, state=State.GONE, reason="why")


def test_a_row_that_left_before_its_deletion_is_not_cancelled(outbox: Outbox, sent: str) -> None:
    """A search sees that it is gone before the answer comes, by which this deletion was not what ended it."""
    queue = outbox.deletions(whole(sent))
    page = queue.turn(None, (), size=250)
    lose(outbox, sent)
    assert counted(outbox, sent) == {State.CANCELLED: 250}
    queue.turn(page, [True] * 100 + [False] * 150, size=0)
    assert counted(outbox, sent) == {State.CANCELLED: 100, State.SENT: 150}
    lose(outbox, sent)
    assert counted(outbox, sent) == {State.CANCELLED: 100, State.GONE: 150}


def counted(outbox: Outbox, batch: str) -> dict[State, int]:
    """Return the states that rows are in, with their numbers, as counted and as stored."""
    found = {state: n for state, n in outbox.batches.counts(whole(batch)).items() if n}
    stored = outbox.rows.states(whole(batch))
    assert found == {State(state): stored.count(state) for state in set(stored)}
    return found


def test_pages_have_every_task_once_in_order(outbox: Outbox, sent: str) -> None:
    """All tasks in the queue are given out, in the order in which they were sent."""
    put(outbox, sent, refs(outbox, sent)[10:20], State.SUCCEEDED)
    pages, page, tasks = outbox.deletions(whole(sent)), None, list[str]()
    while page := pages.turn(page, [True] * len(page.refs) if page else [], size=100):
        assert len(page.tasks) <= 100
        tasks += page.tasks
    assert tasks == all_rows(outbox, sent, "tasks", states={State.CANCELLED})
    assert counted(outbox, sent) == {State.SUCCEEDED: 10, State.CANCELLED: 240}


def test_rows_that_a_killed_process_has_deleted_are_cancelled(outbox: Outbox, sent: str) -> None:
    """A row that is missing after its deletion was asked for is cancelled, any other is gone."""
    outbox.deletions(whole(sent)).turn(None, [], size=100)
    lose(outbox, sent)
    assert counted(outbox, sent) == {State.CANCELLED: 100, State.GONE: 150}
    assert all_rows(outbox, sent, "reasons") == [None] * 100 + ["why"] * 150


def test_only_a_deletion_that_may_have_happened_counts(outbox: Outbox, sent: str) -> None:
    """A task that was not there when it was to be deleted left the queue in another way, and nobody knows how."""
    pages = outbox.deletions(whole(sent))
    page = pages.turn(None, [], size=3)
    assert pages.turn(page, [True, False, None], size=0) is None
    assert counted(outbox, sent) == {State.CANCELLED: 1, State.SENT: 249}
    lose(outbox, sent)
    assert [State(state) for state in outbox.rows.states(whole(sent))[:4]] == [
        State.CANCELLED,
        State.GONE,
        State.CANCELLED,
        State.GONE,
    ]


def test_a_second_deletion_does_not_forget_the_first(outbox: Outbox, sent: str) -> None:
    """That a task is missing the second time does not say that it was missing the first time."""
    outbox.deletions(whole(sent)).turn(None, [], size=10)
    again = outbox.deletions(whole(sent))
    page: Any = again.turn(None, [], size=20)
    assert page.earlier == set(page.refs[:10])
    again.turn(page, [False] * 20, size=0)
    lose(outbox, sent)
    assert counted(outbox, sent) == {State.CANCELLED: 10, State.GONE: 240}


def test_a_new_try_has_nothing_to_do_with_a_deletion(outbox: Outbox, sent: str) -> None:
    """A deletion was asked for one task of a row, and says nothing of its next task."""
    outbox.deletions(whole(sent)).turn(None, [], size=100)
    lose(outbox, sent)
    assert outbox.outcomes.new_try(whole(sent), None, {State.CANCELLED}) == 100
    lose(outbox, sent, attempt=2)
    assert counted(outbox, sent) == {State.GONE: 250}


@pytest.mark.parametrize("late", [State.SUCCEEDED, State.GONE])
def test_requests_in_flight_when_a_cancel_began(outbox: Outbox, late: State) -> None:
    """Rows that may or may not have been created are cancelled, unless the log has their outcome."""
    batch = spool(outbox, chunks(range(250))).batch
    requests = take(outbox, batch, 2)
    sum(outbox.requests.cancel(whole(batch)))
    acks = [Ack(seq=request.seq, gone=request.refs) for request in requests]
    outbox.requests.queue(batch).turn(acks, 0, now=NOW)
    assert counted(outbox, batch) == {State.SENT: 200, State.CANCELLED: 50}
    tell(outbox, batch, refs(outbox, batch)[0], state=late)
    lose(outbox, batch)
    expected = {State.SUCCEEDED: 1, State.CANCELLED: 249} if late is State.SUCCEEDED else {State.CANCELLED: 250}
    assert counted(outbox, batch) == expected
