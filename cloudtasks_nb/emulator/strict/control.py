"""Decide whether a call is allowed, in Google's order: token, scope, project, perimeter, quota, roles."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from cloudtasks_nb._names import account_project
from cloudtasks_nb.emulator.model.apis import iam
from cloudtasks_nb.emulator.model.methods import LOGGING, Method, project_of
from cloudtasks_nb.emulator.model.refusal import RefusedError, invalid_argument, unknown_project
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.emulator.strict.permissions import (
    ACT_AS,
    IAM,
    IAM_CREDENTIALS,
    needed,
    parents,
    resources_of,
    service_accounts,
)
from cloudtasks_nb.emulator.strict.quotas import Quotas
from cloudtasks_nb.emulator.strict.refusals import (
    api_disabled,
    billing_disabled,
    iam_permission_denied,
    invalid_credentials,
    missing_credentials,
    permission_denied,
    policy_violated,
    quota_project_denied,
    quota_project_missing,
    scope_insufficient,
)
from cloudtasks_nb.emulator.strict.roles import permissions_of
from cloudtasks_nb.emulator.strict.state import CLOUD_PLATFORM, GoogleState, is_in, member_of
from cloudtasks_nb.emulator.strict.tokens import AccessTokens, Caller, InvalidTokenError

__all__ = ["AccessControl", "account_resources"]

_LOG_SCOPES = frozenset(
    f"https://www.googleapis.com/auth/{name}"
    for name in ("cloud-platform", "cloud-platform.read-only", "logging.admin", "logging.read")
)
_TASK_SCOPES = frozenset({CLOUD_PLATFORM})
_IAM_SCOPES = _TASK_SCOPES | {"https://www.googleapis.com/auth/iam"}
_SCOPES = {LOGGING: _LOG_SCOPES, IAM: _IAM_SCOPES, IAM_CREDENTIALS: _IAM_SCOPES}
_USE_PROJECT = "serviceusage.services.use"

#: who has sent the call that is executed
_caller: ContextVar[Caller] = ContextVar("caller")


class AccessControl:
    """Allows or refuses calls.

    Parameters
    ----------
    folder : Path
        Where principals and roles are kept.
    store : Store
        Has the policies of queues that `SetIamPolicy` has set.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        self.state = GoogleState(folder / "google.json")
        self.tokens = AccessTokens(self.state)
        self._store = store
        self._quotas = Quotas(time.monotonic)

    def reset(self) -> None:
        """Return to the state of an empty folder: nobody exists, nothing is wrong, and no call was counted."""
        self.state.reset()
        self._quotas = Quotas(time.monotonic)

    async def admit(self, method: Method, request: Any, headers: Mapping[str, str]) -> None:
        """Return if a call is allowed.

        Parameters
        ----------
        method : Method
            What is called.
        request : message
            The request.
        headers : mapping
            gRPC metadata or HTTP headers, with keys in lower case.

        Raises
        ------
        RefusedError
            If it is not allowed.
        """
        if self.state.conditions.latency_s:
            await asyncio.sleep(self.state.conditions.latency_s)
        caller = self.authenticate(method.host, method.path[1:].replace("/", "."), headers)
        resources = resources_of(method, request)
        self.check_project(method.host, project_of(resources[0]) if resources else "", caller, headers)
        if self.state.conditions.quotas and resources:
            self._quotas.count(method, project_of(resources[0]), resources[0])
        self._check_roles(caller, method, request, resources)
        _caller.set(caller)

    def authenticate(self, service: str, method: str, headers: Mapping[str, str]) -> Caller:
        """Return who has sent a call.

        Parameters
        ----------
        service : str
            Host of the service at Google.
        method : str
            ``google.cloud.tasks.v2.CloudTasks.CreateTask``.
        headers : mapping
            With keys in lower case.

        Raises
        ------
        RefusedError
            ``UNAUTHENTICATED`` without a valid token; ``PERMISSION_DENIED`` if its scopes do not include the service.
        """
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise missing_credentials(service, method)
        try:
            caller = self.tokens.caller(token.strip(), service)
        except InvalidTokenError as error:
            raise invalid_credentials(service, method, error.reason) from error
        if caller.scopes.isdisjoint(_SCOPES.get(service, _TASK_SCOPES)):
            raise scope_insufficient(service, method)
        return caller

    def check_project(self, service: str, project: str, caller: Caller, headers: Mapping[str, str]) -> None:
        """Check the project that pays for a call, which is the quota project if the call names one.

        Raises
        ------
        RefusedError
            ``PERMISSION_DENIED``; its ErrorInfo has the reason.
        """
        conditions = self.state.conditions
        if quota_project := headers.get("x-goog-user-project", ""):
            allowed = self.state.allows(caller.member, _USE_PROJECT, [f"projects/{quota_project}"])
            if conditions.quota_project_denied or not allowed:
                raise quota_project_denied(service, quota_project)
        elif caller.gcloud and service != IAM_CREDENTIALS:  # which counts for the project of the account
            raise quota_project_missing(service)
        consumer = quota_project or project
        if conditions.projects and consumer not in conditions.projects:
            raise unknown_project(service, consumer)
        off = conditions.api_disabled
        if off is True or (off and service in off):
            raise api_disabled(service, consumer)
        if not conditions.billing:
            raise billing_disabled(service, consumer)
        if conditions.vpc_sc:
            uid = hashlib.sha256(f"{caller.member} {consumer}".encode()).hexdigest()[:54]
            raise policy_violated(service, consumer, uid)

    def check_target(self, target: Any, queue: str, url: str = "") -> None:
        """Check that the caller may use the service account of a target, and that the target's URL has TLS.

        Parameters
        ----------
        target : HttpRequest or HttpTarget
            Names the service account.
        queue : str
            Name of the queue.
        url : str
            Of the task; "" for a queue, which has none.

        Raises
        ------
        RefusedError
            ``PERMISSION_DENIED`` without ``iam.serviceAccounts.actAs``, ``NOT_FOUND`` for an unknown account, and
            ``INVALID_ARGUMENT`` for an ``http://`` URL or an account of another project.
        """
        for email in service_accounts(target):
            if url and not url.startswith("https://"):
                raise invalid_argument(
                    "HttpRequest.url must start with 'https://' for request with HttpRequest.authorization_header"
                )
            if account_project(email) not in {None, project_of(queue)}:
                # So says OidcToken in google/cloud/tasks/v2/target.proto.
                raise invalid_argument("The service account must be within the same project as the queue.")
            if not self.allows(_caller.get(), ACT_AS, account_resources(email)):
                raise permission_denied(ACT_AS, email)
            if email not in self.state.principals:
                raise RefusedError("NOT_FOUND", "Requested entity was not found.")

    def allowed(self, permissions: Iterable[str], resource: str) -> list[str]:
        """Return those of the permissions that the caller of the running call has."""
        return [one for one in permissions if self.allows(_caller.get(), one, parents(resource))]

    def allows(self, caller: Caller, permission: str, resources: list[str]) -> bool:
        """Return whether a caller has a permission on one of the resources."""
        return self.state.allows(caller.member, permission, resources) or any(
            permission in permissions_of(binding.role) and is_in(caller.member, {*map(member_of, binding.members)})
            for name in resources
            if (policy := self._store.setting(f"iam/{name}"))
            for binding in iam.Policy.FromString(policy).bindings
        )

    def _check_roles(self, caller: Caller, method: Method, request: Any, resources: list[str]) -> None:
        for resource in filter(None, resources):
            for permission in self._needed(method, request, resource):
                if not self.allows(caller, permission, parents(resource)):
                    if method.host == LOGGING:
                        raise iam_permission_denied(permission)
                    raise permission_denied(permission, resource)

    def _needed(self, method: Method, request: Any, resource: str) -> Iterable[str]:
        yield from needed(method, request)
        if method.name == "UpdateQueue" and resource not in self._store.contents.queues:
            yield "cloudtasks.queues.create"


def account_resources(email: str) -> list[str]:
    """Return the resources whose roles count for a service account: the account and its project."""
    project = email.partition("@")[2].partition(".")[0]
    return [email, f"projects/{project}"]
