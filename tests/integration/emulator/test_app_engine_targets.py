"""App Engine tasks: their stored form and the requests that the application receives."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud import tasks_v2

from tests.integration.conftest import Emulator, Target
from tests.integration.emulator.conftest import QUICK, counts

BOTH_TRANSPORTS = True
AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"


@pytest.fixture(scope="module")
def application() -> Iterator[Target]:
    """Run the application for all tests of the file: its address is part of the command line."""
    with Target() as server:
        yield server


@pytest.fixture
def target(application: Target) -> Target:
    """Give the application, without what it received before."""
    application.received.clear()
    return application


@pytest.fixture(scope="module")
def cloud_tasks_emulator_arguments(application: Target) -> list[str]:
    """Run the emulator for that application."""
    return ["--app-engine-host", f"http://127.0.0.1:{application.port}"]


def create(emulator: Emulator, queue: str, request: dict[str, Any], **task: object) -> tasks_v2.Task:
    """Create an App Engine task; shows everything."""
    return emulator.client.create_task(
        {"parent": queue, "task": {"app_engine_http_request": request, **task}, "response_view": "FULL"}
    )


def test_the_request(emulator: Emulator, queue: str, target: Target) -> None:
    """The application sees its own headers, and the user agent of App Engine."""
    task = create(emulator, queue, {"relative_uri": "/do?x=1", "http_method": "PUT", "body": b"data"})
    (request,) = target.wait()
    assert (request.method, request.path, request.body) == ("PUT", "/do?x=1", b"data")
    seen = tuple(request.headers[name] for name in ("user-agent", "x-appengine-queuename", "x-appengine-taskname"))
    assert seen == (AGENT, queue.rpartition("/")[2], task.name.rpartition("/")[2])
    assert not [name for name in request.headers if name.startswith("x-cloudtasks-")]


def test_the_recorded_sequence_of_answers(emulator: Emulator, target: Target) -> None:
    """For App Engine every answer counts as an execution, and the reason is named."""
    target.script(503, 404, 429, 500, 302)
    task = create(emulator, emulator.make_queue(retry_config=QUICK), {})
    seen = [counts(request, "x-appengine-") for request in target.wait(6)]
    answers = enumerate(("503", "404", "429", "500", "302"), 1)
    assert seen == [("0", "0", None, None), *((f"{n}", f"{n}", status, "App Error") for n, status in answers)]
    emulator.gone(task.name)


def test_a_timeout(emulator: Emulator, queue: str, target: Target) -> None:
    """After a timeout the previous response is 0, and nothing was executed."""
    held = target.hold()
    target.script(held)
    create(emulator, queue, {}, dispatch_deadline={"seconds": 15})
    target.wait()
    emulator.advance(16)
    request = target.wait(2)[1]
    held.release()
    assert counts(request, "x-appengine-") == ("1", "0", "0", "Instance Unavailable")
