"""The calls of the API on a real engine, without a network: what the integration tests do not reach."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb.emulator.api.faults import Fault, Faults
from cloudtasks_nb.emulator.model.clock import HOUR, SECOND
from cloudtasks_nb.emulator.model.protobuf import beta, v2
from cloudtasks_nb.errors import InvalidInputError
from tests.unit.emulator.conftest import LOCATION, NOW, QUEUE, URL, Service, http_task, refusal, with_settings

MALFORMED = ("INVALID_ARGUMENT", "Invalid resource field value in the request.")


@pytest.mark.parametrize(
    ("method", "request_", "response"),
    [
        ("GetQueue", v2.GetQueueRequest(name="q"), v2.Queue),
        ("DeleteQueue", v2.DeleteQueueRequest(name="q"), v2.Queue),
        ("ListQueues", v2.ListQueuesRequest(parent="p"), v2.ListQueuesResponse),
        ("ListTasks", v2.ListTasksRequest(parent="p"), v2.ListTasksResponse),
        ("GetTask", v2.GetTaskRequest(name=QUEUE), v2.Task),
        ("RunTask", v2.RunTaskRequest(name="t"), v2.Task),
        ("GetCmekConfig", v2.GetCmekConfigRequest(name="c"), v2.CmekConfig),
        ("GetIamPolicy", iam_policy_pb2.GetIamPolicyRequest(resource="q"), policy_pb2.Policy),
        ("/google.cloud.location.Locations/GetLocation", locations_pb2.GetLocationRequest(name="l"), v2.Queue),
    ],
)
async def test_malformed_names(service: Service, method: str, request_: Any, response: Any) -> None:
    """A name that is none is INVALID_ARGUMENT, whatever it should name."""
    assert await refusal(service.call(method, request_, response)) == MALFORMED


@with_settings("service", queues_on_demand=True)
async def test_queues_on_demand(service: Service) -> None:
    """When it was asked for, a task makes its queue."""
    task = http_task("a")
    task.schedule_time.FromMicroseconds(NOW + SECOND)
    made = await service.call("CreateTask", v2.CreateTaskRequest(parent=QUEUE, task=task), v2.Task)
    assert made.name == f"{QUEUE}/tasks/a"
    assert await refusal(service.call("CreateTask", v2.CreateTaskRequest(parent="x"), v2.Task)) == MALFORMED


@with_settings("service", queues_on_demand=True)
@pytest.mark.parametrize(
    ("method", "messages", "request_"),
    [
        ("CreateTask", v2, v2.CreateTaskRequest(parent=QUEUE)),
        ("CreateTask", beta, beta.CreateTaskRequest(parent=QUEUE)),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{"parent": "x"}])),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{}] * 101)),
    ],
)
async def test_no_queue_for_a_refused_call(service: Service, method: str, messages: Any, request_: Any) -> None:
    """A call that is refused makes no queue, though it was asked that calls do."""
    api = "v2" if messages is v2 else "v2beta3"
    code, _ = await refusal(service.call(method, request_, v2.Task, api=api))
    assert (code, service.engine.store.contents.queues) == ("INVALID_ARGUMENT", {})


@with_settings("service", queues_on_demand=True, new_queue_delay=SECOND)
async def test_a_queue_on_demand_is_usable_at_once(service: Service) -> None:
    """The task that makes a queue gets into it, even where new queues are not known for a while."""
    assert (await service.create_task("a")).name == f"{QUEUE}/tasks/a"
    assert (await refusal(service.call("GetQueue", v2.GetQueueRequest(name=QUEUE), v2.Queue)))[0] == "NOT_FOUND"


async def test_pages_of_tasks(service: Service) -> None:
    """A page token leads on; one that is none, and a negative size, are refused."""
    await service.create_queue()
    for task_id in "abc":
        await service.create_task(task_id)

    async def page(**request: Any) -> Any:
        asked = v2.ListTasksRequest(parent=QUEUE, **request)
        return await service.call("ListTasks", asked, v2.ListTasksResponse)

    first = await page(page_size=2)
    second = await page(page_size=2, page_token=first.next_page_token)
    assert [task.name[-1] for task in [*first.tasks, *second.tasks]] == ["a", "b", "c"]
    assert second.next_page_token == ""
    for wrong in ({"page_token": "??"}, {"page_token": "YWJj"}, {"page_size": -1}):
        assert (await refusal(page(**wrong)))[0] == "INVALID_ARGUMENT"


async def test_a_run_by_hand_waits_for_a_reset(service: Service) -> None:
    """A task that is run while everything is replaced is looked for, and sent, afterwards."""
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


async def test_batches_are_for_one_queue(service: Service) -> None:
    """Tasks of another queue, or of none, in a batch refuse the whole; so do too many."""
    await service.create_queue()
    operation = operations_pb2.Operation
    for parent in (f"{QUEUE}-2", ""):
        items = [v2.CreateTaskRequest(parent=one, task=http_task()) for one in (QUEUE, parent)]
        create = v2.BatchCreateTasksRequest(parent=QUEUE, requests=items)
        assert (await refusal(service.call("BatchCreateTasks", create, operation)))[0] == "INVALID_ARGUMENT"
    create = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[v2.CreateTaskRequest()] * 101)
    assert (await refusal(service.call("BatchCreateTasks", create, operation)))[0] == "INVALID_ARGUMENT"
    delete = v2.BatchDeleteTasksRequest(parent=QUEUE, names=[f"{QUEUE}-2/tasks/a"])
    assert (await refusal(service.call("BatchDeleteTasks", delete, operation)))[0] == "INVALID_ARGUMENT"
    assert service.engine.store.queue(QUEUE).live == {}


async def test_a_batch_in_v2beta3(service: Service) -> None:
    """A batch of the other version answers in its own messages."""
    await service.create_queue()
    task = beta.Task(http_request=beta.HttpRequest(url="http://x"))
    request = beta.BatchCreateTasksRequest(parent=QUEUE, requests=[beta.CreateTaskRequest(parent=QUEUE, task=task)])
    operation = await service.call("BatchCreateTasks", request, operations_pb2.Operation, api="v2beta3")
    response = beta.BatchCreateTasksResponse()
    assert operation.response.Unpack(response)
    assert response.tasks[0].http_request.url == "http://x"


async def test_what_a_batch_refuses(service: Service) -> None:
    """Tasks that are not valid and tasks whose names are taken are refused, in order; the others are answered."""
    await service.create_queue()
    tasks = [http_task(task_id) for task_id in ("a", "a", "?", "b", "a")]
    items = [v2.CreateTaskRequest(parent=QUEUE, task=task) for task in tasks]
    request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=items)
    operation = await service.call("BatchCreateTasks", request, operations_pb2.Operation)
    wire = operation.metadata.value
    places = [wire.index(b"already exists"), wire.index(b"can contain only"), wire.rindex(b"already exists")]
    assert places == sorted(places)
    metadata = v2.BatchCreateTasksMetadata.FromString(wire)
    assert sorted(metadata.failed_requests) == [1, 2, 4]
    response = v2.BatchCreateTasksResponse()
    assert operation.response.Unpack(response)
    assert [task.name[-1] for task in response.tasks] == ["a", "b"]


async def test_the_same_batch_again(service: Service) -> None:
    """A request id stands for one operation: sent again, the batch is answered and not carried out."""
    await service.create_queue()
    item = v2.CreateTaskRequest(parent=QUEUE, task=http_task())
    request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[item], request_id="once")
    calls = [service.call("BatchCreateTasks", request, operations_pb2.Operation) for _ in range(3)]
    first, *others = await asyncio.gather(*calls)
    assert others == [first, first]
    assert len(service.engine.store.queue(QUEUE).live) == 1


async def test_one_request_id_for_two_queues(service: Service) -> None:
    """A request id that was used for another queue, or for the other batch call, stands for an operation of its own."""
    queues = [QUEUE, f"{QUEUE}-2"]
    for queue in queues:
        await service.create_queue(queue)
        item = v2.CreateTaskRequest(parent=queue, task=v2.Task(name=f"{queue}/tasks/a", http_request={"url": URL}))
        create = v2.BatchCreateTasksRequest(parent=queue, requests=[item], request_id="same")
        made = await service.call("BatchCreateTasks", create, operations_pb2.Operation)
        assert made.response.Is(v2.BatchCreateTasksResponse.DESCRIPTOR)
        assert service.engine.store.queue(queue).live.keys() == {"a"}
    delete = v2.BatchDeleteTasksRequest(parent=QUEUE, names=[f"{QUEUE}/tasks/a"], request_id="same")
    gone = await service.call("BatchDeleteTasks", delete, operations_pb2.Operation)
    assert gone.response.Is(empty_pb2.Empty.DESCRIPTOR)
    assert [len(service.engine.store.queue(queue).live) for queue in queues] == [0, 1]


async def test_an_operation_that_does_not_finish(service: Service) -> None:
    """An operation that is held back stays unfinished until the faults are cleared; its tasks are there."""
    await service.create_queue()
    service.engine.faults.add(Fault(method="BatchCreateTasks", unfinished=True))
    item = v2.CreateTaskRequest(parent=QUEUE, task=http_task("a"))
    request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[item], request_id="held")
    operation = await service.call("BatchCreateTasks", request, operations_pb2.Operation)
    get = operations_pb2.GetOperationRequest(name=operation.name)
    method = "/google.longrunning.Operations/GetOperation"
    assert not operation.done
    assert await service.call(method, get, operations_pb2.Operation) == operation
    assert await service.call("BatchCreateTasks", request, operations_pb2.Operation) == operation
    assert service.engine.store.queue(QUEUE).live.keys() == {"a"}
    service.engine.faults.clear()
    assert (await service.call(method, get, operations_pb2.Operation)).done


@pytest.mark.parametrize(("after", "made"), [(False, set()), (True, {"a"})], ids=["refused", "answer lost"])
async def test_faults(service: Service, *, after: bool, made: set[str]) -> None:
    """A fault refuses a call, or lets it be carried out and loses the answer; the next call is answered."""
    await service.create_queue()
    service.engine.faults.add(Fault(method="CreateTask", code="UNAVAILABLE", message="no", after=after))
    assert await refusal(service.create_task("a")) == ("UNAVAILABLE", "no")
    assert set(service.engine.store.queue(QUEUE).live) == made
    await service.create_task("b")


def test_faults_are_counted() -> None:
    """A fault strikes as often as it was told, for its method or for all; without a count until it is cleared."""
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
        {},
        {"method": "A", "color": "red"},
        {"method": "A", "code": "BAD"},
        {"method": "A", "code": "OK"},
        {"method": "A", "code": ["ABORTED"]},
        {"method": 1},
        {"method": "A", "count": "abc"},
        {"method": "A", "count": 0},
        {"method": "A", "count": True},
        {"method": "A", "count": 1.5},
        {"method": "A", "message": 5},
        {"method": "A", "after": "yes"},
        {"method": "A", "unfinished": 1},
        {"method": "A", "delay_s": "x"},
        {"method": "A", "delay_s": -1},
        {"method": "A", "delay_s": float("nan")},
    ],
)
def test_faults_that_make_no_sense(given: dict[str, Any]) -> None:
    """A fault without a method, with another key, an unknown code or a value of another kind is refused."""
    with pytest.raises(InvalidInputError):
        Fault.of(given)


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


async def test_policies(service: Service) -> None:
    """A policy is replaced as a whole, has an etag of its content, and one that is out of date is refused."""
    await service.create_queue()
    get = iam_policy_pb2.GetIamPolicyRequest(resource=QUEUE)
    assert await service.call("GetIamPolicy", get, policy_pb2.Policy) == policy_pb2.Policy()
    policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role="roles/cloudtasks.enqueuer", members=["user:a"])])
    put = iam_policy_pb2.SetIamPolicyRequest(resource=QUEUE, policy=policy)
    saved = await service.call("SetIamPolicy", put, policy_pb2.Policy)
    assert (await service.call("GetIamPolicy", get, policy_pb2.Policy)) == saved
    put.policy.etag = b"old"
    assert (await refusal(service.call("SetIamPolicy", put, policy_pb2.Policy)))[0] == "ABORTED"
    test = iam_policy_pb2.TestIamPermissionsRequest(resource=QUEUE, permissions=["cloudtasks.tasks.create"])
    answer = iam_policy_pb2.TestIamPermissionsResponse
    assert list((await service.call("TestIamPermissions", test, answer)).permissions) == ["cloudtasks.tasks.create"]
    test.resource += "-2"
    assert list((await service.call("TestIamPermissions", test, answer)).permissions) == []


async def test_encryption_settings(service: Service) -> None:
    """The encryption key of a location is empty until it is set."""
    name = f"{LOCATION}/cmekConfig"
    get = v2.GetCmekConfigRequest(name=name)
    assert await service.call("GetCmekConfig", get, v2.CmekConfig) == v2.CmekConfig(name=name)
    config = v2.CmekConfig(name=name, kms_key="key")
    update = v2.UpdateCmekConfigRequest(cmek_config=config)
    await service.call("UpdateCmekConfig", update, v2.CmekConfig)
    assert await service.call("GetCmekConfig", get, v2.CmekConfig) == config
    for paths, key in ((["name"], "key"), (["kms_key"], "other"), (["*"], "other"), (["kmsKey"], "other")):
        update = v2.UpdateCmekConfigRequest(cmek_config={"name": name, "kms_key": "other"})
        update.update_mask.paths.extend(paths)
        assert (await service.call("UpdateCmekConfig", update, v2.CmekConfig)).kms_key == key
    update.update_mask.paths.append("colour")
    assert (await refusal(service.call("UpdateCmekConfig", update, v2.CmekConfig)))[0] == "INVALID_ARGUMENT"


LOCATIONS = "/google.cloud.location.Locations/ListLocations"


def token_of(*parts: object) -> str:
    """Make a page token of its parts."""
    return base64.urlsafe_b64encode("\n".join(map(str, parts)).encode()).decode()


@pytest.mark.parametrize(
    ("method", "first", "again", "response"),
    [
        ("ListTasks", v2.ListTasksRequest(parent=QUEUE), {"parent": f"{QUEUE}-2"}, v2.ListTasksResponse),
        ("ListQueues", v2.ListQueuesRequest(parent=LOCATION), {"parent": f"{LOCATION}2"}, v2.ListQueuesResponse),
        (
            LOCATIONS,
            locations_pb2.ListLocationsRequest(name="projects/p"),
            {"name": "projects/q"},
            locations_pb2.ListLocationsResponse,
        ),
    ],
)
async def test_page_tokens(service: Service, method: str, first: Any, again: dict[str, str], response: Any) -> None:
    """A page token is for the same request, for two hours; what somebody made up is none."""
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
    asked = v2.ListTasksRequest(parent=QUEUE, page_token=token_of(position, 0, QUEUE))
    assert (await refusal(service.call("ListTasks", asked, v2.ListTasksResponse)))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(("name", "shown"), [("", "locations/us-central1"), ("projects/p", LOCATION)])
async def test_names_of_locations(service: Service, name: str, shown: str) -> None:
    """Locations are listed below a project, or, without one, as the public list."""
    asked, response = locations_pb2.ListLocationsRequest(name=name), locations_pb2.ListLocationsResponse
    assert shown in {one.name for one in (await service.call(LOCATIONS, asked, response)).locations}
    asked.name = "somewhere/else"
    assert await refusal(service.call(LOCATIONS, asked, response)) == MALFORMED


async def test_locations(service: Service) -> None:
    """Locations are listed in pages; one that is not offered is not found."""
    service_name = "/google.cloud.location.Locations/"
    names: list[str] = []
    token = ""
    while not names or token:
        request = locations_pb2.ListLocationsRequest(name="projects/p", page_size=10, page_token=token)
        response = locations_pb2.ListLocationsResponse
        page = await service.call(f"{service_name}ListLocations", request, response)
        names += [location.name for location in page.locations]
        token = page.next_page_token
    assert LOCATION in names
    assert len(names) == len(set(names)) == 23
    get = locations_pb2.GetLocationRequest(name=LOCATION)
    shown = await service.call(f"{service_name}GetLocation", get, locations_pb2.Location)
    assert (shown.location_id, shown.labels["cloud.googleapis.com/region"]) == ("us-central1", "us-central1")
    get.name = "projects/p/locations/moon"
    code, _ = await refusal(service.call(f"{service_name}GetLocation", get, locations_pb2.Location))
    assert code == "NOT_FOUND"
