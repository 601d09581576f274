"""Google's clients for Node and for Go (of Debian's golang-google-cloud-dev), with two ports and with one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.auth import jwt

from tests.clients.conftest import HERE, Node, cached_folder
from tests.integration.conftest import LOCATION, StartEmulator, Target
from tests.processes import run

#: The codes of ALREADY_EXISTS, NOT_FOUND and INVALID_ARGUMENT, as the client gives them.
CODES = {"grpc": (6, 5, 3), "rest": (409, 404, 400)}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("arguments", [(), ("--single-port",)], ids=["two ports", "single port"])
def test_every_verb(
    node: Node, start_emulator: StartEmulator, target: Target, protocol: str, arguments: tuple[str, ...]
) -> None:
    """Queues and tasks are created, listed by pages, changed, deleted and refused, and a signed task is delivered."""
    emulator = start_emulator(*arguments)
    address = emulator.http if protocol == "rest" else emulator.ready["grpc"]
    queue, (exists, missing, invalid) = f"{LOCATION}/queues/node", CODES[protocol]
    expected: dict[str, Any] = {"queue": {"name": queue, "state": "RUNNING", "rate": 50}, "purged": queue, "left": 0}
    expected |= {"paused": "PAUSED", "resumed": "RUNNING", "updated": {"attempts": 7, "rate": 50}}
    expected |= {"pages": [2, 2, 1], "listed": [f"later-{number}" for number in range(5)]}
    expected |= {"later": {"seconds": 1, "view": "FULL"}, "signed": {"name": f"{queue}/tasks/signed", "deadline": 60}}
    expected |= {"again": exists, "taken": exists, "invalid": invalid}
    expected |= {"deleted": missing, "missing": missing, "gone": missing}
    assert node.run("google-tasks.mjs", protocol, address, "us-central1", "node", target.url) == expected
    [received] = target.wait()
    assert (received.method, received.headers["x-day"]) == ("PUT", "2013-01-01")
    assert received.headers["x-cloudtasks-taskname"] == "signed"
    assert json.loads(received.body) == {"text": "naïve ✓", "bytes": "\0"}
    keys = emulator.request("GET", "/oauth2/v1/certs")
    claims = jwt.decode(received.headers["authorization"].removeprefix("Bearer "), certs=keys, audience="reports")
    assert claims["email"] == "worker@demo.iam.gserviceaccount.com"


SOURCES = Path("/usr/share/gocode")
CLIENT = SOURCES / "src/cloud.google.com/go/cloudtasks/apiv2"
BUILD_WITHIN = 900.0  # seconds; gRPC is compiled too, which is 35 s of CPU


@pytest.fixture(scope="session")
def program() -> Path:
    """Compile the program, once for each content of it and each release of Go."""
    if shutil.which("go") is None or not CLIENT.is_dir():
        pytest.skip("Go or its client is not installed: apt-get install golang-go golang-google-cloud-dev")
    source = HERE / "google_tasks.go"
    version = run("go", "version").stdout
    with cached_folder("go", version.encode() + source.read_bytes()) as (folder, new):
        if new is not None:
            kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
            places = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": str(SOURCES), "GOCACHE": str(new / "cache")}
            command = ("go", "build", "-o", new / "google_tasks", source)
            built = run(*command, environment=kept | places, timeout=BUILD_WITHIN)
            assert built.returncode == 0, built.stderr
            shutil.rmtree(new / "cache")
    return folder / "google_tasks"


@pytest.mark.parametrize("arguments", [(), ("--single-port",)], ids=["two ports", "single port"])
def test_every_verb_of_go(
    program: Path, start_emulator: StartEmulator, target: Target, arguments: tuple[str, ...]
) -> None:
    """Queues and tasks are created, listed by pages, changed, deleted and refused, and a signed task is delivered."""
    emulator, queue = start_emulator(*arguments), f"{LOCATION}/queues/go"
    ended = run(program, emulator.ready["grpc"], queue, target.url, environment={})
    assert ended.returncode == 0, ended.stderr
    expected = {"queue": queue, "listed": ["a", "b", "c", "d", "e"], "pages": 3, "purged": True, "updated": [3, 50]}
    expected |= {"paused": "PAUSED", "resumed": "RUNNING", "again": "AlreadyExists", "taken": "AlreadyExists"}
    expected |= {"deleted": "NotFound", "missing": "NotFound", "invalid": "InvalidArgument"}
    assert json.loads(ended.stdout) == expected
    [received] = target.wait()
    assert (received.method, received.body) == ("PUT", b'{"day":"2013-01-01"}')
    assert received.headers["x-cloudtasks-taskname"] == "sent"
    assert received.headers["authorization"].startswith("Bearer ey")
