"""ListLogEntries of `google.logging.v2` over the operations log, through Google's own client."""

import re
from datetime import datetime
from typing import Any

import orjson
import pytest
from google.api_core.exceptions import InvalidArgument
from google.cloud import tasks_v2
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from google.cloud.logging_v2.types import LogEntry
from google.logging.type.log_severity_pb2 import ERROR, INFO
from google.protobuf.json_format import MessageToDict

from cloudtasks_nb._names import LOG_IMMEDIATE_METADATA, QueueName
from cloudtasks_nb.service.costs import log_bytes
from tests.integration.conftest import LOCATION, Emulator, Target
from tests.integration.emulator.conftest import LOGGED, QUICK

LOG = "projects/demo/logs/cloudtasks.googleapis.com%2Ftask_operations_log"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
KINDS = ("taskCreationLog", "attemptDispatchLog", "attemptResponseLog")


class Log:
    """The log of one queue."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.client = LoggingServiceV2Client(transport=LoggingServiceV2GrpcTransport(channel=emulator.channel))

    def read(self, queue: str, more: str = "", **fields: object) -> list[LogEntry]:
        """Give the queue's entries, oldest first."""
        condition = f'logName="{LOG}" AND resource.labels.queue_id="{queue.rpartition("/")[2]}"'
        query = {"resource_names": ["projects/demo"], "order_by": "timestamp asc", **fields}
        return list(self.client.list_log_entries({**query, "filter": f"{condition} {more}".strip()}))

    def wait(self, queue: str, count: int) -> list[LogEntry]:
        """Give the queue's entries as soon as there are so many."""
        return self._emulator.until(lambda: found if len(found := self.read(queue)) >= count else None)


@pytest.fixture
def log(emulator: Emulator) -> Log:
    """Give a reader of the emulator's log."""
    return Log(emulator)


def payload(entry: LogEntry) -> dict[str, Any]:
    """Give an entry's JSON."""
    return dict(MessageToDict(LogEntry.pb(entry).json_payload))


def kind(entry: LogEntry) -> str:
    """Give the name of an entry's operation."""
    (name,) = set(payload(entry)) - {"@type", "task"}
    return name


def test_a_success_is_three_entries(emulator: Emulator, target: Target, log: Log) -> None:
    """Creation, dispatch and response are logged, with the names, labels and fields of the real service."""
    queue = emulator.make_queue(**LOGGED)
    task = emulator.enqueue(queue, target.url, {"http_method": "PUT"})
    entries = log.wait(queue, 3)
    assert [kind(entry) for entry in entries] == list(KINDS)
    created, dispatched, answered = (payload(entry)[kind(entry)] for entry in entries)
    for part in (created, dispatched, answered):
        assert (part["targetAddress"], part["targetType"], part["status"]) == (f"PUT {target.url}", "HTTP", "OK")
        assert TIME.fullmatch(part["scheduleTime"])
    assert (dispatched["dispatchCount"], answered["dispatchCount"], answered["responseCount"]) == ("1", "1", "1")
    assert re.fullmatch(r"\d+(\.\d{1,9})?s", answered["attemptDuration"])
    assert "retryTime" not in answered
    labels = {"project_id": "demo", "location": "us-central1", "target_type": "HTTP"}
    labels["queue_id"] = queue.rpartition("/")[2]
    for entry in entries:
        assert entry.log_name == LOG
        assert (entry.resource.type, dict(entry.resource.labels)) == ("cloud_tasks_queue", labels)
        assert payload(entry)["@type"] == "type.googleapis.com/google.cloud.tasks.logging.v1.TaskActivityLog"
        assert (payload(entry)["task"], entry.severity) == (task.name, INFO)
        assert entry.receive_timestamp >= entry.timestamp
    assert len({entry.insert_id for entry in entries}) == 3
    assert [entry.timestamp for entry in entries] == sorted(entry.timestamp for entry in entries)
    emulator.gone(task.name)


def test_entries_are_as_large_as_plans_assume(emulator: Emulator, target: Target, log: Log) -> None:
    """The bytes of log that a plan prices are those of a task's three entries as JSON."""
    queue = emulator.make_queue(**LOGGED)
    emulator.enqueue(queue, target.url, name=f"{queue}/tasks/{'a' * 31}")
    entries = [orjson.dumps(MessageToDict(LogEntry.pb(entry))) for entry in log.wait(queue, 3)]
    assumed = log_bytes(QueueName.parse(queue), len(f"POST {target.url}"))
    assert sum(map(len, entries)) == pytest.approx(assumed, rel=0.01)


def test_a_failure_tells_status_and_retry_time(emulator: Emulator, target: Target, log: Log) -> None:
    """A failed attempt is an ERROR with its canonical status and the time of the next attempt."""
    queue = emulator.make_queue(**LOGGED, retry_config={"min_backoff": {"seconds": 60}})
    target.script(503)
    task = emulator.answered(emulator.enqueue(queue, target.url).name, 1)
    entry = log.wait(queue, 3)[-1]
    answered = payload(entry)["attemptResponseLog"]
    assert (entry.severity, answered["status"]) == (ERROR, "UNAVAILABLE")
    retry_time = datetime.fromisoformat(answered["retryTime"])
    assert abs((retry_time - task.schedule_time).total_seconds()) < 1e-3


def test_the_last_failure_is_seen_by_its_count(emulator: Emulator, target: Target, log: Log) -> None:
    """A task that was given up has as many dispatches as attempts allowed, and no retry time."""
    queue = emulator.make_queue(**LOGGED, retry_config={"max_attempts": 3, **QUICK})
    target.script(500, 404, 500)
    emulator.gone(emulator.enqueue(queue, target.url).name)
    entries = [payload(entry)["attemptResponseLog"] for entry in log.wait(queue, 7) if kind(entry) == KINDS[2]]
    assert [entry["status"] for entry in entries] == ["INTERNAL", "NOT_FOUND", "INTERNAL"]
    assert [entry["dispatchCount"] for entry in entries] == ["1", "2", "3"]
    assert ["retryTime" in entry for entry in entries] == [True, True, False]


def test_a_timeout_has_no_response(emulator: Emulator, target: Target, log: Log) -> None:
    """An attempt that ran into its deadline counts no response."""
    queue = emulator.make_queue(**LOGGED, retry_config={"max_attempts": 1})
    target.script(target.hold())
    task = emulator.enqueue(queue, target.url, dispatch_deadline={"seconds": 15})
    target.wait()
    emulator.advance(15)
    emulator.gone(task.name)
    answered = payload(log.wait(queue, 3)[-1])["attemptResponseLog"]
    assert (answered["status"], answered["dispatchCount"], answered["responseCount"]) == ("DEADLINE_EXCEEDED", "1", "0")


def test_no_sampling_no_log(emulator: Emulator, target: Target, log: Log) -> None:
    """A queue with Google's default sampling ratio of 0 writes nothing."""
    silent, loud = emulator.make_queue(), emulator.make_queue(**LOGGED)
    for queue in (silent, loud):
        emulator.gone(emulator.enqueue(queue, target.url).name)
    log.wait(loud, 3)
    assert log.read(silent) == []


def test_pages_and_filters(emulator: Emulator, target: Target, log: Log) -> None:
    """The log is paged, ordered both ways, and filtered by time, status and task."""
    queue = emulator.make_queue(**LOGGED, retry_config={"max_attempts": 2, **QUICK})
    target.script(500, 500)
    task = emulator.enqueue(queue, target.url)
    emulator.gone(task.name)
    entries = log.wait(queue, 5)
    assert log.read(queue, page_size=2) == entries
    assert log.read(queue, order_by="timestamp desc") == entries[::-1]
    received = entries[2].receive_timestamp
    later = [entry for entry in entries if entry.receive_timestamp > received]
    assert log.read(queue, f'AND receiveTimestamp>"{received.rfc3339()}"') == later
    failures = [entry for entry in entries if kind(entry) == KINDS[2]]
    assert log.read(queue, 'AND jsonPayload.attemptResponseLog.status!="OK"') == failures
    assert log.read(queue, f'AND jsonPayload.task="{task.name}"') == entries


@pytest.mark.parametrize(
    ("cloud_tasks_emulator_arguments", "immediate"),
    [([], "true"), (["--log-delay", "3600"], "false"), (["--log-index-delay", "0.05:45", "0.01:600"], "false")],
)
def test_metadata_says_whether_the_log_is_immediate(emulator: Emulator, immediate: str) -> None:
    """The trailing metadata of each call says whether entries can be read at once."""
    method = emulator.channel.unary_unary("/google.cloud.tasks.v2.CloudTasks/ListQueues")
    _, call = method.with_call(tasks_v2.ListQueuesRequest.serialize(tasks_v2.ListQueuesRequest(parent=LOCATION)))
    assert dict(call.trailing_metadata())[LOG_IMMEDIATE_METADATA] == immediate


def test_a_regular_expression_takes_linear_time(emulator: Emulator, log: Log) -> None:
    """A pattern that a backtracking engine would try for ages is answered, and a wrong one is refused by RE2."""
    queue = emulator.make_queue(**LOGGED)
    emulator.client.pause_queue(name=queue)
    emulator.enqueue(queue, "http://127.0.0.1:9/" + 60 * "a")
    address = "AND jsonPayload.taskCreationLog.targetAddress=~"
    assert len(log.read(queue, f'{address}"/a+$"')) == 1
    assert log.read(queue, f'{address}"(a|aa)+b"') == []
    with pytest.raises(InvalidArgument, match="invalid perl operator"):
        log.read(queue, f'{address}"(?=a)"')
