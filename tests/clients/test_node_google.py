"""Google's client for Node over gRPC and over REST, with two ports and with one."""

from __future__ import annotations

import json

import pytest
from google.auth import jwt

from tests.clients.conftest import Node
from tests.integration.conftest import LOCATION, StartEmulator, Target

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
    assert node.run("google-tasks.mjs", protocol, address, "us-central1", "node", target.url) == {
        "queue": {"name": queue, "state": "RUNNING", "rate": 50},
        "again": exists,
        "paused": "PAUSED",
        "pages": [2, 2, 1],
        "listed": [f"later-{number}" for number in range(5)],
        "later": {"seconds": 1, "view": "FULL"},
        "deleted": missing,
        "purged": queue,
        "left": 0,
        "resumed": "RUNNING",
        "missing": missing,
        "invalid": invalid,
        "updated": {"attempts": 7, "rate": 50},
        "signed": {"name": f"{queue}/tasks/signed", "deadline": 60},
        "taken": exists,
        "gone": missing,
    }
    [received] = target.wait()
    assert (received.method, received.headers["x-day"]) == ("PUT", "2013-01-01")
    assert received.headers["x-cloudtasks-taskname"] == "signed"
    assert json.loads(received.body) == {"text": "naïve ✓", "bytes": "\0"}
    keys = emulator.request("GET", "/oauth2/v1/certs")
    claims = jwt.decode(received.headers["authorization"].removeprefix("Bearer "), certs=keys, audience="reports")
    assert claims["email"] == "worker@demo.iam.gserviceaccount.com"
