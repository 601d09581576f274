"""BatchCreateTasks, BatchDeleteTasks and their operations, called through Google's own client."""

from typing import Any

import pytest
from google.api_core.exceptions import Aborted
from google.cloud import tasks_v2
from google.longrunning.operations_pb2 import GetOperationRequest
from google.rpc import code_pb2

from tests.integration.conftest import LOCATION, Emulator
from tests.integration.emulator.conftest import NOWHERE

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
