"""Every RPC on single tasks, called through Google's own client."""

import re
from datetime import timedelta

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from tests.integration.conftest import Emulator, Target
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
