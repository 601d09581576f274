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
