"""The examples for Python, Node and Go in the emulator's README run as they stand there."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Node
from tests.integration.conftest import Emulator
from tests.processes import run
from tests.test_documents import snippets

QUEUE = "projects/p/locations/us-central1/queues/q"
EXAMPLES = {block.language: block.code for block in snippets("cloudtasks_nb/emulator/README.md")}
#: Where Debian's package golang-google-cloud-dev has the client.
GO_SOURCES = Path("/usr/share/gocode")
GO_MESSAGES = "cloud.google.com/go/cloudtasks/apiv2/cloudtaskspb"
#: Their import path in Debian 13, whose package is of 2020; all else in the example is the same.
OLD_GO_MESSAGES = "google.golang.org/genproto/googleapis/cloud/tasks/v2"
COMPILE_WITHIN = 900.0  # seconds


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator with the queue of the examples."""
    with Emulator("--queue", QUEUE) as child:
        yield child


def tasks(emulator: Emulator) -> list[str]:
    """Return the names of the tasks in the queue."""
    return [task.name for task in emulator.client.list_tasks(parent=QUEUE)]


def test_the_pytest_example_passes(tmp_path: Path) -> None:
    """The fixture starts the command `cloudtasks-emulator`, and the test creates a task by Google's client."""
    (tmp_path / "test_example.py").write_text(EXAMPLES["python"], encoding="utf-8")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/cloudtasks-emulator"  # as the distribution has it
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cloudtasks_nb.emulator "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path, environment=os.environ | path)
    assert "1 passed" in done.stdout, done.stdout


def test_the_node_example_creates_a_task(node: Node, emulator: Emulator) -> None:
    """Google's client for Node creates a task by gRPC."""
    (node.folder / "example.mjs").write_text(EXAMPLES["js"], encoding="utf-8")
    created = node.run("example.mjs", CLOUD_TASKS_EMULATOR_HOST=emulator.ready["grpc"])
    assert tasks(emulator) == [created]


@pytest.mark.skipif(shutil.which("go") is None, reason="this machine has no Go")
@pytest.mark.skipif(not GO_SOURCES.exists(), reason="this machine has no golang-google-cloud-dev")
def test_the_go_example_creates_a_task(emulator: Emulator, tmp_path: Path) -> None:
    """Google's client for Go creates a task by gRPC."""
    program = EXAMPLES["go"]
    assert f'"{GO_MESSAGES}"' in program
    if not (GO_SOURCES / "src" / GO_MESSAGES).exists():
        program = program.replace(f'"{GO_MESSAGES}"', f'cloudtaskspb "{OLD_GO_MESSAGES}"')
    (tmp_path / "main.go").write_text(program, encoding="utf-8")
    variables = {"GO111MODULE": "off", "GOPATH": str(GO_SOURCES), "GOFLAGS": ""}
    environment = os.environ | variables | {"CLOUD_TASKS_EMULATOR_HOST": emulator.ready["grpc"]}
    done = run("go", "run", "main.go", cwd=tmp_path, environment=environment, timeout=COMPILE_WITHIN)
    assert done.returncode == 0, done.stderr
    assert tasks(emulator) == [done.stdout.strip()]
