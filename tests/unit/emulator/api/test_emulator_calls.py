"""The calls of the API on a real engine, without a network: what the integration tests do not reach."""

import asyncio
import base64
import json
from functools import partial
from typing import Any

import pytest

from cloudtasks_nb.emulator.api.faults import Fault, Faults
from cloudtasks_nb.emulator.api.pages import page_token, read_token
from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import HOUR, SECOND
from cloudtasks_nb.errors import InvalidInputError
from tests.cases import cases
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, http_task, refused, with_settings

LOCATIONS = "/google.cloud.location.Locations"
MALFORMED = ("INVALID_ARGUMENT", "Invalid resource field value in the request.")


@cases(
    *((method, "name", "x") for method in ("GetQueue", "DeleteQueue", "RunTask", "GetCmekConfig")),
    *((method, "parent", "p") for method in ("ListQueues", "ListTasks")),
    ("GetTask", "name", QUEUE),
    ("GetIamPolicy", "resource", "q"),
    (f"{LOCATIONS}/ListLocations", "name", "somewhere/else"),
    (f"{LOCATIONS}/GetLocation", "name", "l"),
)
async def test_malformed_names(service: Service, method: str, field: str, name: str) -> None:
    """A malformed resource name is INVALID_ARGUMENT in every call."""
    assert await service.refused(method, **{field: name}) == MALFORMED


@with_settings("service", create_queues_on_demand=True)
@cases(
    ("CreateTask", "v2", {"parent": QUEUE}),
    ("CreateTask", "v2", {"parent": "x"}),
    ("CreateTask", "v2beta3", {"parent": QUEUE}),
    ("BatchCreateTasks", "v2", {"parent": QUEUE, "requests": [{"parent": "x"}]}),
    ("BatchCreateTasks", "v2", {"parent": QUEUE, "requests": [{}] * 101}),
)
async def test_no_queue_for_a_refused_call(service: Service, method: str, api: str, fields: dict[str, Any]) -> None:
    """A refused call creates no queue, even with `create_queues_on_demand`."""
    code, _ = await service.refused(method, api=api, **fields)
    assert (code, service.engine.store.contents.queues) == ("INVALID_ARGUMENT", {})


@with_settings("service", create_queues_on_demand=True, new_queue_delay=SECOND)
async def test_a_queue_on_demand_is_usable_at_once(service: Service) -> None:
    """The task that makes a queue gets into it, even where new queues are not known for a while."""
    assert (await service.create_task("a")).name == f"{QUEUE}/tasks/a"
    assert (await service.refused("GetQueue", name=QUEUE))[0] == "NOT_FOUND"


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


async def test_a_batch_in_v2beta3(service: Service) -> None:
    """Calls of the other version answer in its own messages, about the same tasks."""
    await service.create_queue()
    requests = [{"parent": QUEUE, "task": {"http_request": {"url": "http://x"}}}]
    operation = await service.call("BatchCreateTasks", api="v2beta3", parent=QUEUE, requests=requests)
    response = beta.BatchCreateTasksResponse()
    assert operation.response.Unpack(response)
    (made,) = response.tasks
    assert made.http_request.url == "http://x"
    assert await service.call("GetTask", api="v2beta3", name=made.name) == made
    assert list((await service.call("ListTasks", api="v2beta3", parent=QUEUE)).tasks) == [made]
    assert (await service.call("GetTask", name=made.name)).http_request.url == "http://x"


async def test_the_same_batch_again(service: Service) -> None:
    """A request id stands for one operation: sent again, the batch is answered and not carried out."""
    await service.create_queue()
    requests: list[Any] = [{"parent": QUEUE, "task": http_task()}]
    once = partial(service.call, "BatchCreateTasks", parent=QUEUE, requests=requests, request_id="once")
    calls = [once() for _ in range(3)]
    first, *others = await asyncio.gather(*calls)
    assert others == [first, first]
    assert len(service.engine.store.queue(QUEUE).live) == 1


async def test_operations_keep_names_only(service: Service) -> None:
    """A stored operation answers with its tasks as they are now, and with the names of those that are gone."""
    await service.create_queue()
    tasks = [http_task(task_id, body=b"x" * 9999) for task_id in "ab"]
    items = [{"parent": QUEUE, "task": task, "response_view": 2} for task in tasks]
    operation = await service.call("BatchCreateTasks", parent=QUEUE, requests=items)
    assert service.engine.store.database.read("SELECT max(length(wire)) < 1000 FROM operations") == [(True,)]
    await service.call("DeleteTask", name=f"{QUEUE}/tasks/a")
    stored = await service.call("/google.longrunning.Operations/GetOperation", name=operation.name)
    response = v2.BatchCreateTasksResponse()
    assert stored.response.Unpack(response)
    assert [task.name.rpartition("/")[2] for task in response.tasks] == ["a", "b"]
    assert [len(task.http_request.body) for task in response.tasks] == [0, 9999]


def test_faults_are_counted() -> None:
    """A fault happens `count` times, for its method or for all; without a count until it is cleared."""
    faults = Faults()
    faults.add(Fault(method="A", count=2))
    faults.add(Fault(method="*", count=None, delay_s=0.001, code="ABORTED"))
    struck = [faults.take(method) for method in ("A", "A", "A", "B")]
    assert [fault.method if fault else None for fault in struck] == ["A", "A", "*", "*"]
    faults.clear()
    assert faults.take("A") is None
    assert faults.take("A", unfinished=True) is None


@cases(
    {"color": "red"}, {"code": "BAD"}, {"code": "OK"}, {"code": ["ABORTED"]}, {"method": 1}, {"method": None},
    {"count": "abc"}, {"count": 0}, {"count": True}, {"count": 1.5}, {"message": 5}, {"after": "yes"},
    {"unfinished": 1}, {"delay_s": "x"}, {"delay_s": -1}, {"delay_s": float("nan")},
)  # fmt: skip
def test_invalid_faults(given: dict[str, Any]) -> None:
    """A fault without a method, with another key, an unknown code or a value of another kind is refused."""
    fault = {key: value for key, value in {"method": "A", **given}.items() if value is not None}
    with pytest.raises(InvalidInputError):
        Fault.of(fault)


async def test_a_delayed_call(service: Service) -> None:
    """A delayed call is answered in the end."""
    service.engine.faults.add(Fault.of({"method": "CreateQueue", "delay_s": 0.001}))
    assert (await service.create_queue()).name == QUEUE


@with_settings("service", no_batch=True)
@pytest.mark.parametrize("method", ["BatchCreateTasks", "BatchDeleteTasks"])
@pytest.mark.parametrize("api", ["v2", "v2beta3"])
async def test_no_batch(service: Service, api: str, method: str) -> None:
    """An emulator without batch calls answers them as a service that does not know them."""
    assert (await service.refused(method, api=api))[0] == "UNIMPLEMENTED"


def token_of(*parts: object) -> str:
    """Make a page token of its parts."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@cases(
    ("ListTasks", {"parent": QUEUE}, {"parent": f"{QUEUE}-2"}),
    ("ListQueues", {"parent": LOCATION}, {"parent": f"{LOCATION}2"}),
    (f"{LOCATIONS}/ListLocations", {"name": "projects/p"}, {"name": "projects/q"}),
)
async def test_page_tokens(service: Service, method: str, place: dict[str, Any], other: dict[str, str]) -> None:
    """A page token is valid for the same request and for two hours; a made-up one is refused."""
    for queue in (QUEUE, f"{QUEUE}-2"):
        await service.create_queue(queue)
    for _ in range(2):
        await service.create_task()
    token = (await service.call(method, **place, page_size=1)).next_page_token
    assert (await service.refused(method, **other, page_token=token))[0] == "INVALID_ARGUMENT"
    same = {**place, "page_size": 1, "page_token": token}
    service.engine.clock.advance(2 * HOUR)
    assert (await service.call(method, **same)).ByteSize()
    service.engine.clock.advance(1)
    assert (await service.refused(method, **same))[1].endswith("it has expired.")
    position, _, query = json.loads(base64.urlsafe_b64decode(token))
    for made_up in ("?", "YWJj", "MQ==", token_of(1), token_of(None, 0, query), token_of(position, "x", query)):
        assert (await service.refused(method, **{**same, "page_token": made_up}))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("position", [10**18, 10**25, -1, 1.5, True, "1"])
async def test_positions_that_are_no_numbers(service: Service, position: object) -> None:
    """A token whose position is no number that a row could have is refused."""
    await service.create_queue()
    for wrong in ({"page_token": token_of(position, 0, QUEUE)}, {"page_size": -1}):
        assert (await service.refused("ListTasks", parent=QUEUE, **wrong))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("form", ["{}!", " {}", "{:.10}"])
def test_a_token_is_taken_only_as_it_was_given(form: str) -> None:
    """Nothing is left out of it to make it readable, and nothing may be missing."""
    token = page_token("there", "query")
    assert read_token(token, "", "query") == "there"
    with refused(text="The page token is invalid"):
        read_token(form.format(token), "", "query")
