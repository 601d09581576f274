"""Every RPC on queues, called through Google's own client."""

from typing import Any

import pytest
from google.cloud import tasks_v2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.integration.conftest import LOCATION, Emulator, Target

BOTH_TRANSPORTS = True
State = tasks_v2.Queue.State
ELSEWHERE = "projects/demo/locations/europe-west1"


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


def test_list_queues_is_sorted_and_paged(emulator: Emulator) -> None:
    """ListQueues gives the location's queues by name, page after page."""
    for short in ("b", "c", "a", "a-1", "B"):
        emulator.client.create_queue(parent=ELSEWHERE, queue=tasks_v2.Queue(name=f"{ELSEWHERE}/queues/{short}"))
    pages = list(emulator.client.list_queues({"parent": ELSEWHERE, "page_size": 2}).pages)
    assert [len(page.queues) for page in pages] == [2, 2, 1]
    names = [queue.name.rpartition("/")[2] for page in pages for queue in page.queues]
    assert names == ["B", "a", "a-1", "b", "c"]


def test_update_queue_makes_a_queue_that_is_not_there(emulator: Emulator) -> None:
    """UpdateQueue creates the queue when it is absent."""
    name = f"{LOCATION}/queues/upserted"
    made = emulator.client.update_queue(
        queue=tasks_v2.Queue(name=name, retry_config={"max_backoff": Duration(seconds=5)})
    )
    assert made.retry_config.max_backoff.total_seconds() == 5
    assert emulator.client.get_queue(name=name) == made
    emulator.client.delete_queue(name=name)


def test_pause_and_resume(emulator: Emulator, queue: str, target: Target) -> None:
    """A paused queue accepts tasks and sends them when it is resumed."""
    assert emulator.client.pause_queue(name=queue).state == State.PAUSED
    assert emulator.client.get_queue(name=queue).state == State.PAUSED
    task = emulator.enqueue(queue, target.url)
    assert emulator.client.get_task(name=task.name).dispatch_count == 0
    assert emulator.client.resume_queue(name=queue).state == State.RUNNING
    (request,) = target.wait()
    assert task.name.endswith("/" + request.headers["x-cloudtasks-taskname"])


def test_a_paused_queue_holds_its_retries_back(emulator: Emulator, failed_once: tasks_v2.Task, target: Target) -> None:
    """A task that failed before a pause is retried only after it; TaskETA is the schedule time of GetTask."""
    queue = failed_once.name.partition("/tasks/")[0]
    emulator.client.pause_queue(name=queue)
    emulator.advance(60)
    other = emulator.enqueue(emulator.make_queue(), target.url)
    target.wait(2)
    emulator.gone(other.name)
    assert emulator.client.get_task(name=failed_once.name).dispatch_count == 1
    emulator.client.resume_queue(name=queue)
    headers = target.wait(3)[2].headers
    assert headers["x-cloudtasks-taskretrycount"] == "1"
    assert abs(float(headers["x-cloudtasks-tasketa"]) - failed_once.schedule_time.timestamp()) < 2e-6


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
