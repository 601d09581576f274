"""What the service says about a refused call, and the cure for each of its reasons.

The message of an error is for people, and may change. Its reason (``google.rpc.ErrorInfo``) is for programs, and comes
with the project, the permission or the quota concerned: https://cloud.google.com/apis/design/errors#error_info.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from cloudtasks_nb._names import code_name
from cloudtasks_nb._settings import Endpoint
from cloudtasks_nb.errors import (
    CloudTasksError,
    ConfigurationError,
    CredentialsError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QuotaError,
)
from cloudtasks_nb.service.auth_errors import login_hint
from cloudtasks_nb.service.rpcs import METHODS, Method

__all__ = ["IAM", "Cure", "Refusal", "cure", "grant_command", "role_of"]

#: Trailing metadata of gRPC with a ``google.rpc.Status``.
_DETAILS = "grpc-status-details-bin"

#: Reason of a refusal for a permission that is lacking.
IAM = "IAM_PERMISSION_DENIED"

#: The service's text for a lacking permission, which comes without a reason in some answers.
_LACKS = re.compile(r'lacks (?:IAM )?permission "(?P<permission>[^"]+)" for the resource "(?P<resource>[^"]+)"')
_ACT_AS = "iam.serviceAccounts.actAs"
_SERVICE_ACCOUNT = re.compile(r"[^/@]+@(?P<project>[a-z0-9.:-]+)\.iam\.gserviceaccount\.com$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The answer of the service to a call that failed."""

    code: str  #: canonical code
    message: str = ""
    reason: str = ""  #: of its ``ErrorInfo``; "": it has none
    facts: Mapping[str, str] = field(default_factory=dict)  #: metadata of the reason
    links: tuple[tuple[str, str], ...] = ()  #: descriptions and URLs of pages that help

    @classmethod
    def of_grpc(cls, code: str, message: str | None, metadata: Iterable[tuple[str, Any]] | None) -> Refusal:
        """Read the status of a gRPC call."""
        wire = next((value for key, value in metadata or () if key == _DETAILS), b"")
        try:
            details = status_pb2.Status.FromString(wire).details
        except DecodeError:
            details = ()
        return cls._with(code, message or "", map(_unpacked, details))

    @classmethod
    def of_status(cls, status: Any) -> Refusal:
        """Read a raw ``google.rpc.Status``, as a batch call has one for each part that failed."""
        return cls._with(code_name(status.code), status.message, map(_unpacked, status.details))

    @classmethod
    def of_json(cls, code: str, message: str, details: Iterable[Mapping[str, Any]]) -> Refusal:
        """Read the error of a REST call."""
        return cls._with(code, message, [_parsed(detail) for detail in details])

    @classmethod
    def _with(cls, code: str, message: str, details: Iterable[Any]) -> Refusal:
        reason, facts, links = "", {}, []
        for detail in details:
            if isinstance(detail, error_details_pb2.ErrorInfo):
                reason, facts = detail.reason, dict(detail.metadata)
            elif isinstance(detail, error_details_pb2.Help):
                links += [(link.description, link.url) for link in detail.links]
        if not reason and (lacks := _LACKS.search(message)):
            reason, facts = IAM, lacks.groupdict()
        return cls(code=code, message=message, reason=reason, facts=facts, links=tuple(links))


def _unpacked(detail: Any) -> Any:
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.Help):
        if detail.Is(kind.DESCRIPTOR):
            return kind.FromString(detail.value)
    return None


def _parsed(detail: Mapping[str, Any]) -> Any:
    name = str(detail.get("@type", "")).rpartition(".")[2]
    if name not in {"ErrorInfo", "Help"}:
        return None
    values = {key: value for key, value in detail.items() if key != "@type"}
    return json_format.ParseDict(values, getattr(error_details_pb2, name)(), ignore_unknown_fields=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cure:
    """What a reason means to the toolkit, and the next step."""

    error: type[CloudTasksError]
    hint: str  #: facts of the reason, `project` of the call, `consumer`, `member` and how to `login` are filled in


_QUOTAS = "https://console.cloud.google.com/iam-admin/quotas?project={consumer}"
_ADMINISTRATOR = "ask an administrator of the organization"
_ACCOUNT = "the account {email} is disabled or deleted, or is no longer in the organization: use another one; "
_BLOCKED_KEY = Cure(error=CredentialsError, hint="an API key does not work here; {login}")
_SUSPENDED = Cure(error=PreconditionError, hint="project {consumer} is suspended: https://cloud.google.com/support")
#: Google's own project, for which calls count that name no quota project.
_GCLOUD_PROJECT = "764086051850"
_NO_QUOTA_PROJECT = Cure(
    error=PreconditionError,
    hint="the login names no project whose quota its calls use: run: gcloud auth application-default set-quota-project "
    "{project}; or ct.connect(…, quota_project={project!r})",
)
_BAD_PROJECT = Cure(
    error=ConfigurationError,
    hint="does project {consumer} exist, and is it spelled right? gcloud projects list shows those that you may see; "
    'ct.connect("my-project", …) names another one',
)
_BAD_TOKEN = Cure(error=CredentialsError, hint="the token is not valid any more; {login}")
_USAGE = Cure(
    error=PermissionDeniedError,
    hint=f"a policy of the organization does not allow {{service}} in project {{consumer}}: {_ADMINISTRATOR}",
)
_PLACE = Cure(
    error=PermissionDeniedError, hint=f"a policy of the organization does not allow this location: {_ADMINISTRATOR}"
)

#: The cure for each reason: https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto, which
#: also says which facts come with a reason.
_CURES: dict[str, Cure] = {
    "SERVICE_DISABLED": Cure(
        error=PreconditionError,
        hint="run: gcloud services enable {service} --project={consumer}   (it takes a few minutes to work)",
    ),
    "BILLING_DISABLED": Cure(
        error=PreconditionError,
        hint="run: gcloud billing projects link {consumer} --billing-account=ACCOUNT; gcloud billing accounts list "
        "shows the accounts",
    ),
    "USER_PROJECT_DENIED": Cure(
        error=PermissionDeniedError,
        hint="calls are counted for the quota project {consumer}, which you may not use: "
        "gcloud projects add-iam-policy-binding {consumer} --member={member} "
        "--role=roles/serviceusage.serviceUsageConsumer; or name another one: ct.connect(…, quota_project=…) or "
        "gcloud auth application-default set-quota-project PROJECT",
    ),
    "SECURITY_POLICY_VIOLATED": Cure(
        error=PermissionDeniedError,
        hint=f"VPC Service Controls do not allow the call from here: {_ADMINISTRATOR}, with the number {{uid}}; or run "
        "the notebook inside the perimeter",
    ),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": Cure(
        error=CredentialsError,
        hint="the credentials lack the scope https://www.googleapis.com/auth/cloud-platform; "
        "on a VM: gcloud compute instances set-service-account VM --scopes=cloud-platform while it is stopped; "
        "else {login}",
    ),
    "CONSUMER_INVALID": _BAD_PROJECT,
    "RESOURCE_PROJECT_INVALID": _BAD_PROJECT,
    "CONSUMER_SUSPENDED": _SUSPENDED,
    "GCP_SUSPENDED": _SUSPENDED,
    "CREDENTIALS_MISSING": Cure(error=CredentialsError, hint="the call had no token; {login}"),
    "ACCESS_TOKEN_EXPIRED": _BAD_TOKEN,
    "JWT_TOKEN_INVALID": _BAD_TOKEN,
    "SESSION_COOKIE_INVALID": _BAD_TOKEN,
    "ACCESS_TOKEN_TYPE_UNSUPPORTED": Cure(
        error=CredentialsError, hint="the service takes access tokens, and no ID tokens; {login}"
    ),
    "CREDENTIAL_TYPE_UNSUPPORTED": Cure(
        error=CredentialsError, hint="the service does not take credentials of this kind; {login}"
    ),
    "OVERLOADED_CREDENTIALS": Cure(error=CredentialsError, hint="the call had several credentials: give only one kind"),
    "ACCOUNT_STATE_INVALID": Cure(error=CredentialsError, hint=_ACCOUNT + "{login}"),
    "ACCOUNT_TYPE_UNSUPPORTED": Cure(error=CredentialsError, hint="the service takes no such account; {login}"),
    "USER_BLOCKED_BY_ADMIN": Cure(
        error=PermissionDeniedError, hint=f"an administrator has blocked {{service}} for the account: {_ADMINISTRATOR}"
    ),
    "RATE_LIMIT_EXCEEDED": Cure(
        error=QuotaError, hint=f"wait a minute; the quota {{quota_limit}} of project {{consumer}} is used up: {_QUOTAS}"
    ),
    "RESOURCE_QUOTA_EXCEEDED": Cure(
        error=QuotaError, hint=f"the quota {{quota_limit}} of project {{consumer}} is used up; more: {_QUOTAS}"
    ),
    "RESOURCE_USAGE_RESTRICTION_VIOLATED": _USAGE,
    "ENDPOINT_USAGE_RESTRICTION_VIOLATED": _USAGE,
    "ORG_RESTRICTION_VIOLATION": Cure(
        error=PermissionDeniedError,
        hint=f"a proxy of this network allows only resources of certain organizations: {_ADMINISTRATOR}",
    ),
    "LOCATION_POLICY_VIOLATED": _PLACE,
    "LOCATION_ORG_POLICY_VIOLATED": _PLACE,
    "LOCATION_TAX_POLICY_VIOLATED": _PLACE,
    "TLS_ORG_POLICY_VIOLATED": Cure(
        error=PermissionDeniedError,
        hint=f"a policy of the organization does not allow this version of TLS: {_ADMINISTRATOR}",
    ),
    "SERVICE_NOT_VISIBLE": Cure(
        error=PermissionDeniedError, hint="project {consumer} may not use {service}: https://cloud.google.com/support"
    ),
    "SYSTEM_PARAMETER_UNSUPPORTED": Cure(error=InvalidInputError, hint="please report this"),
    **dict.fromkeys(
        (
            "API_KEY_INVALID",
            "API_KEY_SERVICE_BLOCKED",
            "API_KEY_HTTP_REFERRER_BLOCKED",
            "API_KEY_IP_ADDRESS_BLOCKED",
            "API_KEY_ANDROID_APP_BLOCKED",
            "API_KEY_IOS_APP_BLOCKED",
        ),
        _BLOCKED_KEY,
    ),
}

#: Smallest predefined role with a permission that no RPC of `METHODS` needs by itself.
_ROLES = {
    "cloudtasks.tasks.fullView": "roles/cloudtasks.viewer",
    "cloudtasks.queues.setIamPolicy": "roles/cloudtasks.queueAdmin",
    "cloudtasks.queues.getIamPolicy": "roles/cloudtasks.queueAdmin",
    "cloudtasks.locations.get": "roles/cloudtasks.viewer",
    "cloudtasks.locations.list": "roles/cloudtasks.viewer",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "iam.serviceAccounts.getAccessToken": "roles/iam.serviceAccountTokenCreator",
    "iam.serviceAccounts.getOpenIdToken": "roles/iam.serviceAccountOpenIdTokenCreator",
    "iam.serviceAccounts.signBlob": "roles/iam.serviceAccountTokenCreator",
    "serviceusage.services.use": "roles/serviceusage.serviceUsageConsumer",
    "run.routes.invoke": "roles/run.invoker",
    "storage.objects.create": "roles/storage.objectUser",
    **{method.permission: method.role for method in METHODS.values()},
}


def cure(refusal: Refusal, *, method: Method, endpoint: Endpoint, member: str) -> Cure | None:
    """Return what the reason of a refusal means, with a hint for this call; None if it has no known reason.

    Parameters
    ----------
    member : str
        Who called, as IAM writes it: ``user:ann@example.com``.
    """
    if refusal.reason == IAM:
        permission = refusal.facts.get("permission", method.permission)
        hint = _permission_hint(permission, refusal.facts.get("resource", ""), project=endpoint.project, member=member)
        return Cure(error=PermissionDeniedError, hint=hint)
    found = _CURES.get(refusal.reason)
    if _GCLOUD_PROJECT in refusal.facts.get("consumer", "") or "requires a quota project" in refusal.message:
        found = _NO_QUOTA_PROJECT
    if found is None:
        return None
    facts = {
        "project": endpoint.project,
        "consumer": endpoint.project,
        "service": "cloudtasks.googleapis.com",
        "login": login_hint(),
        "email": member.strip("'").partition(":")[2],
        "quota_limit": refusal.facts.get("quota_metric", "of these calls"),
        "uid": refusal.facts.get("vpcServiceControlsUniqueIdentifier", "in the message"),
        **refusal.facts,
    }
    facts = {key: str(value).removeprefix("projects/") for key, value in facts.items()}
    return Cure(error=found.error, hint=found.hint.format_map({**facts, "member": shlex.quote(member)}))


def role_of(permission: str) -> str | None:
    """Return the smallest predefined role with a permission; None if it is not known."""
    return _ROLES.get(permission)


def _permission_hint(permission: str, resource: str, *, project: str | None, member: str) -> str:
    """Return which role has a permission on a resource, and the command that grants it."""
    role = role_of(permission)
    if role is None:
        return f"the permission {permission} is needed: https://cloud.google.com/iam/docs/permissions-reference"
    if permission == _ACT_AS and not _SERVICE_ACCOUNT.search(resource):  # on the project it would be for all accounts
        resource = f"ACCOUNT@{project}.iam.gserviceaccount.com"
    account = _SERVICE_ACCOUNT.search(resource)
    where = f" on {account[0]}" if account else ""
    grant = grant_command(resource, role, project, shlex.quote(member))
    return f"the permission {permission} is needed{where}; {role} includes it: {grant}"


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
        place = f"{account[0]} --project={account['project']}"
        return f"gcloud iam service-accounts add-iam-policy-binding {place} {binding}"
    parts = (resource or "").rpartition("googleapis.com/")[2].split("/")
    names = dict(zip(parts[::2], parts[1::2], strict=False))
    named = names.get("projects", project)
    if "queues" in names:
        place = f"{names['queues']} --location={names['locations']} --project={named}"
        return f"gcloud tasks queues add-iam-policy-binding {place} {binding}"
    return f"gcloud projects add-iam-policy-binding {named} {binding}"
