"""A deployed function calls a service that throttles, that does not know all things, and that fails."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator, strict_emulator
from tests import gcloud, processes
from tests.integration.fanout.test_flaky_services import FRAME, Places, places, tried_again, with_requests
from tests.integration.strict.conftest import ADMIN

__all__ = ["places"]  # a fixture

URL = "https://places-1.us-central1.run.app"


@pytest.fixture(scope="module")
def started() -> Iterator[StrictEmulator]:
    """Run Google; tasks wait for a service that is still starting."""
    with strict_emulator("--wait-for-loopback") as emulator:
        yield emulator


@pytest.fixture
def deployed(emulator: StrictEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ct.Deployment]:
    """Deploy the function with a stub of gcloud, and run its folder with the packages that are installed here."""
    state, port = gcloud.install(tmp_path, url=URL), processes.free_port()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_STATE", str(state))
    made = ct.deploy(with_requests, project="demo", region="us-central1", store="gs://team/tasks", run=True)
    environment = os.environ | emulator.google_environment | gcloud.environment(state)
    environment |= {"K_SERVICE": "places", "HOME": str(tmp_path), "CLOUDTASKS_NB_STORE": str(tmp_path / "store")}
    emulator.service_account(made.service_account, key=False)
    emulator.cloud_run(URL, port, invokers=made.service_account, audiences=[made.audience])
    command = (sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "8", "main:application")
    with processes.serving(*command, cwd=made.folder.absolute(), environment=environment):
        yield made


@pytest.fixture
def queue(
    deployed: ct.Deployment, emulator: StrictEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ct.Queue]:
    """Give a queue of an analyst that tries a task twice."""
    analyst = emulator.service_account("analyst", [ADMIN, "roles/logging.viewer"])
    emulator.grant(emulator.email("analyst"), "roles/iam.serviceAccountUser", deployed.service_account)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(analyst))
    with ct.connect("demo", "us-central1", endpoint=emulator.endpoint, store=tmp_path / "store") as tasks:
        yield tasks.queue("places", create=True, max_attempts=2, min_backoff="1ms", max_backoff="1ms")


def test_what_is_hopeless_is_called_once_and_what_is_throttled_succeeds(
    queue: ct.Queue, deployed: ct.Deployment, places: Places
) -> None:
    """As with `ct.serve`: nothing is lost between the function, the store and the frames."""
    rows = FRAME.assign(url=places.url + FRAME["place"])
    batch = queue.fan_out(rows, url=deployed, body=["url"], key=["place"], progress=False)
    batch.wait("120s")
    assert places.calls == {"a1": 1, "x1": 1, "x2": 1, "y1": 2, "z1": 2}
    errors = batch.errors()
    assert errors["failed"].tolist() == [2, 1]
    assert errors["cause"].tolist()[0] == "no such place"
    assert errors["where"].str.fullmatch(r"with_requests, main\.py line \d+").all()
    assert tried_again(batch, "404") == ["x1", "x2"]
