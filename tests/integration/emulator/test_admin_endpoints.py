"""The endpoints for tests: clock, seeds, snapshots, faults, and the history of finished tasks."""

from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.cloud import tasks_v2
from google.longrunning.operations_pb2 import GetOperationRequest

from tests.integration.conftest import LOCATION, Emulator, Target
from tests.integration.emulator.conftest import NOWHERE, QUICK, batch


def test_the_clock_jumps_over_nothing(emulator: Emulator, queue: str, target: Target) -> None:
    """A task that became due during an advance is sent, even if its retention ended too."""
    due = datetime.now(UTC) + timedelta(days=10)  # an earlier test may have moved the clock already
    task = emulator.enqueue(queue, target.url, schedule_time=due)
    emulator.advance(40 * 86_400)
    emulator.advance(1)
    (received,) = target.wait(1)
    assert task.name.endswith(received.headers["x-cloudtasks-taskname"])


def test_the_history_of_a_finished_task(emulator: Emulator, target: Target) -> None:
    """The history has every attempt of a finished task: status, headers, duration, and the body on request."""
    queue = emulator.make_queue(retry_config=QUICK)
    target.script(500, 204)
    task = emulator.enqueue(queue, target.url, {"body": b"payload"})
    emulator.gone(task.name)
    short = queue.rpartition("/")[2]
    (found,) = emulator.request("GET", f"/admin/history?queue={short}&body=1")["tasks"]
    (newest,) = emulator.request("GET", "/admin/history?limit=1")["tasks"]
    assert (newest["task"], "body" in newest["attempts"][0]) == (found["task"], False)
    assert (found["queue"], found["task"], found["status"]) == (queue, task.name.rpartition("/")[2], "OK")
    first, second = found["attempts"]
    assert (first["status"], first["http_status"]) == ("INTERNAL", 500)
    assert (second["status"], second["http_status"]) == ("OK", 204)
    assert second["headers"]["X-CloudTasks-TaskRetryCount"] == "1"
    assert (second["method"], second["url"], second["body"]) == ("POST", target.url, "payload")
    assert second["duration_s"] >= 0


@pytest.mark.parametrize("given", [{}, {"name": "one"}])
def test_a_snapshot_is_restored(emulator: Emulator, paused: str, given: dict[str, str]) -> None:
    """A restore brings back queues and tasks, and drops those that were created since; a snapshot may be named."""
    kept = emulator.enqueue(paused, NOWHERE, {"body": b"kept"})
    name = emulator.request("POST", "/admin/snapshot", given)["name"]
    assert name == given.get("name", name)
    new = emulator.make_queue()
    emulator.client.delete_queue(name=paused)
    emulator.request("POST", "/admin/restore", {"name": name})
    assert new not in {queue.name for queue in emulator.client.list_queues(parent=LOCATION)}
    (task,) = emulator.client.list_tasks({"parent": paused, "response_view": "FULL"})
    assert (task.name, task.http_request.body) == (kept.name, b"kept")
    assert emulator.ask("POST", "/admin/restore", b'{"name": "two"}')[0] == 404


@pytest.mark.parametrize(("after", "there"), [(False, 0), (True, 1)])
def test_a_fault_before_or_after_the_call(emulator: Emulator, paused: str, *, after: bool, there: int) -> None:
    """A call can be refused, or carried out and its answer lost; the next call is as ever."""
    emulator.request("POST", "/admin/faults", {"method": "CreateTask", "code": "UNAVAILABLE", "after": after})
    with pytest.raises(ServiceUnavailable):
        emulator.enqueue(paused, NOWHERE)
    assert len(list(emulator.client.list_tasks(parent=paused))) == there
    assert emulator.enqueue(paused, NOWHERE).name


def test_an_operation_that_does_not_finish(emulator: Emulator, queue: str) -> None:
    """The operation of a batch stays unfinished until the faults are cleared; its tasks exist."""
    emulator.request("POST", "/admin/faults", {"method": "BatchCreateTasks", "unfinished": True})
    request = {**batch(queue, 1), "request_id": "held"}
    operation = emulator.client.batch_create_tasks(request)
    get = GetOperationRequest(name=operation.operation.name)
    assert not operation.operation.done
    assert operation.metadata.state == tasks_v2.BatchCreateTasksMetadata.State.RUNNING
    assert emulator.client.get_operation(get) == operation.operation
    assert emulator.client.batch_create_tasks(request).operation == operation.operation
    emulator.request("DELETE", "/admin/faults")
    assert emulator.client.get_operation(get).done
    assert len(operation.result().tasks) == 1
