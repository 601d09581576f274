"""Which URL of the REST API is which call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb.emulator.model.pb import beta, v2

__all__ = ["Route", "find_route"]

_PROJECT = "projects/[^/]+"
_LOCATION = f"{_PROJECT}/locations/[^/]+"
_QUEUE = f"{_LOCATION}/queues/[^/:]+"
_TASK = f"{_QUEUE}/tasks/[^/:]+"
_CMEK = f"{_LOCATION}/cmekConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A URL pattern and the call that it stands for."""

    verb: str  #: HTTP method
    pattern: re.Pattern[str]  #: its one group is the resource
    rpc: str  #: full name of the call
    request: Any
    response: Any
    resource: str  #: field that gets the resource
    body: str | None  #: field that gets the body; ``*`` for the whole request, None for no body


def find_route(verb: str, api: str, path: str) -> tuple[Route, str] | None:
    """Return the route of a request and the resource that its path names.

    Parameters
    ----------
    verb : str
        HTTP method.
    api : str
        ``v2`` or ``v2beta3``.
    path : str
        What comes after the version.
    """
    for route in _ROUTES[api]:
        if route.verb == verb and (match := route.pattern.fullmatch(path)):
            return route, match[1]
    return None


# HTTP method, path (its group is the resource), call, field of the resource, field of the body, response.
_TABLE: tuple[tuple[str, str, str, str, str | None, str], ...] = (
    ("GET", f"({_LOCATION})/queues", "ListQueues", "parent", None, "ListQueuesResponse"),
    ("POST", f"({_LOCATION})/queues", "CreateQueue", "parent", "queue", "Queue"),
    ("GET", f"({_QUEUE})", "GetQueue", "name", None, "Queue"),
    ("PATCH", f"({_QUEUE})", "UpdateQueue", "queue.name", "queue", "Queue"),
    ("DELETE", f"({_QUEUE})", "DeleteQueue", "name", None, "Empty"),
    ("POST", f"({_QUEUE}):purge", "PurgeQueue", "name", "*", "Queue"),
    ("POST", f"({_QUEUE}):pause", "PauseQueue", "name", "*", "Queue"),
    ("POST", f"({_QUEUE}):resume", "ResumeQueue", "name", "*", "Queue"),
    ("POST", f"({_QUEUE}):getIamPolicy", "GetIamPolicy", "resource", "*", "Policy"),
    ("POST", f"({_QUEUE}):setIamPolicy", "SetIamPolicy", "resource", "*", "Policy"),
    (
        "POST",
        f"({_QUEUE}):testIamPermissions",
        "TestIamPermissions",
        "resource",
        "*",
        "TestIamPermissionsResponse",
    ),
    ("GET", f"({_QUEUE})/tasks", "ListTasks", "parent", None, "ListTasksResponse"),
    ("POST", f"({_QUEUE})/tasks", "CreateTask", "parent", "*", "Task"),
    ("GET", f"({_TASK})", "GetTask", "name", None, "Task"),
    ("DELETE", f"({_TASK})", "DeleteTask", "name", None, "Empty"),
    ("POST", f"({_TASK}):run", "RunTask", "name", "*", "Task"),
    (
        "POST",
        f"({_QUEUE})/tasks:batchCreate",
        "BatchCreateTasks",
        "parent",
        "*",
        "Operation",
    ),
    (
        "POST",
        f"({_QUEUE})/tasks:batchDelete",
        "BatchDeleteTasks",
        "parent",
        "*",
        "Operation",
    ),
    ("GET", f"({_CMEK})", "GetCmekConfig", "name", None, "CmekConfig"),
    (
        "PATCH",
        f"({_CMEK})",
        "UpdateCmekConfig",
        "cmekConfig.name",
        "cmekConfig",
        "CmekConfig",
    ),
    ("GET", f"({_PROJECT})/locations", "ListLocations", "name", None, "ListLocationsResponse"),
    ("GET", f"({_LOCATION})", "GetLocation", "name", None, "Location"),
    ("GET", f"({_LOCATION}/operations/[^/]+)", "GetOperation", "name", None, "Operation"),
)
_SERVICES = {
    "ListLocations": "google.cloud.location.Locations",
    "GetLocation": "google.cloud.location.Locations",
    "GetOperation": "google.longrunning.Operations",
}
_SHARED_MESSAGES = (empty_pb2, iam_policy_pb2, policy_pb2, operations_pb2, locations_pb2)


def _message(api: Any, name: str) -> Any:
    return next(getattr(module, name) for module in (api, *_SHARED_MESSAGES) if hasattr(module, name))


def _routes(api: str, messages: Any) -> list[Route]:
    return [
        Route(
            verb=verb,
            pattern=re.compile(pattern),
            rpc=f"/{_SERVICES.get(name, f'google.cloud.tasks.{api}.CloudTasks')}/{name}",
            request=_message(messages, f"{name}Request"),
            response=_message(messages, response),
            resource=resource,
            body=body,
        )
        for verb, pattern, name, resource, body, response in _TABLE
    ]


_ROUTES = {"v2": _routes("v2", v2), "v2beta3": _routes("v2beta3", beta)}
