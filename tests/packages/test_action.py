"""The step for GitHub Actions: its scripts run as a runner runs them, and an emulator answers after that."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from tests.integration.conftest import LOCATION
from tests.packages.environments import PATIENCE, ROOT
from tests.processes import run
from tests.test_documents import read, snippets

ACTION = ROOT / ".github/actions/emulator/action.yml"
#: An input in the environment of a step.
INPUT = re.compile(r"\$\{\{ inputs\.([a-z-]+) \}\}")
DOCUMENT: dict[str, Any] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))


class Runner:
    """Runs the scripts of a composite action as GitHub's runner does: in bash, with files that take what they set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = ""

    def run(self, number: int, **inputs: str) -> int:
        """Run a step, and return its exit code."""
        step = DOCUMENT["runs"]["steps"][number]
        given = {name: entry["default"] for name, entry in DOCUMENT["inputs"].items()} | inputs
        variables = {name: INPUT.sub(lambda found: given[found[1]], text) for name, text in step["env"].items()}
        variables |= {"GITHUB_ACTION_PATH": str(ACTION.parent), "RUNNER_TEMP": str(self.folder)}
        variables |= {name: str(self.folder / name) for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        (self.folder / "script").write_text(step["run"], encoding="utf-8")
        bash = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "script")
        done = run(*bash, cwd=self.folder, environment=inherited | variables, timeout=PATIENCE)
        self.printed = done.stdout + done.stderr
        return done.returncode

    def what_it_set(self, name: str) -> dict[str, str]:
        """Return the variables or outputs that steps have set, and forget them."""
        text = (self.folder / name).read_text(encoding="utf-8")
        (self.folder / name).unlink()
        return dict(line.split("=", 1) for line in text.splitlines())

    @contextmanager
    def started(self, **inputs: str) -> Iterator[dict[str, str]]:
        """Start an emulator by the second step, give what the step has set, and end it as the runner does."""
        assert self.run(1, **inputs) == 0, self.printed
        endpoint = json.loads((self.folder / "cloudtasks-emulator/endpoint.json").read_text(encoding="utf-8"))
        try:
            yield self.what_it_set("GITHUB_ENV") | self.what_it_set("GITHUB_OUTPUT")
        finally:
            os.kill(endpoint["pid"], signal.SIGTERM)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Return a runner on which the first step has installed the emulator."""
    runner = Runner(tmp_path_factory.mktemp("runner"))
    assert runner.run(0, python=sys.executable) == 0, runner.printed
    return runner


def queues(address: str) -> list[str]:
    """List the queues of an emulator by Google's client."""
    with grpc.insecure_channel(address) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        return [queue.name for queue in client.list_queues(parent=LOCATION)]


def test_later_steps_find_an_emulator_with_its_queues(runner: Runner) -> None:
    """The steps that follow have CLOUD_TASKS_EMULATOR_HOST, and the outputs name the addresses of gRPC and REST."""
    names = [f"{LOCATION}/queues/{name}" for name in ("a", "b")]
    with runner.started(port="0", queues="\n".join(names)) as found:
        assert found["CLOUD_TASKS_EMULATOR_HOST"] == found["grpc"]
        assert found["METADATA_SERVER_DETECTION"] == "none"
        assert queues(found["grpc"]) == names
        assert '"status":"ok"' in runner.printed  # of the health check at the URL `http`
        assert Path(found["log"]).read_text(encoding="utf-8") == ""


def test_a_single_port_and_a_file_of_queues(runner: Runner) -> None:
    """With `single-port` REST has the port of gRPC; `config` names a file that the emulator reads."""
    (runner.folder / "queues.yaml").write_text(f"queues:\n- name: {LOCATION}/queues/c\n", encoding="utf-8")
    with runner.started(port="0", config="queues.yaml", **{"single-port": "true"}) as found:
        assert found["http"] == f"http://{found['grpc']}"
        assert queues(found["grpc"]) == [f"{LOCATION}/queues/c"]


def test_an_emulator_that_cannot_start_fails_the_step(runner: Runner) -> None:
    """The step shows why the emulator has ended."""
    assert runner.run(1, port="0", queues="reports") == 1
    assert '"reports" is not a queue name' in runner.printed


def test_an_input_is_never_part_of_a_script() -> None:
    """Inputs reach the scripts as variables, so that their text cannot become a command."""
    assert [step["run"] for step in DOCUMENT["runs"]["steps"] if "${{" in step["run"]] == []
    used = {name for step in DOCUMENT["runs"]["steps"] for text in step["env"].values() for name in INPUT.findall(text)}
    assert used == DOCUMENT["inputs"].keys()


def test_the_readme_describes_the_inputs() -> None:
    """The table of the emulator's README has each input with its default; the example uses inputs and outputs."""
    document = "cloudtasks_nb/emulator/README.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| (?:`(\w+)`)? ?\|", read(document), flags=re.MULTILINE)
    assert rows == [(name, entry["default"]) for name, entry in DOCUMENT["inputs"].items()]
    (example,) = (block.code for block in snippets(document) if "OWNER/REPOSITORY" in block.code)
    _, step, *_, last = yaml.safe_load(example)["jobs"]["test"]["steps"]
    assert step["uses"].startswith(f"OWNER/REPOSITORY/{ACTION.parent.relative_to(ROOT)}@")
    assert step["with"].keys() <= DOCUMENT["inputs"].keys()
    assert set(re.findall(r"steps\.cloudtasks\.outputs\.(\w+)", last["run"])) <= DOCUMENT["outputs"].keys()
