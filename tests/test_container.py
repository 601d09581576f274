"""The container of the emulator, as far as it can be tried without a container engine, which builds no image here.

The steps of the Dockerfile run in a folder that stands for the root of the image, with the Python of the tests.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cloudtasks_nb.emulator.model.settings import Settings
from tests.environments import EMULATOR, PATIENCE, ROOT
from tests.integration.conftest import LOCATION, Emulator, Target
from tests.processes import run

__all__: list[str] = []

DOCKERFILE = EMULATOR / "Dockerfile"
#: The folders of the image that the steps name.
IMAGE_PATHS = re.compile(r"(?<![\w.])/(opt/emulator|data|source)\b")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile."""

    keyword: str
    flags: str  #: `--from=build`
    value: str


def instructions() -> list[Instruction]:
    """Read the Dockerfile."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pattern = re.compile(r"^(?P<keyword>[A-Z]+)\s+(?P<flags>(?:--\S+\s+)*)(?P<value>.+)$", re.MULTILINE)
    return [Instruction(*found.group("keyword", "flags", "value")) for found in pattern.finditer(text)]


class Image:
    """A folder in which the steps of the Dockerfile were run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(root)}
        self.workdir = root

    def build(self) -> None:
        """Run the instructions that copy files and run commands."""
        for instruction in instructions():
            if instruction.keyword == "WORKDIR":
                self.workdir = Path(self.here(instruction.value))
                self.workdir.mkdir(parents=True)
            elif instruction.keyword == "COPY" and "--from=" not in instruction.flags:
                self.copy(*instruction.value.split())
            elif instruction.keyword == "RUN":
                self.run("/bin/sh", "-e", "-c", self.here(instruction.value))

    def copy(self, *paths: str) -> None:
        """Copy files and folders from the repository, as COPY does."""
        *sources, target = paths
        for source in sources:
            place = self.workdir / target / (Path(source).name if target.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)

    def here(self, text: str) -> str:
        """Lead the paths of the image to this folder."""
        return IMAGE_PATHS.sub(lambda found: f"{self.root}{found[0]}", text)

    def command(self, keyword: str) -> list[str]:
        """Return a command of the image in its list form."""
        (found,) = (each for each in instructions() if each.keyword == keyword)
        return [self.here(word) for word in json.loads(found.value.removeprefix("CMD"))]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the image."""
        return run(*command, cwd=self.workdir, environment=self.variables, timeout=PATIENCE)

    def healthy(self) -> bool:
        """Run the health check."""
        return self.run(*self.command("HEALTHCHECK")).returncode == 0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Run the steps of the Dockerfile."""
    made = Image(tmp_path_factory.mktemp("image"))
    made.build()
    return made


def service() -> dict[str, Any]:
    """Read the service of the compose file."""
    composed = yaml.safe_load((EMULATOR / "compose.yaml").read_text(encoding="utf-8"))
    return dict(composed["services"]["cloudtasks"])


def start(image: Image, *arguments: str) -> Emulator:
    """Start the entry point on loopback, with further arguments."""
    loopback = ("--host", "127.0.0.1", *arguments)
    return Emulator(*loopback, command=image.command("ENTRYPOINT"), environment=image.variables)


def test_the_steps_of_the_dockerfile_make_an_emulator(image: Image) -> None:
    """The entry point starts an emulator that delivers tasks, is healthy while it runs, and stops on a signal."""
    assert not image.healthy()
    emulator = start(image, "--queue", f"{LOCATION}/queues/q")
    with Target() as target, emulator:
        assert image.healthy()
        task = {"http_request": {"url": target.url}}
        emulator.client.create_task({"parent": f"{LOCATION}/queues/q", "task": task})
        target.wait()
        emulator.drained(f"{LOCATION}/queues/q")
        assert emulator.ready["data_dir"] == image.here("/data")
    assert emulator.process.returncode == 0
    assert not image.healthy()


@pytest.mark.parametrize("option", ["--strict", "--single-port"])
def test_the_health_check_knows_each_way_to_listen(image: Image, option: str) -> None:
    """It finds the port, and trusts the emulator's own certificate authority."""
    with start(image, option) as emulator:
        assert image.healthy(), emulator.errors()


def test_a_service_of_the_compose_file_can_call_rest_by_name(image: Image) -> None:
    """The command of the compose file creates a queue, and allows requests to the name of the service."""
    with start(image, *service()["command"]) as emulator:
        queue = service()["command"][-1]
        assert emulator.request("GET", f"/v2/{queue}", headers={"Host": "cloudtasks:8124"})["name"] == queue
        with pytest.raises(AssertionError, match="403"):
            emulator.request("GET", f"/v2/{queue}", headers={"Host": "other:8124"})


def test_the_image_runs_without_rights() -> None:
    """It is not root; the data folder is a volume of that user; the ports are those that the emulator takes."""
    last = {each.keyword: each.value for each in instructions()}
    assert last["USER"] == "10001:10001"
    assert Instruction("COPY", f"--from=build --chown={last['USER']} ", "/data /data") in instructions()
    assert last["VOLUME"] == "/data"
    port = Settings().port
    assert last["EXPOSE"] == f"{port} {port + 1}"
    assert service()["ports"] == [f"127.0.0.1:{port}:{port}", f"127.0.0.1:{port + 1}:{port + 1}"]


def test_docker_stop_waits_for_attempts_in_flight() -> None:
    """The emulator's grace period ends before Docker kills it: after 10 s, and after that of the compose file."""
    *_, grace = json.loads(next(each.value for each in instructions() if each.keyword == "ENTRYPOINT"))
    assert float(grace) < 10 < float(service()["stop_grace_period"].removesuffix("s"))


def test_the_build_gets_the_files_that_it_copies() -> None:
    """Each file that a COPY names is let through to the build, and nothing else of the repository."""
    rules = (EMULATOR / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copies = [each.value.split()[:-1] for each in instructions() if each.keyword == "COPY" and not each.flags]
    assert let == {source for sources in copies for source in sources}
    assert all((ROOT / name).exists() for name in let)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="this machine has no hadolint")
def test_hadolint_finds_nothing() -> None:
    """The linter of Dockerfiles, and of the shell commands in them, has no objection."""
    done = run("hadolint", DOCKERFILE)
    assert (done.stdout, done.returncode) == ("", 0)
