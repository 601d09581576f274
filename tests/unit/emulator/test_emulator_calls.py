"""The calls of the API on a real engine, without a network: what the integration tests do not reach."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb.emulator._api import all_calls
from cloudtasks_nb.emulator._clock import HOUR, SECOND, Clock
from cloudtasks_nb.emulator._commit import Committer
from cloudtasks_nb.emulator._deliver import Deliverer
from cloudtasks_nb.emulator._dispatch import Dispatcher
from cloudtasks_nb.emulator._engine import Engine
from cloudtasks_nb.emulator._faults import Fault, Faults
from cloudtasks_nb.emulator._pb import beta, v2
from cloudtasks_nb.emulator._refusal import RefusedError
from cloudtasks_nb.emulator._settings import Settings
from cloudtasks_nb.emulator._tokens import TokenMint
from cloudtasks_nb.errors import InvalidInputError
from tests.unit.emulator.conftest import NOW, QUEUE, URL, MakeStore, http_task

LOCATION = QUEUE.rpartition("/queues/")[0]


@dataclass(kw_only=True)
class Service:
    """All calls of an engine whose dispatcher has nobody to send to."""

    engine: Engine
    calls: dict[str, Callable[[bytes], Coroutine[Any, Any, bytes]]] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = dict(all_calls(self.engine))  # type: ignore[arg-type]  # every call is a coroutine function

    async def call(self, name: str, request: Any, response: Any, *, api: str = "v2") -> Any:
        """Call a method by its name, a short one of Cloud Tasks or a full one."""
        full = name if name.startswith("/") else f"/google.cloud.tasks.{api}.CloudTasks/{name}"
        return response.FromString(await self.calls[full](request.SerializeToString()))

    async def create_queue(self, name: str = QUEUE) -> Any:
        """Make a queue that is paused."""
        await self.call("CreateQueue", v2.CreateQueueRequest(parent=LOCATION, queue=v2.Queue(name=name)), v2.Queue)
        return await self.call("PauseQueue", v2.PauseQueueRequest(name=name), v2.Queue)

    async def create_task(self, task_id: str = "") -> Any:
        """Make a task."""
        return await self.call("CreateTask", v2.CreateTaskRequest(parent=QUEUE, task=http_task(task_id)), v2.Task)


Body = Callable[[Service], Coroutine[Any, Any, None]]
Run = Callable[..., None]


@asynccontextmanager
async def service(make_store: MakeStore, clock: Clock, folder: Path, **settings: Any) -> AsyncIterator[Service]:
    """Put an engine together."""
    chosen = Settings(**settings)
    store = make_store(**settings)
    deliverer, mint = Deliverer(chosen), TokenMint(folder, "issuer", clock)
    dispatcher = Dispatcher(store, clock, deliverer, mint.authorize, chosen)
    committer = Committer(store, dispatcher.wake)
    engine = Engine(
        store=store,
        committer=committer,
        dispatcher=dispatcher,
        clock=clock,
        settings=chosen,
        faults=Faults(),
        mint=mint,
    )
    try:
        yield Service(engine=engine)
    finally:
        await dispatcher.close()
        await committer.close()
        await deliverer.close()


@pytest.fixture
def run(make_store: MakeStore, clock: Clock, tmp_path: Path) -> Run:
    """Give a function that runs a test on a service."""

    def start(body: Body, **settings: Any) -> None:
        async def main() -> None:
            async with service(make_store, clock, tmp_path, **settings) as ready:
                await body(ready)

        asyncio.run(main())

    return start


async def refusal(calling: Coroutine[Any, Any, Any]) -> tuple[str | None, str]:
    """Return code and text with which a call is refused."""
    with pytest.raises(RefusedError) as refused:
        await calling
    return refused.value.code, refused.value.message


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
def test_malformed_names(run: Run, method: str, request_: Any, response: Any) -> None:
    """A name that is none is INVALID_ARGUMENT, whatever it should name."""

    async def body(ready: Service) -> None:
        assert await refusal(ready.call(method, request_, response)) == MALFORMED

    run(body)


BAD_NAME = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'
ELSEWHERE = "projects/p/locations/europe-west1"


@pytest.mark.parametrize(
    ("parent", "name", "code", "text"),
    [
        ("nowhere", QUEUE, "PERMISSION_DENIED", "Permission denied on resource project nowhere."),
        (
            "projects/bad_id/locations/us-central1",
            QUEUE,
            "PERMISSION_DENIED",
            "Permission denied on resource project bad_id.",
        ),
        (LOCATION, f"{LOCATION}/queues/a_b", "INVALID_ARGUMENT", BAD_NAME),
        (LOCATION, "", "INVALID_ARGUMENT", BAD_NAME),
        (ELSEWHERE, QUEUE, "INVALID_ARGUMENT", f"{QUEUE} must begin with {ELSEWHERE}."),
    ],
)
def test_names_of_new_queues(run: Run, parent: str, name: str, code: str, text: str) -> None:
    """A queue needs a project, a name of the right form, and a parent that the name begins with."""

    async def body(ready: Service) -> None:
        request = v2.CreateQueueRequest(parent=parent, queue=v2.Queue(name=name))
        assert await refusal(ready.call("CreateQueue", request, v2.Queue)) == (code, text)

    run(body)


def test_who_has_no_project(run: Run) -> None:
    """The details of the refusal name the project as a consumer."""

    async def body(ready: Service) -> None:
        parent = "projects/bad_id/locations/us-central1"
        with pytest.raises(RefusedError) as refused:
            await ready.call("CreateQueue", v2.CreateQueueRequest(parent=parent, queue=v2.Queue(name=QUEUE)), v2.Queue)
        metadata = refused.value.details[0].metadata
        assert (metadata["consumer"], metadata["containerInfo"]) == ("projects/bad_id", "bad_id")

    run(body)


@pytest.mark.parametrize("name", ["", "bad", f"{LOCATION}/queues/a_b", "projects/bad_id/locations/l/queues/q"])
def test_an_update_needs_a_name(run: Run, name: str) -> None:
    """An update of what is no name of a queue makes none, and says how a name is formed."""

    async def body(ready: Service) -> None:
        request = v2.UpdateQueueRequest(queue=v2.Queue(name=name))
        assert await refusal(ready.call("UpdateQueue", request, v2.Queue)) == ("INVALID_ARGUMENT", BAD_NAME)

    run(body)


def test_update_makes_a_queue(run: Run) -> None:
    """An update of a queue that is not there makes it; masks may be spelt in either way."""

    async def body(ready: Service) -> None:
        queue = v2.Queue(name=QUEUE)
        queue.rate_limits.max_dispatches_per_second = 5
        made = await ready.call("UpdateQueue", v2.UpdateQueueRequest(queue=queue), v2.Queue)
        assert made.rate_limits.max_dispatches_per_second == 5
        queue.app_engine_routing_override.service = "worker"
        request = v2.UpdateQueueRequest(queue=queue)
        request.update_mask.paths.extend(["appEngineRoutingOverride.service", "rateLimits"])
        changed = await ready.call("UpdateQueue", request, v2.Queue)
        assert changed.app_engine_routing_override.service == "worker"

    run(body)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("v2", "task_ttl"),
        ("v2", "tombstoneTtl"),
        ("v2", "app_engine_http_queue"),
        ("v2", "colour"),
        ("v2beta3", "app_engine_routing_override"),
        ("v2beta3", "retry_config.colour"),
    ],
)
def test_masks_that_name_nothing(run: Run, api: str, path: str, *, there: bool) -> None:
    """A mask with a field that queues of the version do not have is refused, also where it would make the queue."""

    async def body(ready: Service) -> None:
        if there:
            await ready.create_queue()
        messages = v2 if api == "v2" else beta
        request = messages.UpdateQueueRequest(queue=messages.Queue(name=QUEUE))
        request.update_mask.paths.append(path)
        refused = await refusal(ready.call("UpdateQueue", request, messages.Queue, api=api))
        assert refused == ("INVALID_ARGUMENT", "Invalid update mask.")

    run(body)


def test_pages_of_queues(run: Run) -> None:
    """Queues are listed by name, in pages, filtered; the filter stays the same over all pages."""

    async def body(ready: Service) -> None:
        for letter in "cab":
            await ready.create_queue(f"{LOCATION}/queues/{letter}")
        await ready.call("ResumeQueue", v2.ResumeQueueRequest(name=f"{LOCATION}/queues/b"), v2.Queue)

        async def page(**request: Any) -> Any:
            asked = v2.ListQueuesRequest(parent=LOCATION, **request)
            return await ready.call("ListQueues", asked, v2.ListQueuesResponse)

        first = await page(page_size=2)
        second = await page(page_size=2, page_token=first.next_page_token)
        assert [queue.name[-1] for queue in [*first.queues, *second.queues]] == ["a", "b", "c"]
        assert second.next_page_token == ""
        paused = await page(filter="state: PAUSED")
        assert [queue.name[-1] for queue in paused.queues] == ["a", "c"]
        fast = await page(filter="rateLimits.maxDispatchesPerSecond<500")
        assert list(fast.queues) == []
        for wrong in ({"page_token": "?"}, {"page_token": first.next_page_token, "filter": "x"}, {"page_size": -1}):
            assert (await refusal(page(**wrong)))[0] == "INVALID_ARGUMENT"

    run(body)


def queues_with(messages: Any, **settings: Any) -> Any:
    """Make the request for a queue with settings."""
    return messages.CreateQueueRequest(parent=LOCATION, queue={"name": QUEUE, **settings})


@pytest.mark.parametrize(
    ("api", "text", "found"),
    [
        ("v2", "app_engine_routing_override.service=svc", True),
        ("v2", "appEngineRoutingOverride.service=other", False),
        ("v2", "app_engine_http_queue.app_engine_routing_override.service=svc", False),
        ("v2beta3", "app_engine_http_queue.app_engine_routing_override.service=svc", True),
        ("v2", "retry_config.max_backoff<10000s", True),
        ("v2", 'retryConfig.maxBackoff<"10000s"', True),
        ("v2", "retry_config.max_backoff=3600", True),
        ("v2", "retry_config.max_backoff>10000s", False),
        ("v2", "retry_config.min_backoff=0.1s", True),
        ("v2", "retry_config.max_retry_duration:*", False),
        ("v2", "stackdriver_logging_config.sampling_ratio=0", True),
        ("v2", "rate_limits.max_dispatches_per_second>=500", True),
        ("v2", "state=RUNNING", True),
        ("v2", "state:PAUSED", False),
        ("v2", "http_target:*", False),
        ("v2", "colour=red", False),
        ("v2", "name.colour=red", False),
        ("v2beta3", "type=PUSH", True),
        ("v2beta3", "tombstone_ttl=3600s", True),
        ("v2", "svc", True),
    ],
)
def test_filters_of_queues(run: Run, api: str, text: str, *, found: bool) -> None:
    """A filter looks at the fields that the version's queues have; durations are compared as such, zeros are there."""

    async def body(ready: Service) -> None:
        settings = {"app_engine_routing_override": {"service": "svc"}, "stackdriver_logging_config": {}}
        await ready.call("CreateQueue", queues_with(v2, **settings), v2.Queue)
        messages = v2 if api == "v2" else beta
        asked = messages.ListQueuesRequest(parent=LOCATION, filter=text)
        answer = await ready.call("ListQueues", asked, messages.ListQueuesResponse, api=api)
        assert len(answer.queues) == found

    run(body)


@pytest.mark.parametrize("method", ["GetQueue", "ListQueues"])
@pytest.mark.parametrize("there", [False, True])
def test_read_masks_that_name_nothing(run: Run, method: str, *, there: bool) -> None:
    """A mask with a field that queues do not have is refused, also where there is no queue to show."""

    async def body(ready: Service) -> None:
        if there or method == "GetQueue":
            await ready.create_queue()
        asked = beta.GetQueueRequest(name=QUEUE) if method == "GetQueue" else beta.ListQueuesRequest(parent=LOCATION)
        asked.read_mask.paths.extend(["name", "bogus"])
        refused = await refusal(ready.call(method, asked, beta.Queue, api="v2beta3"))
        assert refused == ("INVALID_ARGUMENT", "Invalid read mask.")

    run(body)


@pytest.mark.parametrize(("path", "rate"), [("*", 500), ("type", 5), ("type_", 5)])
def test_update_masks_of_v2beta3(run: Run, path: str, rate: int) -> None:
    """A star is a mask of everything, and the type of a queue can be named as in other languages."""

    async def body(ready: Service) -> None:
        made = queues_with(beta, rate_limits={"max_dispatches_per_second": 5})
        await ready.call("CreateQueue", made, beta.Queue, api="v2beta3")
        request = beta.UpdateQueueRequest(queue=beta.Queue(name=QUEUE))
        request.update_mask.paths.append(path)
        changed = await ready.call("UpdateQueue", request, beta.Queue, api="v2beta3")
        assert changed.rate_limits.max_dispatches_per_second == rate

    run(body)


@pytest.mark.parametrize("paths", [[], ["tombstone_ttl"]])
def test_a_queue_comes_back_as_it_was_shown(run: Run, paths: list[str]) -> None:
    """Where names are free sooner than a queue may ask for, a queue can still be read and written back."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        shown = await ready.call("GetQueue", beta.GetQueueRequest(name=QUEUE), beta.Queue, api="v2beta3")
        assert shown.tombstone_ttl.seconds == 120
        request = beta.UpdateQueueRequest(queue=shown)
        request.update_mask.paths.extend(paths)
        assert await ready.call("UpdateQueue", request, beta.Queue, api="v2beta3") == shown
        request.queue.tombstone_ttl.seconds = 121
        assert (await refusal(ready.call("UpdateQueue", request, beta.Queue, api="v2beta3")))[1].startswith(
            "Queue.tomb"
        )

    run(body, task_tombstone=120 * SECOND)


def test_masks_of_v2beta3(run: Run) -> None:
    """A mask decides what is shown; statistics only come when they are asked for."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        await ready.create_task("a")

        async def get(*paths: str) -> Any:
            request = beta.GetQueueRequest(name=QUEUE)
            request.read_mask.paths.extend(paths)
            return await ready.call("GetQueue", request, beta.Queue, api="v2beta3")

        assert not (await get()).HasField("stats")
        assert (await get("*")).stats.tasks_count == 1
        some = await get("name", "stats.tasks_count", "type", "tombstone_ttl")
        assert (some.stats.tasks_count, some.name, some.type_, some.tombstone_ttl.seconds) == (1, QUEUE, 2, 3600)
        assert not some.HasField("rate_limits")

    run(body)


def test_queues_on_demand(run: Run) -> None:
    """When it was asked for, a task makes its queue."""

    async def body(ready: Service) -> None:
        task = http_task("a")
        task.schedule_time.FromMicroseconds(NOW + SECOND)
        made = await ready.call("CreateTask", v2.CreateTaskRequest(parent=QUEUE, task=task), v2.Task)
        assert made.name == f"{QUEUE}/tasks/a"
        assert await refusal(ready.call("CreateTask", v2.CreateTaskRequest(parent="x"), v2.Task)) == MALFORMED

    run(body, queues_on_demand=True)


@pytest.mark.parametrize(
    ("method", "messages", "request_"),
    [
        ("CreateTask", v2, v2.CreateTaskRequest(parent=QUEUE)),
        ("CreateTask", beta, beta.CreateTaskRequest(parent=QUEUE)),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{"parent": "x"}])),
        ("BatchCreateTasks", v2, v2.BatchCreateTasksRequest(parent=QUEUE, requests=[{}] * 101)),
    ],
)
def test_no_queue_for_a_refused_call(run: Run, method: str, messages: Any, request_: Any) -> None:
    """A call that is refused makes no queue, though it was asked that calls do."""

    async def body(ready: Service) -> None:
        api = "v2" if messages is v2 else "v2beta3"
        code, _ = await refusal(ready.call(method, request_, v2.Task, api=api))
        assert (code, ready.engine.store.contents.queues) == ("INVALID_ARGUMENT", {})

    run(body, queues_on_demand=True)


def test_a_queue_on_demand_is_usable_at_once(run: Run) -> None:
    """The task that makes a queue gets into it, even where new queues are not known for a while."""

    async def body(ready: Service) -> None:
        assert (await ready.create_task("a")).name == f"{QUEUE}/tasks/a"
        assert (await refusal(ready.call("GetQueue", v2.GetQueueRequest(name=QUEUE), v2.Queue)))[0] == "NOT_FOUND"

    run(body, queues_on_demand=True, new_queue_delay=SECOND)


def test_pages_of_tasks(run: Run) -> None:
    """A page token leads on; one that is none, and a negative size, are refused."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        for task_id in "abc":
            await ready.create_task(task_id)

        async def page(**request: Any) -> Any:
            asked = v2.ListTasksRequest(parent=QUEUE, **request)
            return await ready.call("ListTasks", asked, v2.ListTasksResponse)

        first = await page(page_size=2)
        second = await page(page_size=2, page_token=first.next_page_token)
        assert [task.name[-1] for task in [*first.tasks, *second.tasks]] == ["a", "b", "c"]
        assert second.next_page_token == ""
        for wrong in ({"page_token": "??"}, {"page_token": "YWJj"}, {"page_size": -1}):
            assert (await refusal(page(**wrong)))[0] == "INVALID_ARGUMENT"

    run(body)


def test_batches_are_for_one_queue(run: Run) -> None:
    """Tasks of another queue, or of none, in a batch refuse the whole; so do too many."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        operation = operations_pb2.Operation
        for parent in (f"{QUEUE}-2", ""):
            items = [v2.CreateTaskRequest(parent=one, task=http_task()) for one in (QUEUE, parent)]
            create = v2.BatchCreateTasksRequest(parent=QUEUE, requests=items)
            assert (await refusal(ready.call("BatchCreateTasks", create, operation)))[0] == "INVALID_ARGUMENT"
        create = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[v2.CreateTaskRequest()] * 101)
        assert (await refusal(ready.call("BatchCreateTasks", create, operation)))[0] == "INVALID_ARGUMENT"
        delete = v2.BatchDeleteTasksRequest(parent=QUEUE, names=[f"{QUEUE}-2/tasks/a"])
        assert (await refusal(ready.call("BatchDeleteTasks", delete, operation)))[0] == "INVALID_ARGUMENT"
        assert ready.engine.store.queue(QUEUE).live == {}

    run(body)


def test_a_batch_in_v2beta3(run: Run) -> None:
    """A batch of the other version answers in its own messages."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        task = beta.Task(http_request=beta.HttpRequest(url="http://x"))
        request = beta.BatchCreateTasksRequest(parent=QUEUE, requests=[beta.CreateTaskRequest(parent=QUEUE, task=task)])
        operation = await ready.call("BatchCreateTasks", request, operations_pb2.Operation, api="v2beta3")
        response = beta.BatchCreateTasksResponse()
        assert operation.response.Unpack(response)
        assert response.tasks[0].http_request.url == "http://x"

    run(body)


def test_what_a_batch_refuses(run: Run) -> None:
    """Tasks that are not valid and tasks whose names are taken are refused, in order; the others are answered."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        tasks = [http_task(task_id) for task_id in ("a", "a", "?", "b", "a")]
        items = [v2.CreateTaskRequest(parent=QUEUE, task=task) for task in tasks]
        request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=items)
        operation = await ready.call("BatchCreateTasks", request, operations_pb2.Operation)
        wire = operation.metadata.value
        places = [wire.index(b"already exists"), wire.index(b"can contain only"), wire.rindex(b"already exists")]
        assert places == sorted(places)
        metadata = v2.BatchCreateTasksMetadata.FromString(wire)
        assert sorted(metadata.failed_requests) == [1, 2, 4]
        response = v2.BatchCreateTasksResponse()
        assert operation.response.Unpack(response)
        assert [task.name[-1] for task in response.tasks] == ["a", "b"]

    run(body)


def test_the_same_batch_again(run: Run) -> None:
    """A request id stands for one operation: sent again, the batch is answered and not carried out."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        item = v2.CreateTaskRequest(parent=QUEUE, task=http_task())
        request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[item], request_id="once")
        calls = [ready.call("BatchCreateTasks", request, operations_pb2.Operation) for _ in range(3)]
        first, *others = await asyncio.gather(*calls)
        assert others == [first, first]
        assert len(ready.engine.store.queue(QUEUE).live) == 1

    run(body)


def test_one_request_id_for_two_queues(run: Run) -> None:
    """A request id that was used for another queue, or for the other batch call, stands for an operation of its own."""

    async def body(ready: Service) -> None:
        queues = [QUEUE, f"{QUEUE}-2"]
        for queue in queues:
            await ready.create_queue(queue)
            item = v2.CreateTaskRequest(parent=queue, task=v2.Task(name=f"{queue}/tasks/a", http_request={"url": URL}))
            create = v2.BatchCreateTasksRequest(parent=queue, requests=[item], request_id="same")
            made = await ready.call("BatchCreateTasks", create, operations_pb2.Operation)
            assert made.response.Is(v2.BatchCreateTasksResponse.DESCRIPTOR)
            assert ready.engine.store.queue(queue).live.keys() == {"a"}
        delete = v2.BatchDeleteTasksRequest(parent=QUEUE, names=[f"{QUEUE}/tasks/a"], request_id="same")
        gone = await ready.call("BatchDeleteTasks", delete, operations_pb2.Operation)
        assert gone.response.Is(empty_pb2.Empty.DESCRIPTOR)
        assert [len(ready.engine.store.queue(queue).live) for queue in queues] == [0, 1]

    run(body)


def test_an_operation_that_does_not_finish(run: Run) -> None:
    """An operation that is held back stays unfinished until the faults are cleared; its tasks are there."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        ready.engine.faults.add(Fault(method="BatchCreateTasks", unfinished=True))
        item = v2.CreateTaskRequest(parent=QUEUE, task=http_task("a"))
        request = v2.BatchCreateTasksRequest(parent=QUEUE, requests=[item], request_id="held")
        operation = await ready.call("BatchCreateTasks", request, operations_pb2.Operation)
        get = operations_pb2.GetOperationRequest(name=operation.name)
        method = "/google.longrunning.Operations/GetOperation"
        assert not operation.done
        assert await ready.call(method, get, operations_pb2.Operation) == operation
        assert await ready.call("BatchCreateTasks", request, operations_pb2.Operation) == operation
        assert ready.engine.store.queue(QUEUE).live.keys() == {"a"}
        ready.engine.faults.clear()
        assert (await ready.call(method, get, operations_pb2.Operation)).done

    run(body)


@pytest.mark.parametrize(("after", "made"), [(False, set()), (True, {"a"})], ids=["refused", "answer lost"])
def test_faults(run: Run, *, after: bool, made: set[str]) -> None:
    """A fault refuses a call, or lets it be carried out and loses the answer; the next call is answered."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        ready.engine.faults.add(Fault(method="CreateTask", code="UNAVAILABLE", message="no", after=after))
        assert await refusal(ready.create_task("a")) == ("UNAVAILABLE", "no")
        assert set(ready.engine.store.queue(QUEUE).live) == made
        await ready.create_task("b")

    run(body)


def test_faults_are_counted(run: Run) -> None:
    """A fault strikes as often as it was told, for its method or for all; without a count until it is cleared."""
    faults = Faults()
    faults.add(Fault(method="A", count=2))
    faults.add(Fault(method="*", count=None, delay_s=0.001, code="ABORTED"))
    struck = [faults.take(method) for method in ("A", "A", "A", "B")]
    assert [fault.method if fault else None for fault in struck] == ["A", "A", "*", "*"]
    faults.clear()
    assert faults.take("A") is None
    assert not faults.holds("A")


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


def test_a_delayed_call(run: Run) -> None:
    """A delayed call is answered in the end."""

    async def body(ready: Service) -> None:
        ready.engine.faults.add(Fault.of({"method": "CreateQueue", "delay_s": 0.001}))
        assert (await ready.create_queue()).name == QUEUE

    run(body)


@pytest.mark.parametrize("method", ["BatchCreateTasks", "BatchDeleteTasks"])
@pytest.mark.parametrize("api", ["v2", "v2beta3"])
def test_no_batch(run: Run, api: str, method: str) -> None:
    """An emulator without batch calls answers them as a service that does not know them."""

    async def body(ready: Service) -> None:
        code, _ = await refusal(ready.call(method, v2.GetQueueRequest(), v2.Queue, api=api))
        assert code == "UNIMPLEMENTED"

    run(body, no_batch=True)


def test_policies(run: Run) -> None:
    """A policy is replaced as a whole, has an etag of its content, and one that is out of date is refused."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        get = iam_policy_pb2.GetIamPolicyRequest(resource=QUEUE)
        assert await ready.call("GetIamPolicy", get, policy_pb2.Policy) == policy_pb2.Policy()
        policy = policy_pb2.Policy(bindings=[policy_pb2.Binding(role="roles/cloudtasks.enqueuer", members=["user:a"])])
        put = iam_policy_pb2.SetIamPolicyRequest(resource=QUEUE, policy=policy)
        saved = await ready.call("SetIamPolicy", put, policy_pb2.Policy)
        assert (await ready.call("GetIamPolicy", get, policy_pb2.Policy)) == saved
        put.policy.etag = b"old"
        assert (await refusal(ready.call("SetIamPolicy", put, policy_pb2.Policy)))[0] == "ABORTED"
        test = iam_policy_pb2.TestIamPermissionsRequest(resource=QUEUE, permissions=["cloudtasks.tasks.create"])
        answer = iam_policy_pb2.TestIamPermissionsResponse
        assert list((await ready.call("TestIamPermissions", test, answer)).permissions) == ["cloudtasks.tasks.create"]
        test.resource += "-2"
        assert list((await ready.call("TestIamPermissions", test, answer)).permissions) == []

    run(body)


def test_encryption_settings(run: Run) -> None:
    """The encryption key of a location is empty until it is set."""

    async def body(ready: Service) -> None:
        name = f"{LOCATION}/cmekConfig"
        get = v2.GetCmekConfigRequest(name=name)
        assert await ready.call("GetCmekConfig", get, v2.CmekConfig) == v2.CmekConfig(name=name)
        config = v2.CmekConfig(name=name, kms_key="key")
        update = v2.UpdateCmekConfigRequest(cmek_config=config)
        await ready.call("UpdateCmekConfig", update, v2.CmekConfig)
        assert await ready.call("GetCmekConfig", get, v2.CmekConfig) == config
        for paths, key in ((["name"], "key"), (["kms_key"], "other"), (["*"], "other"), (["kmsKey"], "other")):
            update = v2.UpdateCmekConfigRequest(cmek_config={"name": name, "kms_key": "other"})
            update.update_mask.paths.extend(paths)
            assert (await ready.call("UpdateCmekConfig", update, v2.CmekConfig)).kms_key == key
        update.update_mask.paths.append("colour")
        assert (await refusal(ready.call("UpdateCmekConfig", update, v2.CmekConfig)))[0] == "INVALID_ARGUMENT"

    run(body)


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
def test_page_tokens(run: Run, method: str, first: Any, again: dict[str, str], response: Any) -> None:
    """A page token is for the same request, for two hours; what somebody made up is none."""

    async def body(ready: Service) -> None:
        for queue in (QUEUE, f"{QUEUE}-2"):
            await ready.create_queue(queue)
        for _ in range(2):
            await ready.create_task()
        first.page_size = 1
        token = (await ready.call(method, first, response)).next_page_token
        other = type(first)(page_token=token, **again)
        assert (await refusal(ready.call(method, other, response)))[0] == "INVALID_ARGUMENT"
        same = type(first)(page_token=token, page_size=1)
        for name in again:
            setattr(same, name, getattr(first, name))
        ready.engine.clock.advance(2 * HOUR)
        assert await ready.call(method, same, response) != response()
        ready.engine.clock.advance(1)
        assert (await refusal(ready.call(method, same, response)))[1].endswith("it has expired.")
        query = base64.urlsafe_b64decode(token).decode().rpartition("\n")[2]
        for made_up in ("?", "YWJj", token_of(1), token_of("", 0, query), token_of(1, "x", query)):
            same.page_token = made_up
            assert (await refusal(ready.call(method, same, response)))[0] == "INVALID_ARGUMENT"

    run(body)


@pytest.mark.parametrize("position", ["9" * 25, "\N{SUPERSCRIPT TWO}", "-1", "1.5", "x"])
def test_positions_that_are_no_numbers(run: Run, position: str) -> None:
    """A token whose position is no number that a row could have is refused."""

    async def body(ready: Service) -> None:
        await ready.create_queue()
        asked = v2.ListTasksRequest(parent=QUEUE, page_token=token_of(position, 0, QUEUE))
        assert (await refusal(ready.call("ListTasks", asked, v2.ListTasksResponse)))[0] == "INVALID_ARGUMENT"

    run(body)


@pytest.mark.parametrize(("name", "shown"), [("", "locations/us-central1"), ("projects/p", LOCATION)])
def test_names_of_locations(run: Run, name: str, shown: str) -> None:
    """Locations are listed below a project, or, without one, as the public list."""

    async def body(ready: Service) -> None:
        asked, response = locations_pb2.ListLocationsRequest(name=name), locations_pb2.ListLocationsResponse
        assert shown in {one.name for one in (await ready.call(LOCATIONS, asked, response)).locations}
        asked.name = "somewhere/else"
        assert await refusal(ready.call(LOCATIONS, asked, response)) == MALFORMED

    run(body)


def test_locations(run: Run) -> None:
    """Locations are listed in pages; one that is not offered is not found."""

    async def body(ready: Service) -> None:
        service_name = "/google.cloud.location.Locations/"
        names: list[str] = []
        token = ""
        while not names or token:
            request = locations_pb2.ListLocationsRequest(name="projects/p", page_size=10, page_token=token)
            response = locations_pb2.ListLocationsResponse
            page = await ready.call(f"{service_name}ListLocations", request, response)
            names += [location.name for location in page.locations]
            token = page.next_page_token
        assert LOCATION in names
        assert len(names) == len(set(names)) == 23
        get = locations_pb2.GetLocationRequest(name=LOCATION)
        shown = await ready.call(f"{service_name}GetLocation", get, locations_pb2.Location)
        assert (shown.location_id, shown.labels["cloud.googleapis.com/region"]) == ("us-central1", "us-central1")
        get.name = "projects/p/locations/moon"
        code, _ = await refusal(ready.call(f"{service_name}GetLocation", get, locations_pb2.Location))
        assert code == "NOT_FOUND"

    run(body)
