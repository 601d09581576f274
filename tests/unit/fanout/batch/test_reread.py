"""The log is read again for rows that are gone, with growing pauses, and no longer than is of use."""

import asyncio

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.fanout.batch import outcome_tracker
from cloudtasks_nb.fanout.batch import tracker as tracker_module
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import put, refs


@pytest.mark.parametrize(("found_at", "reads"), [(None, 5), (2, 2)], ids=["lost for good", "found"])
def test_what_is_gone_is_read_again(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, found_at: int | None, reads: int
) -> None:
    """At once and four times later, also if the log cannot be read, until no row is gone; more rows begin it anew."""
    seen: list[int] = []
    pauses: list[float] = []
    tracker, outbox, sleep = tracked.tracker, tracked.outbox, asyncio.sleep
    rows = refs(outbox, tracked.batch)

    async def recheck() -> None:
        seen.append(len(seen) + 1)
        if seen[-1] == found_at:
            put(outbox, tracked.batch, rows[:1], State.SUCCEEDED)
        raise PermissionDeniedError("the log may not be read")

    async def pause(seconds: float) -> None:
        if seconds in outcome_tracker._RECHECK_PAUSES:
            pauses.append(seconds)
            while tracker._seen < tracker._changes:
                await sleep(0.01)
        await sleep(0)

    async def run() -> None:
        put(outbox, tracked.batch, rows[:1], State.GONE)
        await tracker.start(sending=False)
        await tracker._supervisor.join(tracker_module._REREADING)

    monkeypatch.setattr(tracker.outcomes, "recheck", recheck)
    monkeypatch.setattr(asyncio, "sleep", pause)
    _loop.run(run(), 30)
    assert len(seen) == reads
    assert pauses == [60.0, 120.0, 240.0, 480.0][:reads]
    put(outbox, tracked.batch, rows[:2], State.GONE)
    _loop.run(run(), 30)
    assert len(seen) > reads
