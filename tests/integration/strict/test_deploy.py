"""A deployed folder, built in a clean environment, served behind Cloud Run's door, and called by tasks with tokens."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import idna
import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator, strict_emulator
from tests import gcloud, processes
from tests.integration.conftest import until
from tests.integration.strict.conftest import ADMIN

SUFFIX = "example"
URL = "https://domain-1.us-central1.run.app"


def domain(name: str = "", **_rest: object) -> dict[str, str]:
    """Use an installed package and a constant; any other body is taken as well."""
    if name == "none":
        raise ct.GiveUp("there is no such name")
    if name == "bad":
        raise ValueError(f"{name} is no good")
    return {"ascii": idna.encode(f"{name}.{SUFFIX}").decode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A deployed service."""

    deployment: ct.Deployment
    port: int
    store: Path  #: where it stores results
    python: Path  #: the interpreter of its environment


@pytest.fixture(scope="module")
def started() -> Iterator[StrictEmulator]:
    """Run Google; tasks wait for a service that is still starting."""
    with strict_emulator("--wait-for-loopback") as emulator:
        yield emulator


@pytest.fixture(scope="module")
def service(started: StrictEmulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Deploy the function with a stub of gcloud, and do what Cloud Run would: build the folder and start it."""
    place = tmp_path_factory.mktemp("service")
    state = gcloud.install(place, url=URL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("GCLOUD_STATE", str(state))
        deployed = ct.deploy(domain, project="demo", region="us-central1", store="gs://team/tasks", run=True)
        folder = deployed.folder.absolute()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    bin_folder = place / "venv/bin"
    for command in (
        (sys.executable, "-m", "venv", place / "venv"),
        (bin_folder / "python", "-m", "pip", "install", "--quiet", "--no-compile", "-r", "requirements.txt"),
    ):
        done = processes.run(*command, cwd=folder, environment=environment, timeout=600)
        assert done.returncode == 0, done.stderr
    environment |= (
        started.google_environment
        | gcloud.environment(state)
        | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "K_SERVICE": "domain",
            "HOME": str(place),
            "CLOUDTASKS_NB_STORE": str(place / "store"),  # on this machine
        }
    )
    line = (folder / "Procfile").read_text().removeprefix("web: ")
    with (
        processes.free_port() as port,
        processes.serving("sh", "-c", f"exec {line}", cwd=folder, environment=environment | {"PORT": str(port)}),
    ):
        yield Service(deployment=deployed, port=port, store=place / "store", python=bin_folder / "python")


@pytest.fixture
def queue(service: Service, emulator: StrictEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[ct.Queue]:
    """Give a queue of an analyst who may do what the printed commands allow; the service's store is read."""
    analyst = emulator.service_account("analyst", [ADMIN, "roles/logging.viewer"])
    for name in (service.deployment.service_account, "thief@demo.iam.gserviceaccount.com"):
        emulator.service_account(name, key=False)
        emulator.grant(emulator.email("analyst"), "roles/iam.serviceAccountUser", name)
    emulator.cloud_run(
        URL, service.port, invokers=service.deployment.service_account, audiences=[service.deployment.audience]
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(analyst))
    with ct.connect("demo", "us-central1", endpoint=emulator.endpoint, store=service.store) as tasks:
        yield tasks.queue("deployed", create=True, max_attempts=1)


@pytest.mark.parametrize("kept", [False, True], ids=["signature removed", "signature kept"])
def test_tasks_reach_it_and_results_land_in_the_store(
    queue: ct.Queue, service: Service, emulator: StrictEmulator, *, kept: bool
) -> None:
    """The deployment is given like a handler: its account signs for its audience, also for the notification."""
    emulator.set(signatures_kept=kept)
    batch = queue.fan_out(pd.DataFrame({"name": ["größe", "bad", "none"]}), url=service.deployment, progress=False)
    batch.on_complete(service.deployment).wait("240s")
    results = batch.results()
    assert results["state"].tolist() == ["succeeded", "failed", "failed"], batch.tasks()["last_message"].tolist()
    assert results["ascii"].tolist()[0] == "xn--gre-6ka8i.example"
    assert results["error"].tolist()[1:] == ["ValueError: bad is no good", "there is no such name"]
    assert batch.errors()["where"].str.fullmatch(r"domain, main\.py line \d+").all()


def test_single_tasks_reach_it(queue: ct.Queue, service: Service) -> None:
    """So do the tasks of `enqueue` and `schedule`; one of another account is refused."""
    queue.enqueue(service.deployment, {"name": "a"})
    queue.schedule(service.deployment, {"name": "b"}, delay="100ms")
    queue.enqueue(service.deployment, {"name": "c"}, service_account="thief@demo.iam.gserviceaccount.com")
    until(lambda: queue.attempts()["status"].count() == 3)
    assert sorted(queue.attempts()["status"].dropna()) == ["OK", "OK", "PERMISSION_DENIED"]


def test_the_environment_has_only_what_is_needed(service: Service) -> None:
    """Neither pandas nor gRPC nor Jupyter is installed, and nothing is missing."""
    pip = (service.python, "-m", "pip", "--disable-pip-version-check")
    assert processes.run(*pip, "check").returncode == 0
    listed = processes.run(*pip, "list", "--format=freeze").stdout
    names = {line.partition("==")[0] for line in listed.splitlines()}
    assert {"cloudtasks-nb", "idna", "gunicorn", "obstore"} <= names
    assert {"pandas", "numpy", "grpcio", "ipywidgets"}.isdisjoint(names)
