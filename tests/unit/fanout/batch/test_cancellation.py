"""A wish to cancel is carried out in the end."""

from typing import Any

import orjson
import pytest

from cloudtasks_nb.errors import PermissionDeniedError, QueueNotFoundError, QuotaError
from cloudtasks_nb.fanout.batch import cancellation
from cloudtasks_nb.fanout.batch.gate import Cancels
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Cancel, whole
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.batches import put_cancel
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import chunks, put_facts, spool, take

ROWS = 250
QUOTA, DENIED = QuotaError("too many calls"), PermissionDeniedError("no right")
WISH = Cancel(at=0, by="another")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(cancellation, "_RETRY", 0.0)


async def test_a_cancel_is_found_behind_one_that_is_told_late(outbox: Outbox, store: Store, batch: str) -> None:
    """A home that is stopped between its cancel and the object that tells of it writes that after later ones."""
    told, cancels = orjson.dumps({"who": "ada", "part": True}), Cancels(outbox, store, batch)
    for name in (f"{1:016x}-a", f"{2:016x}-b"):
        put_cancel(store, batch, name, told)
    await cancels.take()
    put_cancel(store, batch, f"{3:016x}-c", told)
    store.put(f"batches/{batch}/cancel", f"{1:016x}-a".encode())
    await cancels.take()
    assert [name[-1] for name in outbox.batches.facts(batch).cancels_known] == ["a", "b", "c"]


@cases(({}, 1), ({"BatchDeleteTasks": [QUOTA]}, 2), ({"BatchDeleteTasks": [QueueNotFoundError("no queue")]}, 2))
async def test_what_fails_is_tried_again(tracked: Tracked, outbox: Outbox, errors: dict[str, Any], calls: int) -> None:
    """Every end of it leaves no wish."""
    await tracked.send()
    tracked.connection.errors = {rpc: [*raised] for rpc, raised in errors.items()}
    put_facts(outbox, tracked.batch, cancel=WISH)
    await tracked.tracker.cancel(tracked.tracker.record.whole)
    await tracked.until(lambda: not tracked.tracker.sending)
    assert tracked.connection.called == ["BatchDeleteTasks"] * calls
    assert outbox.batches.facts(tracked.batch).cancel is None


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
    page: Any = outbox.deletions(whole(tracked.batch)).turn(None, (), size=9)
    assert page.earlier == set()  # no row is marked as one that may have been deleted
    tracked.publish()
    assert (await tracked.tracker.finished(tracked.tracker.record.whole)).succeeded == ROWS
    assert outbox.batches.facts(tracked.batch).cancel is None


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
    assert outbox.batches.facts(part.batch).cancel is None
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
    assert outbox.batches.facts(part.batch).cancel is not None
    await tracked.tracker.close()


async def test_wishes_for_several_parts(outbox: Outbox) -> None:
    """They are carried out together; a wish for the whole batch, or its limit of failures, contains them."""
    made: list[Any] = [spool(outbox, chunks(range(at, at + 9)), name="march").scope for at in (0, 9, 18)]
    tracked = Tracked(outbox, made[0].batch)
    wish = tracked.tracker._cancellation.wish

    def stored() -> Any:
        found = outbox.batches.facts(tracked.batch).cancel
        return found and found.parts

    tracked.tracker._cancellation.begin = lambda: None  # type: ignore[method-assign]  # so that the wish stays
    for part in (made[0], made[1], made[0]):
        await wish(part)
    assert sorted(one[:2] for one in stored()) == [(made[0].input, 9), (made[1].input, 9)]
    await wish(whole(tracked.batch))
    assert stored() == ()
    await wish(made[1])
    assert stored() == ()
    await tracked.tracker.close()
