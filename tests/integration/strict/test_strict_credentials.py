"""The toolkit at Google's own addresses, with each form of credentials; google-auth and gRPC are not patched."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import LOCATION
from tests.integration.strict.conftest import ADMIN

VIEWER, CONSUMER = "roles/cloudtasks.viewer", "roles/serviceusage.serviceUsageConsumer"
DENIED = r"Permission 'iam\.serviceAccounts\.{}' denied"
ANN, SENDER = "ann@example.com", "sender@demo.iam.gserviceaccount.com"

LogIn = Callable[[Path], None]


@pytest.fixture
def google(emulator: StrictEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StrictEmulator:
    """Give the emulator at Google's own addresses, on a machine without credentials."""
    monkeypatch.delenv("CLOUD_TASKS_EMULATOR_HOST")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    for name, value in emulator.google_environment.items():
        monkeypatch.setenv(name, value)
    return emulator


@pytest.fixture
def log_in(google: StrictEmulator, tmp_path: Path) -> LogIn:
    """Put a file where `gcloud auth application-default login` writes it."""

    def log_in(file: Path) -> None:
        (tmp_path / "application_default_credentials.json").write_bytes(file.read_bytes())

    return log_in


@pytest.fixture
def tasks(google: StrictEmulator) -> Iterator[ct.Client]:
    """Connect without an argument for credentials or endpoint."""
    with ct.connect("demo", "us-central1") as connection:
        yield connection


FORMS: dict[str, Callable[[StrictEmulator], Path]] = {
    "gcloud": lambda google: google.user(ANN, [VIEWER, CONSUMER], gcloud=True),
    "workforce": lambda google: google.user(ANN, VIEWER),
    "key": lambda google: google.service_account("sender", VIEWER),
    "federation": lambda google: google.workload("build-7", VIEWER),
    "federated account": lambda google: google.workload("build-8", VIEWER, service_account="sender"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_credentials(google: StrictEmulator, log_in: LogIn, tasks: ct.Client, form: str) -> None:
    """The queues are read with nothing but the credentials' file."""
    log_in(FORMS[form](google))
    assert tasks.queues().index.tolist() == ["reports"]


def test_a_login_names_a_project_for_its_calls(google: StrictEmulator, log_in: LogIn, tasks: ct.Client) -> None:
    """It is the connection's, since gcloud's file names none; who may not use it learns which role that takes."""
    log_in(google.user(ANN, VIEWER, gcloud=True))
    with pytest.raises(errors.PermissionDeniedError, match="permission to use project demo") as caught:
        tasks.queues()
    assert f"--member=user:{ANN} --role={CONSUMER}" in (caught.value.hint or "")
    google.grant(ANN, CONSUMER)
    assert tasks.queues().index.tolist() == ["reports"]


def test_delegates(google: StrictEmulator, log_in: LogIn) -> None:
    """A chain of accounts works if each may make tokens of the next."""
    google.service_account("sender", VIEWER, key=False)
    assert not google.service_account("between", key=False).exists()
    log_in(google.user(ANN, CONSUMER, gcloud=True))
    with ct.connect("demo", "us-central1", impersonate=f"{google.email('between')}, {SENDER}") as tasks:
        between = google.email("between")
        for member, account, missing in ((ANN, between, "implicitDelegation"), (between, SENDER, "getAccessToken")):
            denied = f"{ANN} cannot impersonate {SENDER}: {DENIED.format(missing)}"
            with pytest.raises(errors.CredentialsError, match=denied):
                tasks.queues()
            google.grant(member, "roles/iam.serviceAccountTokenCreator", account)
        assert tasks.queues().index.tolist() == ["reports"]


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("role", [VIEWER, CONSUMER], ids=["answers", "refusals"])
def test_the_date_of_an_answer(google: StrictEmulator, log_in: LogIn, transport: str, role: str) -> None:
    """Google's frontends date answers and refusals over either protocol, and no clock of this machine is trusted."""
    google.set(clock_offset_s=600)
    log_in(google.user(ANN, [role, CONSUMER], gcloud=True))
    with ct.connect("demo", "us-central1", transport=transport) as tasks:
        with contextlib.suppress(errors.PermissionDeniedError):
            tasks.queues()
        off = tasks.clock.now - pd.Timestamp.now("UTC")
        assert abs(off.total_seconds() - 600) < 30
        assert tasks._connection.clock.warning == "this machine's clock is 10 min behind the service's"


def test_a_batch_goes_on_after_a_new_login(google: StrictEmulator, log_in: LogIn, tasks: ct.Client) -> None:
    """Rows that were not sent for want of a login are sent after it; Google's own client goes on, too."""
    log_in(google.user(ANN, [ADMIN, CONSUMER, "roles/logging.viewer"], gcloud=True))
    queue = tasks.queue("fresh", create=True, max_attempts=1)
    assert len(list(tasks.client.list_queues(parent=LOCATION))) == 2
    batch = queue.fan_out(pd.DataFrame({"day": range(5)}), url="https://svc.invalid/run", send_rate=1)
    google.log_out(ANN)
    with pytest.raises(errors.CredentialsError, match="the login has expired"):
        batch.wait(240)
    assert batch.progress().unsent > 0
    log_in(google.user(ANN, CONSUMER, gcloud=True))
    batch.resume().wait(240)
    assert (batch.progress().unsent, batch.progress().failed) == (0, 5)
    assert len(list(tasks.client.list_queues(parent=LOCATION))) == 2
