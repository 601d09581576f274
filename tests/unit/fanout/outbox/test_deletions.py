"""Tasks that a cancelled batch deletes: what is stored of them before and after, whoever is killed in between."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.conftest import all_rows, chunks, refs, send_all, spool, tell


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
