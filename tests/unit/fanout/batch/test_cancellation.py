"""A wish to cancel is carried out in the end, and leaves the queue as it was."""

from typing import Any

import pytest

from cloudtasks_nb.errors import PermissionDeniedError, QueueNotFoundError, QuotaError, UnavailableError
from cloudtasks_nb.fanout.batch import cancellation
from cloudtasks_nb.fanout.batch.gate import read_batch
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.outbox.requests import CANCELLING
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import chunks, put, refs, spool, take

ROWS = 250
LOST, QUOTA, DENIED = UnavailableError("lost"), QuotaError("too many calls"), PermissionDeniedError("no right")
PAUSED = {"at": 0, "paused": True}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(cancellation, "_RETRY", 0.0)


@cases(
    ({}, "PauseQueue BatchDeleteTasks ResumeQueue"),
    ({"PauseQueue": [LOST]}, "PauseQueue BatchDeleteTasks ResumeQueue"),  # it may be paused
    ({"PauseQueue": [DENIED]}, "PauseQueue BatchDeleteTasks ResumeQueue"),  # another process has paused it
    ({"BatchDeleteTasks": [QUOTA]}, "PauseQueue BatchDeleteTasks ResumeQueue BatchDeleteTasks"),
    ({"BatchDeleteTasks": [QueueNotFoundError("no queue")]}, "PauseQueue BatchDeleteTasks ResumeQueue"),
    ({"ResumeQueue": [QUOTA]}, "PauseQueue BatchDeleteTasks ResumeQueue PauseQueue ResumeQueue"),
)
async def test_what_fails_is_tried_again(tracked: Tracked, outbox: Outbox, errors: dict[str, Any], calls: str) -> None:
    """Every end of it leaves no wish, and a queue that runs."""
    await tracked.send()
    tracked.connection.errors = {rpc: [*raised] for rpc, raised in errors.items()}
    outbox.batches.set_setting(tracked.batch, CANCELLING, PAUSED)
    await tracked.tracker.cancel(tracked.tracker.record.whole)
    await tracked.until(lambda: not tracked.tracker.sending)
    assert " ".join(tracked.connection.called) == calls
    assert CANCELLING not in outbox.batches.settings(tracked.batch)


async def test_who_may_not_delete_tasks_leaves_the_wish_to_others(tracked: Tracked, outbox: Outbox) -> None:
    """It is asked once; the wish stands until the tasks have ended by themselves."""
    await tracked.send()
    tracked.connection.errors = {"BatchDeleteTasks": [DENIED]}
    await tracked.tracker.cancel(tracked.tracker.record.whole)
    await tracked.until(lambda: not tracked.tracker.sending)
    tracked.publish(rows=slice(9))
    await tracked.until(lambda: tracked.tracker.progress.succeeded == 9)
    assert tracked.connection.called == ["BatchDeleteTasks"]
    assert tracked.tracker.progress.state == "cancelling"
    assert tracked.tracker.progress.reason == "250 tasks are not deleted: no right"
    tracked.publish()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).succeeded == ROWS
    assert CANCELLING not in outbox.batches.settings(tracked.batch)


async def test_a_queue_that_may_not_be_resumed_is_not_asked_for_ever(tracked: Tracked, outbox: Outbox) -> None:
    """The wish stays, so that another connection resumes it."""
    await tracked.send()
    tracked.publish()
    await tracked.tracker.finished(tracked.tracker.record.whole)
    tracked.connection.errors = {"ResumeQueue": [DENIED] * 99}
    outbox.batches.set_setting(tracked.batch, CANCELLING, PAUSED)
    for _ in range(5):
        await tracked.tracker.start(sending=False)
        await tracked.until(lambda: not tracked.tracker.sending)
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


async def test_a_part_in_requests_of_a_killed_sender(outbox: Outbox) -> None:
    """Its rows are looked up and never sent; of the others none is sent, because nobody has asked for that."""
    spool(outbox, chunks(range(150)), name="march")
    part = spool(outbox, chunks(range(150, 300)), name="march").scope
    assert part is not None
    take(outbox, part.batch, want=2)  # rows 100 to 199 are in one request
    tracked = Tracked(outbox, part.batch)

    async def seen(tasks: list[str], _since: float) -> dict[str, bool | None]:
        return dict.fromkeys(tasks, False)

    tracked.tracker._adoption.seen = seen  # type: ignore[method-assign,assignment]  # the log has no entry
    await tracked.tracker.cancel(part)
    await tracked.until(lambda: not tracked.tracker._cancellation.active)
    assert not tracked.service.created
    found = outbox.batches.counts(part), outbox.batches.counts(whole(part.batch))
    assert [(counts[State.CANCELLED], counts[State.UNSENT]) for counts in found] == [(150, 0), (150, 150)]
    assert CANCELLING not in outbox.batches.settings(part.batch)
    await tracked.tracker.close()


async def test_a_part_whose_requests_may_not_be_looked_up(outbox: Outbox) -> None:
    """The service is asked once, and the wish is left to others."""
    spool(outbox, chunks(range(100)), name="march")
    part = spool(outbox, chunks(range(100, 200)), name="march").scope
    assert part is not None
    take(outbox, part.batch, want=2)
    tracked, called = Tracked(outbox, part.batch), list[str]()

    def refuse(rpc: str, _number: int) -> None:
        called.append(rpc)
        raise DENIED

    tracked.service.before = refuse
    await tracked.tracker.cancel(part)
    await tracked.until(lambda: not tracked.tracker._cancellation.active)
    assert len(called) <= 100
    assert CANCELLING in outbox.batches.settings(part.batch)
    await tracked.tracker.close()


async def test_wishes_for_several_parts(outbox: Outbox) -> None:
    """They are carried out together; a wish for the whole batch, or its limit of failures, contains them."""
    made: list[Any] = [spool(outbox, chunks(range(at, at + 9)), name="march").scope for at in (0, 9, 18)]
    tracked = Tracked(outbox, made[0].batch)
    wish = tracked.tracker._cancellation.wish

    def stored() -> Any:
        return outbox.batches.settings(tracked.batch)[CANCELLING].get("inputs")

    tracked.tracker._cancellation.begin = lambda: None  # type: ignore[method-assign]  # so that the wish stays
    for part in (made[0], made[1], made[0]):
        await wish(part)
    assert sorted(one[:2] for one in stored()) == [[made[0].input, 9], [made[1].input, 9]]
    await wish(whole(tracked.batch))
    assert stored() is None
    await wish(made[1])
    assert stored() is None
    await tracked.tracker.close()
