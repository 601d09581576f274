"""The toolkit takes a strict emulator for Google: Cloud Run, and the roles that a careful administrator grants."""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from google.api_core.exceptions import InvalidArgument
from google.oauth2 import service_account

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import PATIENCE, Target
from tests.integration.strict.conftest import QUEUE, Connect, task

ENQUEUER, LOG = "roles/cloudtasks.enqueuer", "roles/logging.viewer"
Login = Callable[..., ct.Client]


@pytest.fixture
def login(emulator: StrictEmulator) -> Iterator[Login]:
    """Connect as a service account of this name, which has some roles on the project."""
    made: list[ct.Client] = []

    def connect(name: str, *roles: str, **options: Any) -> ct.Client:
        key = str(emulator.service_account(name, roles=roles))
        credentials = service_account.Credentials.from_service_account_file(key)
        made.append(ct.connect("demo", "us-central1", credentials=credentials, **options))
        return made[-1]

    yield connect
    for client in made:
        client.close()


def test_the_role_of_an_enqueuer_is_enough_to_fan_out(
    emulator: StrictEmulator, login: Login, https_target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reads that are refused do not stop the sending: a line says what is not known, and the log tells the outcomes."""
    emulator.seed({"reports": {"log_sampling_ratio": 1.0}})
    queue = login("sender", ENQUEUER, LOG).queue("reports")
    batch = queue.fan_out(pd.DataFrame({"day": range(250)}), url=https_target.url, body=["day"])
    printed = capsys.readouterr().out
    assert "queue reports cannot be read, so its limits and what it logs are not known" in printed
    assert "--member=serviceAccount:sender@demo.iam.gserviceaccount.com --role=roles/cloudtasks.viewer" in printed
    assert batch.wait(timeout=PATIENCE).succeeded == 250
    assert len(queue.enqueue(https_target.url, {"day": 1})) == 1


def test_without_the_log_the_tasks_are_sent_all_the_same(
    emulator: StrictEmulator, login: Login, https_target: Target
) -> None:
    """What became of the rows is not known, and the batch says why."""
    queue = login("blind", ENQUEUER).queue("reports")
    batch = queue.fan_out([{"n": 1}, {"n": 2}], url=https_target.url)
    viewer = login("viewer", "roles/cloudtasks.viewer").queue("reports")
    with pytest.raises(ct.errors.BatchTimeoutError):
        batch.wait(timeout="1s")
    assert (batch.progress().unsent, len(viewer.tasks())) == (0, 2)
    assert "logging.logEntries.list" in repr(batch)
    assert emulator.history("reports") == []


@pytest.mark.parametrize("rows", [1, 3])
def test_an_account_that_signs_needs_act_as(
    emulator: StrictEmulator, login: Login, https_target: Target, rows: int
) -> None:
    """Each task of a batch call is refused by itself; the error names the right that is lacking, and on what."""
    emulator.service_account("caller", key=False)
    queue = login("sender", "roles/cloudtasks.admin", LOG).queue("reports")
    signer = emulator.email("caller")
    batch = queue.fan_out([{"n": n} for n in range(rows)], url=https_target.url, service_account=signer)
    with pytest.raises(ct.errors.PermissionDeniedError, match="actAs") as caught:
        batch.wait(timeout=PATIENCE)
    role, member = "roles/iam.serviceAccountUser", f"serviceAccount:{emulator.email('sender')}"
    grant = f"--project=demo --member={member} --role={role}"
    command = f"gcloud iam service-accounts add-iam-policy-binding {signer} {grant}"
    needed = f"the permission iam.serviceAccounts.actAs is needed on {signer}"
    assert caught.value.hint == f"{needed}; {role} includes it: {command}"


def test_the_whole_way_without_http2(emulator: StrictEmulator, login: Login, https_target: Target) -> None:
    """Over REST a batch is sent and watched, and a refusal names the permission, as over gRPC."""
    emulator.seed({"reports": {"log_sampling_ratio": 1.0}})
    over_rest = {"endpoint": emulator.http, "transport": "rest"}
    tasks = login("sender", "roles/cloudtasks.admin", LOG, **over_rest)
    batch = tasks.queue("reports").fan_out(pd.DataFrame({"day": range(250)}), url=https_target.url, body=["day"])
    assert batch.wait(timeout=PATIENCE).succeeded == 250
    assert tasks.doctor().loc[["api", "permissions", "log"], "ok"].tolist() == [True] * 3
    with pytest.raises(ct.errors.PermissionDeniedError) as caught:
        login("blind", ENQUEUER, **over_rest).queues()
    assert caught.value.reason == "IAM_PERMISSION_DENIED"
    assert "--role=roles/cloudtasks.viewer" in (caught.value.hint or "")


RUN = "https://jobs-abc.a.run.app"


def test_a_signing_account_of_another_project(
    emulator: StrictEmulator, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    """The service refuses it in a task and in a queue's target; each verb refuses it first, and names both projects."""
    file = emulator.user("ann@example.com", "roles/owner")
    other = "caller@other.iam.gserviceaccount.com"
    emulator.service_account(other, key=False)
    emulator.grant("ann@example.com", "roles/iam.serviceAccountUser", other)
    client, token = connect(file), {"service_account_email": other}
    with pytest.raises(InvalidArgument, match="same project as the queue"):
        client.create_task(parent=QUEUE, task=task(oidc_token=token))
    with pytest.raises(InvalidArgument, match="same project as the queue"):
        client.update_queue(queue={"name": QUEUE, "http_target": {"oidc_token": token}})
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    with ct.connect("demo", "us-central1") as tasks:
        queue = tasks.queue("reports")
        for verb in (
            lambda: queue.enqueue(RUN, service_account=other),
            lambda: queue.schedule(RUN, delay="1h", service_account=other),
            lambda: queue.fan_out([{"a": 1}], url=RUN, service_account=other),
            lambda: queue.backfill("2026-01-01", "2026-01-02", freq="D", url=RUN, service_account=other),
            lambda: queue.route(RUN, service_account=other),
        ):
            with pytest.raises(ct.errors.InvalidInputError, match=r"is of the project other: .* project, demo, only"):
                verb()


ROLLOUTS = [
    ({}, (7, 10.0, 600.0, 6)),
    ({"max_attempts": 3}, (3, 10.0, 600.0, 6)),
    ({"min_backoff": "20min"}, (7, 1200.0, 3600.0, 16)),
]


@pytest.mark.parametrize(("given", "expected"), ROLLOUTS)
def test_a_new_queue_outlasts_a_rollout(
    emulator: StrictEmulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    expected: tuple[float, ...],
) -> None:
    """On Google a task is tried for ten minutes, unless backoffs are given; the printed line has each default."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(emulator.user("ann@example.com", "roles/owner")))
    with ct.connect("demo", "us-central1") as tasks:
        tasks.queue("fresh", create=True, **given)
        row = tasks.queues().loc["fresh"].to_dict()
    seconds = [row[name].total_seconds() for name in ("min_backoff", "max_backoff")]
    assert (row["max_attempts"], *seconds, row["max_doublings"]) == expected
    assert ("min_backoff=10s (Cloud Tasks' own default: 0.1s)" in capsys.readouterr().out) == (expected[1] == 10)
