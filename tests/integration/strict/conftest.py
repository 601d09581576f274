"""Fixtures of the tests against a strict emulator: Google's own clients, unpatched."""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
import grpc
import pytest
from google.api_core.exceptions import PermissionDenied
from google.cloud import tasks_v2

from cloudtasks_nb.testing import StrictEmulator, strict_emulator
from tests.integration.conftest import LOCATION, Target
from tests.processes import run

QUEUE = f"{LOCATION}/queues/reports"
ADMIN = "roles/cloudtasks.admin"
REFUSALS = tomllib.loads(Path(__file__).with_name("refusals.toml").read_text(encoding="utf-8").replace("QUEUE", QUEUE))
Connect = Callable[..., Any]
Load = Callable[[Path], Any]


@pytest.fixture(scope="session")
def started() -> Iterator[StrictEmulator]:
    """Run one strict emulator for all tests; a file with other options has its own."""
    with strict_emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(started: StrictEmulator, monkeypatch: pytest.MonkeyPatch) -> StrictEmulator:
    """Give the emulator with one paused queue; Google's libraries trust its certificates."""
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    started.reset()
    started.seed({"reports": {"state": "PAUSED"}})
    return started


@pytest.fixture
def credentials(emulator: StrictEmulator, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the Application Default Credentials of a file."""

    def load(file: Path) -> Any:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
        return google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0]

    return load


@pytest.fixture
def connect(emulator: StrictEmulator, credentials: Load) -> Iterator[Connect]:
    """Connect Google's own clients with the Application Default Credentials of a file."""
    made: list[Any] = []

    def connect(file: Path, kind: Any = tasks_v2.CloudTasksClient, transport: str = "grpc", **options: Any) -> Any:
        given = {"credentials": credentials(file), **options}
        if transport == "rest":
            given["host"] = urlsplit(emulator.http).netloc
        else:  # gRPC reads its own roots once in a process, in which other tests have others
            roots = Path(emulator.environment["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes()
            given |= {"host": emulator.grpc, "ssl_channel_credentials": grpc.ssl_channel_credentials(roots)}
        made.append(kind(transport=kind.get_transport_class(transport)(**given)))
        return made[-1]

    yield connect
    for client in made:
        client.transport.close()


@pytest.fixture
def https_target(emulator: StrictEmulator) -> Iterator[Target]:
    """Run an HTTPS target with the emulator's certificate."""
    with Target(certificate=emulator.certificate, key=emulator.key) as server:
        yield server


def task(url: str = "https://127.0.0.1:9/", **token: Any) -> dict[str, Any]:
    """Make a task, whose request may have a token."""
    return {"http_request": {"url": url, **token}}


def refused(call: Callable[[], Any], kind: type[Exception] = PermissionDenied) -> tuple[str, str, dict[str, str]]:
    """Return text, reason and metadata of the refusal of a call."""
    with pytest.raises(kind) as caught:
        call()
    error: Any = caught.value
    return error.message, error.reason, dict(error.metadata)


def in_a_process(code: str, folder: Path, variables: Mapping[str, str]) -> Any:
    """Run code in a process with no credentials but those of the variables; return the JSON of its last line."""
    unset = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "NO_GCE_CHECK", "CLOUD_TASKS_EMULATOR_HOST")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    given = {**environment, "HOME": str(folder), "CLOUDSDK_CONFIG": str(folder), **variables}
    done = run(sys.executable, "-c", code, cwd=folder, environment=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
