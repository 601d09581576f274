"""The endpoints for tests: clock, seeds, snapshots, faults, and the history of finished tasks."""

from google.cloud import tasks_v2
from google.longrunning.operations_pb2 import GetOperationRequest

from tests.integration.conftest import Emulator, Target
from tests.integration.emulator.conftest import QUICK, batch


def test_the_history_of_a_finished_task(emulator: Emulator, target: Target) -> None:
    """The history has every attempt of a finished task, in order; the newest tasks come first, without bodies."""
    queue = emulator.make_queue(retry_config=QUICK)
    target.script(500, 204)
    task = emulator.enqueue(queue, target.url, {"body": b"payload"})
    emulator.gone(task.name)
    short = queue.rpartition("/")[2]
    (found,) = emulator.request("GET", f"/admin/history?queue={short}&body=1")["tasks"]
    (newest,) = emulator.request("GET", "/admin/history?limit=1")["tasks"]
    assert (newest["task"], "body" in newest["attempts"][0]) == (found["task"], False)
    assert (found["queue"], found["task"], found["status"]) == (queue, task.name.rpartition("/")[2], "OK")
    assert [(one["status"], one["http_status"]) for one in found["attempts"]] == [("INTERNAL", 500), ("OK", 204)]
    last = found["attempts"][1]
    assert (last["method"], last["url"], last["body"]) == ("POST", target.url, "payload")
    assert 0 <= last["duration_s"] < 60


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
