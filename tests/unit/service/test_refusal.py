"""A refusal of the service: its reason decides which error it becomes, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cloudtasks_nb import errors
from cloudtasks_nb.service.refusal import Refusal
from tests.certificates import Authority
from tests.unit.service.conftest import QUEUE, Fakes, call, login, use

CONSUMER = {"consumer": "projects/123", "service": "cloudtasks.googleapis.com"}
ROBOT = "robot@other.iam.gserviceaccount.com"
DENIED, EXHAUSTED, ANONYMOUS = "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"


def refusal(code: str, message: str, *details: Any) -> status_pb2.Status:
    """Return a status as Google's servers send it."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=packed)


def info(reason: str, facts: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    """Return the reason of a refusal."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com", metadata=dict(facts))


def raised(fake: Fakes, trusted: Authority, status: Any, *, rpc: str = "GetQueue", **fields: Any) -> Any:
    """Return the error of a call that ann@example.com makes."""
    server = fake(status, tls=trusted.grpc())
    with pytest.raises(errors.CloudTasksError) as caught:
        use(
            server.port, call(rpc, **(fields or {"name": QUEUE})), place={"local": False}, auth=login("ann@example.com")
        )
    return caught.value


@pytest.mark.parametrize(
    ("code", "reason", "facts", "kind", "hint"),
    [
        (
            DENIED,
            "SERVICE_DISABLED",
            CONSUMER,
            errors.PreconditionError,
            "gcloud services enable cloudtasks.googleapis.com --project=123",
        ),
        (
            DENIED,
            "SERVICE_DISABLED",
            {"consumer": "projects/764086051850"},
            errors.PreconditionError,
            "gcloud auth application-default set-quota-project p; or ct.connect(…, quota_project='p')",
        ),
        (DENIED, "BILLING_DISABLED", CONSUMER, errors.PreconditionError, "gcloud billing projects link 123"),
        (
            DENIED,
            "USER_PROJECT_DENIED",
            CONSUMER,
            errors.PermissionDeniedError,
            "add-iam-policy-binding 123 --member=user:ann@example.com --role=roles/serviceusage.serviceUsageConsumer",
        ),
        (DENIED, "SECURITY_POLICY_VIOLATED", {"uid": "x7Qd"}, errors.PermissionDeniedError, "with the number x7Qd"),
        (
            DENIED,
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            {},
            errors.CredentialsError,
            "lack the scope https://www.googleapis.com/auth/cloud-platform",
        ),
        (
            DENIED,
            "IAM_PERMISSION_DENIED",
            {"permission": "cloudtasks.tasks.create", "resource": "projects/other/locations/l/queues/q"},
            errors.PermissionDeniedError,
            "binding q --location=l --project=other --member=user:ann@example.com --role=roles/cloudtasks.enqueuer",
        ),
        (
            DENIED,
            "IAM_PERMISSION_DENIED",
            {"permission": "iam.serviceAccounts.actAs", "resource": f"projects/-/serviceAccounts/{ROBOT}"},
            errors.PermissionDeniedError,
            f"{ROBOT} --project=other --member=user:ann@example.com --role=roles/iam.serviceAccountUser",
        ),
        (
            DENIED,
            "IAM_PERMISSION_DENIED",
            {"permission": "spanner.databases.get"},
            errors.PermissionDeniedError,
            "permission spanner.databases.get is needed",
        ),
        (DENIED, "IAM_PERMISSION_DENIED", {}, errors.PermissionDeniedError, "binding p --member=user:ann@example.com"),
        (DENIED, "CONSUMER_INVALID", CONSUMER, errors.ConfigurationError, "does project 123 exist"),
        (DENIED, "RESOURCE_PROJECT_INVALID", {}, errors.ConfigurationError, "does project p exist"),
        (DENIED, "CONSUMER_SUSPENDED", CONSUMER, errors.PreconditionError, "project 123 is suspended"),
        (DENIED, "GCP_SUSPENDED", CONSUMER, errors.PreconditionError, "project 123 is suspended"),
        (ANONYMOUS, "CREDENTIALS_MISSING", {}, errors.CredentialsError, "the call had no token; run: gcloud auth"),
        *(
            (ANONYMOUS, reason, {}, errors.CredentialsError, "not valid any more; run: gcloud auth")
            for reason in ("ACCESS_TOKEN_EXPIRED", "JWT_TOKEN_INVALID", "SESSION_COOKIE_INVALID")
        ),
        (ANONYMOUS, "ACCESS_TOKEN_TYPE_UNSUPPORTED", {}, errors.CredentialsError, "access tokens, and no ID tokens"),
        (ANONYMOUS, "CREDENTIAL_TYPE_UNSUPPORTED", {}, errors.CredentialsError, "credentials of this kind"),
        (ANONYMOUS, "OVERLOADED_CREDENTIALS", {}, errors.CredentialsError, "give only one kind"),
        (
            ANONYMOUS,
            "ACCOUNT_STATE_INVALID",
            {"email": "bob@example.com"},
            errors.CredentialsError,
            "the account bob@example.com is disabled",
        ),
        (ANONYMOUS, "ACCOUNT_STATE_INVALID", {}, errors.CredentialsError, "the account ann@example.com is disabled"),
        (ANONYMOUS, "ACCOUNT_TYPE_UNSUPPORTED", {}, errors.CredentialsError, "takes no such account"),
        (ANONYMOUS, "API_KEY_INVALID", {}, errors.CredentialsError, "an API key does not work here"),
        (DENIED, "USER_BLOCKED_BY_ADMIN", {}, errors.PermissionDeniedError, "has blocked cloudtasks.googleapis.com"),
        (
            EXHAUSTED,
            "RATE_LIMIT_EXCEEDED",
            {**CONSUMER, "quota_limit": "ListCallsPerMinutePerRegion"},
            errors.QuotaError,
            "quota ListCallsPerMinutePerRegion of project 123 is used up: https://console.cloud.google.com/iam-admin",
        ),
        (EXHAUSTED, "RESOURCE_QUOTA_EXCEEDED", CONSUMER, errors.QuotaError, "quotas?project=123"),
        (DENIED, "RESOURCE_USAGE_RESTRICTION_VIOLATED", CONSUMER, errors.PermissionDeniedError, "in project 123: ask"),
        (DENIED, "ENDPOINT_USAGE_RESTRICTION_VIOLATED", CONSUMER, errors.PermissionDeniedError, "policy of the organi"),
        (DENIED, "ORG_RESTRICTION_VIOLATION", {}, errors.PermissionDeniedError, "a proxy of this network allows only"),
        *(
            (DENIED, f"LOCATION_{kind}POLICY_VIOLATED", {}, errors.PermissionDeniedError, "not allow this location")
            for kind in ("", "ORG_", "TAX_")
        ),
        (DENIED, "TLS_ORG_POLICY_VIOLATED", {}, errors.PermissionDeniedError, "this version of TLS"),
        (DENIED, "SERVICE_NOT_VISIBLE", CONSUMER, errors.PermissionDeniedError, "project 123 may not use cloudtasks"),
        ("INVALID_ARGUMENT", "SYSTEM_PARAMETER_UNSUPPORTED", {}, errors.InvalidInputError, "please report this"),
        ("INVALID_ARGUMENT", "NEW_REASON", {}, errors.InvalidInputError, "limits of the service"),
        (
            DENIED,
            "NEW_REASON",
            {},
            errors.PermissionDeniedError,
            "binding q --location=l --project=p --member=user:ann@example.com",
        ),
    ],
)
def test_a_reason_decides_the_error_and_the_next_step(
    fake: Fakes,
    trusted: Authority,
    code: str,
    reason: str,
    facts: dict[str, str],
    kind: type[errors.CloudTasksError],
    hint: str,
) -> None:
    """The cure names the project, the permission and the account that are concerned; the service's text is kept."""
    error = raised(fake, trusted, refusal(code, "what Google said", info(reason, facts)))
    assert (type(error), error.code, error.reason) == (kind, code, reason)
    assert error.message == f"{QUEUE}: what Google said"
    assert hint in error.hint
    assert "{" not in error.hint


@pytest.mark.parametrize(
    ("permission", "resource", "hint"),
    [
        (
            "cloudtasks.tasks.create",
            QUEUE,
            "binding q --location=l --project=p --member=user:ann@example.com --role=roles/cloudtasks.enqueuer",
        ),
        ("cloudtasks.queues.list", "projects/p/locations/l", "projects add-iam-policy-binding p --member=user:ann@"),
        ("iam.serviceAccounts.actAs", "projects/p", "service-accounts add-iam-policy-binding ACCOUNT@p.iam"),
        ("iam.serviceAccounts.actAs", ROBOT, f"service-accounts add-iam-policy-binding {ROBOT} --project=other"),
    ],
)
def test_a_permission_in_a_text(fake: Fakes, trusted: Authority, permission: str, resource: str, hint: str) -> None:
    """Cloud Tasks names the permission that is lacking in its text, without a reason."""
    text = f'The principal (user or service account) lacks IAM permission "{permission}" for the resource "{resource}" '
    text += "(or the resource may not exist)."
    error = raised(fake, trusted, refusal(DENIED, text), rpc="CreateTask", parent=QUEUE)
    assert (type(error), error.reason) == (errors.PermissionDeniedError, "IAM_PERMISSION_DENIED")
    assert hint in error.hint


def test_a_page_that_helps(fake: Fakes, trusted: Authority) -> None:
    """Without a reason the link in the answer is the next step."""
    link = error_details_pb2.Help.Link(description="Definition of queue name", url="https://cloud.google.com/x")
    error = raised(fake, trusted, refusal("INVALID_ARGUMENT", "bad name", error_details_pb2.Help(links=[link])))
    assert error.hint == "Definition of queue name: https://cloud.google.com/x"


def test_details_of_other_kinds_are_left_out(fake: Fakes, trusted: Authority) -> None:
    """A detail that is not known here changes nothing."""
    details = error_details_pb2.LocalizedMessage(message="x"), info("BILLING_DISABLED", CONSUMER)
    error = raised(fake, trusted, refusal(DENIED, "no", *details))
    assert isinstance(error, errors.PreconditionError)


def test_the_reason_in_json() -> None:
    """REST answers carry the same details."""
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.LocalizedMessage", "message": "x"},
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "BILLING_DISABLED", "metadata": CONSUMER},
        {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "d", "url": "u", "new": 1}]},
    ]
    found = Refusal.of_json(DENIED, "no", details)
    assert (found.reason, found.facts, found.links) == ("BILLING_DISABLED", CONSUMER, (("d", "u"),))
    assert Refusal.of_grpc(DENIED, "no", [("grpc-status-details-bin", b"\xff")]) == Refusal(code=DENIED, message="no")
