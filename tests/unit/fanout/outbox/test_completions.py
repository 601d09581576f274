"""Notifications that a batch is done: each address gets one a round."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State
from tests.unit.fanout.conftest import NOW, chunks, put, refs, spool


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of four rows that have succeeded."""
    made = spool(outbox, chunks(range(4))).batch
    put(outbox, made, refs(outbox, made), State.SUCCEEDED)
    return made


def test_a_completion_is_claimed_once_a_round(outbox: Outbox, batch: str) -> None:
    """Of two watchers one creates the notification; a new round brings another."""
    outbox.completions.register(batch, "https://svc/done", service_account="sa@p", audience="a", queue="other")
    (mine,) = outbox.completions.claim(batch)
    assert (mine.url, mine.service_account, mine.audience, mine.queue, mine.round) == (
        "https://svc/done",
        "sa@p",
        "a",
        "other",
        1,
    )
    assert outbox.completions.claim(batch) == []
    outbox.completions.confirm(batch, mine)
    first = refs(outbox, batch)[0]
    put(outbox, batch, first, State.FAILED)
    outbox.outcomes.new_try(batch)
    put(outbox, batch, first, State.SUCCEEDED)
    assert [one.round for one in outbox.completions.claim(batch)] == [2]


@pytest.mark.parametrize("seconds", [61, -61])
def test_a_claim_of_a_killed_watcher_is_free_after_a_minute(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """When whoever claimed a notification never created it, the next watcher does, also if the clock was set back."""
    outbox.completions.register(batch, "https://svc/done")
    clock = [NOW]
    monkeypatch.setattr("time.time", lambda: clock[0])
    assert len(outbox.completions.claim(batch)) == 1
    clock[0] += seconds / 2
    assert outbox.completions.claim(batch) == []
    clock[0] += seconds
    assert len(outbox.completions.claim(batch)) == 1


def test_a_completion_that_was_sent_is_not_claimed_again(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its notification was sent, a round is never claimed again."""
    outbox.completions.register(batch, "https://svc/done")
    (mine,) = outbox.completions.claim(batch)
    outbox.completions.confirm(batch, mine)
    later = outbox.batches.get(batch).created.timestamp() + 9_999
    monkeypatch.setattr("time.time", lambda: later)
    assert outbox.completions.claim(batch) == []
    assert [one.round for one in outbox.completions.registered(batch)] == [1]


def test_the_same_completion_twice_is_one(outbox: Outbox, batch: str) -> None:
    """The cell that registers a notification may be run again; another URL is another registration, due at once."""
    for _ in range(2):
        outbox.completions.register(batch, "https://svc/done")
    assert len(outbox.completions.claim(batch)) == 1
    outbox.completions.register(batch, "https://svc/other")
    assert [found.url for found in outbox.completions.claim(batch)] == ["https://svc/other"]


@pytest.mark.parametrize("state", [State.UNSENT, State.SENT])
def test_nothing_is_due_while_a_row_is_not_final(outbox: Outbox, batch: str, state: State) -> None:
    """A process that saw the end just before a new try began sends no notification for the new round."""
    outbox.completions.register(batch, "https://svc/done")
    assert outbox.completions.due(batch)
    put(outbox, batch, refs(outbox, batch)[0], state)
    assert not outbox.completions.due(batch)
    assert outbox.completions.claim(batch) == []


def test_a_claim_has_the_counts_of_its_moment(outbox: Outbox, batch: str) -> None:
    """The notification has the counts of the moment at which it was claimed."""
    outbox.completions.register(batch, "https://svc/done")
    put(outbox, batch, refs(outbox, batch)[0], State.FAILED)
    (mine,) = outbox.completions.claim(batch)
    assert (mine.counts[State.SUCCEEDED], mine.counts[State.FAILED]) == (3, 1)


def test_a_claim_can_be_given_back(outbox: Outbox, batch: str) -> None:
    """When the service does not take a notification, the next attempt need not wait for a minute."""
    outbox.completions.register(batch, "https://svc/done")
    (mine,) = outbox.completions.claim(batch)
    outbox.completions.release(batch, mine)
    (again,) = outbox.completions.claim(batch)
    outbox.completions.confirm(batch, again)
    outbox.completions.release(batch, mine)
    assert outbox.completions.claim(batch) == []
    assert not outbox.completions.due(batch)


def test_an_address_is_notified_once_a_round(outbox: Outbox, batch: str) -> None:
    """Registered again with another account or queue it is the same registration, with the newest values."""
    outbox.completions.register(batch, "https://svc/done", service_account="old@p")
    outbox.completions.register(batch, "https://svc/done", service_account="sa@p", queue="other")
    (mine,) = outbox.completions.claim(batch)
    assert (mine.service_account, mine.queue) == ("sa@p", "other")
