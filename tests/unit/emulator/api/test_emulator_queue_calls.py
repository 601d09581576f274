"""The calls about queues on a real engine, without a network: names, masks, filters and pages."""

from __future__ import annotations

from typing import Any

import pytest

from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.refusal import RefusedError
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, refusal, with_settings

BAD_NAME = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'


@pytest.mark.parametrize("project", ["", "bad_id"])
async def test_new_queues_need_a_project(service: Service, project: str) -> None:
    """A parent without a project, or with one that cannot be, is refused, and the details name it as a consumer."""
    parent, shown = (f"projects/{project}/locations/us-central1", project) if project else ("nowhere", "nowhere")
    with pytest.raises(RefusedError, match=f"^Permission denied on resource project {shown}[.]$") as refused:
        await service.call("CreateQueue", v2.CreateQueueRequest(parent=parent, queue=v2.Queue(name=QUEUE)), v2.Queue)
    metadata = refused.value.details[0].metadata
    found = (refused.value.code, metadata["consumer"], metadata["containerInfo"])
    assert found == ("PERMISSION_DENIED", f"projects/{shown}", shown)


@pytest.mark.parametrize("name", ["", "bad", f"{LOCATION}/queues/a_b", "projects/bad_id/locations/l/queues/q"])
async def test_queues_need_a_name(service: Service, name: str) -> None:
    """A new or changed queue with a malformed name is refused with the format of names."""
    request = v2.UpdateQueueRequest(queue=v2.Queue(name=name))
    assert await refusal(service.call("UpdateQueue", request, v2.Queue)) == ("INVALID_ARGUMENT", BAD_NAME)
    nameless = v2.CreateQueueRequest(parent=LOCATION)
    assert await refusal(service.call("CreateQueue", nameless, v2.Queue)) == ("INVALID_ARGUMENT", BAD_NAME)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("v2", "task_ttl"), ("v2", "tombstoneTtl"), ("v2", "app_engine_http_queue"), ("v2", "colour"),
        ("v2beta3", "app_engine_routing_override"), ("v2beta3", "retry_config.colour"),
    ],
)  # fmt: skip
async def test_unknown_mask_paths(service: Service, api: str, path: str, *, there: bool) -> None:
    """A mask with a field that queues of the version do not have is refused, also where it would make the queue."""
    if there:
        await service.create_queue()
    messages = v2 if api == "v2" else beta
    request = messages.UpdateQueueRequest(queue=messages.Queue(name=QUEUE))
    request.update_mask.paths.append(path)
    refused = await refusal(service.call("UpdateQueue", request, messages.Queue, api=api))
    assert refused == ("INVALID_ARGUMENT", "Invalid update mask.")


@pytest.mark.parametrize(
    "wrong", [{"page_token": "?"}, {"page_token": "{next}", "filter": "x"}, {"page_size": -1}, {"filter": "(" * 3000}]
)
async def test_invalid_lists(service: Service, wrong: dict[str, Any]) -> None:
    """A made-up token, a token of another filter, a negative size and a malformed filter are refused."""
    for letter in "ab":
        await service.create_queue(f"{LOCATION}/queues/{letter}")

    async def page(**request: Any) -> Any:
        asked = v2.ListQueuesRequest(parent=LOCATION, **request)
        return await service.call("ListQueues", asked, v2.ListQueuesResponse)

    token = (await page(page_size=1)).next_page_token
    wrong = {key: token if value == "{next}" else value for key, value in wrong.items()}
    assert (await refusal(page(**wrong)))[0] == "INVALID_ARGUMENT"


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
        ("v2", 'retryConfig.maxBackoff<"10000s" retry_config.max_backoff<=3600s retry_config.max_backoff=3600', True),
        ("v2", "retry_config.max_backoff>10000s", False),
        ("v2", "retry_config.min_backoff=0.1s", True),
        ("v2", "retry_config.max_retry_duration:*", False),
        ("v2", "stackdriver_logging_config.sampling_ratio=0", True),
        ("v2", "rate_limits.max_dispatches_per_second>=500 rate_limits.max_dispatches_per_second<=500", True),
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
async def test_filters_of_queues(service: Service, api: str, text: str, *, found: bool) -> None:
    """A filter reads the fields of the version's queues; durations are compared as durations, and zeros are present."""
    settings = {"app_engine_routing_override": {"service": "svc"}, "stackdriver_logging_config": {}}
    await service.call("CreateQueue", queues_with(v2, **settings), v2.Queue)
    messages = v2 if api == "v2" else beta
    asked = messages.ListQueuesRequest(parent=LOCATION, filter=text)
    answer = await service.call("ListQueues", asked, messages.ListQueuesResponse, api=api)
    assert len(answer.queues) == found


@pytest.mark.parametrize("method", ["GetQueue", "ListQueues"])
@pytest.mark.parametrize("there", [False, True])
async def test_unknown_read_mask_paths(service: Service, method: str, *, there: bool) -> None:
    """A mask with a field that queues do not have is refused, also where there is no queue to show."""
    if there or method == "GetQueue":
        await service.create_queue()
    asked = beta.GetQueueRequest(name=QUEUE) if method == "GetQueue" else beta.ListQueuesRequest(parent=LOCATION)
    asked.read_mask.paths.extend(["name", "bogus"])
    refused = await refusal(service.call(method, asked, beta.Queue, api="v2beta3"))
    assert refused == ("INVALID_ARGUMENT", "Invalid read mask.")


@pytest.mark.parametrize(("path", "rate"), [("*", 500), ("rateLimits", 500), ("type", 5), ("type_", 5)])
async def test_update_masks_of_v2beta3(service: Service, path: str, rate: int) -> None:
    """A star is a mask of everything; paths may be in camel case, and the type is named as in other languages."""
    made = queues_with(beta, rate_limits={"max_dispatches_per_second": 5})
    await service.call("CreateQueue", made, beta.Queue, api="v2beta3")
    request = beta.UpdateQueueRequest(queue=beta.Queue(name=QUEUE))
    request.update_mask.paths.append(path)
    changed = await service.call("UpdateQueue", request, beta.Queue, api="v2beta3")
    assert changed.rate_limits.max_dispatches_per_second == rate


@with_settings("service", task_tombstone=120 * SECOND)
@pytest.mark.parametrize("paths", [[], ["tombstone_ttl"]])
async def test_a_queue_comes_back_as_it_was_shown(service: Service, paths: list[str]) -> None:
    """Where names are free sooner than a queue may ask for, a queue can still be read and written back."""
    await service.create_queue()
    shown = await service.call("GetQueue", beta.GetQueueRequest(name=QUEUE), beta.Queue, api="v2beta3")
    assert shown.tombstone_ttl.seconds == 120
    request = beta.UpdateQueueRequest(queue=shown)
    request.update_mask.paths.extend(paths)
    assert await service.call("UpdateQueue", request, beta.Queue, api="v2beta3") == shown
    request.queue.tombstone_ttl.seconds = 121
    assert (await refusal(service.call("UpdateQueue", request, beta.Queue, api="v2beta3")))[1].startswith("Queue.tomb")


async def test_masks_of_v2beta3(service: Service) -> None:
    """A mask selects the fields of the answer; statistics come only if the mask names them."""
    await service.create_queue()
    await service.create_task("a")

    async def get(*paths: str) -> Any:
        request = beta.GetQueueRequest(name=QUEUE)
        request.read_mask.paths.extend(paths)
        return await service.call("GetQueue", request, beta.Queue, api="v2beta3")

    assert not (await get()).HasField("stats")
    assert (await get("*")).stats.tasks_count == 1
    some = await get("name", "stats.tasks_count", "type", "tombstone_ttl")
    assert (some.stats.tasks_count, some.name, some.type_, some.tombstone_ttl.seconds) == (1, QUEUE, 2, 3600)
    assert not some.HasField("rate_limits")


async def test_pages_of_large_queues_are_cut(service: Service) -> None:
    """A page ends before it is larger than clients receive by default; those that a filter leaves out do not count."""
    headers = [{"header": {"key": "X-A", "value": "x" * 80_000}}]
    named = [f"{LOCATION}/queues/q-{number:02}" for number in range(60)]
    for name in named:
        create = v2.CreateQueueRequest(
            parent=LOCATION, queue={"name": name, "http_target": {"header_overrides": headers}}
        )
        await service.call("CreateQueue", create, v2.Queue)
    request = v2.ListQueuesRequest(parent=LOCATION)
    pages: list[Any] = []
    while request.page_token or not pages:
        pages.append(await service.call("ListQueues", request, v2.ListQueuesResponse))
        request.page_token = pages[-1].next_page_token
    assert [queue.name for page in pages for queue in page.queues] == named
    assert [page.ByteSize() < 3_600_000 for page in pages] == [True, True]
    filtered = v2.ListQueuesRequest(parent=LOCATION, filter='name:"q-5"', page_size=10)
    assert len((await service.call("ListQueues", filtered, v2.ListQueuesResponse)).queues) == 10
