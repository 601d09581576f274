"""A refusal of the service: its reason decides which error it becomes, and the next step."""

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
    packed = [any_pb2.Any() for _ in details]
    for one, detail in zip(packed, details, strict=True):
        one.Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(code), message=message, details=packed)


def info(reason: str, facts: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    """Return the reason of a refusal."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com", metadata=dict(facts))


def raised(fake: Fakes, trusted: Authority, status: Any, *, rpc: str = "GetQueue", **fields: Any) -> Any:
    """Return the error of a call that ann@example.com makes."""
    server = fake(status, tls=trusted.grpc())
    work = call(rpc, **(fields or {"name": QUEUE}))
    with pytest.raises(errors.CloudTasksError) as caught:
        use(server.port, work, place={"local": False}, auth=login("ann@example.com"))
    return caught.value


IAM, USAGE = "IAM_PERMISSION_DENIED", "RESOURCE_USAGE_RESTRICTION_VIOLATED"
CREATE = {"permission": "cloudtasks.tasks.create", "resource": "projects/other/locations/l/queues/q"}
ACT_AS = {"permission": "iam.serviceAccounts.actAs", "resource": f"projects/-/serviceAccounts/{ROBOT}"}
LIMIT = {**CONSUMER, "quota_limit": "ListCallsPerMinutePerRegion"}
BINDING, ANN = "add-iam-policy-binding", "--member=user:ann@example.com"
#: By error and code: reason, facts, and what the hint has.
REASONS: dict[tuple[type[errors.CloudTasksError], str], list[tuple[str, dict[str, str], str]]] = {
    (errors.PreconditionError, DENIED): [
        ("SERVICE_DISABLED", CONSUMER, "gcloud services enable cloudtasks.googleapis.com --project=123"),
        ("SERVICE_DISABLED", {"consumer": "projects/764086051850"}, "set-quota-project p; or ct.connect(…, quota"),
        ("BILLING_DISABLED", CONSUMER, "gcloud billing projects link 123"),
        ("CONSUMER_SUSPENDED", CONSUMER, "project 123 is suspended"),
        ("GCP_SUSPENDED", CONSUMER, "project 123 is suspended"),
    ],
    (errors.PermissionDeniedError, DENIED): [
        ("USER_PROJECT_DENIED", CONSUMER, f"{BINDING} 123 {ANN} --role=roles/serviceusage.serviceUsageConsumer"),
        ("SECURITY_POLICY_VIOLATED", {"uid": "x7Qd"}, "with the number x7Qd"),
        (IAM, CREATE, f"{BINDING} q --location=l --project=other {ANN} --role=roles/cloudtasks.enqueuer"),
        (IAM, ACT_AS, f"{ROBOT} --project=other {ANN} --role=roles/iam.serviceAccountUser"),
        (IAM, {"permission": "spanner.databases.get"}, "permission spanner.databases.get is needed"),
        (IAM, {}, f"binding p {ANN}"),
        ("USER_BLOCKED_BY_ADMIN", {}, "has blocked cloudtasks.googleapis.com"),
        (USAGE, CONSUMER, "in project 123: ask"),
        ("ENDPOINT_USAGE_RESTRICTION_VIOLATED", CONSUMER, "policy of the organi"),
        ("ORG_RESTRICTION_VIOLATION", {}, "a proxy of this network allows only"),
        *((f"LOCATION_{kind}POLICY_VIOLATED", {}, "not allow this location") for kind in ("", "ORG_", "TAX_")),
        ("TLS_ORG_POLICY_VIOLATED", {}, "this version of TLS"),
        ("SERVICE_NOT_VISIBLE", CONSUMER, "project 123 may not use cloudtasks"),
        ("NEW_REASON", {}, f"queues {BINDING} q --location=l --project=p {ANN}"),
    ],
    (errors.ConfigurationError, DENIED): [
        ("CONSUMER_INVALID", CONSUMER, "does project 123 exist"),
        ("RESOURCE_PROJECT_INVALID", {}, "does project p exist"),
    ],
    (errors.CredentialsError, DENIED): [
        ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", {}, "lack the scope https://www.googleapis.com/auth/cloud-platform")
    ],
    (errors.CredentialsError, ANONYMOUS): [
        ("CREDENTIALS_MISSING", {}, "the call had no token; run: gcloud auth"),
        ("ACCESS_TOKEN_EXPIRED", {}, "not valid any more; run: gcloud auth"),
        ("JWT_TOKEN_INVALID", {}, "not valid any more; run: gcloud auth"),
        ("SESSION_COOKIE_INVALID", {}, "not valid any more; run: gcloud auth"),
        ("ACCESS_TOKEN_TYPE_UNSUPPORTED", {}, "access tokens, and no ID tokens"),
        ("CREDENTIAL_TYPE_UNSUPPORTED", {}, "credentials of this kind"),
        ("OVERLOADED_CREDENTIALS", {}, "give only one kind"),
        ("ACCOUNT_STATE_INVALID", {"email": "bob@example.com"}, "the account bob@example.com is disabled"),
        ("ACCOUNT_STATE_INVALID", {}, "the account ann@example.com is disabled"),
        ("ACCOUNT_TYPE_UNSUPPORTED", {}, "takes no such account"),
        ("API_KEY_INVALID", {}, "an API key does not work here"),
    ],
    (errors.QuotaError, EXHAUSTED): [
        ("RATE_LIMIT_EXCEEDED", LIMIT, f"quota {LIMIT['quota_limit']} of project 123 is used up: https://"),
        ("RESOURCE_QUOTA_EXCEEDED", CONSUMER, "https://console.cloud.google.com/iam-admin/quotas?project=123"),
    ],
    (errors.InvalidInputError, "INVALID_ARGUMENT"): [
        ("SYSTEM_PARAMETER_UNSUPPORTED", {}, "please report this"),
        ("NEW_REASON", {}, "limits of the service"),
    ],
}


@pytest.mark.parametrize(("what", "row"), [(what, row) for what, rows in REASONS.items() for row in rows])
def test_a_reason_decides_the_error_and_the_next_step(fake: Fakes, trusted: Authority, what: Any, row: Any) -> None:
    """The cure names the project, the permission and the account that are concerned; the service's text is kept."""
    (kind, code), (reason, facts, hint) = what, row
    error = raised(fake, trusted, refusal(code, "what Google said", info(reason, facts)))
    assert (type(error), error.code, error.reason) == (kind, code, reason)
    assert error.message == f"{QUEUE}: what Google said"
    assert (hint in error.hint, "{" in error.hint) == (True, False), error.hint


PERMISSIONS = [
    ("cloudtasks.tasks.create", QUEUE, f"q --location=l --project=p {ANN} --role=roles/cloudtasks.enqueuer"),
    ("cloudtasks.queues.list", "projects/p/locations/l", f"projects {BINDING} p {ANN}"),
    ("iam.serviceAccounts.actAs", "projects/p", f"service-accounts {BINDING} ACCOUNT@p.iam"),
    ("iam.serviceAccounts.actAs", ROBOT, f"service-accounts add-iam-policy-binding {ROBOT} --project=other"),
    ("iam.serviceAccounts.getAccessToken", ROBOT, "--role=roles/iam.serviceAccountTokenCreator"),
]


@pytest.mark.parametrize(("permission", "resource", "hint"), PERMISSIONS)
def test_a_permission_in_a_text(fake: Fakes, trusted: Authority, permission: str, resource: str, hint: str) -> None:
    """Cloud Tasks names the permission that is lacking in its text, without a reason."""
    text = f'The principal (user or service account) lacks IAM permission "{permission}" for the resource "{resource}" '
    text += "(or the resource may not exist)."
    error = raised(fake, trusted, refusal(DENIED, text), rpc="CreateTask", parent=QUEUE)
    assert (type(error), error.reason) == (errors.PermissionDeniedError, "IAM_PERMISSION_DENIED")
    assert hint in error.hint


def test_a_page_that_helps(fake: Fakes, trusted: Authority) -> None:
    """Without a reason the link in the answer is the next step; a detail of another kind changes nothing."""
    link = error_details_pb2.Help.Link(description="Definition of queue name", url="https://cloud.google.com/x")
    error = raised(fake, trusted, refusal("INVALID_ARGUMENT", "bad name", error_details_pb2.Help(links=[link])))
    assert error.hint == "Definition of queue name: https://cloud.google.com/x"
    details = error_details_pb2.LocalizedMessage(message="x"), info("BILLING_DISABLED", CONSUMER)
    assert isinstance(raised(fake, trusted, refusal(DENIED, "no", *details)), errors.PreconditionError)


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
