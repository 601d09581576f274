"""The loop of an open batch: watch, notify, store and leave; what fails is shown, and survived where it goes away."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import CloudTasksError, OutboxError
from cloudtasks_nb.fanout.batch import outcome_tracker
from cloudtasks_nb.fanout.batch.outcome_tracker import unread_since
from cloudtasks_nb.fanout.batch.tracker import _RESTARTING, Tracker
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Cancel
from cloudtasks_nb.fanout.sender.sender import Sender
from tests.cases import cases
from tests.stored import store_result
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import all_rows, put_facts

ROWS, HOUR, MINUTE = 250, 3_600_000_000, 60_000_000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run failed work again at once."""
    monkeypatch.setattr(_loop, "_PAUSE", 0.0)


@pytest.mark.parametrize(("status", "lingers"), [("OK", False), ("INTERNAL", True)])
async def test_a_batch_that_a_late_entry_may_correct_is_watched_on(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, status: str, *, lingers: bool
) -> None:
    """Failed rows may have succeeded after all: their queue is read for a while after the end."""
    await tracked.send()
    tracked.publish(status)
    await tracked.tracker.finished(tracked.tracker.record.whole)
    assert bool(tracked.connection.watcher.subscribed) == lingers
    monkeypatch.setattr(outcome_tracker, "_LINGER", 0.0)
    await tracked.tracker._turn()
    assert not tracked.connection.watcher.subscribed


async def test_a_cancel_of_a_process_that_has_ended_is_carried_out(
    tracked: Tracked, outbox: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has the batch open shows that it is being cancelled, and goes on when the other one is gone."""
    lock: Any = outbox.requests.lock(tracked.batch, "cancel")
    await tracked.send()
    put_facts(outbox, tracked.batch, cancel=Cancel(at=0, by="another"))
    tracked.publish(rows=slice(1))
    await tracked.until(lambda: tracked.tracker.progress.state == "cancelling")
    lock.release()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).cancelled == ROWS - 1
    assert outbox.batches.facts(tracked.batch).cancel is None
    assert "was being cancelled by another connection: the remaining tasks are deleted now" in capsys.readouterr().out


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

    def moment(ago: int) -> dt.datetime:
        return dt.datetime.fromtimestamp((now - ago) / 1_000_000, dt.UTC)

    assert unread_since(moment(age), None if read is None else moment(read), now) == now - back


def failing(work: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """Return a method that raises at its first calls."""
    left = [times]

    def method(*args: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return work(*args, **options)

    return method


@pytest.mark.parametrize("method", ["batches.counts", "batches.change", "outcomes.record"])
@pytest.mark.parametrize("error", [OutboxError("the outbox is locked"), KeyError("x")], ids=["locked", "ours"])
async def test_a_failure_that_goes_away(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, method: str, error: Exception
) -> None:
    """A write that fails twice is made at the third try: no outcome is lost, and `wait` ends with the truth."""
    repository, name = method.split(".")
    owner = getattr(tracked.outbox, repository)
    await tracked.send()
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), error, 2))
    tracked.publish()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).succeeded == ROWS


async def test_a_failure_that_lasts(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the reasons that the repr and the panel show, `wait` raises it, and closing raises nothing."""
    await tracked.send()
    broken = failing(tracked.outbox.outcomes.record, KeyError("x"), 10**9)
    monkeypatch.setattr(tracked.outbox.outcomes, "record", broken)
    tracked.publish()
    with pytest.raises(CloudTasksError, match=f"watching batch {tracked.batch} failed with KeyError: 'x'"):
        await tracked.tracker.finished(tracked.tracker.record.whole)
    assert f"watching batch {tracked.batch} failed with KeyError: 'x'" in tracked.tracker.blockers()
    await tracked.tracker.close()
    assert not tracked.connection.watcher.subscribed


async def test_a_listener_that_fails(tracked: Tracked) -> None:
    """An output or a panel that cannot show a change does not keep the batch from its end."""

    def listener() -> None:
        raise KeyError("x")

    tracked.tracker.listen(listener)
    await tracked.send()
    tracked.publish()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).succeeded == ROWS


async def test_the_last_outcome_at_the_moment_when_the_sending_ends(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is counted last, `wait` ends at once: it does not wait for notifications that nobody begins."""
    loop, over = _loop.loop(), asyncio.Event()
    run_sender, record = Sender.run, tracked.outbox.outcomes.record

    async def run_and_wait(sender: Sender) -> int:
        already = await run_sender(sender)
        await over.wait()
        return already

    def end_and_record(*args: Any) -> Any:
        loop.call_soon_threadsafe(over.set)
        return record(*args)

    monkeypatch.setattr(Sender, "run", run_and_wait)
    monkeypatch.setattr(tracked.outbox.outcomes, "record", end_and_record)
    await tracked.tracker.start(sending=True)
    await tracked.until(lambda: not tracked.tracker.progress.unsent)
    tracked.publish()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).succeeded == ROWS


async def test_one_connection_that_sends_lets_the_others_watch_only(tracked: Tracked) -> None:
    """Another connection of this process that has the batch open begins to watch its rows; it sends none."""
    made: Any = tracked.connection
    other = Tracker(made, tracked.outbox, tracked.outbox.batches.get(tracked.batch))
    await other.start(sending=False)
    await tracked.tracker.start(sending=True)
    await other._supervisor.join(_RESTARTING)
    assert not other.sending
    await tracked.until(lambda: not tracked.tracker.sending)
    tracked.publish()
    assert (await other.finished(other.record.whole)).succeeded == ROWS
    await other.close()


async def test_a_wait_tries_again_what_failed_here(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full has room by now: the error of before is forgotten, and the rest is sent."""
    queue = tracked.outbox.requests.queue(tracked.batch)
    monkeypatch.setattr(type(queue), "turn", failing(type(queue).turn, OutboxError("the disk is full"), 1))
    await tracked.send()
    assert str(tracked.tracker.error) == "the disk is full"
    ending = asyncio.ensure_future(tracked.tracker.finished(tracked.tracker.record.whole))
    await tracked.until(lambda: sum(tracked.service.created.values()) == ROWS)
    tracked.publish()
    assert (await ending).succeeded == ROWS


async def test_results_that_were_read_are_packed_when_the_batch_has_ended(tracked: Tracked) -> None:
    """In the background; without the right to write that is no error of the batch."""
    tracker, store = tracked.tracker, tracked.connection.store
    stored = tracker.outcomes.stored
    tasks = [str(task) for task in all_rows(tracked.outbox, tracked.batch, "tasks")]

    def objects() -> int:
        return sum(map(len, store.pages(f"results/{tracked.batch}/")))

    async def read() -> None:
        await asyncio.to_thread(stored.sync)
        await tracker.find_out(tracker.outcomes.record_results)

    await tracked.send()
    for task in tasks[:20]:
        store_result(tracked.outbox, store, task)
    await read()
    assert objects() == 20
    tracked.publish()
    await tracked.until(lambda: tracker.finished_here)
    await read()
    await tracker._supervisor.join("packing the results of")
    assert objects() == 1
    assert not tracker.blockers()
    assert stored.answers(tasks).results == dict.fromkeys(tasks[:20], 7)


@cases(
    ("existing", 1_200, "1,200 tasks existed before: created from another machine"),
    ("sent_by_others", True, "rows were sent from elsewhere: their states are those of the log of the last 30 days"),
    ("log_error", "no permission.", "rows that were sent from elsewhere cannot be seen: no permission; "),
    ("corrected", 1, "1 row had another outcome first, corrected by log entries that came late"),
)
async def test_what_is_stored_of_the_sending(tracked: Tracked, fact: str, value: Any, note: str) -> None:
    """Each fact that the outbox has of the sending is one sentence, and there is none without it."""
    assert tracked.tracker.notes() == []
    put_facts(tracked.outbox, tracked.batch, **{fact: value})
    await tracked.tracker.start(sending=False)
    (found,) = tracked.tracker.notes()
    assert found.startswith(note)


@cases(
    (1.0, False, []),
    (0.5, False, ["elsewhere cannot be seen: the queue logs 50% of its operations"]),
    (0.0, True, ["elsewhere cannot be seen: the queue writes no log"]),
    (0.0, False, ["queue.update(log_sampling_ratio=1.0)", "elsewhere cannot be seen: the queue writes no log"]),
)
def test_what_a_log_does_not_tell(outbox: Outbox, batch: str, ratio: float, *, results: bool, parts: list[str]) -> None:
    """How rows end, unless a handler stores results, and what was sent from elsewhere."""
    record = outbox.batches.get(batch)
    for shared, means in ((False, "is sent again"), (True, "are held")):
        notes = outcome_tracker.outcome_notes(record, ratio, has_results=results, shared=shared)
        assert [part in note for part, note in zip(parts, notes, strict=True)] == [True] * len(parts)
        assert (means in f"{notes}") == (ratio < 1)


def test_a_clock_that_is_wrong_is_noted(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that are shown are the service's, which differ from those of this machine."""
    monkeypatch.setattr(tracked.tracker.connection.clock.known, "skew", -360_000_000)
    assert tracked.tracker.notes() == ["this machine's clock is 6 min ahead of the service's"]


async def test_a_batch_has_not_settled_before_what_was_seen_is_stored(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if something else reads the batch meanwhile. What is seen while that is stored is stored at once."""
    await tracked.send()
    tracker, release, told = tracked.tracker, asyncio.Event(), []
    tell = tracker.outcomes.tell

    async def held(*given: Any) -> Any:
        told.append(given)
        await release.wait()
        return await tell(*given)

    monkeypatch.setattr(tracker.outcomes, "tell", held)
    before = tracker.outcomes.snapshot
    settled = asyncio.ensure_future(tracker.settle(drained=False))
    await asyncio.sleep(0)
    tracked.publish(rows=slice(10))
    await tracked.until(lambda: tracker.outcomes.snapshot is not before)
    await tracker._turn()
    await asyncio.sleep(0)
    assert not settled.done()
    for seen in (20, 30):
        tracked.publish(rows=slice(seen))
    await asyncio.sleep(0)
    release.set()
    await settled
    assert (tracker.progress.succeeded, len(told)) == (30, 2)
