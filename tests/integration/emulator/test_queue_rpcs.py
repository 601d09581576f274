"""Every RPC on queues, their statistics (v2beta3) and their `http_target`, through Google's own clients."""

from datetime import timedelta
from typing import Any

import pytest
from google.cloud import tasks_v2, tasks_v2beta3
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.integration.conftest import LOCATION, Emulator, Target
from tests.integration.emulator.conftest import NOWHERE

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
