"""The routes of Firebase's own emulator of Cloud Tasks, as plain HTTP."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.conftest import LOCATION, PATIENCE, Emulator, StartEmulator, Target

QUEUE = f"{LOCATION}/queues/resize"
#: What firebase-admin sends without credentials.
OWNER = {"Authorization": "Bearer owner"}
TOKEN = {"oidcToken": {"serviceAccountEmail": "emulated-service-acct@email.com"}}
HEADERS = {"Content-Type": "application/json", "X-Mine": "1"}
BODY = base64.b64encode(b'{"data": {"width": 100}}').decode()
TASK = {"httpRequest": {"url": "", "body": BODY, "headers": HEADERS, **TOKEN}}


def send(emulator: Emulator, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Send a request as firebase-admin does, and return the status and the document of the answer."""
    url = f"{emulator.ready['http']}/{path}"
    answer = requests.request(method, url, json=body, headers=OWNER, timeout=PATIENCE)
    return answer.status_code, answer.json()


def test_a_queue_has_the_settings_of_its_function(emulator: Emulator) -> None:
    """What `onTaskDispatched` says becomes the queue's settings; what it leaves out is as firebase-tools deploys it."""
    given = {"retryConfig": {"maxAttempts": 5, "maxRetrySeconds": None}, "rateLimits": {"maxDispatchesPerSecond": 7}}
    status, made = send(emulator, "POST", QUEUE, given | {"retry": False, "timeoutSeconds": 60})
    assert (status, made["taskQueueConfig"]["retryConfig"]["maxAttempts"]) == (200, 5)
    assert made["taskQueueConfig"]["rateLimits"] == {"maxConcurrentDispatches": 1000, "maxDispatchesPerSecond": 7}
    queue = emulator.client.get_queue(name=QUEUE)
    retry = queue.retry_config
    assert (queue.rate_limits.max_dispatches_per_second, retry.max_attempts, retry.max_doublings) == (7, 5, 16)
    assert (retry.min_backoff.total_seconds(), retry.max_backoff.total_seconds()) == (0.1, 3600)
    # The functions emulator sends it again whenever the code of the functions changes.
    assert send(emulator, "POST", QUEUE, {"retryConfig": {"minBackoffSeconds": 2.5, "maxRetrySeconds": 60}})[0] == 200
    changed = emulator.client.get_queue(name=QUEUE)
    retry = changed.retry_config
    assert (changed.rate_limits.max_dispatches_per_second, retry.max_attempts) == (500, 3)
    assert (retry.min_backoff.total_seconds(), retry.max_retry_duration.total_seconds()) == (2.5, 60)


MISSING = f"{LOCATION}/queues/missing/tasks"
NO_TASKS: list[Any] = [None, {}, [], {"task": {}}, {"task": 1}, {"task": {"httpRequest": 1}}]
#: The path below which something is created, what is given, the status and a part of the text.
REFUSED: list[tuple[str, Any, int, str]] = [
    (QUEUE, {"rateLimits": {"maxConcurrentDispatches": 5001}}, 400, "5000"),
    (QUEUE, {"rateLimits": {"maxDispatchesPerSecond": "7"}}, 400, "maxDispatchesPerSecond must be a number"),
    (QUEUE, {"retryConfig": {"minBackoffSeconds": True}}, 400, "minBackoffSeconds must be a number"),
    (QUEUE, {"retryConfig": {"maxAttempts": 2.5}}, 400, "Invalid JSON payload"),
    (QUEUE, {"retryConfig": {"maxRetrySeconds": 1e300}}, 400, "Invalid JSON payload"),
    (QUEUE, {"retryConfig": [1]}, 400, "retryConfig must be an object"),
    (QUEUE, {"defaultUri": "/resize"}, 400, "defaultUri must start with"),
    (f"{LOCATION}/queues/under_score", {}, 400, "Queue name must be formatted"),
    (f"{LOCATION}/queues/{'q' * 101}", {}, 400, "Queue name must be formatted"),
    *((f"{QUEUE}/tasks", body, 400, "") for body in NO_TASKS),
    (MISSING, {"task": TASK}, 404, "Queue does not exist"),
]


@pytest.mark.parametrize(("path", "given", "status", "message"), REFUSED)
def test_what_is_refused(emulator: Emulator, path: str, given: Any, status: int, message: str) -> None:
    """A wrong setting, what is no task, and a task for a function without a queue are refused in JSON."""
    send(emulator, "POST", QUEUE, {"defaultUri": "http://127.0.0.1:9/"})
    found, refused = send(emulator, "POST", path, given)
    assert (found, refused["error"]["status"]) == (status, "INVALID_ARGUMENT" if status == 400 else "NOT_FOUND")
    assert message in refused["error"]["message"]


@pytest.mark.parametrize("own", [False, True])
def test_an_empty_url_is_that_of_the_function(emulator: Emulator, target: Target, *, own: bool) -> None:
    """A task without a URL of its own goes to the queue's `defaultUri`, with its body, headers and a token."""
    send(emulator, "POST", QUEUE, {"defaultUri": "http://127.0.0.1:9/" if own else target.url})
    task = {"httpRequest": {**TASK["httpRequest"], "url": target.url if own else ""}}
    status, made = send(emulator, "POST", f"{QUEUE}/tasks", {"task": task})
    assert (status, made["task"]["name"].rpartition("/")[0]) == (200, f"/{QUEUE}/tasks")
    (request,) = target.wait()
    assert json.loads(request.body) == {"data": {"width": 100}}
    assert (request.headers["x-mine"], request.headers["x-cloudtasks-queuename"]) == ("1", "resize")
    assert request.headers["authorization"].startswith("Bearer ey")


def test_duplicates_and_deletion(emulator: Emulator) -> None:
    """An id that is taken is refused with 409; a task can be deleted once."""
    send(emulator, "POST", QUEUE, {"defaultUri": "http://127.0.0.1:9/"})
    emulator.client.pause_queue(name=QUEUE)
    name = f"{QUEUE}/tasks/one"
    named = {"task": TASK | {"name": name, "scheduleTime": "2020-01-01T00:00:00.000Z", "dispatchDeadline": "30s"}}
    status, made = send(emulator, "POST", f"{QUEUE}/tasks", named)
    assert (status, made["task"]["name"], made["task"]["dispatchDeadline"]) == (200, f"/{name}", "30s")
    status, refused = send(emulator, "POST", f"{QUEUE}/tasks", named)
    assert (status, refused["error"]["status"]) == (409, "ALREADY_EXISTS")
    assert send(emulator, "DELETE", name) == (200, {})
    assert send(emulator, "DELETE", name)[0] == send(emulator, "DELETE", f"{MISSING}/one")[0] == 404
    emulator.client.resume_queue(name=QUEUE)


def test_a_function_without_a_url(emulator: Emulator) -> None:
    """A task without a URL, for a queue whose function has none either, is refused with what to do."""
    send(emulator, "POST", QUEUE, {"defaultUri": "http://127.0.0.1:9/"})
    send(emulator, "POST", QUEUE)
    status, refused = send(emulator, "POST", f"{QUEUE}/tasks", {"task": TASK})
    assert status == 400
    assert "--functions-host" in refused["error"]["message"]


def test_the_functions_emulator(start_emulator: StartEmulator, target: Target) -> None:
    """With `--functions-host` the URL of a function is where Firebase's functions emulator serves it."""
    emulator = start_emulator("--functions-host", f"127.0.0.1:{target.port}", "--queue", QUEUE)
    assert send(emulator, "POST", f"{QUEUE}/tasks", {"task": TASK})[0] == 200
    (request,) = target.wait()
    assert request.path == "/demo/us-central1/resize"


def test_urls_of_functions_last(start_emulator: StartEmulator, target: Target, tmp_path: Path) -> None:
    """The URL of a queue's function is stored in the data folder."""
    first = start_emulator("--data-dir", str(tmp_path))
    send(first, "POST", QUEUE, {"defaultUri": target.url})
    first.kill()
    second = start_emulator("--data-dir", str(tmp_path))
    assert send(second, "POST", f"{QUEUE}/tasks", {"task": TASK})[0] == 200
    assert target.wait()[0].path == "/job"
