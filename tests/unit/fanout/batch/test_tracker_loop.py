"""What the loop of a batch does in each turn: watch, notify, store, and leave."""

import asyncio
from typing import Any

import pytest

from cloudtasks_nb.fanout.batch import subscribed
from cloudtasks_nb.fanout.batch import tracker as tracker_module
from cloudtasks_nb.fanout.batch.progress import SNAPSHOT
from cloudtasks_nb.fanout.batch.witnesses import unread_since
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import put, refs

ROWS, HOUR, MINUTE = 250, 3_600_000_000, 60_000_000


@pytest.mark.parametrize(("status", "lingers"), [("OK", False), ("INTERNAL", True)])
async def test_a_batch_that_a_late_entry_may_correct_is_watched_on(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, status: str, *, lingers: bool
) -> None:
    """Failed rows may have succeeded after all: their queue is read for a while after the end."""
    await tracked.send()
    tracked.publish(status)
    await tracked.tracker.finished()
    assert bool(tracked.connection.watcher.subscribed) == lingers
    monkeypatch.setattr(subscribed, "_LINGER", 0.0)
    await tracked.tracker._turn()
    assert not tracked.connection.watcher.subscribed


async def test_an_emulator_is_read_more_often_near_the_end(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no quota of reads, so that `wait` returns soon after the end; Google's service is read as before."""
    monkeypatch.setattr(subscribed, "_NEAR_END", 30.0)  # rows that ended so long ago have ended just now
    await tracked.send()
    seen = []
    for rows in (slice(10), slice(200)):
        tracked.publish(rows=rows)
        await tracked.until(lambda rows=rows: tracked.tracker.progress.succeeded == rows.stop)  # type: ignore[misc]
        (subscription,) = tracked.connection.watcher.subscribed
        seen.append(subscription.every)
    tracked.connection.endpoint.local = False
    tracked.publish(rows=slice(210))
    await tracked.until(lambda: tracked.tracker.progress.succeeded == 210)
    assert [*seen, subscription.every] == [1.0, 0.2, 1.0]


async def test_notifications_are_begun_once_for_each_end(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are open again have another end, and so has a batch of which a URL was registered after the end."""
    begun: list[int] = []
    monkeypatch.setattr(tracked.tracker._notifier, "begin", lambda: begun.append(tracked.outbox.batches.get().round))
    await tracked.send()
    tracked.publish("INTERNAL")
    await tracked.until(lambda: tracked.tracker.finished_here)
    await tracked.tracker._turn()
    assert begun == [1]
    tracked.outbox.outcomes.new_try(tracked.batch)
    await tracked.send()
    tracked.publish()
    await tracked.until(lambda: tracked.tracker.finished_here)
    await tracked.tracker.start(sending=False)
    assert begun == [1, 2, 2]


async def test_what_is_seen_is_stored_now_and_then(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five seconds, and in each turn after the end."""
    times = iter([0.0, 4.0, 5.0, 6.0, 7.0])
    monkeypatch.setattr(tracker_module, "_now", lambda: next(times))
    stored: list[Any] = []
    keep = tracked.outbox.batches.set_setting

    def store(batch: str, key: str, value: Any) -> None:
        stored.extend([value.succeeded] if key == SNAPSHOT else [])
        keep(batch, key, value)

    monkeypatch.setattr(tracked.outbox.batches, "set_setting", store)
    monkeypatch.setattr(tracked.tracker, "_watch", lambda: None)
    for done in range(3):
        put(tracked.outbox, tracked.batch, refs(tracked.outbox, tracked.batch)[:done], State.SUCCEEDED)
        await tracked.tracker._turn()
    put(tracked.outbox, tracked.batch, refs(tracked.outbox, tracked.batch), State.SUCCEEDED)
    await tracked.tracker._turn()
    await tracked.tracker._turn()
    assert stored == [0, 2, ROWS, ROWS]


async def test_a_start_while_an_older_reading_is_under_way(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are tried again are sent, also if a turn has just read that the batch was done."""
    tracker, outbox = tracked.tracker, tracked.outbox
    put(outbox, tracked.batch, refs(outbox, tracked.batch), State.FAILED)
    read, has_read, goes_on = tracker._read, asyncio.Event(), asyncio.Event()
    call = outbox.run

    async def call_late(work: Any, *args: Any, **options: Any) -> Any:
        result = await call(work, *args, **options)
        if work == read and not has_read.is_set():
            has_read.set()
            await goes_on.wait()
        return result

    await tracker.start(sending=False)
    monkeypatch.setattr(outbox, "run", call_late)
    turn = asyncio.create_task(tracker._turn())
    await has_read.wait()
    outbox.outcomes.new_try(tracked.batch)
    begun = asyncio.create_task(tracker.start(sending=True))
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.gather(turn, begun)
    await tracked.until(lambda: sum(tracked.service.created.values()) == ROWS)


@cases(
    (10 * HOUR, None, 10 * HOUR + 5 * MINUTE),
    (10 * HOUR, HOUR, HOUR + 15 * MINUTE),
    (10 * HOUR, 10 * HOUR, 10 * HOUR + 5 * MINUTE),
    (10 * HOUR, -HOUR, 10 * HOUR + 5 * MINUTE),
    ids=["never read", "read until an hour ago", "read when it was made", "read when the clock was ahead"],
)
def test_the_log_is_read_on_from_where_it_was_read(age: int, read: int | None, back: int) -> None:
    """A retry of yesterday's batch does not read its whole log again, only what may have come late."""
    now = 2_000_000_000_000_000
    assert unread_since(now - age, None if read is None else now - read, now) == now - back
