"""The methods of the APIs: one table, from which REST, the permissions of callers and their quotas follow.

Sources: the reference of each method (https://cloud.google.com/tasks/docs/reference/rest), and the quotas of the
services (https://cloud.google.com/tasks/docs/quotas, https://cloud.google.com/logging/quotas).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cloudtasks_nb.emulator.model.apis import call_messages

__all__ = ["LOGGING", "METHODS", "TASKS", "Method", "Quota", "find_method", "project_of"]

TASKS: Final = "cloudtasks.googleapis.com"
LOGGING: Final = "logging.googleapis.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many calls a project may make."""

    metric: str
    limit: str
    value: int  #: calls a minute


@dataclass(frozen=True, slots=True)
class Method:
    """A method of an API."""

    path: str  #: as gRPC names it: ``/google.cloud.tasks.v2.CloudTasks/CreateTask``
    host: str  #: of its service at Google
    verb: str  #: of HTTP
    url: re.Pattern[str]  #: after the version; its group is the resource, if the path has one
    resource: str  #: field of the resource
    body: str | None  #: field of the body; ``*`` for the whole request, None without a body
    permission: str  #: "" if it needs none
    quota: Quota | None
    request: Any
    response: Any

    @property
    def name(self) -> str:
        """``CreateTask``."""
        return self.path.rpartition("/")[2]


def find_method(verb: str, api: str, path: str) -> tuple[Method, str] | None:
    """Return the method of an HTTP request and the resource in its path, which is what comes after the version (`api`).

    The resource is empty if the path has none.
    """
    for method in _BY_API[api]:
        if method.verb == verb and (match := method.url.fullmatch(path)):
            return method, match[1] if match.re.groups else ""
    return None


def project_of(resource: str) -> str:
    """Return the project of a resource; "" if it has none."""
    parts = resource.split("/")
    return parts[1] if parts[0] == "projects" and parts[1:] else ""


_LISTS = Quota(metric="List requests", limit="List requests per minute per region", value=600)
_RUNS = Quota(metric="Run task requests", limit="Run task requests per minute per region", value=60)
_LOG_READS = Quota(metric="Read requests", limit="Read requests per minute", value=60)
_Row: TypeAlias = tuple[str, str, str, str, str | None, str, Quota | None]
# Name, verb, path with the kind of its resource in braces, field of the resource, field of the body, permission, quota.
_OF_CLOUD_TASKS: tuple[_Row, ...] = (
    ("ListQueues", "GET", "{location}/queues", "parent", None, "cloudtasks.queues.list", _LISTS),
    ("CreateQueue", "POST", "{location}/queues", "parent", "queue", "cloudtasks.queues.create", None),
    ("GetQueue", "GET", "{queue}", "name", None, "cloudtasks.queues.get", None),
    ("UpdateQueue", "PATCH", "{queue}", "queue.name", "queue", "cloudtasks.queues.update", None),
    ("DeleteQueue", "DELETE", "{queue}", "name", None, "cloudtasks.queues.delete", None),
    ("PurgeQueue", "POST", "{queue}:purge", "name", "*", "cloudtasks.queues.purge", None),
    ("PauseQueue", "POST", "{queue}:pause", "name", "*", "cloudtasks.queues.pause", None),
    ("ResumeQueue", "POST", "{queue}:resume", "name", "*", "cloudtasks.queues.resume", None),
    ("GetIamPolicy", "POST", "{queue}:getIamPolicy", "resource", "*", "cloudtasks.queues.getIamPolicy", None),
    ("SetIamPolicy", "POST", "{queue}:setIamPolicy", "resource", "*", "cloudtasks.queues.setIamPolicy", None),
    ("TestIamPermissions", "POST", "{queue}:testIamPermissions", "resource", "*", "", None),
    ("ListTasks", "GET", "{queue}/tasks", "parent", None, "cloudtasks.tasks.list", _LISTS),
    ("CreateTask", "POST", "{queue}/tasks", "parent", "*", "cloudtasks.tasks.create", None),
    ("GetTask", "GET", "{task}", "name", None, "cloudtasks.tasks.get", None),
    ("DeleteTask", "DELETE", "{task}", "name", None, "cloudtasks.tasks.delete", None),
    ("RunTask", "POST", "{task}:run", "name", "*", "cloudtasks.tasks.run", _RUNS),
    ("BatchCreateTasks", "POST", "{queue}/tasks:batchCreate", "parent", "*", "cloudtasks.tasks.create", None),
    ("BatchDeleteTasks", "POST", "{queue}/tasks:batchDelete", "parent", "*", "cloudtasks.tasks.delete", None),
    ("GetCmekConfig", "GET", "{cmek}", "name", None, "cloudtasks.cmekConfig.get", None),
    ("UpdateCmekConfig", "PATCH", "{cmek}", "cmek_config.name", "cmek_config", "cloudtasks.cmekConfig.update", None),
)
_OF: dict[str, tuple[_Row, ...]] = {
    "google.cloud.tasks.v2.CloudTasks": _OF_CLOUD_TASKS,
    "google.cloud.tasks.v2beta3.CloudTasks": _OF_CLOUD_TASKS,
    "google.cloud.location.Locations": (
        ("ListLocations", "GET", "{project}/locations", "name", None, "cloudtasks.locations.list", _LISTS),
        ("GetLocation", "GET", "{location}", "name", None, "cloudtasks.locations.get", None),
    ),
    "google.longrunning.Operations": (
        ("GetOperation", "GET", "{operation}", "name", None, "cloudtasks.operations.get", None),
    ),
    "google.logging.v2.LoggingServiceV2": (
        ("ListLogEntries", "POST", "entries:list", "resource_names", "*", "logging.logEntries.list", _LOG_READS),
    ),
}
_RESOURCES = {"project": "projects/[^/]+"}
_RESOURCES["location"] = f"{_RESOURCES['project']}/locations/[^/]+"
_RESOURCES["cmek"] = f"{_RESOURCES['location']}/cmekConfig"
_RESOURCES["operation"] = f"{_RESOURCES['location']}/operations/[^/]+"
_RESOURCES["queue"] = f"{_RESOURCES['location']}/queues/[^/:]+"
_RESOURCES["task"] = f"{_RESOURCES['queue']}/tasks/[^/:]+"


def _method(service: str, name: str, verb: str, url: str, *others: Any) -> Method:
    path, host = f"/{service}/{name}", LOGGING if service.startswith("google.logging.") else TASKS
    fields: list[Any] = [*others, *call_messages(path)]
    pattern = re.compile(url.format(**{kind: f"({resource})" for kind, resource in _RESOURCES.items()}))
    return Method(path, host, verb, pattern, *fields)


#: All methods by their paths.
METHODS: Final = {
    method.path: method for service, rows in _OF.items() for method in (_method(service, *row) for row in rows)
}
_BY_API = {
    api: [METHODS[path] for path in METHODS if f".tasks.{api}." in path or ".tasks." not in path]
    for api in ("v1", "v2", "v2beta3")  # v1 has only what is none of Cloud Tasks: locations
}
