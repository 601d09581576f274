"""The calls of the API on a real engine, without a network: what the integration tests do not reach."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb.emulator.api.faults import Fault, Faults
from cloudtasks_nb.emulator.frontends.admin import Admin
from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import HOUR, SECOND
from cloudtasks_nb.errors import InvalidInputError
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, http_task, refusal, with_settings

LOCATIONS = "/google.cloud.location.Locations/ListLocations"
LISTED_LOCATIONS = locations_pb2.ListLocationsResponse
MALFORMED = ("INVALID_ARGUMENT", "Invalid resource field value in the request.")


@pytest.mark.parametrize(
    ("method", "request_", "response"),
    [
        ("GetQueue", v2.GetQueueRequest(name="q"), v2.Queue),
        ("DeleteQueue", v2.DeleteQueueRequest(name="q"), v2.Queue),
        ("ListQueues", v2.ListQueuesRequest(parent="p"), v2.ListQueuesResponse),
        ("ListTasks", v2.ListTasksRequest(parent="p"), v2.ListTasksResponse),
        ("GetTask", v2.GetTaskRequest(name=QUEUE), v2.Task),
        (LOCATIONS, locations_pb2.ListLocationsRequest(name="somewhere/else"), v2.Queue),
        ("RunTask", v2.RunTaskRequest(name="t"), v2.Task),
        ("GetCmekConfig", v2.GetCmekConfigRequest(name="c"), v2.CmekConfig),
        ("GetIamPolicy", iam_policy_pb2.GetIamPolicyRequest(resource="q"), policy_pb2.Policy),
        ("/google.cloud.location.Locations/GetLocation", locations_pb2.GetLocationRequest(name="l"), v2.Queue),
    ],
)
async def test_malformed_names(service: Service, method: str, request_: Any, response: Any) -> None:
    """A malformed resource name is INVALID_ARGUMENT in every call."""
    assert await refusal(service.call(method, request_, response)) == MALFORMED


@with_settings("service", queues_on_demand=True)
@pytest.mark.parametrize(
    ("method", "messages", "request_"),
    [
        ("CreateTask", v2, v2.CreateTaskRequest(parent=QUEUE)),
        ("CreateTask", v2, v2.CreateTaskRequest(parent="x")),
        ("CreateTask", beta, beta.CreateTaskRequest(parent=QUEUE)),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{"parent": "x"}])),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{}] * 101)),
    ],
)
async def test_no_queue_for_a_refused_call(service: Service, method: str, messages: Any, request_: Any) -> None:
    """A refused call creates no queue, even with `queues_on_demand`."""
    api = "v2" if messages is v2 else "v2beta3"
    code, _ = await refusal(service.call(method, request_, v2.Task, api=api))
    assert (code, service.engine.store.contents.queues) == ("INVALID_ARGUMENT", {})


@with_settings("service", queues_on_demand=True, new_queue_delay=SECOND)
async def test_a_queue_on_demand_is_usable_at_once(service: Service) -> None:
    """The task that makes a queue gets into it, even where new queues are not known for a while."""
    assert (await service.create_task("a")).name == f"{QUEUE}/tasks/a"
    assert (await refusal(service.call("GetQueue", v2.GetQueueRequest(name=QUEUE), v2.Queue)))[0] == "NOT_FOUND"


async def test_a_run_by_hand_waits_for_a_reset(service: Service) -> None:
    """RunTask during a reset waits for its end."""
    dispatcher, request = service.engine.dispatcher, v2.RunTaskRequest(name=f"{QUEUE}/tasks/a")
    await service.create_queue()
    await service.create_task("a")
    await dispatcher.abort(hold=True)
    called = asyncio.create_task(service.call("RunTask", request, v2.Task))
    await asyncio.sleep(0)
    assert (called.done(), dispatcher._running) == (False, {})
    service.engine.store.reload(keep_running=False)
    dispatcher.release()
    assert (await called).name == request.name
    assert next(iter(dispatcher._running)).claim.queue is service.engine.store.queue(QUEUE)


async def test_one_replacement_after_the_other(service: Service, tmp_path: Path) -> None:
    """Two resets at once run one after the other, and nothing is sent during either."""
    admin, dispatcher, held = Admin(service.engine, tmp_path), service.engine.dispatcher, []
    await service.create_queue()
    await service.create_task("a")
    dispatcher.run_now(service.engine.store.queue(QUEUE), "a")

    def change() -> None:
        held.append(not dispatcher._released.is_set())

    await asyncio.gather(admin._replace(change), admin._replace(change))
    assert held == [True, True]


async def test_a_batch_in_v2beta3(service: Service) -> None:
    """A batch of the other version answers in its own messages."""
    await service.create_queue()
    task = beta.Task(http_request=beta.HttpRequest(url="http://x"))
    request = beta.BatchCreateTasksRequest(parent=QUEUE, requests=[beta.CreateTaskRequest(parent=QUEUE, task=task)])
    operation = await service.call("BatchCreateTasks", request, operations_pb2.Operation, api="v2beta3")
    response = beta.BatchCreateTasksResponse()
    assert operation.response.Unpack(response)
    assert response.tasks[0].http_request.url == "http://x"


async def test_the_same_batch_again(service: Service) -> None:
    """A request id stands for one operation: sent again, the batch is answered and not carried out."""
    await service.create_queue()
    item = v2.CreateTaskRequest(parent=QUEUE, task=http_task())
    request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[item], request_id="once")
    calls = [service.call("BatchCreateTasks", request, operations_pb2.Operation) for _ in range(3)]
    first, *others = await asyncio.gather(*calls)
    assert others == [first, first]
    assert len(service.engine.store.queue(QUEUE).live) == 1


async def test_operations_keep_names_only(service: Service) -> None:
    """A stored operation answers with its tasks as they are now, and with the names of those that are gone."""
    await service.create_queue()
    items = [v2.CreateTaskRequest(parent=QUEUE, task=http_task(i, body=b"x" * 9999), response_view=2) for i in "ab"]
    request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=items)
    operation = await service.call("BatchCreateTasks", request, operations_pb2.Operation)
    assert service.engine.store.database.read("SELECT max(length(wire)) < 1000 FROM operations") == [(True,)]
    await service.call("DeleteTask", v2.DeleteTaskRequest(name=f"{QUEUE}/tasks/a"), empty_pb2.Empty)
    get = operations_pb2.GetOperationRequest(name=operation.name)
    stored = await service.call("/google.longrunning.Operations/GetOperation", get, operations_pb2.Operation)
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
    assert not faults.leaves_unfinished("A")


@pytest.mark.parametrize(
    "given",
    [
        {"color": "red"}, {"code": "BAD"}, {"code": "OK"}, {"code": ["ABORTED"]}, {"method": 1}, {"method": None},
        {"count": "abc"}, {"count": 0}, {"count": True}, {"count": 1.5}, {"message": 5}, {"after": "yes"},
        {"unfinished": 1}, {"delay_s": "x"}, {"delay_s": -1}, {"delay_s": float("nan")},
    ],
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
    code, _ = await refusal(service.call(method, v2.GetQueueRequest(), v2.Queue, api=api))
    assert code == "UNIMPLEMENTED"


def token_of(*parts: object) -> str:
    """Make a page token of its parts."""
    return base64.urlsafe_b64encode("\n".join(map(str, parts)).encode()).decode()


@pytest.mark.parametrize(
    ("method", "first", "again", "response"),
    [
        ("ListTasks", v2.ListTasksRequest(parent=QUEUE), {"parent": f"{QUEUE}-2"}, v2.ListTasksResponse),
        ("ListQueues", v2.ListQueuesRequest(parent=LOCATION), {"parent": f"{LOCATION}2"}, v2.ListQueuesResponse),
        (LOCATIONS, locations_pb2.ListLocationsRequest(name="projects/p"), {"name": "projects/q"}, LISTED_LOCATIONS),
    ],
)
async def test_page_tokens(service: Service, method: str, first: Any, again: dict[str, str], response: Any) -> None:
    """A page token is valid for the same request and for two hours; a made-up one is refused."""
    for queue in (QUEUE, f"{QUEUE}-2"):
        await service.create_queue(queue)
    for _ in range(2):
        await service.create_task()
    first.page_size = 1
    token = (await service.call(method, first, response)).next_page_token
    other = type(first)(page_token=token, **again)
    assert (await refusal(service.call(method, other, response)))[0] == "INVALID_ARGUMENT"
    same = type(first)(page_token=token, page_size=1)
    for name in again:
        setattr(same, name, getattr(first, name))
    service.engine.clock.advance(2 * HOUR)
    assert await service.call(method, same, response) != response()
    service.engine.clock.advance(1)
    assert (await refusal(service.call(method, same, response)))[1].endswith("it has expired.")
    query = base64.urlsafe_b64decode(token).decode().rpartition("\n")[2]
    for made_up in ("?", "YWJj", token_of(1), token_of("", 0, query), token_of(1, "x", query)):
        same.page_token = made_up
        assert (await refusal(service.call(method, same, response)))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("position", ["9" * 25, "\N{SUPERSCRIPT TWO}", "-1", "1.5", "x"])
async def test_positions_that_are_no_numbers(service: Service, position: str) -> None:
    """A token whose position is no number that a row could have is refused."""
    await service.create_queue()
    for wrong in ({"page_token": token_of(position, 0, QUEUE)}, {"page_size": -1}):
        asked = v2.ListTasksRequest(parent=QUEUE, **wrong)
        assert (await refusal(service.call("ListTasks", asked, v2.ListTasksResponse)))[0] == "INVALID_ARGUMENT"
