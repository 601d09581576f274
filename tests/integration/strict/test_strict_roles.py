"""A strict emulator is Google for Google's libraries and for the toolkit: TLS, tokens, careful roles, and refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pytest
from google.api_core.exceptions import InvalidArgument, Unauthenticated
from google.cloud import tasks_v2
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.oauth2 import service_account

import cloudtasks_nb as ct
from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import LOCATION, PATIENCE, Target, until
from tests.integration.strict.conftest import ADMIN, QUEUE, REFUSALS, Connect, refused, task


@pytest.mark.parametrize(("role", "call", "request_", "missing"), REFUSALS["missing"])
def test_a_missing_permission_is_named(
    emulator: StrictEmulator, connect: Connect, role: str, call: str, request_: dict[str, Any], missing: str
) -> None:
    """A refusal names the permission and the resource, in the text and in the ErrorInfo."""
    client = connect(emulator.user(f"{role.rpartition('.')[2]}@example.com", role))
    text, reason, metadata = refused(lambda: getattr(client, call)(request_))
    assert text.startswith(f'The principal (user or service account) lacks IAM permission "{missing}" for the resource')
    assert (reason, metadata["permission"]) == ("IAM_PERMISSION_DENIED", missing)
    assert metadata["resource"].startswith(LOCATION)


WORKFORCE = "principal://iam.googleapis.com/locations/global/workforcePools/emulator/subject/"


@pytest.mark.parametrize("member", ["user:bob@example.com", f"{WORKFORCE}bob@example.com"])
def test_the_policy_of_a_queue_counts(emulator: StrictEmulator, connect: Connect, member: str) -> None:
    """SetIamPolicy gives roles, to a workforce identity too; TestIamPermissions answers what the caller may do."""
    policy = {"bindings": [{"role": "roles/cloudtasks.enqueuer", "members": [member]}]}
    connect(emulator.user("ann@example.com", ADMIN)).set_iam_policy({"resource": QUEUE, "policy": policy})
    asked = ["cloudtasks.tasks.create", "cloudtasks.queues.get"]
    bob = connect(emulator.user("bob@example.com"))
    assert list(bob.test_iam_permissions({"resource": QUEUE, "permissions": asked}).permissions) == asked[:1]


def test_a_token_needs_the_right_to_act_as_its_account(emulator: StrictEmulator, connect: Connect) -> None:
    """A task with a token is created only by who may act as the service account, with an https:// target."""
    client, account = connect(emulator.user("ann@example.com", ADMIN)), emulator.email("caller")
    emulator.service_account("caller", key=False)
    signed = task(oidc_token={"service_account_email": account})
    text, _, metadata = refused(lambda: client.create_task(parent=QUEUE, task=signed))
    lacks = 'The principal (user or service account) lacks IAM permission "iam.serviceAccounts.actAs" for the resource'
    assert text == f'{lacks} "{account}" (or the resource may not exist).'
    assert metadata["resource"] == account
    emulator.grant("ann@example.com", "roles/iam.serviceAccountUser", account)
    assert client.create_task(parent=QUEUE, task=signed).name
    signed["http_request"]["url"] = "http://127.0.0.1:9/"
    with pytest.raises(InvalidArgument, match="must start with 'https://'"):
        client.create_task(parent=QUEUE, task=signed)


def test_the_log_has_a_permission_of_its_own(emulator: StrictEmulator, connect: Connect) -> None:
    """Entries of the log are read with a role of Cloud Logging, until it is revoked."""
    client = connect(emulator.user("ann@example.com", ADMIN), LoggingServiceV2Client)
    request = {"resource_names": ["projects/demo"]}
    text, reason, _ = refused(lambda: list(client.list_log_entries(request)))
    assert text == "Permission 'logging.logEntries.list' denied on resource (or it may not exist)."
    assert reason == "IAM_PERMISSION_DENIED"
    emulator.grant("ann@example.com", "roles/logging.viewer")
    assert list(client.list_log_entries(request)) == []
    emulator.revoke("ann@example.com", "roles/logging.viewer")
    assert refused(lambda: list(client.list_log_entries(request)))[1] == "IAM_PERMISSION_DENIED"


def test_the_emulator_needs_tokens_and_tls(emulator: StrictEmulator) -> None:
    """A call without a token, with a bad one, and without TLS fails, each in its way."""
    roots = Path(emulator.environment["REQUESTS_CA_BUNDLE"]).read_bytes()
    bad = (("authorization", "Bearer x"),)
    for header, reason in (((), "CREDENTIALS_MISSING"), (bad, "ACCESS_TOKEN_TYPE_UNSUPPORTED")):
        with grpc.secure_channel(emulator.grpc, grpc.ssl_channel_credentials(roots)) as channel:
            client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
            found = refused(lambda: client.get_queue(name=QUEUE, metadata=header), Unauthenticated)  # noqa: B023
        method = "google.cloud.tasks.v2.CloudTasks.GetQueue"
        assert found[1:] == (reason, {"service": "cloudtasks.googleapis.com", "method": method})


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

    def told() -> bool:
        with pytest.raises(ct.errors.BatchTimeoutError):
            batch.wait(timeout="1s")
        return not batch.progress().unsent and "logging.logEntries.list" in repr(batch)

    until(told)
    assert len(viewer.tasks()) == 2
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
    grant = f"--project=demo --member={member} --role={role} --condition=None"
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
