"""Notifications that a batch is done: each address gets one a round."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State
from tests.unit.fanout.conftest import chunks, put, refs, spool


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of four rows that have succeeded."""
    made = spool(outbox, chunks(range(4))).batch
    put(outbox, made, refs(outbox, made), State.SUCCEEDED)
    return made


def test_a_notification_is_due_until_it_was_sent(outbox: Outbox, batch: str) -> None:
    """It is due once a round."""
    outbox.completions.register(batch, "https://svc/done", service_account="sa@p", audience="a", queue="other")
    for _ in range(2):  # whoever got it first may have been killed
        (due,) = outbox.completions.due(batch)
        assert (due.url, due.service_account, due.audience, due.queue, due.round) == (
            "https://svc/done",
            "sa@p",
            "a",
            "other",
            1,
        )
    outbox.completions.confirm(batch, due)
    assert outbox.completions.due(batch) == []
    assert [one.round for one in outbox.completions.registered(batch)] == [1]
    first = refs(outbox, batch)[0]
    put(outbox, batch, first, State.FAILED)
    outbox.outcomes.new_try(batch)
    put(outbox, batch, first, State.SUCCEEDED)
    (again,) = outbox.completions.due(batch)
    outbox.completions.confirm(batch, again)
    outbox.completions.confirm(batch, due)  # late, from another process
    assert [one.round for one in outbox.completions.registered(batch)] == [again.round] == [2]


def test_the_same_completion_twice_is_one(outbox: Outbox, batch: str) -> None:
    """The cell that registers a notification may be run again; another URL is another registration, due at once."""
    for _ in range(2):
        outbox.completions.register(batch, "https://svc/done")
    (due,) = outbox.completions.due(batch)
    outbox.completions.confirm(batch, due)
    outbox.completions.register(batch, "https://svc/other")
    assert [found.url for found in outbox.completions.due(batch)] == ["https://svc/other"]


@pytest.mark.parametrize("state", [State.UNSENT, State.SENT])
def test_nothing_is_due_while_a_row_is_not_final(outbox: Outbox, batch: str, state: State) -> None:
    """A process that saw the end just before a new try began sends no notification for the new round."""
    outbox.completions.register(batch, "https://svc/done")
    assert outbox.completions.due(batch)
    put(outbox, batch, refs(outbox, batch)[0], state)
    assert outbox.completions.due(batch) == []


def test_a_notification_has_the_counts_of_its_moment(outbox: Outbox, batch: str) -> None:
    """The notification has the counts of the moment at which it was due."""
    outbox.completions.register(batch, "https://svc/done")
    put(outbox, batch, refs(outbox, batch)[0], State.FAILED)
    (mine,) = outbox.completions.due(batch)
    assert (mine.counts[State.SUCCEEDED], mine.counts[State.FAILED]) == (3, 1)


def test_an_address_is_notified_once_a_round(outbox: Outbox, batch: str) -> None:
    """Registered again with another account or queue it is the same registration, with the newest values."""
    outbox.completions.register(batch, "https://svc/done", service_account="old@p")
    outbox.completions.register(batch, "https://svc/done", service_account="sa@p", queue="other")
    (mine,) = outbox.completions.due(batch)
    assert (mine.service_account, mine.queue) == ("sa@p", "other")
