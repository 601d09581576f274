"""A queue's `http_target` changes requests at the moment they are sent."""

from typing import Any

import pytest

from tests.integration.conftest import Emulator, Target

BOTH_TRANSPORTS = True
NOWHERE = "https://nowhere.invalid:1/old?a=1"


def override(target: Target, **fields: object) -> dict[str, Any]:
    """Build an `http_target` that leads to the target."""
    return {"uri_override": {"scheme": "HTTP", "host": "127.0.0.1", "port": target.port, **fields}}


def test_it_reroutes_tasks_that_wait_already(emulator: Emulator, paused: str, target: Target) -> None:
    """The override of a queue counts for tasks created before it."""
    task = emulator.enqueue(paused, NOWHERE, {"body": b"kept"})
    emulator.client.update_queue({"queue": {"name": paused, "http_target": override(target)}})
    emulator.client.resume_queue(name=paused)
    (request,) = target.wait()
    assert (request.path, request.body) == ("/old?a=1", b"kept")
    assert request.headers["host"] == f"127.0.0.1:{target.port}"
    emulator.gone(task.name)


def test_it_is_not_seen_in_the_task(emulator: Emulator, target: Target) -> None:
    """The task keeps its own URL in the API."""
    queue = emulator.make_queue(http_target=override(target), retry_config={"min_backoff": {"seconds": 100}})
    target.script(500)
    task = emulator.answered(emulator.enqueue(queue, NOWHERE).name, 1)
    assert task.http_request.url == NOWHERE
    assert emulator.client.get_queue(name=queue).http_target.uri_override.port == target.port


@pytest.mark.parametrize(("method", "body"), [("PUT", b"body"), ("GET", b"")])
def test_method_and_headers(emulator: Emulator, target: Target, method: str, body: bytes) -> None:
    """The queue's method, which may have no body, replaces the task's; its headers do so, and others are added."""
    headers = [{"header": {"key": "X-A", "value": "queue"}}, {"header": {"key": "X-B", "value": "queue"}}]
    queue = emulator.make_queue(http_target={**override(target), "http_method": method, "header_overrides": headers})
    emulator.enqueue(queue, NOWHERE, {"headers": {"x-a": "task", "X-C": "task"}, "body": b"body"})
    (request,) = target.wait()
    assert (request.method, request.body) == (method, body)
    assert [request.headers.get(name) for name in ("x-a", "x-b", "x-c")] == ["queue", "queue", "task"]
