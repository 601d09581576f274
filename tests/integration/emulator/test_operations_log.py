"""The operations log of queues whose tasks are dispatched, through Google's own client."""

import orjson
import pytest
from google.cloud import tasks_v2

from cloudtasks_nb._names import LOG_IMMEDIATE_METADATA, QueueName
from cloudtasks_nb.service.costs import log_bytes
from tests.integration.conftest import LOCATION, Emulator, Target
from tests.integration.emulator.conftest import LOGGED, QUICK, log_entries

KINDS = ("taskCreationLog", "attemptDispatchLog", "attemptResponseLog")


def test_a_success_is_three_entries(emulator: Emulator, target: Target) -> None:
    """Creation, dispatch and response are logged, with the names, labels and fields of the real service."""
    queue = emulator.make_queue(**LOGGED)
    task = emulator.enqueue(queue, target.url, {"http_method": "PUT"})
    entries = log_entries(emulator, queue, 3)
    labels = {"project_id": "demo", "location": "us-central1", "target_type": "HTTP"}
    resource = {"type": "cloud_tasks_queue", "labels": {**labels, "queue_id": queue.rpartition("/")[2]}}
    counts = {"dispatchCount": "1", "responseCount": "1"}
    for entry, kind, found in zip(entries, KINDS, ({}, {"dispatchCount": "1"}, counts), strict=True):
        assert entry["logName"] == "projects/demo/logs/cloudtasks.googleapis.com%2Ftask_operations_log"
        assert (entry["resource"], entry["severity"]) == (resource, "INFO")
        assert entry["receiveTimestamp"] >= entry["timestamp"]
        payload = entry["jsonPayload"]
        assert (payload["task"], payload.keys()) == (task.name, {"@type", "task", kind})
        shown = {"targetAddress": f"PUT {target.url}", "targetType": "HTTP", "status": "OK", **found}
        assert payload[kind].items() >= shown.items()
        assert "retryTime" not in payload[kind]
    assert len({entry["insertId"] for entry in entries}) == 3


def test_entries_are_as_large_as_plans_assume(emulator: Emulator, target: Target) -> None:
    """The bytes of log that a plan prices are those of a task's three entries as JSON."""
    queue = emulator.make_queue(**LOGGED)
    emulator.enqueue(queue, target.url, name=f"{queue}/tasks/{'a' * 31}")
    assumed = log_bytes(QueueName.parse(queue), len(f"POST {target.url}"))
    assert sum(len(orjson.dumps(entry)) for entry in log_entries(emulator, queue, 3)) == pytest.approx(
        assumed, rel=0.01
    )


def test_the_last_failure_is_seen_by_its_count(emulator: Emulator, target: Target) -> None:
    """A task that was given up has as many dispatches as attempts allowed, and no retry time."""
    queue = emulator.make_queue(**LOGGED, retry_config={"max_attempts": 3, **QUICK})
    target.script(500, 404, 500)
    emulator.enqueue(queue, target.url)
    payloads = [entry["jsonPayload"] for entry in log_entries(emulator, queue, 7)]
    found = [payload[KINDS[2]] for payload in payloads if KINDS[2] in payload]
    shown = [(entry["status"], entry["dispatchCount"], "retryTime" in entry) for entry in found]
    assert shown == [("INTERNAL", "1", True), ("NOT_FOUND", "2", True), ("INTERNAL", "3", False)]


@pytest.mark.parametrize(
    ("cloud_tasks_emulator_arguments", "immediate"),
    [([], "true"), (["--log-delay", "3600"], "false"), (["--log-index-delay", "0.05:45", "0.01:600"], "false")],
)
def test_metadata_says_whether_the_log_is_immediate(emulator: Emulator, immediate: str) -> None:
    """The trailing metadata of each call says whether entries can be read at once."""
    method = emulator.channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/ListQueues")
    _, call = method.with_call(tasks_v2.ListQueuesRequest.serialize(tasks_v2.ListQueuesRequest(parent=LOCATION)))
    assert dict(call.trailing_metadata())[LOG_IMMEDIATE_METADATA] == immediate
