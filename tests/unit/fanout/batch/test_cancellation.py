"""A wish to cancel is carried out in the end, and leaves the queue as it was."""

from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import PermissionDeniedError, QueueNotFoundError, QuotaError, UnavailableError
from cloudtasks_nb.fanout.batch import cancellation
from cloudtasks_nb.fanout.batch.gate import read_batch
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.requests import CANCELLING
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import chunks, put, refs, spool

ROWS, PATIENCE = 250, 30.0
LOST, QUOTA, DENIED = UnavailableError("lost"), QuotaError("too many calls"), PermissionDeniedError("no right")
PAUSED = {"at": 0, "paused": True}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(cancellation, "_RETRY", 0.0)


async def sent(tracked: Tracked) -> None:
    """Send every row."""
    await tracked.tracker.start(sending=True)
    await tracked.until(lambda: not tracked.tracker.sending)


@pytest.mark.parametrize(
    ("errors", "calls"),
    [
        ({}, "PauseQueue BatchDeleteTasks ResumeQueue"),
        ({"PauseQueue": [LOST]}, "PauseQueue BatchDeleteTasks ResumeQueue"),  # it may be paused
        ({"PauseQueue": [DENIED]}, "PauseQueue BatchDeleteTasks ResumeQueue"),  # another process has paused it
        ({"BatchDeleteTasks": [QUOTA]}, "PauseQueue BatchDeleteTasks ResumeQueue BatchDeleteTasks"),
        ({"BatchDeleteTasks": [QueueNotFoundError("no queue")]}, "PauseQueue BatchDeleteTasks ResumeQueue"),
        ({"ResumeQueue": [QUOTA]}, "PauseQueue BatchDeleteTasks ResumeQueue PauseQueue ResumeQueue"),
    ],
)
def test_what_fails_is_tried_again(tracked: Tracked, outbox: Outbox, errors: dict[str, Any], calls: str) -> None:
    """Every end of it leaves no wish, and a queue that runs."""

    async def run() -> None:
        await sent(tracked)
        tracked.connection.errors = {rpc: [*raised] for rpc, raised in errors.items()}
        outbox.batches.set_setting(tracked.batch, CANCELLING, PAUSED)
        await tracked.tracker.cancel()
        await tracked.until(lambda: not tracked.tracker.sending)

    _loop.run(run(), PATIENCE)
    assert " ".join(tracked.connection.called) == calls
    assert CANCELLING not in outbox.batches.settings(tracked.batch)


def test_who_may_not_delete_tasks_leaves_the_wish_to_others(tracked: Tracked, outbox: Outbox) -> None:
    """It is asked once; the wish stands until the tasks have ended by themselves."""

    async def run() -> None:
        await sent(tracked)
        tracked.connection.errors = {"BatchDeleteTasks": [DENIED]}
        await tracked.tracker.cancel()
        await tracked.until(lambda: not tracked.tracker.sending)
        tracked.publish(rows=slice(9))
        await tracked.until(lambda: tracked.tracker.progress.succeeded == 9)
        assert tracked.connection.called == ["BatchDeleteTasks"]
        assert tracked.tracker.progress.state == "cancelling"
        assert tracked.tracker.progress.reason == "250 tasks are not deleted: no right"
        tracked.publish()
        assert (await tracked.tracker.finished()).succeeded == ROWS

    _loop.run(run(), PATIENCE)
    assert CANCELLING not in outbox.batches.settings(tracked.batch)


def test_a_queue_that_may_not_be_resumed_is_not_asked_for_ever(tracked: Tracked, outbox: Outbox) -> None:
    """The wish stays, so that another connection resumes it."""

    async def run() -> None:
        await sent(tracked)
        tracked.publish()
        await tracked.tracker.finished()
        tracked.connection.errors = {"ResumeQueue": [DENIED] * 99}
        outbox.batches.set_setting(tracked.batch, CANCELLING, PAUSED)
        for _ in range(5):
            await tracked.tracker.start(sending=False)
            await tracked.until(lambda: not tracked.tracker.sending)

    _loop.run(run(), PATIENCE)
    assert tracked.connection.called == ["PauseQueue", "ResumeQueue"]
    assert outbox.batches.settings(tracked.batch)[CANCELLING] == PAUSED


def test_the_limit_of_failures_keeps_a_wish_that_there_is(outbox: Outbox) -> None:
    """It tells that the queue was paused for it."""
    batch = spool(outbox, chunks(range(ROWS)), description={"_options": {"stop_after_failures": 9}}).batch
    outbox.batches.set_setting(batch, CANCELLING, PAUSED)
    put(outbox, batch, refs(outbox, batch)[:9], State.FAILED)
    record, gate = read_batch(outbox, batch)
    assert gate.stopped
    assert record.settings[CANCELLING] == outbox.batches.settings(batch)[CANCELLING] == PAUSED
