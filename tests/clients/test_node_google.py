"""Google's client for Node over gRPC and over REST, with two ports and with one."""

from __future__ import annotations

import json
from typing import Any

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
