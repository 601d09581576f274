"""The container of the emulator, as far as it can be tried without a container engine, which builds no image here.

The steps of the Dockerfile run in a folder that stands for the root of the image, with the Python of the tests.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudtasks_nb.emulator.model.settings import Settings
from tests.integration.conftest import LOCATION, Emulator, Target
from tests.packages.environments import EMULATOR, PATIENCE, ROOT
from tests.processes import run

DOCKERFILE = EMULATOR / "Dockerfile"
#: The folders of the image that the steps name.
IMAGE_PATHS = re.compile(r"(?<![\w.])/(opt/emulator|data|source)\b")


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: each instruction with the rest of its line."""
    text = re.sub(r"^#.*\n|\\\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.findall(r"^([A-Z]+)\s+(.+)$", text, flags=re.MULTILINE)


def copied() -> list[list[str]]:
    """Return the paths of each COPY from the repository: what is copied, and the target."""
    return [value.split() for keyword, value in instructions() if keyword == "COPY" and "--from=" not in value]


class Image:
    """A folder in which the steps of the Dockerfile were run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        self.variables = {"PATH": path, "HOME": str(root), "REPOSITORY": str(ROOT)}
        for keyword, value in instructions():
            if keyword == "ENV":
                self.variables |= dict(pair.split("=") for pair in value.split())

    def build(self) -> None:
        """Run the steps that copy files and run commands, as one script."""
        script = []
        for keyword, value in instructions():
            if keyword == "WORKDIR":
                script.append(f"mkdir {value}; cd {value}")
            elif keyword == "COPY" and value.split() in copied():
                *sources, target = value.split()
                places = [f'"$REPOSITORY"/{name}{"/." if (ROOT / name).is_dir() else ""}' for name in sources]
                script.append(f"mkdir -p {target}; cp -R {' '.join(places)} {target}")
            elif keyword == "RUN":
                script.append(value)
        self.run("/bin/sh", "-e", "-c", self.here("\n".join(script)))

    def here(self, text: str) -> str:
        """Lead the paths of the image to this folder."""
        return IMAGE_PATHS.sub(lambda found: f"{self.root}{found[0]}", text)

    def command(self, keyword: str) -> list[str]:
        """Return a command of the image in its list form."""
        value = self.here(dict(instructions())[keyword])
        return list(json.loads(value[value.index("[") :]))

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the image."""
        return run(*command, cwd=self.root, environment=self.variables, timeout=PATIENCE)

    def healthy(self) -> bool:
        """Run the health check."""
        return self.run(*self.command("HEALTHCHECK")).returncode == 0


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Run the steps of the Dockerfile."""
    made = Image(tmp_path_factory.mktemp("image"))
    made.build()
    return made


def service(file: str = "compose.yaml") -> dict[str, Any]:
    """Read the service of a compose file."""
    composed = yaml.safe_load((EMULATOR / file).read_text(encoding="utf-8"))
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


def test_the_compose_file_for_firebase(image: Image) -> None:
    """Its command answers firebase-admin and gRPC on one port, and makes the queue of a function."""
    with start(image, *service("compose.firebase.yaml")["command"]) as emulator:
        assert emulator.http == emulator.ready["grpc"]
        queue = f"{LOCATION}/queues/resize"
        emulator.request("POST", f"/{queue}/tasks", {"task": {"httpRequest": {"url": ""}}})
        assert emulator.client.get_queue(name=queue).name == queue


def test_the_image_runs_without_rights() -> None:
    """It is not root; the data folder is a volume of that user; the ports are those that the emulator takes."""
    last = dict(instructions())
    assert last["USER"] == "10001:10001"
    assert ("COPY", f"--from=build --chown={last['USER']} /data /data") in instructions()
    assert last["VOLUME"] == "/data"
    port = Settings().port
    assert last["EXPOSE"] == f"{port} {port + 1}"
    assert service()["ports"] == [f"127.0.0.1:{port}:{port}", f"127.0.0.1:{port + 1}:{port + 1}"]


def test_docker_stop_waits_for_attempts_in_flight() -> None:
    """The emulator's grace period ends before Docker kills it: after 10 s, and after that of the compose file."""
    *_, grace = json.loads(dict(instructions())["ENTRYPOINT"])
    assert float(grace) < 10 < float(service()["stop_grace_period"].removesuffix("s"))


def test_the_build_gets_the_files_that_it_copies() -> None:
    """Each file that a COPY names is let through to the build, and nothing else of the repository."""
    rules = (EMULATOR / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert let == {source for *sources, _ in copied() for source in sources}
    assert all((ROOT / name).exists() for name in let)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="this machine has no hadolint")
def test_hadolint_finds_nothing() -> None:
    """The linter of Dockerfiles, and of the shell commands in them, has no objection."""
    done = run("hadolint", DOCKERFILE)
    assert (done.stdout, done.returncode) == ("", 0)
