"""The calls of the API on a real engine, without a network: what the integration tests do not reach."""

import asyncio
import base64
import json
from functools import partial
from typing import Any

import pytest

from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.model.clock import HOUR
from cloudtasks_nb.emulator.model.queues import RUNNING
from tests.cases import cases
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, http_task


async def test_a_run_by_hand_waits_for_a_reset(service: Service) -> None:
    """RunTask during a reset waits for its end."""
    dispatcher, name = service.engine.dispatcher, f"{QUEUE}/tasks/a"
    await service.create_queue()
    await service.create_task("a")
    await dispatcher.abort(hold=True)
    called = asyncio.create_task(service.call("RunTask", name=name))
    await asyncio.sleep(0)
    assert (called.done(), dispatcher._running) == (False, {})
    service.engine.store.reload(keep_running=False)
    dispatcher.release()
    assert (await called).name == name
    assert next(iter(dispatcher._running)).claim.queue is service.engine.store.queue(QUEUE)


async def test_one_replacement_after_the_other(service: Service) -> None:
    """Two resets at once run one after the other, and nothing is sent during either."""
    admin, dispatcher, held = Admin(service.engine), service.engine.dispatcher, []
    await service.create_queue()
    await service.create_task("a")
    dispatcher.run_now(service.engine.store.queue(QUEUE), "a")

    def change() -> None:
        held.append(not dispatcher._released.is_set())

    await asyncio.gather(admin._replace(change), admin._replace(change))
    assert held == [True, True]


async def test_the_same_batch_again(service: Service) -> None:
    """A request id stands for one operation: sent again, the batch is answered and not carried out."""
    await service.create_queue()
    requests: list[Any] = [{"parent": QUEUE, "task": http_task()}]
    once = partial(service.call, "BatchCreateTasks", parent=QUEUE, requests=requests, request_id="once")
    calls = [once() for _ in range(3)]
    first, *others = await asyncio.gather(*calls)
    assert others == [first, first]
    assert len(service.engine.store.queue(QUEUE).live) == 1


def token_of(*parts: object) -> str:
    """Make a page token of its parts."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


async def test_a_page_token_is_valid_for_two_hours(service: Service) -> None:
    """To the microsecond; one that was made up or cut is refused, and so is a position that no row could have."""
    await service.create_queue()
    for _ in range(2):
        await service.create_task()
    token = (await service.call("ListTasks", parent=QUEUE, page_size=1)).next_page_token
    position, _, query = json.loads(base64.urlsafe_b64decode(token))
    positions = [token_of(wrong, 0, query) for wrong in (None, 10**18, 10**25, -1, 1.5, True, "1")]
    for made_up in (token_of(1), token_of(position, "x", query), token[:10], *positions):
        assert (await service.refused("ListTasks", parent=QUEUE, page_token=made_up))[0] == "INVALID_ARGUMENT"
    service.engine.clock.advance(2 * HOUR)
    assert len((await service.call("ListTasks", parent=QUEUE, page_token=token)).tasks) == 1
    service.engine.clock.advance(1)
    assert (await service.refused("ListTasks", parent=QUEUE, page_token=token))[1].endswith("it has expired.")


@pytest.mark.parametrize("method", ["ResumeQueue", "UpdateQueue"])
async def test_a_change_that_is_not_stored_sends_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Tasks of a queue that should be resumed, or be quicker, wait until that is on the disk."""

    def full() -> None:
        raise OSError("disk is full")

    await service.create_queue()
    await service.create_task("a")
    engine = service.engine
    if method == "UpdateQueue":
        engine.store.queue(QUEUE).message.state = RUNNING  # in memory only
    with monkeypatch.context() as broken:
        broken.setattr(engine.store.database, "commit", full)
        given = {"queue": {"name": QUEUE}} if method == "UpdateQueue" else {"name": QUEUE}
        assert "disk is full" in (await service.refused(method, **given))[1]
    assert (engine.dispatcher.ended, engine.store.queue(QUEUE).in_flight) == (0, 0)


async def test_pages_of_large_queues_are_cut(service: Service) -> None:
    """Pages are sorted and end before they are larger than clients receive; what a filter leaves out does not count."""
    headers = [{"header": {"key": "X-A", "value": "x" * 80_000}}]
    named = [f"{LOCATION}/queues/q-{number:02}" for number in range(60)]
    for name in reversed(named):
        queue = {"name": name, "http_target": {"header_overrides": headers}}
        await service.call("CreateQueue", parent=LOCATION, queue=queue)
    first = await service.call("ListQueues", parent=LOCATION)
    rest = await service.call("ListQueues", parent=LOCATION, page_token=first.next_page_token)
    assert [queue.name for queue in (*first.queues, *rest.queues)] == named
    assert max(first.ByteSize(), rest.ByteSize()) < 3_600_000
    filtered = await service.call("ListQueues", parent=LOCATION, filter='name:"q-5"', page_size=10)
    assert len(filtered.queues) == 10


@cases(("*", 500), ("rateLimits", 500), ("type", 5), ("type_", 5))
async def test_paths_of_masks(service: Service, path: str, rate: int) -> None:
    """A star is a mask of everything; paths may be in camel case, and the type is named as in other languages."""
    slow = {"name": QUEUE, "rate_limits": {"max_dispatches_per_second": 5}}
    await service.call("CreateQueue", api="v2beta3", parent=LOCATION, queue=slow)
    mask = {"paths": [path]}
    changed = await service.call("UpdateQueue", api="v2beta3", queue={"name": QUEUE}, update_mask=mask)
    assert changed.rate_limits.max_dispatches_per_second == rate
