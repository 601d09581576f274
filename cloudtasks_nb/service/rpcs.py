"""The table of the RPCs that the toolkit calls: messages, IAM permission, routing and idempotency."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

from google.cloud import tasks_v2beta3
from google.cloud.location import locations_pb2
from google.cloud.tasks_v2 import types
from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

__all__ = ["METHODS", "STATS_MASK", "LostAnswer", "Method"]

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


_WasDone: TypeAlias = Callable[[Any, Any, Any], bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAnswer:
    """What can be found out, and what is said, of a call that changes something and whose answer was lost.

    `was_done` gets the request, and the resource before and after the call: None if it is not known, or does not exist.
    It returns None if the state cannot show whether the call was carried out.
    """

    effect: str  #: "it is not known whether …"
    hint: str
    read: str = ""  #: RPC that reads the resource, with an answer of the same type as the call's; "": none
    was_done: _WasDone = lambda _request, _before, _after: None
    before: bool = False  #: `was_done` needs the resource before the call too
    absent_is_done: bool = False  #: NOT_FOUND after a repeated call is its success


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC."""

    path: str  #: ``/package.Service/Method``
    messages: Callable[[], tuple[Any, Any]]  #: returns the raw protobuf classes of request and answer
    permission: str  #: IAM permission that the caller needs
    role: str  #: smallest predefined role that has the permission
    resource: str = "queue"  #: kind of the resource that NOT_FOUND refers to: "queue", "task", "operation", "log", …
    route: str = "parent"  #: request field that the service wants repeated in the metadata; "": none
    idempotent: bool  #: may be called again when the answer was lost
    lost: LostAnswer | None = None  #: None: the call only reads

    @property
    def request(self) -> Any:
        """Raw protobuf class of the request."""
        return self.messages()[0]

    @property
    def response(self) -> Any:
        """Raw protobuf class of the answer."""
        return self.messages()[1]


_QUEUE, _TASK, _OPERATION = types.Queue.pb(), types.Task.pb(), operations_pb2.Operation
_EMPTY = empty_pb2.Empty
_VIEWER, _ADMIN, _ENQUEUER = "cloudtasks.viewer", "cloudtasks.queueAdmin", "cloudtasks.enqueuer"
_DELETER, _RUNNER = "cloudtasks.taskDeleter", "cloudtasks.taskRunner"
_SHOWN = "tasks.queues() shows it; the same call again does no harm"
_OF_TASK = {"resource": "task", "route": "name"}
_RUNNING, _PAUSED = types.Queue.State.RUNNING, types.Queue.State.PAUSED


def _method(path: str, request: Any, response: Any, permission: str, role: str, **facts: Any) -> Method:
    """Build a method. Messages may be raw classes or proto-plus wrappers."""
    raw = _raw(request), _raw(response)
    return Method(path=path, messages=lambda: raw, permission=permission, role=f"roles/{role}", **facts)


def _raw(message: Any) -> Any:
    return message.pb() if hasattr(message, "pb") else message


@cache
def _log_messages() -> tuple[Any, Any]:
    """Import the messages of the log, which takes longer than all others together and is not needed to connect."""
    from google.cloud.logging_v2.types import logging  # noqa: PLC0415 - see above

    return logging.ListLogEntriesRequest.pb(), logging.ListLogEntriesResponse.pb()


def _v2(name: str, response: Any, permission: str, role: str, **facts: Any) -> tuple[str, Method]:
    """Build a method of the v2 service by its name."""
    path, request = f"/google.cloud.tasks.v2.CloudTasks/{name}", getattr(types, f"{name}Request")
    return name, _method(path, request, response, f"cloudtasks.{permission}", role, **facts)


def _read_back(
    effect: str, was_done: _WasDone, *, hint: str = _SHOWN, read: str = "GetQueue", before: bool = False
) -> LostAnswer:
    """Return what can be read of a call that changes a queue or a task."""
    return LostAnswer(effect=effect, was_done=was_done, hint=hint, read=read, before=before)


def _is_in_state(state: int) -> Callable[[Any, Any, Any], bool]:
    """Compare the state of a queue. For a queue that does not exist the call is repeated, and its error says so."""
    return lambda _request, _before, after: after is not None and after.state == state


def _has_settings(request: Any, _before: Any, after: Any) -> bool | None:
    """Compare the settings of a queue. UpdateQueue would create one that does not exist."""
    fields = map(operator.attrgetter, request.update_mask.paths)
    return None if after is None else all(field(request.queue) == field(after) for field in fields)


def _was_purged(_request: Any, before: Any, after: Any) -> bool | None:
    return None if before is None else after is not None and after.purge_time != before.purge_time


def _was_dispatched(_request: Any, before: Any, after: Any) -> bool | None:
    """Compare the dispatches of a task. A task that has left its queue was dispatched, or was deleted."""
    return None if before is None or after is None else after.dispatch_count != before.dispatch_count


_CREATED = _read_back("it was created", lambda _request, _before, after: after is not None)
_CHANGED = _read_back("it was changed", _has_settings)
_SET_PAUSED = _read_back("it was paused", _is_in_state(_PAUSED))
_SET_RUNNING = _read_back("it was resumed", _is_in_state(_RUNNING))
_PURGE_HINT = "queue.tasks() shows what is in it; another purge also deletes the tasks that were created since"
_PURGED = _read_back("it was purged", _was_purged, hint=_PURGE_HINT, before=True)
_RUN_HINT = "queue.attempts() shows its attempts; another run() may dispatch it twice"
_RUN = _read_back("it was dispatched", _was_dispatched, hint=_RUN_HINT, read="GetTask", before=True)
_TASK_CREATED = LostAnswer(
    effect="task {request.task.name} was created",
    hint="queue.tasks() and queue.attempts() show it; with the same task_id= it is created once",
)
_TASKS_CREATED = LostAnswer(effect="the tasks were created", hint="queue.tasks() shows them")
_QUEUE_DELETED = LostAnswer(effect="it was deleted", hint=_SHOWN, absent_is_done=True)
_TASKS_DELETED = LostAnswer(
    effect="they were deleted", hint="queue.tasks() shows what is left; the same call again does no harm"
)
_TASK_DELETED = replace(_TASKS_DELETED, effect="it was deleted", absent_is_done=True)

#: Every RPC that the toolkit calls. Permissions: https://cloud.google.com/tasks/docs/reference-access-control
#: Idempotent are the RPCs that Google's client repeats by default, those with a `default_retry` in
#: google/cloud/tasks_v2/services/cloud_tasks/transports/base.py of google-cloud-tasks 2.26, and three more:
#: GetOperation and ListLocations read, and CreateTask creates no second task, because each task of the toolkit has a
#: name.
METHODS: dict[str, Method] = {
    **dict(
        [
            _v2("ListQueues", types.ListQueuesResponse, "queues.list", _VIEWER, idempotent=True),
            _v2("GetQueue", _QUEUE, "queues.get", _VIEWER, route="name", idempotent=True),
            _v2("CreateQueue", _QUEUE, "queues.create", _ADMIN, idempotent=False, lost=_CREATED),
            _v2("UpdateQueue", _QUEUE, "queues.update", _ADMIN, route="queue.name", idempotent=False, lost=_CHANGED),
            _v2("DeleteQueue", _EMPTY, "queues.delete", _ADMIN, route="name", idempotent=True, lost=_QUEUE_DELETED),
            _v2("PurgeQueue", _QUEUE, "queues.purge", _ADMIN, route="name", idempotent=False, lost=_PURGED),
            _v2("PauseQueue", _QUEUE, "queues.pause", _ADMIN, route="name", idempotent=False, lost=_SET_PAUSED),
            _v2("ResumeQueue", _QUEUE, "queues.resume", _ADMIN, route="name", idempotent=False, lost=_SET_RUNNING),
            _v2("ListTasks", types.ListTasksResponse, "tasks.list", _VIEWER, idempotent=True),
            _v2("GetTask", _TASK, "tasks.get", _VIEWER, **_OF_TASK, idempotent=True),
            _v2("CreateTask", _TASK, "tasks.create", _ENQUEUER, idempotent=True, lost=_TASK_CREATED),
            _v2("DeleteTask", _EMPTY, "tasks.delete", _DELETER, **_OF_TASK, idempotent=True, lost=_TASK_DELETED),
            _v2("RunTask", _TASK, "tasks.run", _RUNNER, **_OF_TASK, idempotent=False, lost=_RUN),
            _v2("BatchCreateTasks", _OPERATION, "tasks.create", _ENQUEUER, idempotent=False, lost=_TASKS_CREATED),
            _v2("BatchDeleteTasks", _OPERATION, "tasks.delete", _DELETER, idempotent=False, lost=_TASKS_DELETED),
        ]
    ),
    "TestIamPermissions": _method(
        "/google.cloud.tasks.v2.CloudTasks/TestIamPermissions",
        iam_policy_pb2.TestIamPermissionsRequest,
        iam_policy_pb2.TestIamPermissionsResponse,
        "cloudtasks.queues.get",
        _VIEWER,
        route="resource",
        idempotent=True,
    ),
    "GetOperation": _method(
        "/google.longrunning.Operations/GetOperation",
        operations_pb2.GetOperationRequest,
        _OPERATION,
        "cloudtasks.operations.get",
        _ENQUEUER,
        resource="operation",
        route="name",
        idempotent=True,
    ),
    "ListLocations": _method(
        "/google.cloud.location.Locations/ListLocations",
        locations_pb2.ListLocationsRequest,
        locations_pb2.ListLocationsResponse,
        "cloudtasks.locations.list",
        _VIEWER,
        resource="location",
        route="name",
        idempotent=True,
    ),
    "ListQueueStats": _method(
        "/google.cloud.tasks.v2beta3.CloudTasks/ListQueues",
        tasks_v2beta3.ListQueuesRequest,
        tasks_v2beta3.ListQueuesResponse,
        "cloudtasks.queues.list",
        _VIEWER,
        idempotent=True,
    ),
    "GetQueueStats": _method(
        "/google.cloud.tasks.v2beta3.CloudTasks/GetQueue",
        tasks_v2beta3.GetQueueRequest,
        tasks_v2beta3.Queue,
        "cloudtasks.queues.get",
        _VIEWER,
        route="name",
        idempotent=True,
    ),
    "ListLogEntries": Method(
        path="/google.logging.v2.LoggingServiceV2/ListLogEntries",
        messages=_log_messages,
        permission="logging.logEntries.list",
        role="roles/logging.viewer",
        resource="log",
        route="",
        idempotent=True,
    ),
}
