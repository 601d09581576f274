"""Which permissions a call needs: "Authorization" of each method in https://cloud.google.com/tasks/docs/reference/rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb.emulator.model.apis import call_messages

__all__ = [
    "ACT_AS",
    "GOOGLE_HOSTS",
    "IAM",
    "IAM_CREDENTIALS",
    "LOGGING",
    "RUN_HOSTS",
    "TASKS",
    "Method",
    "method_of",
    "parents",
    "project_of",
    "service_accounts",
]

TASKS, LOGGING = "cloudtasks.googleapis.com", "logging.googleapis.com"
IAM, IAM_CREDENTIALS = "iam.googleapis.com", "iamcredentials.googleapis.com"
#: The hosts whose services a strict emulator has.
GOOGLE_HOSTS = (
    *(TASKS, LOGGING, IAM, IAM_CREDENTIALS),
    *("oauth2.googleapis.com", "sts.googleapis.com", "cloudresourcemanager.googleapis.com", "www.googleapis.com"),
    *("run.googleapis.com", "storage.googleapis.com"),
)
#: The hosts of services of Cloud Run, as certificates name them.
RUN_HOSTS = ("*.run.app", "*.a.run.app", "*.us-central1.run.app")
ACT_AS = "iam.serviceAccounts.actAs"
_FULL = 2
# RPC -> permission after "cloudtasks.", field of the resource.
_TABLE = {
    "ListQueues": ("queues.list", "parent"),
    "CreateQueue": ("queues.create", "parent"),
    "GetQueue": ("queues.get", "name"),
    "UpdateQueue": ("queues.update", "queue.name"),
    "DeleteQueue": ("queues.delete", "name"),
    "PurgeQueue": ("queues.purge", "name"),
    "PauseQueue": ("queues.pause", "name"),
    "ResumeQueue": ("queues.resume", "name"),
    "GetIamPolicy": ("queues.getIamPolicy", "resource"),
    "SetIamPolicy": ("queues.setIamPolicy", "resource"),
    "TestIamPermissions": ("", "resource"),
    "ListTasks": ("tasks.list", "parent"),
    "CreateTask": ("tasks.create", "parent"),
    "GetTask": ("tasks.get", "name"),
    "DeleteTask": ("tasks.delete", "name"),
    "RunTask": ("tasks.run", "name"),
    "BatchCreateTasks": ("tasks.create", "parent"),
    "BatchDeleteTasks": ("tasks.delete", "parent"),
    "GetCmekConfig": ("cmekConfig.get", "name"),
    "UpdateCmekConfig": ("cmekConfig.update", "cmek_config.name"),
    "GetLocation": ("locations.get", "name"),
    "ListLocations": ("locations.list", "name"),
    "GetOperation": ("operations.get", "name"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An RPC, as far as access to it is concerned."""

    name: str  #: ``CreateTask``
    api_name: str  #: ``google.cloud.tasks.v2.CloudTasks.CreateTask``
    service: str  #: host at Google
    permission: str  #: "" if it needs none
    field: str  #: of the resource
    request: Any  #: message class

    def resources(self, request: Any) -> list[str]:
        """Return the names of the resources of a request."""
        if self.service == LOGGING:
            return [str(name) for name in request.resource_names]
        value = request
        for part in self.field.split("."):
            value = getattr(value, part)
        return [str(value)]

    def needed(self, request: Any) -> Iterator[str]:
        """Yield the permissions that a request needs on its resources."""
        if self.permission:
            yield self.permission
        if getattr(request, "response_view", 0) == _FULL:
            yield "cloudtasks.tasks.fullView"


def method_of(path: str) -> Method:
    """Return an RPC by its path, ``/google.cloud.tasks.v2.CloudTasks/CreateTask``."""
    service, _, name = path.strip("/").partition("/")
    if name == "ListLogEntries":
        return Method(
            name=name,
            api_name=f"{service}.{name}",
            service=LOGGING,
            permission="logging.logEntries.list",
            field="resource_names",
            request=call_messages(path)[0],
        )
    permission, field = _TABLE[name]
    return Method(
        name=name,
        api_name=f"{service}.{name}",
        service=TASKS,
        permission=permission and f"cloudtasks.{permission}",
        field=field,
        request=call_messages(path)[0],
    )


def parents(resource: str) -> list[str]:
    """Return the resources whose roles count for a resource: a task's queue and project, and the resource itself."""
    parts = resource.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -2)]


def project_of(resource: str) -> str:
    """Return the project of a resource; "" if it has none."""
    parts = resource.split("/")
    return parts[1] if parts[0] == "projects" and parts[1:] else ""


def service_accounts(target: Any) -> list[str]:
    """Return the service account whose tokens a `HttpRequest` or `HttpTarget` wants, none if it wants no token."""
    kind = target.WhichOneof("authorization_header")
    return [getattr(target, kind).service_account_email] if kind else []
