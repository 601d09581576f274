"""Firebase's own packages with the emulator: firebase-admin for Node and for Python, and functions as targets."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.conftest import HERE, Node
from tests.integration.conftest import LOCATION, PATIENCE, Emulator, StartEmulator, Target
from tests.processes import run
from tests.test_documents import read, snippets

QUEUE = f"{LOCATION}/queues/resize"
README = "cloudtasks_nb/emulator/README.md"
ACCOUNT = "emulated-service-acct@email.com"  # which firebase-admin takes without credentials


def set_function(emulator: Emulator, url: str) -> None:
    """Tell the emulator of the function, as the functions emulator does."""
    answer = requests.post(f"{emulator.ready['http']}/{QUEUE}", json={"defaultUri": url}, timeout=PATIENCE)
    assert answer.ok, answer.text


def test_firebase_admin_for_node(emulator: Emulator, node: Node, target: Target) -> None:
    """It creates and deletes tasks, and gets the codes that its documentation names."""
    set_function(emulator, target.url)
    codes = node.run("firebase_admin.mjs", f"{target.url}/elsewhere", CLOUD_TASKS_EMULATOR_HOST=emulator.http)
    refused = {name: code for name, code in codes.items() if code is not None}
    expected = {"duplicate": "task-already-exists", "tooLate": "invalid-argument", "withoutQueue": "not-found"}
    assert refused == {name: f"functions/{code}" for name, code in expected.items()}
    by_path = {request.path: request for request in target.wait(2)}
    assert by_path.keys() == {"/job", "/job/elsewhere"}
    assert json.loads(by_path["/job"].body) == {"data": {"width": 1}}
    assert by_path["/job"].headers["x-mine"] == "1"
    left = {f"{QUEUE}/tasks/three"}
    emulator.until(lambda: {task.name for task in emulator.client.list_tasks(parent=QUEUE)} == left)


def test_firebase_admin_for_python(emulator: Emulator, target: Target, tmp_path: Path) -> None:
    """It creates and deletes tasks, reads their ids from the answers, and gets the right errors."""
    set_function(emulator, target.url)
    settings = {"CLOUD_TASKS_EMULATOR_HOST": emulator.http, "HOME": str(tmp_path)}
    script = HERE / "firebase_admin_calls.py"
    ended = run(sys.executable, script, f"{target.url}/elsewhere", environment={**os.environ, **settings})
    assert ended.returncode == 0, ended.stderr
    outcomes: dict[str, Any] = json.loads(ended.stdout)
    assert outcomes.pop("elsewhere").isdigit()
    expected = {"enqueue": "python", "duplicate": "ALREADY_EXISTS", "later": "later", "delete": None}
    assert outcomes == expected | {"delete_again": "NOT_FOUND", "without_queue": "NOT_FOUND"}
    by_path = {request.path: request for request in target.wait(2)}
    assert json.loads(by_path["/job"].body) == {"data": {"width": 1}}
    assert by_path["/job"].headers["x-mine"] == "1"


@pytest.mark.parametrize("in_emulator", [True, False])
def test_a_function_of_firebase_is_a_target(start_emulator: StartEmulator, node: Node, *, in_emulator: bool) -> None:
    """`onTaskDispatched` reads the task's headers, fails twice, and checks the token where Firebase deploys it."""
    variables = {"FUNCTIONS_EMULATOR": "true"} if in_emulator else {}
    emulator = start_emulator()
    found = node.run("firebase_function.mjs", "one", CLOUD_TASKS_EMULATOR_HOST=emulator.http, **variables)
    assert found["taskQueueConfig"]["retryConfig"]["maxAttempts"] == 5
    assert found["taskQueueConfig"]["rateLimits"] == {"maxConcurrentDispatches": 6, "maxDispatchesPerSecond": 500}
    calls = found["calls"]
    about = {(call["id"], call["queueName"], call["data"]["width"], call["mine"]) for call in calls}
    assert about == {("one", "resize", 100, "1")}
    assert [call["retryCount"] for call in calls] == [0, 1, 2]
    assert [call["executionCount"] for call in calls] == [0, 1, 1]  # a 503 does not count
    assert [call.get("previousResponse") for call in calls] == [None, 400, 503]
    assert [call["scheduledTime"] for call in calls] == sorted(call["scheduledTime"] for call in calls)
    token = (None, None) if in_emulator else (ACCOUNT, found["url"])
    assert {(call.get("email"), call.get("audience")) for call in calls} == {token}
    assert found["stranger"] == (204 if in_emulator else 401)


def test_one_address_for_both_protocols(start_emulator: StartEmulator, node: Node) -> None:
    """With `--single-port` firebase-admin and Google's client over gRPC use one queue by the same address."""
    emulator = start_emulator("--single-port")
    both, left = node.run("one_address.mjs", CLOUD_TASKS_EMULATOR_HOST=emulator.ready["grpc"])
    assert (both, left) == (["firebase", "google"], ["firebase"])


def test_the_snippet_of_the_readme(start_emulator: StartEmulator, node: Node, target: Target) -> None:
    """The command and the script of the README's section about Firebase call the function."""
    (line,) = re.findall(r"^cloudtasks-emulator (.*--functions-host.*)$", read(README), flags=re.MULTILINE)
    emulator = start_emulator(*shlex.split(line.replace("127.0.0.1:5001", f"127.0.0.1:{target.port}")))
    (script,) = (block.code for block in snippets(README) if "firebase-admin" in block.code)
    (node.folder / "readme.mjs").write_text(script, encoding="utf-8")
    node.run("readme.mjs", CLOUD_TASKS_EMULATOR_HOST=emulator.ready["grpc"])
    (request,) = target.wait()
    assert (request.path, json.loads(request.body)) == ("/demo/us-central1/resize", {"data": {"width": 100}})
