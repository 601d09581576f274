"""What the service says about a refused call: which error it becomes, and the next step.

google-api-core reads the answers. The message of an error is for people, and may change. Its reason
(``google.rpc.ErrorInfo``) is for programs, and comes with the project, the permission or the quota concerned:
https://cloud.google.com/apis/design/errors#error_info.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, NamedTuple

import requests
from google.api_core.exceptions import GoogleAPICallError, from_grpc_error, from_grpc_status
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cloudtasks_nb._names import CODES, code_name, code_of
from cloudtasks_nb.errors import (
    AlreadyExistsError,
    CloudTasksError,
    ConfigurationError,
    CredentialsError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QueueNotFoundError,
    QuotaError,
    ServiceError,
    TaskNotFoundError,
    UnavailableError,
)
from cloudtasks_nb.service.auth_errors import login_hint
from cloudtasks_nb.service.endpoint import Endpoint
from cloudtasks_nb.service.principal import explained
from cloudtasks_nb.service.rpcs import METHODS, Method

__all__ = [
    "IAM",
    "blocked_name",
    "grant_command",
    "lost_answer",
    "of_answer",
    "of_call",
    "of_code",
    "of_status",
    "role_of",
    "service_error",
]

#: Reason of a refusal for a permission that is lacking.
IAM = "IAM_PERMISSION_DENIED"

#: The service's text for a lacking permission, which comes without a reason in some answers.
_LACKS = re.compile(r'lacks (?:IAM )?permission "(?P<permission>[^"]+)" for the resource "(?P<resource>[^"]+)"')
_ACT_AS = "iam.serviceAccounts.actAs"
#: The default accounts of Compute Engine and App Engine do not name their project in this form.
_SERVICE_ACCOUNT = re.compile(r"[^/@]+@((?P<project>[a-z0-9.:-]+)\.iam|developer|appspot)\.gserviceaccount\.com$")
_KNOWN_DETAILS = (error_details_pb2.ErrorInfo, error_details_pb2.Help)


def of_call(error: Any) -> GoogleAPICallError:
    """Return the refusal of a gRPC call; without its details if they are malformed, or of another status."""
    try:
        return from_grpc_error(error)
    except (ValueError, DecodeError):
        return of_code(error.code().name, error.details() or "")


def of_code(code: str, message: str) -> GoogleAPICallError:
    """Return a refusal with a canonical code."""
    return of_status(status_pb2.Status(code=CODES.index(code), message=message))


def of_status(status: Any) -> GoogleAPICallError:
    """Return the refusal in a raw ``google.rpc.Status``, as a batch call has one for each part that failed."""
    details = [
        kind.FromString(detail.value)
        for detail in status.details
        for kind in _KNOWN_DETAILS
        if detail.Is(kind.DESCRIPTOR)
    ]
    info = next((detail for detail in details if isinstance(detail, error_details_pb2.ErrorInfo)), None)
    number = CODES.index(code_name(status.code))
    return from_grpc_status(number, status.message, details=details, error_info=info)


def of_answer(answer: requests.Response) -> GoogleAPICallError:
    """Return the refusal in an answer over REST; that of a proxy is no JSON."""
    try:
        error = answer.json()["error"]
        known = tuple(f"type.googleapis.com/{kind.DESCRIPTOR.full_name}" for kind in _KNOWN_DETAILS)
        status = {
            "code": CODES.index(error.get("status", "UNKNOWN")),  # Cloud Storage gives no status
            "message": error["message"],
            "details": [detail for detail in error.get("details", ()) if detail["@type"] in known],
        }
        return of_status(json_format.ParseDict(status, status_pb2.Status(), ignore_unknown_fields=True))
    except (ValueError, LookupError, TypeError, AttributeError, json_format.ParseError):
        text = f"HTTP {answer.status_code} {answer.reason}: {answer.text[:200]}".strip()
        gateway = answer.status_code in {HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
        return of_code("UNAVAILABLE" if gateway else code_name(code_of(answer.status_code)), text)


class _Cure(NamedTuple):
    """What a reason or a code means to the toolkit."""

    error: type[CloudTasksError]
    #: The next step; facts of the reason, `project` of the call, `consumer`, `member` and how to `login` are filled in.
    hint: str | None = None


#: Google's own project, for which calls count that name no quota project.
_GCLOUD_PROJECT = "764086051850"
_NO_QUOTA_PROJECT = _Cure(
    PreconditionError,
    "the login names no project whose quota its calls use: run: gcloud auth application-default set-quota-project "
    "{project}; or ct.connect(…, quota_project={project!r})",
)
_BAD_PROJECT = _Cure(
    ConfigurationError,
    "does project {consumer} exist, and is it spelled right? gcloud projects list shows those that you may see; "
    'ct.connect("my-project", …) names another one',
)

#: The cure for each reason that people meet, with facts that come with it. All reasons stand in `_REASONS`.
_BY_REASON = {
    "SERVICE_DISABLED": _Cure(
        PreconditionError,
        "run: gcloud services enable {service} --project={consumer}   (it takes a few minutes to work)",
    ),
    "BILLING_DISABLED": _Cure(
        PreconditionError,
        "run: gcloud billing projects link {consumer} --billing-account=ACCOUNT; gcloud billing accounts list "
        "shows the accounts",
    ),
    "USER_PROJECT_DENIED": _Cure(
        PermissionDeniedError,
        "calls are counted for the quota project {consumer}, which you may not use: "
        "gcloud projects add-iam-policy-binding {consumer} --member={member} "
        "--role=roles/serviceusage.serviceUsageConsumer --condition=None; or name another one: "
        "ct.connect(…, quota_project=…) or gcloud auth application-default set-quota-project PROJECT",
    ),
    "SECURITY_POLICY_VIOLATED": _Cure(
        PermissionDeniedError,
        "VPC Service Controls do not allow the call from here: ask an administrator of the organization, with the "
        "number {uid}; or run the notebook inside the perimeter",
    ),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": _Cure(
        CredentialsError,
        "the credentials lack the scope https://www.googleapis.com/auth/cloud-platform; "
        "on a VM: gcloud compute instances set-service-account VM --scopes=cloud-platform while it is stopped; "
        "else {login}",
    ),
    "CONSUMER_INVALID": _BAD_PROJECT,
    "RESOURCE_PROJECT_INVALID": _BAD_PROJECT,
    "RATE_LIMIT_EXCEEDED": _Cure(
        QuotaError,
        "wait a minute; the quota {quota_limit} of project {consumer} is used up: "
        "https://console.cloud.google.com/iam-admin/quotas?project={consumer}",
    ),
}
_REASONS = "https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto"

#: A call without the token of an emulator.
_OF_ANOTHER = 'connect by its folder, ct.local("folder"), or with the CLOUDTASKS_NB_HOME of the kernel that started it'

_UNAVAILABLE = _Cure(UnavailableError, "try again; if the error persists, tasks.doctor() finds the cause")
#: The same for codes; the others are a ServiceError. NOT_FOUND of a queue or a task is another error.
_BY_CODE = {
    "INVALID_ARGUMENT": _Cure(InvalidInputError, "limits of the service: https://cloud.google.com/tasks/docs/quotas"),
    "OUT_OF_RANGE": _Cure(InvalidInputError),
    "ALREADY_EXISTS": _Cure(AlreadyExistsError),
    "FAILED_PRECONDITION": _Cure(PreconditionError),
    "PERMISSION_DENIED": _Cure(PermissionDeniedError, f"what {{reason}} means: {_REASONS}"),
    "UNAUTHENTICATED": _Cure(CredentialsError, "{login}"),
    "RESOURCE_EXHAUSTED": _Cure(QuotaError, "wait a minute; quotas: https://cloud.google.com/tasks/docs/quotas"),
    "UNIMPLEMENTED": _Cure(ServiceError, "this endpoint does not support the call"),
    "UNAVAILABLE": _UNAVAILABLE,
    "DEADLINE_EXCEEDED": _UNAVAILABLE,
}

#: Smallest predefined role with a permission that no RPC of `METHODS` needs by itself.
_ROLES = {
    "cloudtasks.tasks.fullView": "roles/cloudtasks.viewer",
    _ACT_AS: "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.getAccessToken": "roles/iam.serviceAccountTokenCreator",
    "serviceusage.services.use": "roles/serviceusage.serviceUsageConsumer",
    **{method.permission: method.role for method in METHODS.values()},
}


def lost_answer(error: CloudTasksError, *, method: Method, request: Any) -> UnavailableError:
    """Return the error for a call whose answer was lost for good, with what is not known and where to look."""
    effect, hint = (method.lost.effect.format(request=request), method.lost.hint) if method.lost else ("", None)
    text = f"{error.message}; it is not known whether {effect}"
    return UnavailableError(text, resource=error.resource, code=error.code, hint=hint)


def service_error(
    refusal: GoogleAPICallError,
    *,
    method: Method,
    resource: str,
    endpoint: Endpoint,
    member: str = "user:YOU",
    deleted: bool = False,
) -> CloudTasksError:
    """Return the error for a refusal of the service, with the resource and the next step.

    Parameters
    ----------
    member : str
        Who called, as IAM writes it, quoted for a shell: ``user:ann@example.com``.
    deleted : bool
        Whether this process has deleted the queue.
    """
    code = refusal.grpc_status_code.name if refusal.grpc_status_code else "UNKNOWN"
    text = refusal.message or code
    if code == "NOT_FOUND" and method.resource == "queue":
        return _queue_not_found(resource, endpoint, deleted=deleted)
    if code == "NOT_FOUND" and method.resource == "task":
        return TaskNotFoundError(
            f'task "{resource.rpartition("/")[2]}" is not in its queue: {text}',
            resource=resource,
            code=code,
            hint="a task is deleted when it succeeds or has no attempts left: queue.attempts() shows which",
        )
    lacks, told = _LACKS.search(text), dict(refusal.metadata or {})
    reason = refusal.reason or (IAM if lacks else None)
    facts = {
        "resource": resource,
        "permission": method.permission,
        "project": endpoint.project,
        "service": "cloudtasks.googleapis.com",
        "quota_limit": "of these calls",
        "uid": "in the message",
        **(lacks.groupdict() if lacks else {}),
        **told,
        "consumer": str(told.get("consumer", endpoint.project)).removeprefix("projects/"),
        "reason": reason,
        "login": _OF_ANOTHER if endpoint.local else login_hint(),
        "member": member,
    }
    error, hint = _cure(refusal, code, facts)
    return error(f"{resource}: {text}", resource=resource, code=code, reason=reason, hint=hint and explained(hint))


def _cure(refusal: GoogleAPICallError, code: str, facts: dict[str, Any]) -> _Cure:
    """Return the error for a refusal, and the next step for this call."""
    reason = facts["reason"]
    if _GCLOUD_PROJECT in facts["consumer"] or "requires a quota project" in refusal.message:
        found = _NO_QUOTA_PROJECT
    elif reason == IAM or (reason is None and code == "PERMISSION_DENIED"):
        return _Cure(PermissionDeniedError, _permission_hint(facts))
    elif reason in _BY_REASON:
        found = _BY_REASON[reason]
    else:
        found = _BY_CODE.get(code, _Cure(ServiceError))
        for link in (link for detail in refusal.details if hasattr(detail, "links") for link in detail.links):
            return _Cure(found.error, f"{link.description}: {link.url}")
    return _Cure(found.error, found.hint and found.hint.format_map(facts))


def _permission_hint(facts: dict[str, Any]) -> str:
    """Return which role has a permission on a resource, and the command that grants it."""
    permission, resource, project = facts["permission"], facts["resource"], facts["project"]
    role = role_of(permission)
    if role is None:
        return f"the permission {permission} is needed: https://cloud.google.com/iam/docs/permissions-reference"
    if permission == _ACT_AS and not _SERVICE_ACCOUNT.search(resource):  # on the project it would be for all accounts
        resource = f"ACCOUNT@{project}.iam.gserviceaccount.com"
    account = _SERVICE_ACCOUNT.search(resource)
    where = f" on {account[0]}" if account else ""
    grant = grant_command(resource, role, project, facts["member"])
    return f"the permission {permission} is needed{where}; {role} includes it: {grant}"


def role_of(permission: str) -> str | None:
    """Return the smallest predefined role with a permission; None if it is not known."""
    return _ROLES.get(permission)


def grant_command(resource: str | None, role: str, project: str | None, member: str) -> str:
    """Return the command that gives a member a role where it is needed: on an account, a queue, or else a project.

    Parameters
    ----------
    resource : str or None
        As a refusal names it: a service account, or ``projects/P/locations/L/queues/Q/…``.
    member : str
        Quoted for a shell.
    """
    binding = f"--member={member} --role={role}"
    if account := _SERVICE_ACCOUNT.search(resource or ""):
        place = f"{account[0]} --project={account['project'] or project}"
        return f"gcloud iam service-accounts add-iam-policy-binding {place} {binding} --condition=None"
    parts = (resource or "").rpartition("googleapis.com/")[2].split("/")
    names = dict(zip(parts[::2], parts[1::2], strict=False))
    named = names.get("projects", project)
    if "queues" in names:
        place = f"{names['queues']} --location={names['locations']} --project={named}"
        return f"gcloud tasks queues add-iam-policy-binding {place} {binding}"  # it has no option for a condition
    return f"gcloud projects add-iam-policy-binding {named} {binding} --condition=None"


def blocked_name(queue: str, endpoint: Endpoint) -> str:
    """Return what to do about the name of a deleted queue.

    https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues/delete
    """
    other = f'tasks.queue("{queue.rpartition("/")[2]}-2", create=True)'
    freed = '; tasks.clock.advance("3d") moves the emulator past that' if endpoint.local else ""
    return f"the name of a deleted queue is blocked for up to 3 days: use another name, {other}{freed}"


def _queue_not_found(name: str, endpoint: Endpoint, *, deleted: bool) -> QueueNotFoundError:
    short = name.rpartition("/")[2]
    ours = name == f"projects/{endpoint.project}/locations/{endpoint.location}/queues/{short}"
    made = f'tasks.queue("{short if ours else name}", create=True) creates it'
    create = blocked_name(name, endpoint) if deleted else made
    return QueueNotFoundError(
        f'there is no queue "{short}" ({name})',
        resource=name,
        code="NOT_FOUND",
        hint=f"{create}; tasks.queues() lists the queues" if ours else create,
    )
