"""A refusal of the service: its reason decides which error it becomes, and the next step."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cloudtasks_nb import errors
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.principal import iam_member
from cloudtasks_nb.service.refusal import of_call, of_code, service_error
from cloudtasks_nb.service.rpcs import METHODS
from tests.cases import cases
from tests.certificates import Authority
from tests.unit.service.conftest import QUEUE, Fakes, call, login, use

CONSUMER = {"consumer": "projects/123", "service": "cloudtasks.googleapis.com"}
ROBOT, DEFAULT = "robot@other.iam.gserviceaccount.com", "12-compute@developer.gserviceaccount.com"
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


IAM = "IAM_PERMISSION_DENIED"
CREATE = {"permission": "cloudtasks.tasks.create", "resource": "projects/other/locations/l/queues/q"}
ACT_AS = {"permission": "iam.serviceAccounts.actAs", "resource": f"projects/-/serviceAccounts/{ROBOT}"}
LIMIT = {**CONSUMER, "quota_limit": "ListCallsPerMinutePerRegion"}
BINDING, ANN = "add-iam-policy-binding", "--member=user:ann@example.com"
ALWAYS = "--condition=None"  # else gcloud asks, if a policy has conditions; a queue's has none
#: By error and code: reason, facts, and what the hint has.
REASONS: dict[tuple[type[errors.CloudTasksError], str], list[tuple[str, dict[str, str], str]]] = {
    (errors.PreconditionError, DENIED): [
        ("SERVICE_DISABLED", CONSUMER, "gcloud services enable cloudtasks.googleapis.com --project=123"),
        ("SERVICE_DISABLED", {"consumer": "projects/764086051850"}, "set-quota-project p; or ct.connect(…, quota"),
        ("BILLING_DISABLED", CONSUMER, "gcloud billing projects link 123"),
    ],
    (errors.PermissionDeniedError, DENIED): [
        ("USER_PROJECT_DENIED", CONSUMER, f"123 {ANN} --role=roles/serviceusage.serviceUsageConsumer {ALWAYS}"),
        ("SECURITY_POLICY_VIOLATED", {"uid": "x7Qd"}, "with the number x7Qd"),
        (IAM, CREATE, f"{BINDING} q --location=l --project=other {ANN} --role=roles/cloudtasks.enqueuer"),
        (IAM, ACT_AS, f"{ROBOT} --project=other {ANN} --role=roles/iam.serviceAccountUser {ALWAYS}"),
        (IAM, {"permission": "spanner.databases.get"}, "permission spanner.databases.get is needed"),
        (IAM, {}, f"queues {BINDING} q --location=l --project=p {ANN} --role=roles/cloudtasks.viewer"),
        ("LOCATION_ORG_POLICY_VIOLATED", {}, "what LOCATION_ORG_POLICY_VIOLATED means: https://github.com/"),
    ],
    (errors.ConfigurationError, DENIED): [
        ("CONSUMER_INVALID", CONSUMER, "does project 123 exist"),
        ("RESOURCE_PROJECT_INVALID", {}, "does project p exist"),
    ],
    (errors.CredentialsError, DENIED): [
        ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", {}, "lack the scope https://www.googleapis.com/auth/cloud-platform")
    ],
    (errors.CredentialsError, ANONYMOUS): [("ACCESS_TOKEN_EXPIRED", {}, "run: gcloud auth")],
    (errors.QuotaError, EXHAUSTED): [
        ("RATE_LIMIT_EXCEEDED", LIMIT, f"quota {LIMIT['quota_limit']} of project 123 is used up: https://")
    ],
    (errors.InvalidInputError, "INVALID_ARGUMENT"): [("NEW_REASON", {}, "limits of the service")],
}


@pytest.mark.parametrize(("what", "row"), [(what, row) for what, rows in REASONS.items() for row in rows])
def test_a_reason_decides_the_error_and_the_next_step(fake: Fakes, trusted: Authority, what: Any, row: Any) -> None:
    """The cure names the project, the permission and the account that are concerned; the service's text is kept."""
    (kind, code), (reason, facts, hint) = what, row
    error = raised(fake, trusted, refusal(code, "what Google said", info(reason, facts)))
    assert (type(error), error.code, error.reason) == (kind, code, reason)
    assert error.message == f"{QUEUE}: what Google said"
    assert (hint in error.hint, "{" in error.hint) == (True, False), error.hint


@cases(
    ("cloudtasks.tasks.create", QUEUE, f"q --location=l --project=p {ANN} --role=roles/cloudtasks.enqueuer"),
    ("cloudtasks.queues.list", "projects/p/locations/l", f"projects {BINDING} p {ANN}"),
    ("iam.serviceAccounts.actAs", "projects/p", f"service-accounts {BINDING} ACCOUNT@p.iam"),
    ("iam.serviceAccounts.actAs", ROBOT, f"service-accounts add-iam-policy-binding {ROBOT} --project=other"),
    ("iam.serviceAccounts.actAs", DEFAULT, f"service-accounts {BINDING} {DEFAULT} --project=p {ANN}"),
    ("iam.serviceAccounts.getAccessToken", ROBOT, "--role=roles/iam.serviceAccountTokenCreator"),
)
def test_a_permission_in_a_text(fake: Fakes, trusted: Authority, permission: str, resource: str, hint: str) -> None:
    """Cloud Tasks names the permission that is lacking in its text, without a reason."""
    text = f'The principal (user or service account) lacks IAM permission "{permission}" for the resource "{resource}" '
    text += "(or the resource may not exist)."
    error = raised(fake, trusted, refusal(DENIED, text), rpc="CreateTask", parent=QUEUE)
    assert (type(error), error.reason) == (errors.PermissionDeniedError, "IAM_PERMISSION_DENIED")
    assert (hint in error.hint, ALWAYS in error.hint) == (True, "tasks queues" not in error.hint)


POOLS, DEFAULT_SUBJECT = "principal://iam.googleapis.com/", "by default the sub of the token"


@cases(
    (f"{POOLS}locations/global/workforcePools/team/subject/SUBJECT", "   (SUBJECT: gcloud config get-value account"),
    (f"{POOLS}projects/1/locations/global/workloadIdentityPools/p/subject/SUBJECT", f"   (SUBJECT: {DEFAULT_SUBJECT}"),
    (f"{POOLS}projects/1/locations/global/workloadIdentityPools/p/subject/it's 7", f"   # {DEFAULT_SUBJECT}"),
)
def test_a_grant_to_a_federated_identity(principal: str, note: str) -> None:
    """Its member is one person, quoted once for a shell, and behind the command stands where the subject is found."""
    member = str(iam_member(principal))
    error = service_error(
        of_code(DENIED, "no"), method=METHODS["GetQueue"], resource=QUEUE, endpoint=ENDPOINT, member=member
    )
    command, told, _ = str(error.hint).partition(note)
    assert told == note
    assert f"--member={principal}" in shlex.split(command)


def test_a_page_that_helps(fake: Fakes, trusted: Authority) -> None:
    """Without a reason the link in the answer is the next step; a detail of another kind changes nothing."""
    link = error_details_pb2.Help.Link(description="Definition of queue name", url="https://cloud.google.com/x")
    error = raised(fake, trusted, refusal("INVALID_ARGUMENT", "bad name", error_details_pb2.Help(links=[link])))
    assert error.hint == "Definition of queue name: https://cloud.google.com/x"
    details = error_details_pb2.LocalizedMessage(message="x"), info("BILLING_DISABLED", CONSUMER)
    assert isinstance(raised(fake, trusted, refusal(DENIED, "no", *details)), errors.PreconditionError)


ENDPOINT = Endpoint(project="p", location="l", target="t", local=True)
NAMES = {"GetQueue": QUEUE, "GetTask": f"{QUEUE}/tasks/t", "GetOperation": "projects/p/locations/l/operations/o"}
FORBIDDEN = errors.PermissionDeniedError
FAULT, INVALID = errors.ServiceError, errors.InvalidInputError


@pytest.mark.parametrize("details", [b"\xff", refusal(DENIED, "another text").SerializeToString()])
def test_details_that_do_not_fit(details: bytes) -> None:
    """A call is refused all the same."""
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", details))
    call = grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), metadata, details="no")
    assert (of_call(call).grpc_status_code, of_call(call).message) == (grpc.StatusCode.PERMISSION_DENIED, "no")


GOOGLE = replace(ENDPOINT, local=False)


def error_of(code: str, rpc: str, name: str) -> errors.CloudTasksError:
    """Return the error of a refused call to Google."""
    return service_error(of_code(code, "some details"), method=METHODS[rpc], resource=name, endpoint=GOOGLE)


@cases(
    ("NOT_FOUND", "GetQueue", errors.QueueNotFoundError, 'tasks.queue("q", create=True)'),
    ("NOT_FOUND", "GetTask", errors.TaskNotFoundError, "queue.attempts()"),
    ("NOT_FOUND", "GetOperation", errors.ServiceError, None),
    *(("ALREADY_EXISTS", "GetQueue", errors.AlreadyExistsError, None), ("ABORTED", "GetQueue", FAULT, None)),
    *(("INVALID_ARGUMENT", "GetQueue", INVALID, "quotas"), ("OUT_OF_RANGE", "GetQueue", INVALID, None)),
    ("FAILED_PRECONDITION", "GetQueue", errors.PreconditionError, None),
    (
        "PERMISSION_DENIED",
        "GetQueue",
        FORBIDDEN,
        "--location=l --project=p --member=user:YOU --role=roles/cloudtasks.v",
    ),
    ("PERMISSION_DENIED", "GetTask", FORBIDDEN, "cloudtasks.tasks.get"),
    ("RESOURCE_EXHAUSTED", "GetQueue", errors.QuotaError, "quotas"),
    ("UNAUTHENTICATED", "GetQueue", errors.CredentialsError, "gcloud auth application-default login"),
    *((code, "GetQueue", errors.UnavailableError, "try again") for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")),
    ("UNIMPLEMENTED", "GetQueue", FAULT, "does not support the call"),
    *((code, "GetQueue", FAULT, None) for code in ("CANCELLED", "INTERNAL", "UNKNOWN", "DATA_LOSS")),
)
def test_an_error_for_each_code(code: str, rpc: str, kind: type[errors.CloudTasksError], hint: str | None) -> None:
    """The class fits the code; the resource, the code and the next step are attributes."""
    error = error_of(code, rpc, NAMES[rpc])
    assert (type(error), error.code, error.resource) == (kind, code, NAMES[rpc])
    assert NAMES[rpc].rpartition("/")[2] in error.message
    assert (hint or "") in (error.hint or "")
    assert (error.hint is None) == (hint is None)


def test_a_queue_of_another_project_is_named_in_full() -> None:
    """The short name would create the queue in the connection's own project."""
    name = "projects/other/locations/l/queues/q"
    assert error_of("NOT_FOUND", "GetQueue", name).hint == f'tasks.queue("{name}", create=True) creates it'
