"""The table of the RPCs that the toolkit calls: messages, IAM permission, routing and idempotency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.cloud import tasks_v2beta3
from google.cloud.logging_v2.types import logging as logging_types
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

__all__ = ["METHODS", "STATS_MASK", "Method"]

#: Fields of a v2beta3 queue that are read. Without a mask the service leaves the statistics out.
STATS_MASK = (
    "name",
    "state",
    "rate_limits",
    "retry_config",
    "stackdriver_logging_config",
    "http_target",
    "purge_time",
    "stats",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC."""

    path: str  #: ``/package.Service/Method``
    request: Any  #: raw protobuf class
    response: Any  #: raw protobuf class
    permission: str  #: IAM permission that the caller needs
    role: str  #: smallest predefined role that has the permission
    resource: str = "queue"  #: the kind of resource that NOT_FOUND refers to: "queue", "task", "operation" or "log"
    route: str = "parent"  #: request field that the service wants repeated in the metadata; "": none
    idempotent: bool = True  #: may be called again when the answer was lost


_QUEUE, _TASK, _OPERATION = types.Queue.pb(), types.Task.pb(), operations_pb2.Operation
_EMPTY = empty_pb2.Empty
_VIEWER, _ADMIN, _ENQUEUER = "cloudtasks.viewer", "cloudtasks.queueAdmin", "cloudtasks.enqueuer"
_DELETER, _RUNNER = "cloudtasks.taskDeleter", "cloudtasks.taskRunner"


def _method(path: str, request: Any, response: Any, permission: str, role: str, **facts: Any) -> Method:
    """Build a method. Messages may be raw classes or proto-plus wrappers."""
    raw = [message.pb() if hasattr(message, "pb") else message for message in (request, response)]
    return Method(path=path, request=raw[0], response=raw[1], permission=permission, role=f"roles/{role}", **facts)


def _v2(name: str, response: Any, permission: str, role: str, **facts: Any) -> tuple[str, Method]:
    """Build a method of the v2 service by its name."""
    path, request = f"/google.cloud.tasks.v2.CloudTasks/{name}", getattr(types, f"{name}Request")
    return name, _method(path, request, response, f"cloudtasks.{permission}", role, **facts)


#: Every RPC that the toolkit calls. Permissions: https://cloud.google.com/tasks/docs/reference-access-control
METHODS: dict[str, Method] = {
    **dict(
        [
            _v2("ListQueues", types.ListQueuesResponse, "queues.list", _VIEWER),
            _v2("GetQueue", _QUEUE, "queues.get", _VIEWER, route="name"),
            _v2("CreateQueue", _QUEUE, "queues.create", _ADMIN, idempotent=False),
            _v2("UpdateQueue", _QUEUE, "queues.update", _ADMIN, route="queue.name"),
            _v2("DeleteQueue", _EMPTY, "queues.delete", _ADMIN, route="name"),
            _v2("PurgeQueue", _QUEUE, "queues.purge", _ADMIN, route="name"),
            _v2("PauseQueue", _QUEUE, "queues.pause", _ADMIN, route="name"),
            _v2("ResumeQueue", _QUEUE, "queues.resume", _ADMIN, route="name"),
            _v2("ListTasks", types.ListTasksResponse, "tasks.list", _VIEWER),
            _v2("GetTask", _TASK, "tasks.get", _VIEWER, resource="task", route="name"),
            _v2("CreateTask", _TASK, "tasks.create", _ENQUEUER),
            _v2("DeleteTask", _EMPTY, "tasks.delete", _DELETER, resource="task", route="name"),
            _v2("RunTask", _TASK, "tasks.run", _RUNNER, resource="task", route="name", idempotent=False),
            _v2("BatchCreateTasks", _OPERATION, "tasks.create", _ENQUEUER),
            _v2("BatchDeleteTasks", _OPERATION, "tasks.delete", _DELETER),
        ]
    ),
    "TestIamPermissions": _method(
        "/google.cloud.tasks.v2.CloudTasks/TestIamPermissions",
        iam_policy_pb2.TestIamPermissionsRequest,
        iam_policy_pb2.TestIamPermissionsResponse,
        "cloudtasks.queues.get",
        _VIEWER,
        route="resource",
    ),
    "GetOperation": _method(
        "/google.longrunning.Operations/GetOperation",
        operations_pb2.GetOperationRequest,
        _OPERATION,
        "cloudtasks.operations.get",
        _ENQUEUER,
        resource="operation",
        route="name",
    ),
    "ListQueueStats": _method(
        "/google.cloud.tasks.v2beta3.CloudTasks/ListQueues",
        tasks_v2beta3.ListQueuesRequest,
        tasks_v2beta3.ListQueuesResponse,
        "cloudtasks.queues.list",
        _VIEWER,
    ),
    "GetQueueStats": _method(
        "/google.cloud.tasks.v2beta3.CloudTasks/GetQueue",
        tasks_v2beta3.GetQueueRequest,
        tasks_v2beta3.Queue,
        "cloudtasks.queues.get",
        _VIEWER,
        route="name",
    ),
    "ListLogEntries": _method(
        "/google.logging.v2.LoggingServiceV2/ListLogEntries",
        logging_types.ListLogEntriesRequest,
        logging_types.ListLogEntriesResponse,
        "logging.logEntries.list",
        "logging.viewer",
        resource="log",
        route="",
    ),
}
