"""No failure in the background is silent: it is shown, raised where one waits, and survived where it goes away."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import CloudTasksError, OutboxError, PermissionDeniedError
from cloudtasks_nb.fanout.batch.tracker import _RESTARTING, Tracker
from cloudtasks_nb.fanout.sender.sender import Sender
from tests.stored import store_result
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import all_rows

ROWS = 250


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run failed work again at once."""
    monkeypatch.setattr(_loop, "_PAUSE", 0.0)


def failing(work: Callable[..., Any], error: Exception, times: int) -> Callable[..., Any]:
    """Return a method that raises at its first calls."""
    left = [times]

    def method(*args: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error
        return work(*args, **options)

    return method


@pytest.mark.parametrize("method", ["batches.counts", "batches.set_setting", "outcomes.record"])
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
    assert (await tracked.tracker.finished()).succeeded == ROWS


async def test_a_failure_that_lasts(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the reasons that the repr and the panel show, `wait` raises it, and closing raises nothing."""
    await tracked.send()
    broken = failing(tracked.outbox.outcomes.record, KeyError("x"), 10**9)
    monkeypatch.setattr(tracked.outbox.outcomes, "record", broken)
    tracked.publish()
    with pytest.raises(CloudTasksError, match=f"watching batch {tracked.batch} failed with KeyError: 'x'"):
        await tracked.tracker.finished()
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
    assert (await tracked.tracker.finished()).succeeded == ROWS


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
    assert (await tracked.tracker.finished()).succeeded == ROWS


async def test_another_sender_is_a_reason_why_rows_are_not_done(tracked: Tracked) -> None:
    """The batch names it while it waits for it, and no longer when it sends itself."""
    tracked.outbox.batches.set_setting(tracked.batch, "sender", {"pid": 1, "target": "127.0.0.1:1"})
    lock: Any = tracked.outbox.requests.lock(tracked.batch)
    note = "process 1 (127.0.0.1:1) sends the remaining rows; this connection continues when that stops"
    await tracked.tracker.start(sending=True)
    await tracked.until(lambda: note in tracked.tracker.blockers())
    lock.release()
    await tracked.until(lambda: not tracked.tracker.sending)
    assert note not in tracked.tracker.blockers()


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
    assert (await other.finished()).succeeded == ROWS
    await other.close()


async def test_rows_seem_to_be_missing(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """One search runs at a time; why it failed is shown until the next snapshot begins another one."""
    tracker, ends, begun = tracked.tracker, asyncio.Event(), list[list[str]]()

    async def search(_snapshot: Any) -> None:
        begun.append(tracker.blockers())
        if len(begun) == 1:
            await ends.wait()
            raise PermissionDeniedError("tasks may not be listed")

    monkeypatch.setattr(tracker.outcomes.search, "wanted", lambda *_: True)
    monkeypatch.setattr(tracker.outcomes.search, "run", search)
    await tracked.send()
    tracked.publish(rows=slice(1))
    tracked.publish(rows=slice(2))
    await tracked.until(lambda: tracker.progress.succeeded == 2)
    ends.set()
    await tracked.until(lambda: "tasks may not be listed" in tracker.blockers())
    tracked.publish(rows=slice(3))
    await tracked.until(lambda: len(begun) == 2)
    assert "tasks may not be listed" not in str(begun)


async def test_a_wait_tries_again_what_failed_here(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full has room by now: the error of before is forgotten, and the rest is sent."""
    queue = tracked.outbox.requests.queue(tracked.batch)
    monkeypatch.setattr(type(queue), "turn", failing(type(queue).turn, OutboxError("the disk is full"), 1))
    await tracked.send()
    assert str(tracked.tracker.error) == "the disk is full"
    ending = asyncio.ensure_future(tracked.tracker.finished())
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
