"""A strict emulator is Google for Google's own libraries: TLS, tokens, roles, and the texts of refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument, NotFound, Unauthenticated
from google.cloud import tasks_v2
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from cloudtasks_nb.testing import StrictEmulator
from tests.integration.conftest import LOCATION
from tests.integration.strict.conftest import ADMIN, QUEUE, Connect, refused, task

TASK = f"{QUEUE}/tasks/t"


MISSING = [
    ("roles/cloudtasks.enqueuer", lambda c: c.list_queues(parent=LOCATION), "cloudtasks.queues.list"),
    ("roles/cloudtasks.enqueuer", lambda c: c.get_queue(name=QUEUE), "cloudtasks.queues.get"),
    ("roles/cloudtasks.viewer", lambda c: c.create_task(parent=QUEUE, task=task()), "cloudtasks.tasks.create"),
    ("roles/cloudtasks.viewer", lambda c: c.purge_queue(name=QUEUE), "cloudtasks.queues.purge"),
    ("roles/cloudtasks.taskRunner", lambda c: c.delete_task(name=TASK), "cloudtasks.tasks.delete"),
    ("roles/cloudtasks.taskDeleter", lambda c: c.run_task(name=TASK), "cloudtasks.tasks.run"),
    ("roles/cloudtasks.queueAdmin", lambda c: c.list_tasks(parent=QUEUE), "cloudtasks.tasks.list"),
    ("cloudtasks.tasks.get", lambda c: c.get_task({"name": TASK, "response_view": 2}), "cloudtasks.tasks.fullView"),
]


@pytest.mark.parametrize(("role", "call", "missing"), MISSING)
def test_a_missing_permission_is_named(
    emulator: StrictEmulator, connect: Connect, role: str, call: Callable[[Any], Any], missing: str
) -> None:
    """A refusal names the permission and the resource, in the text and in the ErrorInfo."""
    email = f"{role.rpartition('.')[2]}@example.com"
    text, reason, metadata = refused(lambda: call(connect(emulator.user(email, role))))
    assert text.startswith(f'The principal (user or service account) lacks IAM permission "{missing}" for the resource')
    assert (reason, metadata["permission"]) == ("IAM_PERMISSION_DENIED", missing)
    assert metadata["resource"].startswith(LOCATION)


def test_the_policy_of_a_queue_counts(emulator: StrictEmulator, connect: Connect) -> None:
    """SetIamPolicy gives roles, and TestIamPermissions answers what the caller may do."""
    policy = {"bindings": [{"role": "roles/cloudtasks.enqueuer", "members": ["user:bob@example.com"]}]}
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


def test_an_unknown_service_account(emulator: StrictEmulator, connect: Connect) -> None:
    """A token of a service account that does not exist is refused, whatever the roles on the project."""
    client = connect(emulator.user("olga@example.com", "roles/owner"))
    with pytest.raises(NotFound):
        client.create_task(parent=QUEUE, task=task(oidc_token={"service_account_email": emulator.email("nobody")}))


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
