"""What tables of answers do not hold: runs, large pages and messages, statistics and `http_target`."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from tests.integration.conftest import Emulator, Target
from tests.integration.emulator.conftest import NOWHERE, batch

BOTH_TRANSPORTS = True
View = tasks_v2.Task.View


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


def requests(queue: str, *ids: str, **http: object) -> list[dict[str, Any]]:
    """Build one CreateTaskRequest an id."""
    request = {"url": NOWHERE, **http}
    return [{"parent": queue, "task": {"name": f"{queue}/tasks/{one}", "http_request": request}} for one in ids]


def test_messages_beyond_4_mib(emulator: Emulator, paused: str) -> None:
    """A batch of 9 MB is accepted and its bodies come back whole."""
    body = b"0123456789abcdef" * 56_250
    ids = [f"t{number}" for number in range(10)]
    emulator.client.batch_create_tasks({"parent": paused, "requests": requests(paused, *ids, body=body)})
    listed = emulator.client.list_tasks({"parent": paused, "response_view": "FULL"})
    assert [task.http_request.body == body for task in listed] == [True] * 10


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


@pytest.mark.grpc_only("a request of HTTP does not tell its deadline")
def test_a_deadline_too_far_ahead(emulator: Emulator, queue: str) -> None:
    """A call that would wait for more than thirty seconds is refused, as the real service does; thirty are taken."""
    assert emulator.client.get_queue(name=queue, timeout=30, retry=None).name == queue
    text = r"The request deadline is 20.*\. The deadline cannot be more than 30s in the future\."
    with pytest.raises(InvalidArgument, match=text):
        emulator.client.get_queue(name=queue, timeout=31, retry=None)
