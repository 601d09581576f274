"""`stop_after_failures` holds in every round of a batch, and after a restart."""

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.states import State
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import chunks, spool

ROWS, LIMIT = 250, 10


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch that stops after ten failures."""
    return spool(outbox, chunks(range(ROWS)), description={"_options": {"stop_after_failures": LIMIT}}).batch


async def fail(tracked: Tracked, rows: slice, *, failed: int, cancelled: int) -> None:
    """Let rows fail, and wait for these counts; a batch that is stopped too early never has them."""
    tracked.publish("INTERNAL", rows)
    tracker = tracked.tracker
    await tracked.until(lambda: (tracker.progress.failed, tracker.progress.cancelled) == (failed, cancelled))


async def test_the_second_round_is_stopped_too(tracked: Tracked) -> None:
    """Rows that failed before the round do not count, so that the cancelled rows can be sent again."""
    await tracked.send()
    await fail(tracked, slice(LIMIT), failed=LIMIT, cancelled=ROWS - LIMIT)
    await tracked.tracker.finished()
    assert "stop_after_failures=10" in str(tracked.tracker.notes())
    tracked.outbox.outcomes.new_try(tracked.batch, None, {State.CANCELLED})
    await tracked.send()
    assert "stop_after_failures" not in str(tracked.tracker.notes())
    await fail(tracked, slice(LIMIT, 2 * LIMIT - 1), failed=2 * LIMIT - 1, cancelled=0)
    await fail(tracked, slice(2 * LIMIT - 1, 2 * LIMIT), failed=2 * LIMIT, cancelled=ROWS - 2 * LIMIT)


async def test_after_a_restart(tracked: Tracked, outbox: Outbox) -> None:
    """Another process counts on from where the first one was."""
    await tracked.send()
    await fail(tracked, slice(LIMIT - 1), failed=LIMIT - 1, cancelled=0)
    await tracked.tracker.close()
    later = Tracked(outbox, tracked.batch)
    await later.send()
    await fail(later, slice(LIMIT - 1, LIMIT), failed=LIMIT, cancelled=ROWS - LIMIT)
    await later.tracker.close()


async def test_another_kernel_begins_a_round(tracked: Tracked, outbox: Outbox) -> None:
    """A kernel that stopped the first round counts the failures of the second one anew."""
    await tracked.send()
    await fail(tracked, slice(LIMIT), failed=LIMIT, cancelled=ROWS - LIMIT)
    await tracked.tracker.finished()
    outbox.outcomes.new_try(tracked.batch, None, {State.CANCELLED})
    await tracked.tracker.start(sending=False)
    other = Tracked(outbox, tracked.batch)
    await other.send()
    await other.tracker.close()
    await fail(tracked, slice(LIMIT, LIMIT + 1), failed=LIMIT + 1, cancelled=0)
    await fail(tracked, slice(LIMIT + 1, 2 * LIMIT), failed=2 * LIMIT, cancelled=ROWS - 2 * LIMIT)
