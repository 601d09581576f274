"""Every RPC that the toolkit calls, and what there is to know about it before it is called."""

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

#: Fields of a v2beta3 queue that are shown; without a mask the service leaves the statistics out.
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
    """What there is to know about an RPC before it is called."""

    path: str  #: ``/package.Service/Method``
    request: Any  #: raw protobuf class
    response: Any  #: raw protobuf class
    permission: str  #: IAM permission that it needs
    role: str  #: smallest predefined role that has it
    resource: str = "queue"  #: what NOT_FOUND speaks of: "queue" or "task"
    route: str = "parent"  #: request field that the service wants repeated in the metadata
    idempotent: bool = True  #: safe to call again when the answer was lost


def _tasks(name: str, request: Any, response: Any, **facts: Any) -> Method:
    return Method(path=f"/google.cloud.tasks.v2.CloudTasks/{name}", request=request.pb(), response=response, **facts)


_QUEUE, _TASK, _NOTHING = types.Queue.pb(), types.Task.pb(), empty_pb2.Empty
_ADMIN = "roles/cloudtasks.queueAdmin"

#: Every RPC that the toolkit calls. Permissions: https://cloud.google.com/tasks/docs/reference-access-control
METHODS: dict[str, Method] = {
    "ListQueues": _tasks(
        "ListQueues",
        types.ListQueuesRequest,
        types.ListQueuesResponse.pb(),
        permission="cloudtasks.queues.list",
        role="roles/cloudtasks.viewer",
    ),
    "GetQueue": _tasks(
        "GetQueue",
        types.GetQueueRequest,
        _QUEUE,
        permission="cloudtasks.queues.get",
        role="roles/cloudtasks.viewer",
        route="name",
    ),
    "CreateQueue": _tasks(
        "CreateQueue",
        types.CreateQueueRequest,
        _QUEUE,
        permission="cloudtasks.queues.create",
        role=_ADMIN,
        idempotent=False,
    ),
    "UpdateQueue": _tasks(
        "UpdateQueue",
        types.UpdateQueueRequest,
        _QUEUE,
        permission="cloudtasks.queues.update",
        role=_ADMIN,
        route="queue.name",
    ),
    **{
        f"{verb}Queue": _tasks(
            f"{verb}Queue",
            getattr(types, f"{verb}QueueRequest"),
            _NOTHING if verb == "Delete" else _QUEUE,
            permission=f"cloudtasks.queues.{verb.lower()}",
            role=_ADMIN,
            route="name",
        )
        for verb in ("Delete", "Purge", "Pause", "Resume")
    },
    "ListTasks": _tasks(
        "ListTasks",
        types.ListTasksRequest,
        types.ListTasksResponse.pb(),
        permission="cloudtasks.tasks.list",
        role="roles/cloudtasks.viewer",
    ),
    "GetTask": _tasks(
        "GetTask",
        types.GetTaskRequest,
        _TASK,
        permission="cloudtasks.tasks.get",
        role="roles/cloudtasks.viewer",
        resource="task",
        route="name",
    ),
    "CreateTask": _tasks(
        "CreateTask",
        types.CreateTaskRequest,
        _TASK,
        permission="cloudtasks.tasks.create",
        role="roles/cloudtasks.enqueuer",
    ),
    "DeleteTask": _tasks(
        "DeleteTask",
        types.DeleteTaskRequest,
        _NOTHING,
        permission="cloudtasks.tasks.delete",
        role="roles/cloudtasks.taskDeleter",
        resource="task",
        route="name",
    ),
    "RunTask": _tasks(
        "RunTask",
        types.RunTaskRequest,
        _TASK,
        permission="cloudtasks.tasks.run",
        role="roles/cloudtasks.taskRunner",
        resource="task",
        route="name",
        idempotent=False,
    ),
    "BatchCreateTasks": _tasks(
        "BatchCreateTasks",
        types.BatchCreateTasksRequest,
        operations_pb2.Operation,
        permission="cloudtasks.tasks.create",
        role="roles/cloudtasks.enqueuer",
    ),
    "BatchDeleteTasks": _tasks(
        "BatchDeleteTasks",
        types.BatchDeleteTasksRequest,
        operations_pb2.Operation,
        permission="cloudtasks.tasks.delete",
        role="roles/cloudtasks.taskDeleter",
    ),
    "TestIamPermissions": Method(
        path="/google.cloud.tasks.v2.CloudTasks/TestIamPermissions",
        request=iam_policy_pb2.TestIamPermissionsRequest,
        response=iam_policy_pb2.TestIamPermissionsResponse,
        permission="cloudtasks.queues.get",
        role="roles/cloudtasks.viewer",
        route="resource",
    ),
    "GetOperation": Method(
        path="/google.longrunning.Operations/GetOperation",
        request=operations_pb2.GetOperationRequest,
        response=operations_pb2.Operation,
        permission="cloudtasks.operations.get",
        role="roles/cloudtasks.enqueuer",
        resource="operation",
        route="name",
    ),
    "ListQueueStats": Method(
        path="/google.cloud.tasks.v2beta3.CloudTasks/ListQueues",
        request=tasks_v2beta3.ListQueuesRequest.pb(),
        response=tasks_v2beta3.ListQueuesResponse.pb(),
        permission="cloudtasks.queues.list",
        role="roles/cloudtasks.viewer",
    ),
    "GetQueueStats": Method(
        path="/google.cloud.tasks.v2beta3.CloudTasks/GetQueue",
        request=tasks_v2beta3.GetQueueRequest.pb(),
        response=tasks_v2beta3.Queue.pb(),
        permission="cloudtasks.queues.get",
        role="roles/cloudtasks.viewer",
        route="name",
    ),
    "ListLogEntries": Method(
        path="/google.logging.v2.LoggingServiceV2/ListLogEntries",
        request=logging_types.ListLogEntriesRequest.pb(),
        response=logging_types.ListLogEntriesResponse.pb(),
        permission="logging.logEntries.list",
        role="roles/logging.viewer",
        resource="log",
        route="",
    ),
}
