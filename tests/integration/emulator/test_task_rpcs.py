"""Every RPC on tasks, batches and queues, the statistics of v2beta3 and `http_target`, through Google's own clients."""

import re
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import Aborted
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.longrunning.operations_pb2 import GetOperationRequest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import code_pb2

from tests.integration.conftest import LOCATION, Emulator, Target
from tests.integration.emulator.conftest import NOWHERE, batch

BOTH_TRANSPORTS = True
View = tasks_v2.Task.View


def test_create_task_answers_what_is_stored(emulator: Emulator, paused: str) -> None:
    """CreateTask fills name, times, deadline, method and User-Agent, and shows no body."""
    task = emulator.enqueue(paused, "http://example.com/a", {"headers": {"content-type": "text/x"}, "body": b"secret"})
    assert re.fullmatch(re.escape(paused) + r"/tasks/\d{17,20}", task.name)
    assert task.create_time.microsecond == 0
    assert timedelta(0) <= task.schedule_time - task.create_time < timedelta(seconds=1)
    assert (task.dispatch_deadline, task.view) == (timedelta(minutes=10), View.BASIC)
    assert (task.http_request.http_method, task.http_request.body) == (tasks_v2.HttpMethod.POST, b"")
    assert dict(task.http_request.headers) == {"content-type": "text/x", "User-Agent": "Google-Cloud-Tasks"}
    assert (task.dispatch_count, task.response_count) == (0, 0)
    assert emulator.client.get_task(name=task.name) == task


@pytest.mark.parametrize(("view", "body"), [(View.BASIC, b""), (View.FULL, b"\x00\xffpayload")])
def test_the_view_decides_about_the_body(
    emulator: Emulator, paused: str, view: tasks_v2.Task.View, body: bytes
) -> None:
    """Create, Get and List show the body in the FULL view only, and echo the view."""
    task = {"http_request": {"url": NOWHERE, "body": b"\x00\xffpayload"}}
    made = emulator.client.create_task({"parent": paused, "task": task, "response_view": view})
    got = emulator.client.get_task({"name": made.name, "response_view": view})
    (listed,) = emulator.client.list_tasks({"parent": paused, "response_view": view})
    for shown in (made, got, listed):
        assert shown.http_request.body == body
        assert shown.view == view
    assert made == got == listed


def test_run_task_sends_it_now_even_from_a_paused_queue(emulator: Emulator, paused: str, target: Target) -> None:
    """RunTask ignores pause and schedule time; it shows the task as dispatched and not yet answered, in any view."""
    now = emulator.enqueue(paused, NOWHERE).schedule_time
    task = emulator.enqueue(paused, target.url, {"body": b"run me"}, schedule_time=now + timedelta(days=10))
    running = emulator.client.run_task({"name": task.name, "response_view": View.FULL})
    assert (running.name, running.dispatch_count, running.response_count) == (task.name, 1, 0)
    assert running.first_attempt.dispatch_time >= now
    assert running.http_request.body == target.wait()[0].body == b"run me"
    assert "existed recently" in emulator.gone(task.name)


def test_a_failed_run_is_scheduled_from_the_call(emulator: Emulator, target: Target) -> None:
    """After a failed RunTask the task is due a backoff after the call, not at its old time."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 50}})
    emulator.client.pause_queue(name=queue)
    now = emulator.enqueue(queue, NOWHERE).schedule_time
    task = emulator.enqueue(queue, target.url, schedule_time=now + timedelta(days=3))
    target.script(500)
    emulator.client.run_task(name=task.name)
    failed = emulator.answered(task.name, 1)
    assert timedelta(0) <= failed.schedule_time - now - timedelta(seconds=50) < timedelta(seconds=20)
    assert failed.last_attempt.response_status.message == "INTERNAL(13): HTTP status code 500"


def test_a_large_page_is_cut(emulator: Emulator, paused: str) -> None:
    """A page never holds more than 1,000 tasks."""
    for _ in range(11):
        emulator.client.batch_create_tasks(batch(paused))
    pages = list(emulator.client.list_tasks({"parent": paused, "page_size": 5_000}).pages)
    assert max(len(page.tasks) for page in pages) <= 1_000
    assert sum(len(page.tasks) for page in pages) == 1_100


@pytest.mark.grpc_only("HTTP has no limit of a message's size")
def test_pages_fit_a_default_channel(emulator: Emulator, paused: str) -> None:
    """Pages of large tasks are cut below the 4 MiB that clients receive by default, and go on with the next task."""
    for _ in range(5):
        emulator.client.batch_create_tasks(batch(paused, body=b"x" * 20_000))
    made = [task.name for task in emulator.client.list_tasks(parent=paused)]
    with grpc.insecure_channel(emulator.ready["grpc"]) as channel:
        bare = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        pages = list(bare.list_tasks({"parent": paused, "response_view": "FULL"}).pages)
    assert [task.name for page in pages for task in page.tasks] == made
    assert {len(task.http_request.body) for page in pages for task in page.tasks} == {20_000}
    sizes = [tasks_v2.ListTasksResponse.pb(page).ByteSize() for page in pages]
    assert (len(made), len(sizes), max(sizes) < 3_600_000) == (500, 3, True)


BOTH_TRANSPORTS = True
Created = tasks_v2.BatchCreateTasksMetadata.State
Deleted = tasks_v2.BatchDeleteTasksMetadata.State


def requests(queue: str, *ids: str, **http: object) -> list[dict[str, Any]]:
    """Build one CreateTaskRequest an id."""
    request = {"url": NOWHERE, **http}
    return [{"parent": queue, "task": {"name": f"{queue}/tasks/{one}", "http_request": request}} for one in ids]


def test_batch_create(emulator: Emulator, paused: str) -> None:
    """BatchCreateTasks makes the tasks, and its operation is done with the answer, in the view of each request."""
    ids = [f"t{n}" for n in range(100)]
    made = requests(paused, *ids, body=b"x")
    made[1]["response_view"] = "FULL"
    operation = emulator.client.batch_create_tasks({"parent": paused, "requests": made})
    result = operation.result()
    assert [task.http_request.body for task in result.tasks[:3]] == [b"", b"x", b""]
    assert operation.operation.done
    assert emulator.client.get_operation(GetOperationRequest(name=operation.operation.name)) == operation.operation
    assert operation.operation.name.startswith(f"{LOCATION}/operations/")
    assert [task.name for task in result.tasks] == [f"{paused}/tasks/{one}" for one in ids]
    assert result.tasks[0] == emulator.client.get_task(name=f"{paused}/tasks/t0")
    assert operation.metadata.state == Created.SUCCEEDED
    assert dict(operation.metadata.failed_requests) == {}
    assert operation.metadata.start_time <= operation.metadata.end_time
    assert len(list(emulator.client.list_tasks(parent=paused))) == 100


def test_a_batch_may_succeed_in_part(emulator: Emulator, paused: str) -> None:
    """Refused items are listed by their positions, with code and text; the others are created."""
    emulator.client.create_task(requests(paused, "there")[0])
    bad_url = {"parent": paused, "task": {"http_request": {"url": "ftp://x"}}}
    mixed = [*requests(paused, "a", "there"), bad_url, *requests(paused, "b", "a")]
    operation = emulator.client.batch_create_tasks({"parent": paused, "requests": mixed})
    assert [task.name.rpartition("/")[2] for task in operation.result().tasks] == ["a", "b"]
    assert operation.metadata.state == Created.PARTIALLY_SUCCEEDED == 5
    failed = {index: (status.code, status.message) for index, status in operation.metadata.failed_requests.items()}
    exists = (code_pb2.ALREADY_EXISTS, "Requested entity already exists")
    invalid = (code_pb2.INVALID_ARGUMENT, "HttpTarget.url must start with 'http://' or 'https://'.")
    assert failed == {1: exists, 2: invalid, 4: exists}


def test_a_batch_of_which_nothing_succeeds_is_aborted(emulator: Emulator, paused: str) -> None:
    """When every request fails the operation fails with the documented text, and its metadata says why for each."""
    there = requests(paused, "a", "b")
    emulator.client.batch_create_tasks({"parent": paused, "requests": there})
    deletion = {"parent": paused, "names": [f"{paused}/tasks/{number}" for number in range(2)]}
    created = emulator.client.batch_create_tasks({"parent": paused, "requests": there}), "Create"
    for operation, verb in (created, (emulator.client.batch_delete_tasks(deletion), "Delete")):
        details = f"refer to Batch{verb}TasksMetadata.failed_requests for individual error details"
        with pytest.raises(Aborted, match=f"None of the requests succeeded, {details}"):
            operation.result()
        assert sorted(operation.metadata.failed_requests) == [0, 1]
        assert operation.metadata.state.name == "PARTIALLY_SUCCEEDED"


def test_messages_beyond_4_mib(emulator: Emulator, paused: str) -> None:
    """A batch of 9 MB is accepted and its bodies come back whole."""
    body = b"0123456789abcdef" * 56_250
    ids = [f"t{number}" for number in range(10)]
    emulator.client.batch_create_tasks({"parent": paused, "requests": requests(paused, *ids, body=body)})
    listed = emulator.client.list_tasks({"parent": paused, "response_view": "FULL"})
    assert [task.http_request.body == body for task in listed] == [True] * 10


def test_batch_delete(emulator: Emulator, paused: str) -> None:
    """BatchDeleteTasks removes up to 1,000 tasks; its operation is done and empty."""
    for start in range(0, 1_000, 100):
        made = requests(paused, *(f"t{number}" for number in range(start, start + 100)))
        emulator.client.batch_create_tasks({"parent": paused, "requests": made})
    names = [task.name for task in emulator.client.list_tasks(parent=paused)]
    kept = emulator.client.create_task(requests(paused, "kept")[0])
    operation = emulator.client.batch_delete_tasks({"parent": paused, "names": names})
    operation.result()
    assert operation.metadata.state == Deleted.SUCCEEDED
    assert [task.name for task in emulator.client.list_tasks(parent=paused)] == [kept.name]


def test_batch_delete_may_succeed_in_part(emulator: Emulator, paused: str) -> None:
    """Missing names are listed by their positions; the others are deleted."""
    emulator.client.batch_create_tasks({"parent": paused, "requests": requests(paused, "a", "b")})
    names = [f"{paused}/tasks/{one}" for one in ("a", "none", "b", "a")]
    operation = emulator.client.batch_delete_tasks({"parent": paused, "names": names})
    operation.result()
    assert operation.metadata.state == Deleted.PARTIALLY_SUCCEEDED == 3
    failed = {index: status.code for index, status in operation.metadata.failed_requests.items()}
    assert failed == {1: code_pb2.NOT_FOUND, 3: code_pb2.NOT_FOUND}


BOTH_TRANSPORTS = True
State = tasks_v2.Queue.State


DEFAULTS: dict[str, Any] = {
    "rateLimits": {"maxDispatchesPerSecond": 500.0, "maxConcurrentDispatches": 1000, "maxBurstSize": 100},
    "retryConfig": {"maxAttempts": 100, "maxDoublings": 16, "minBackoff": "0.100s", "maxBackoff": "3600s"},
}
GIVEN: dict[str, Any] = {
    "rateLimits": {"maxDispatchesPerSecond": 0.5, "maxConcurrentDispatches": 7},
    "retryConfig": {"maxAttempts": -1, "maxRetryDuration": "90s", "minBackoff": "2s"},
    "stackdriverLoggingConfig": {"samplingRatio": 0.25},
}


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["defaults", "given"])
def test_a_new_queue(emulator: Emulator, given: dict[str, Any]) -> None:
    """CreateQueue and GetQueue show the settings that were sent; CreateQueue fills in Google's defaults."""
    fields = MessageToDict(ParseDict(given, tasks_v2.Queue.pb()()), preserving_proto_field_name=True)
    name = emulator.make_queue(**fields)
    shown = MessageToDict(tasks_v2.Queue.pb(emulator.client.get_queue(name=name)))
    expected = {group: {**DEFAULTS.get(group, {}), **given.get(group, {})} for group in DEFAULTS | given}
    expected["rateLimits"]["maxBurstSize"] = 10 if given else 100  # it follows the rate
    assert shown == {"name": name, "state": "RUNNING", **expected}


def test_update_queue_makes_a_queue_that_is_not_there(emulator: Emulator) -> None:
    """UpdateQueue creates the queue when it is absent."""
    name = f"{LOCATION}/queues/upserted"
    made = emulator.client.update_queue(
        queue=tasks_v2.Queue(name=name, retry_config={"max_backoff": Duration(seconds=5)})
    )
    assert made.retry_config.max_backoff.total_seconds() == 5
    assert emulator.client.get_queue(name=name) == made


def test_purge_removes_what_was_there_before(emulator: Emulator, paused: str) -> None:
    """PurgeQueue deletes the tasks, records the time and keeps tasks that are created after it."""
    before = [emulator.enqueue(paused, "http://127.0.0.1:9/") for _ in range(5)]
    purged = emulator.client.purge_queue(name=paused)
    assert purged.purge_time >= before[-1].create_time
    assert emulator.client.get_queue(name=paused).purge_time == purged.purge_time
    assert list(emulator.client.list_tasks(parent=paused)) == []
    after = emulator.enqueue(paused, "http://127.0.0.1:9/")
    assert [task.name for task in emulator.client.list_tasks(parent=paused)] == [after.name]
    assert emulator.client.get_queue(name=paused).state == State.PAUSED


@pytest.fixture
def beta(emulator: Emulator) -> tasks_v2beta3.CloudTasksClient:
    """Give Google's v2beta3 client on the emulator."""
    client: tasks_v2beta3.CloudTasksClient = emulator.connect(tasks_v2beta3.CloudTasksClient)
    return client


def stats(beta: tasks_v2beta3.CloudTasksClient, queue: str) -> tasks_v2beta3.QueueStats:
    """Read a queue's statistics."""
    return beta.get_queue({"name": queue, "read_mask": "stats"}).stats


def test_the_counts_follow_the_tasks(beta: tasks_v2beta3.CloudTasksClient, emulator: Emulator, target: Target) -> None:
    """Waiting and running tasks, and the answers of the last minute, are counted."""
    queue = emulator.make_queue(rate_limits={"max_concurrent_dispatches": 1})
    held = target.hold()
    target.script(held)
    tasks = [emulator.enqueue(queue, target.url) for _ in range(3)]
    target.wait()
    running = stats(beta, queue)
    found = (running.tasks_count, running.concurrent_dispatches_count, running.executed_last_minute_count)
    assert found == (3, 1, 0)
    held.release()
    for task in tasks:
        emulator.gone(task.name)
    done = stats(beta, queue)
    assert (done.tasks_count, done.concurrent_dispatches_count, done.executed_last_minute_count) == (0, 0, 3)
    assert "oldest_estimated_arrival_time" not in done
    emulator.advance(61)
    assert stats(beta, queue).executed_last_minute_count == 0


def test_the_next_schedule_time(beta: tasks_v2beta3.CloudTasksClient, emulator: Emulator, paused: str) -> None:
    """`oldest_estimated_arrival_time` is the nearest schedule time, and the rate is the queue's."""
    now = emulator.enqueue(paused, NOWHERE).schedule_time
    (first,) = emulator.client.list_tasks(parent=paused)
    emulator.client.delete_task(name=first.name)
    for hours in (5, 2, 9):
        emulator.enqueue(paused, NOWHERE, schedule_time=now + timedelta(hours=hours))
    shown = stats(beta, paused)
    assert shown.oldest_estimated_arrival_time == now + timedelta(hours=2)
    assert shown.effective_execution_rate == 500


OLD_URL = "https://nowhere.invalid:1/old?a=1"


def override(target: Target, **fields: object) -> dict[str, Any]:
    """Build an `http_target` that leads to the target."""
    return {"uri_override": {"scheme": "HTTP", "host": "127.0.0.1", "port": target.port, **fields}}


def test_it_reroutes_tasks_that_wait_already(emulator: Emulator, paused: str, target: Target) -> None:
    """The override of a queue counts for tasks created before it, which keep their own URL in the API."""
    task = emulator.enqueue(paused, OLD_URL, {"body": b"kept"})
    updated = emulator.client.update_queue({"queue": {"name": paused, "http_target": override(target)}})
    assert updated.http_target.uri_override.port == target.port
    assert emulator.client.get_task(name=task.name).http_request.url == OLD_URL
    emulator.client.resume_queue(name=paused)
    (request,) = target.wait()
    assert (request.path, request.body) == ("/old?a=1", b"kept")
    assert request.headers["host"] == f"127.0.0.1:{target.port}"
    emulator.gone(task.name)


@pytest.mark.parametrize(("method", "body"), [("PUT", b"body"), ("GET", b"")])
def test_method_and_headers(emulator: Emulator, target: Target, method: str, body: bytes) -> None:
    """The queue's method, which may have no body, replaces the task's; its headers do so, and others are added."""
    headers = [{"header": {"key": "X-A", "value": "queue"}}, {"header": {"key": "X-B", "value": "queue"}}]
    queue = emulator.make_queue(http_target={**override(target), "http_method": method, "header_overrides": headers})
    emulator.enqueue(queue, OLD_URL, {"headers": {"x-a": "task", "X-C": "task"}, "body": b"body"})
    (request,) = target.wait()
    assert (request.method, request.body) == (method, body)
    assert [request.headers.get(name) for name in ("x-a", "x-b", "x-c")] == ["queue", "queue", "task"]
