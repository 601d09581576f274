"""Who is to be told that a batch is done: once a round."""

from __future__ import annotations

import pytest

from cloudtasks_nb.fanout._outbox import Outbox
from cloudtasks_nb.fanout._records import State
from tests.unit.fanout.conftest import (
    NOW,
    put,
    refs,
)


def test_a_completion_is_claimed_once_a_round(outbox: Outbox, batch: str) -> None:
    """Of two watchers one creates the notification; a new round brings another."""
    outbox.register_completion(batch, "https://svc/done", service_account="sa@p", audience="a", queue="other")
    (mine,) = outbox.claim_completions(batch)
    assert (mine.url, mine.service_account, mine.audience, mine.queue, mine.round) == (
        "https://svc/done",
        "sa@p",
        "a",
        "other",
        1,
    )
    assert outbox.claim_completions(batch) == []
    outbox.confirm_completion(batch, mine)
    put(outbox, batch, refs(outbox, batch)[0], State.FAILED)
    outbox.new_try(batch)
    assert [one.round for one in outbox.claim_completions(batch)] == [2]


@pytest.mark.parametrize("seconds", [61, -61])
def test_a_claim_of_a_killed_watcher_is_free_after_a_minute(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """When whoever claimed a notification never created it, the next watcher does, also if the clock was set back."""
    outbox.register_completion(batch, "https://svc/done")
    clock = [NOW]
    monkeypatch.setattr("time.time", lambda: clock[0])
    assert len(outbox.claim_completions(batch)) == 1
    clock[0] += seconds / 2
    assert outbox.claim_completions(batch) == []
    clock[0] += seconds
    assert len(outbox.claim_completions(batch)) == 1


def test_a_completion_that_was_told_is_not_claimed_again(
    outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once told, a round is over for good."""
    outbox.register_completion(batch, "https://svc/done")
    (mine,) = outbox.claim_completions(batch)
    outbox.confirm_completion(batch, mine)
    later = outbox.batch(batch).created.timestamp() + 9_999
    monkeypatch.setattr("time.time", lambda: later)
    assert outbox.claim_completions(batch) == []
    assert [one.round for one in outbox.completions(batch)] == [1]


def test_the_same_completion_twice_is_one(outbox: Outbox, batch: str) -> None:
    """The cell that registers a notification may be run again; another URL is another one, told at once."""
    one = outbox.register_completion(batch, "https://svc/done")
    assert outbox.register_completion(batch, "https://svc/done") == one
    assert len(outbox.claim_completions(batch)) == 1
    outbox.register_completion(batch, "https://svc/other")
    assert [found.url for found in outbox.claim_completions(batch)] == ["https://svc/other"]
