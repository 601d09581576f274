"""Which URL of the REST API is which call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from cloudtasks_nb.emulator._pb import beta, v2

__all__ = ["Route", "find_route"]

_PROJECT = "projects/[^/]+"
_LOCATION = f"{_PROJECT}/locations/[^/]+"
_QUEUE = f"{_LOCATION}/queues/[^/:]+"
_TASK = f"{_QUEUE}/tasks/[^/:]+"


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


def _routes(api: str, messages: Any) -> list[Route]:
    tasks = f"/google.cloud.tasks.{api}.CloudTasks/"
    empty = empty_pb2.Empty
    policy = policy_pb2.Policy
    operation = operations_pb2.Operation
    rows: list[tuple[str, str, str, str, str | None, Any, Any]] = [
        (
            "GET",
            f"({_LOCATION})/queues",
            "ListQueues",
            "parent",
            None,
            messages.ListQueuesRequest,
            messages.ListQueuesResponse,
        ),
        (
            "POST",
            f"({_LOCATION})/queues",
            "CreateQueue",
            "parent",
            "queue",
            messages.CreateQueueRequest,
            messages.Queue,
        ),
        ("GET", f"({_QUEUE})", "GetQueue", "name", None, messages.GetQueueRequest, messages.Queue),
        ("PATCH", f"({_QUEUE})", "UpdateQueue", "queue.name", "queue", messages.UpdateQueueRequest, messages.Queue),
        ("DELETE", f"({_QUEUE})", "DeleteQueue", "name", None, messages.DeleteQueueRequest, empty),
        ("POST", f"({_QUEUE}):purge", "PurgeQueue", "name", "*", messages.PurgeQueueRequest, messages.Queue),
        ("POST", f"({_QUEUE}):pause", "PauseQueue", "name", "*", messages.PauseQueueRequest, messages.Queue),
        ("POST", f"({_QUEUE}):resume", "ResumeQueue", "name", "*", messages.ResumeQueueRequest, messages.Queue),
        (
            "POST",
            f"({_QUEUE}):getIamPolicy",
            "GetIamPolicy",
            "resource",
            "*",
            iam_policy_pb2.GetIamPolicyRequest,
            policy,
        ),
        (
            "POST",
            f"({_QUEUE}):setIamPolicy",
            "SetIamPolicy",
            "resource",
            "*",
            iam_policy_pb2.SetIamPolicyRequest,
            policy,
        ),
        (
            "POST",
            f"({_QUEUE}):testIamPermissions",
            "TestIamPermissions",
            "resource",
            "*",
            iam_policy_pb2.TestIamPermissionsRequest,
            iam_policy_pb2.TestIamPermissionsResponse,
        ),
        (
            "GET",
            f"({_QUEUE})/tasks",
            "ListTasks",
            "parent",
            None,
            messages.ListTasksRequest,
            messages.ListTasksResponse,
        ),
        ("POST", f"({_QUEUE})/tasks", "CreateTask", "parent", "*", messages.CreateTaskRequest, messages.Task),
        ("GET", f"({_TASK})", "GetTask", "name", None, messages.GetTaskRequest, messages.Task),
        ("DELETE", f"({_TASK})", "DeleteTask", "name", None, messages.DeleteTaskRequest, empty),
        ("POST", f"({_TASK}):run", "RunTask", "name", "*", messages.RunTaskRequest, messages.Task),
        (
            "POST",
            f"({_QUEUE})/tasks:batchCreate",
            "BatchCreateTasks",
            "parent",
            "*",
            messages.BatchCreateTasksRequest,
            operation,
        ),
        (
            "POST",
            f"({_QUEUE})/tasks:batchDelete",
            "BatchDeleteTasks",
            "parent",
            "*",
            messages.BatchDeleteTasksRequest,
            operation,
        ),
        (
            "GET",
            f"({_LOCATION}/cmekConfig)",
            "GetCmekConfig",
            "name",
            None,
            messages.GetCmekConfigRequest,
            messages.CmekConfig,
        ),
        (
            "PATCH",
            f"({_LOCATION}/cmekConfig)",
            "UpdateCmekConfig",
            "cmekConfig.name",
            "cmekConfig",
            messages.UpdateCmekConfigRequest,
            messages.CmekConfig,
        ),
        (
            "GET",
            f"({_PROJECT})/locations",
            "/google.cloud.location.Locations/ListLocations",
            "name",
            None,
            locations_pb2.ListLocationsRequest,
            locations_pb2.ListLocationsResponse,
        ),
        (
            "GET",
            f"({_LOCATION})",
            "/google.cloud.location.Locations/GetLocation",
            "name",
            None,
            locations_pb2.GetLocationRequest,
            locations_pb2.Location,
        ),
        (
            "GET",
            f"({_LOCATION}/operations/[^/]+)",
            "/google.longrunning.Operations/GetOperation",
            "name",
            None,
            operations_pb2.GetOperationRequest,
            operation,
        ),
    ]
    return [
        Route(
            verb=verb,
            pattern=re.compile(pattern),
            rpc=name if name.startswith("/") else tasks + name,
            request=request,
            response=response,
            resource=resource,
            body=body,
        )
        for verb, pattern, name, resource, body, request, response in rows
    ]


_ROUTES = {"v2": _routes("v2", v2), "v2beta3": _routes("v2beta3", beta)}
