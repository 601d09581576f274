"""What the notes of a batch say about how its rows were sent and how their outcomes are known."""

from typing import Any

import pytest

from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked


@cases(
    ("already", 1_200, "1,200 tasks existed before: created from another machine"),
    ("adopted", True, "rows were sent from elsewhere: their states are those of the log of the last 30 days"),
    ("unseen", "no permission.", "rows that were sent from elsewhere cannot be seen: no permission; "),
    ("corrected", 1, "1 row had another outcome first, corrected by log entries that came late"),
)
async def test_what_is_stored_of_the_sending(tracked: Tracked, setting: str, value: Any, note: str) -> None:
    """Each fact that the outbox has of the sending is one sentence, and there is none without it."""
    assert tracked.tracker.notes() == []
    tracked.outbox.batches.set_setting(tracked.batch, setting, value)
    await tracked.tracker.start(sending=False)
    (found,) = tracked.tracker.notes()
    assert found.startswith(note)


def test_a_clock_that_is_wrong_is_noted(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that are shown are the service's, which differ from those of this machine."""
    monkeypatch.setattr(tracked.tracker.connection.clock.known, "skew", -360_000_000)
    assert tracked.tracker.notes() == ["this machine's clock is 6 min ahead of the service's"]
