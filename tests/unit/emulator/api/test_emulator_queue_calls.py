"""The calls about queues on a real engine, without a network: names, masks, filters and pages."""

from typing import Any

import pytest

from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.queues import RUNNING
from tests.cases import cases
from tests.unit.emulator.conftest import LOCATION, QUEUE, Service, refused, with_settings

BAD_NAME = 'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>/queues/<QUEUE_ID>".'


@pytest.mark.parametrize("project", ["", "bad_id"])
async def test_new_queues_need_a_project(service: Service, project: str) -> None:
    """A parent without a project, or with one that cannot be, is refused, and the details name it as a consumer."""
    parent, shown = (f"projects/{project}/locations/us-central1", project) if project else ("nowhere", "nowhere")
    with refused("PERMISSION_DENIED", f"^Permission denied on resource project {shown}[.]$") as caught:
        await service.call("CreateQueue", parent=parent, queue={"name": QUEUE})
    metadata = caught.value.details[0].metadata
    assert (metadata["consumer"], metadata["containerInfo"]) == (f"projects/{shown}", shown)


@pytest.mark.parametrize("name", ["", "bad", f"{LOCATION}/queues/a_b", "projects/bad_id/locations/l/queues/q"])
async def test_queues_need_a_name(service: Service, name: str) -> None:
    """A new or changed queue with a malformed name is refused with the format of names."""
    assert await service.refused("UpdateQueue", queue={"name": name}) == ("INVALID_ARGUMENT", BAD_NAME)
    assert await service.refused("CreateQueue", parent=LOCATION) == ("INVALID_ARGUMENT", BAD_NAME)


UNKNOWN_PATHS = [
    ("v2", "task_ttl"), ("v2", "tombstoneTtl"), ("v2", "app_engine_http_queue"), ("v2", "colour"),
    ("v2beta3", "app_engine_routing_override"), ("v2beta3", "retry_config.colour"),
]  # fmt: skip


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("api", "path"), UNKNOWN_PATHS)
async def test_unknown_mask_paths(service: Service, api: str, path: str, *, there: bool) -> None:
    """A mask with a field that queues of the version do not have is refused, also where it would make the queue."""
    if there:
        await service.create_queue()
    found = await service.refused("UpdateQueue", api=api, queue={"name": QUEUE}, update_mask={"paths": [path]})
    assert found == ("INVALID_ARGUMENT", "Invalid update mask.")


@cases({"page_token": "?"}, {"page_token": "{next}", "filter": "x"}, {"page_size": -1}, {"filter": "(" * 3000})
async def test_invalid_lists(service: Service, wrong: dict[str, Any]) -> None:
    """A made-up token, a token of another filter, a negative size and a malformed filter are refused."""
    for letter in "ab":
        await service.create_queue(f"{LOCATION}/queues/{letter}")
    token = (await service.call("ListQueues", parent=LOCATION, page_size=1)).next_page_token
    wrong = {key: token if value == "{next}" else value for key, value in wrong.items()}
    assert (await service.refused("ListQueues", parent=LOCATION, **wrong))[0] == "INVALID_ARGUMENT"


@cases(
    ("v2", "app_engine_routing_override.service=svc", True),
    ("v2", "appEngineRoutingOverride.service=other", False),
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
    ("v2", "state:*", True),
    ("v2", "state=running OR NOT state:PAUSED", True),
    ("v2beta3", "type=PUSH", True),
    ("v2beta3", "tombstone_ttl=3600s", True),
    ("v2", "svc", True),
)
async def test_filters_of_queues(service: Service, api: str, text: str, *, found: bool) -> None:
    """A filter reads the fields of the version's queues; durations are compared as durations, and zeros are present."""
    settings = {"app_engine_routing_override": {"service": "svc"}, "stackdriver_logging_config": {}}
    await service.call("CreateQueue", parent=LOCATION, queue={"name": QUEUE, **settings})
    assert len((await service.call("ListQueues", api=api, parent=LOCATION, filter=text)).queues) == found


@cases(
    ("colour=red", 'a queue has no field "colour".'),
    ("state=RUNNING (name.colour:red)", 'a queue has no field "name.colour".'),
    ("app_engine_http_queue.app_engine_routing_override.service=svc", 'a queue has no field "app_engine_http_queue'),
    ("NOT state=RUNING", '"RUNING" is none of STATE_UNSPECIFIED, RUNNING, PAUSED, DISABLED.'),
)
async def test_filters_that_can_find_nothing(service: Service, text: str, error: str) -> None:
    """A field that queues of the version do not have, and a value that a field cannot have, are refused."""
    code, message = await service.refused("ListQueues", parent=LOCATION, filter=text)
    assert (code, message.startswith(f"Invalid filter: {error}")) == ("INVALID_ARGUMENT", True)


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


@pytest.mark.parametrize("method", ["GetQueue", "ListQueues"])
@pytest.mark.parametrize("there", [False, True])
async def test_unknown_read_mask_paths(service: Service, method: str, *, there: bool) -> None:
    """A mask with a field that queues do not have is refused, also where there is no queue to show."""
    if there or method == "GetQueue":
        await service.create_queue()
    place = {"name": QUEUE} if method == "GetQueue" else {"parent": LOCATION}
    found = await service.refused(method, api="v2beta3", read_mask={"paths": ["name", "bogus"]}, **place)
    assert found == ("INVALID_ARGUMENT", "Invalid read mask.")


@pytest.mark.parametrize(("path", "rate"), [("*", 500), ("rateLimits", 500), ("type", 5), ("type_", 5)])
async def test_update_masks_of_v2beta3(service: Service, path: str, rate: int) -> None:
    """A star is a mask of everything; paths may be in camel case, and the type is named as in other languages."""
    slow = {"name": QUEUE, "rate_limits": {"max_dispatches_per_second": 5}}
    await service.call("CreateQueue", api="v2beta3", parent=LOCATION, queue=slow)
    mask = {"paths": [path]}
    changed = await service.call("UpdateQueue", api="v2beta3", queue={"name": QUEUE}, update_mask=mask)
    assert changed.rate_limits.max_dispatches_per_second == rate


@with_settings("service", task_tombstone=120 * SECOND)
@pytest.mark.parametrize("paths", [[], ["tombstone_ttl"]])
async def test_a_queue_comes_back_as_it_was_shown(service: Service, paths: list[str]) -> None:
    """Where names are free sooner than a queue may ask for, a queue can still be read and written back."""
    await service.create_queue()
    shown = await service.call("GetQueue", api="v2beta3", name=QUEUE)
    assert shown.tombstone_ttl.seconds == 120
    request: dict[str, Any] = {"api": "v2beta3", "queue": shown, "update_mask": {"paths": paths}}
    assert await service.call("UpdateQueue", **request) == shown
    shown.tombstone_ttl.seconds = 121
    assert (await service.refused("UpdateQueue", **request))[1].startswith("Queue.tomb")


async def test_masks_of_v2beta3(service: Service) -> None:
    """A mask selects the fields of the answer; statistics come only if the mask names them."""
    await service.create_queue()
    await service.create_task("a")

    async def get(*paths: str) -> Any:
        return await service.call("GetQueue", api="v2beta3", name=QUEUE, read_mask={"paths": paths})

    assert not (await get()).HasField("stats")
    assert (await get("*")).stats.tasks_count == 1
    some = await get("name", "stats.tasks_count", "type", "tombstone_ttl")
    assert (some.stats.tasks_count, some.name, some.type_, some.tombstone_ttl.seconds) == (1, QUEUE, 2, 3600)
    assert not some.HasField("rate_limits")


async def test_pages_of_large_queues_are_cut(service: Service) -> None:
    """Pages are sorted and end before they are larger than clients receive; what a filter leaves out does not count."""
    headers = [{"header": {"key": "X-A", "value": "x" * 80_000}}]
    named = [f"{LOCATION}/queues/q-{number:02}" for number in range(60)]
    for name in reversed(named):
        queue = {"name": name, "http_target": {"header_overrides": headers}}
        await service.call("CreateQueue", parent=LOCATION, queue=queue)
    pages: list[Any] = []
    while not pages or pages[-1].next_page_token:
        token = pages[-1].next_page_token if pages else ""
        pages.append(await service.call("ListQueues", parent=LOCATION, page_token=token))
    assert [queue.name for page in pages for queue in page.queues] == named
    assert [page.ByteSize() < 3_600_000 for page in pages] == [True, True]
    filtered = await service.call("ListQueues", parent=LOCATION, filter='name:"q-5"', page_size=10)
    assert len(filtered.queues) == 10
