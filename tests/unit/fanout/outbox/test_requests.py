"""What is sent together, and what becomes of it when it is answered, left, or cancelled."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, whole
from cloudtasks_nb.fanout.outbox.requests import RequestQueue
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import NOW, all_rows, chunks, refs, send_all, spool, take, tell


@pytest.fixture
def queue(outbox: Outbox, batch: str) -> RequestQueue:
    """Give requests as a sender gets them."""
    return outbox.requests.queue(batch)


def test_what_a_sender_left_comes_first_and_unchanged(outbox: Outbox, batch: str) -> None:
    """The next sender gets unanswered requests again, with their numbers and the time of their first sending."""
    first = take(outbox, batch, 2)
    again = outbox.requests.queue(batch).turn([], 99, now=NOW + 60)
    assert [(one.seq, list(one.refs), one.tried, one.started) for one in again] == [
        (1, list(first[0].refs), True, NOW),
        (2, list(first[1].refs), True, NOW),
        (3, refs(outbox, batch)[200:], False, NOW + 60),
    ]


def test_answers_are_written_down(outbox: Outbox, batch: str, queue: RequestQueue) -> None:
    """Each row of an answered request is where the answer puts it; refused ones keep the reason."""
    (one,) = queue.turn([], 1, now=NOW)
    known = list(one.refs)
    ack = Ack(
        seq=one.seq,
        sent=known[:50] + known[60:96],
        rejected={known[51]: "INVALID_ARGUMENT: too large", known[50]: "INVALID_ARGUMENT: no"},
        again=known[52:60],
        gone=known[96:],
    )
    after = queue.turn([ack], 1, now=NOW)
    moved = {State.UNSENT: 158, State.SENT: 86, State.REJECTED: 2, State.GONE: 4}
    assert outbox.batches.counts(whole(batch)) == dict.fromkeys(State, 0) | moved
    reasons = all_rows(outbox, batch, "reasons", states={State.REJECTED})
    assert reasons == ["INVALID_ARGUMENT: no", "INVALID_ARGUMENT: too large"]
    assert [(list(request.refs)[:8], request.tried) for request in after] == [(known[52:60], False)]
    assert after[0].seq != one.seq


def test_new_tries_of_large_rows_make_smaller_requests(outbox: Outbox) -> None:
    """Rows of a megabyte are not sent again a hundred at a time."""
    large = chunks(range(12), size=1, request=lambda row: f"{row}-" + "x" * 250_000)
    batch = spool(outbox, large).batch
    send_all(outbox, batch)
    tell(outbox, batch, refs(outbox, batch), state=State.FAILED)
    assert outbox.outcomes.new_try(whole(batch)) == 12
    requests = take(outbox, batch)
    assert all(sum(map(len, request.wire)) <= 4 << 20 for request in requests)
    assert sum(len(request.refs) for request in requests) == 12


@pytest.mark.parametrize(("count", "last"), [(0, -1), (1, 0), (249, 248), (250, 250), (400, 400), (999, 499)])
def test_the_first_rows_of_several_inputs(outbox: Outbox, count: int, last: int) -> None:
    """The first ones are those of the first input; rows that are no valid task do not count."""
    batch = spool(outbox, chunks(range(250), rejected={249: "bad"}), name="n").batch
    spool(outbox, chunks(range(250, 500)), name="n")
    known = refs(outbox, batch)
    assert outbox.rows.last_of_first(batch, count) == (known[last] if last >= 0 else 0)


def test_a_request_over_parts_has_no_rows_of_other_batches(outbox: Outbox) -> None:
    """Rows of another batch lie between those of the request; they stay unsent when its sender is killed."""
    ours = spool(outbox, chunks(range(50)), name="a").batch
    others = spool(outbox, chunks(range(100, 130)), name="b").batch
    spool(outbox, chunks(range(50, 80)), name="a")
    assert [len(one.refs) for one in take(outbox, ours)] == [80]
    outbox.requests.find_doubtful(ours)
    assert outbox.batches.counts(whole(others))[State.UNSENT] == 30
    (again,) = take(outbox, ours)
    assert (list(again.refs), again.tried) == (refs(outbox, ours), True)
    assert sum(outbox.requests.cancel(whole(others))) == 30


@pytest.fixture
def sent(outbox: Outbox) -> str:
    """Give a batch of 250 rows that are in the queue."""
    batch = spool(outbox, chunks(range(250))).batch
    send_all(outbox, batch)
    return batch


def lose(outbox: Outbox, batch: str, attempt: int = 1) -> None:
    """Find that no task of the batch is in the queue any more."""
    tell(outbox, batch, refs(outbox, batch), attempt=attempt, state=State.GONE, reason="why")


def counted(outbox: Outbox, batch: str) -> dict[State, int]:
    """Return the states that rows are in, with their numbers, as counted and as stored."""
    found = {state: n for state, n in outbox.batches.counts(whole(batch)).items() if n}
    stored = outbox.rows.states(whole(batch))
    assert found == {State(state): stored.count(state) for state in set(stored)}
    return found


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
