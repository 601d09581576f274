"""The same API as REST: through Google's client with `transport="rest"`, and as plain JSON."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from google.api_core.exceptions import BadRequest, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksRestTransport
from google.longrunning.operations_pb2 import GetOperationRequest

from tests.integration.conftest import LOCATION, Emulator, Enqueue, MakeQueue, Target

NOWHERE = "http://127.0.0.1:9/"
State = tasks_v2.Queue.State


@pytest.fixture(scope="module")
def rest(emulator: Emulator) -> Iterator[tasks_v2.CloudTasksClient]:
    """Give Google's own client over REST."""
    transport = CloudTasksRestTransport(host=emulator.ready["http"], credentials=AnonymousCredentials())
    with tasks_v2.CloudTasksClient(transport=transport) as client:
        yield client


def test_the_life_of_a_queue(rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient) -> None:
    """Create, get, list, update, pause, resume, purge and delete a queue."""
    name = f"{LOCATION}/queues/rest"
    made = rest.create_queue({"parent": LOCATION, "queue": {"name": name, "retry_config": {"max_attempts": 3}}})
    assert made == rest.get_queue(name=name) == client.get_queue(name=name)
    assert made.retry_config.max_attempts == 3
    assert name in [queue.name for queue in rest.list_queues(parent=LOCATION)]
    limits = tasks_v2.Queue(name=name, rate_limits={"max_dispatches_per_second": 2})
    updated = rest.update_queue({"queue": limits, "update_mask": {"paths": ["rate_limits.max_dispatches_per_second"]}})
    assert (updated.rate_limits.max_dispatches_per_second, updated.retry_config.max_attempts) == (2, 3)
    assert rest.pause_queue(name=name).state == State.PAUSED
    assert rest.resume_queue(name=name).state == State.RUNNING
    assert "purge_time" in rest.purge_queue(name=name)
    rest.delete_queue(name=name)
    with pytest.raises(NotFound):
        rest.get_queue(name=name)


def test_the_log(emulator: Emulator, make_queue: MakeQueue, enqueue: Enqueue) -> None:
    """The operations log is read with the call of Cloud Logging's REST API."""
    queue = make_queue(stackdriver_logging_config={"sampling_ratio": 1.0})
    name = enqueue(queue, NOWHERE).name
    request = {"resourceNames": ["projects/demo"], "filter": f'jsonPayload.task="{name}"', "orderBy": "timestamp asc"}
    (entry, *_) = emulator.request("POST", "/v2/entries:list", request)["entries"]
    assert (entry["jsonPayload"]["task"], entry["jsonPayload"]["taskCreationLog"]["status"]) == (name, "OK")


def test_the_life_of_a_task(
    rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str, target: Target
) -> None:
    """Create, get, list, run and delete a task."""
    client.pause_queue(name=queue)
    http = {"url": target.url, "body": b"\x00\xff", "headers": {"X-A": "1"}, "http_method": "PUT"}
    made = rest.create_task({"parent": queue, "task": {"http_request": http}, "response_view": "FULL"})
    assert made.http_request.body == b"\x00\xff"
    assert made == client.get_task({"name": made.name, "response_view": "FULL"})
    assert rest.get_task(name=made.name) == client.get_task(name=made.name)
    assert [task.name for task in rest.list_tasks(parent=queue)] == [made.name]
    assert rest.run_task(name=made.name).name == made.name
    (request,) = target.wait()
    assert (request.method, request.body) == ("PUT", b"\x00\xff")
    other = rest.create_task({"parent": queue, "task": {"http_request": {"url": NOWHERE}}})
    rest.delete_task(name=other.name)
    with pytest.raises(NotFound):
        rest.get_task(name=other.name)


def test_batches(rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str) -> None:
    """BatchCreate, BatchDelete and their operations."""
    client.pause_queue(name=queue)
    requests = [
        {"parent": queue, "task": {"name": f"{queue}/tasks/{one}", "http_request": {"url": NOWHERE}}} for one in "abb"
    ]
    operation = rest.batch_create_tasks({"parent": queue, "requests": requests})
    assert len(operation.result().tasks) == 2
    assert list(operation.metadata.failed_requests) == [2]
    assert rest.get_operation(GetOperationRequest(name=operation.operation.name)) == operation.operation
    rest.batch_delete_tasks({"parent": queue, "names": [f"{queue}/tasks/a", f"{queue}/tasks/b"]}).result()
    assert list(rest.list_tasks(parent=queue)) == []


def test_plain_json(emulator: Emulator, queue: str, target: Target) -> None:
    """What curl sends, with camelCase names, enum names and base64, is understood and answered alike."""
    http = {"url": target.url, "httpMethod": "PATCH", "body": base64.b64encode(b"hello").decode()}
    task = {"task": {"httpRequest": http, "scheduleTime": "2020-01-01T00:00:00Z"}}
    made = emulator.request("POST", f"/v2/{queue}/tasks", task)
    assert made["httpRequest"]["httpMethod"] == "PATCH"
    assert made["view"] == "BASIC"
    (request,) = target.wait()
    assert (request.method, request.body) == ("PATCH", b"hello")
    shown = emulator.request("GET", f"/v2/{queue}")
    assert shown["state"] == "RUNNING"
    assert shown["retryConfig"]["minBackoff"] == "0.100s"


def test_header_names_are_checked(
    rest: tasks_v2.CloudTasksClient, client: tasks_v2.CloudTasksClient, queue: str
) -> None:
    """A header that HTTP has no name for is refused when the task or the queue is created, by both protocols."""
    target = {"header_overrides": [{"header": {"key": "X A", "value": "1"}}]}
    for either in (rest, client):
        with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
            either.create_task({"parent": queue, "task": {"http_request": {"url": NOWHERE, "headers": {"X A": "1"}}}})
        with pytest.raises(BadRequest, match='"X A" is not the name of an HTTP header'):
            either.create_queue({"parent": LOCATION, "queue": {"name": f"{queue}-odd", "http_target": target}})
