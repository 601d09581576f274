"""The table of the RPCs that the toolkit calls: messages, IAM permission, routing and idempotency."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any, TypeAlias

from google.cloud import tasks_v2beta3
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, empty_pb2, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

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
    idempotent: bool = False  #: the call may be made again


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC."""

    path: str  #: ``/package.Service/Method``
    messages: Callable[[], tuple[Any, Any]]  #: returns the raw protobuf classes of request and answer
    permission: str  #: IAM permission that the caller needs
    role: str  #: smallest predefined role that has the permission
    resource: str = "queue"  #: kind of the resource that NOT_FOUND refers to: "queue", "task", "operation", "log", …
    route: str = "parent"  #: request field that the service wants repeated in the metadata; "": none
    lost: LostAnswer | None = None  #: None: the call only reads

    @property
    def idempotent(self) -> bool:
        """Whether it may be called again when the answer was lost."""
        return self.lost is None or self.lost.idempotent

    @property
    def request(self) -> Any:
        """Raw protobuf class of the request."""
        return self.messages()[0]

    @property
    def response(self) -> Any:
        """Raw protobuf class of the answer."""
        return self.messages()[1]


_VIEWER, _ADMIN, _ENQUEUER = "roles/cloudtasks.viewer", "roles/cloudtasks.queueAdmin", "roles/cloudtasks.enqueuer"
_DELETER, _RUNNER = "roles/cloudtasks.taskDeleter", "roles/cloudtasks.taskRunner"
_SHOWN = "tasks.queues() shows it; the same call again does no harm"

#: Service, the module of its messages, and how its permissions begin.
_Service: TypeAlias = tuple[str, str, str]
_V2 = "google.cloud.tasks.v2.CloudTasks", "google.cloud.tasks_v2.types", "cloudtasks"
_V2_IAM = "google.cloud.tasks.v2.CloudTasks", "google.iam.v1.iam_policy_pb2", "cloudtasks"
_V2BETA3 = "google.cloud.tasks.v2beta3.CloudTasks", "google.cloud.tasks_v2beta3.types", "cloudtasks"
_OPERATIONS = "google.longrunning.Operations", "google.longrunning.operations_pb2", "cloudtasks"
_LOCATIONS = "google.cloud.location.Locations", "google.cloud.location.locations_pb2", "cloudtasks"
_LOGGING = "google.logging.v2.LoggingServiceV2", "", "logging"

# The fields of the messages of the log that are used, with their numbers; those with a star are lists.
_LOG_FIELDS = {
    "LogEntry": {
        "insert_id": (4, "string"),
        "json_payload": (6, ".google.protobuf.Struct"),
        "timestamp": (9, ".google.protobuf.Timestamp"),
        "receive_timestamp": (24, ".google.protobuf.Timestamp"),
    },
    "ListLogEntriesRequest": {
        "resource_names": (8, "string*"),
        "filter": (2, "string"),
        "order_by": (3, "string"),
        "page_size": (4, "int32"),
        "page_token": (5, "string"),
    },
    "ListLogEntriesResponse": {"entries": (1, ".google.logging.v2.LogEntry*"), "next_page_token": (2, "string")},
}


def _log_messages() -> tuple[Any, Any]:
    """Return the messages of ListLogEntries; the import of Google's takes a tenth of a second."""
    needed = (struct_pb2.DESCRIPTOR, timestamp_pb2.DESCRIPTOR)
    file = FileDescriptorProto(name="log.proto", package="google.logging.v2", syntax="proto3")
    file.dependency.extend(one.name for one in needed)
    for message, fields in _LOG_FIELDS.items():
        made = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = made.field.add(name=name, number=number, label=3 if kind.endswith("*") else 1)
            if kind.startswith("."):
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, kind.rstrip("*")
            else:
                field.type = getattr(FieldDescriptorProto, f"TYPE_{kind.rstrip('*').upper()}")
    pool = descriptor_pool.DescriptorPool()  # Google's messages of these names may be loaded too
    for one in needed:
        pool.AddSerializedFile(one.serialized_pb)
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"{file.package}.ListLogEntries{end}") for end in ("Request", "Response"))
    request, response = map(message_factory.GetMessageClass, found)
    return request, response


def _method(service: _Service, name: str, permission: str, role: str, answer: Any = None, **facts: Any) -> Method:
    """Describe an RPC; its answer is named like the RPC if it is not given."""
    package, module, product = service

    @cache
    def messages() -> tuple[Any, Any]:
        if service is _LOGGING:
            return _log_messages()
        found = import_module(module)
        return _raw(getattr(found, f"{name}Request")), _raw(answer or getattr(found, f"{name}Response"))

    path, permission = f"/{package}/{name}", f"{product}.{permission}"
    return Method(path=path, messages=messages, permission=permission, role=role, **facts)


def _raw(message: Any) -> Any:
    """Return a raw class; the client library has wrappers."""
    return message.pb() if hasattr(message, "pb") else message


def _has_settings(request: Any, _before: Any, after: Any) -> bool | None:
    """Compare the settings of a queue. UpdateQueue would create one that does not exist."""
    fields = map(operator.attrgetter, request.update_mask.paths)
    return None if after is None else all(field(request.queue) == field(after) for field in fields)


def _differs(field: str) -> _WasDone:
    """Compare a field with the time before the call. Of what exists no more it is not known why it left."""
    value = operator.attrgetter(field)
    return lambda _request, before, after: None if before is None or after is None else value(before) != value(after)


_OF_QUEUE = LostAnswer(effect="", hint=_SHOWN, read="GetQueue")
_CREATED = replace(_OF_QUEUE, effect="it was created", was_done=lambda _request, _before, after: after is not None)
_CHANGED = replace(_OF_QUEUE, effect="it was changed", was_done=_has_settings)
_PAUSED = LostAnswer(effect="it was paused", hint=_SHOWN, idempotent=True)
_RESUMED = replace(_PAUSED, effect="it was resumed")
_PURGED = LostAnswer(
    effect="it was purged",
    hint="queue.tasks() shows what is in it; another purge also deletes the tasks that were created since",
    read="GetQueue",
    was_done=_differs("purge_time"),
    before=True,
)
_RUN = LostAnswer(
    effect="it was dispatched",
    hint="queue.attempts() shows its attempts; another run() may dispatch it twice",
    read="GetTask",
    was_done=_differs("dispatch_count"),
    before=True,
)
_TASK_CREATED = LostAnswer(
    effect="task {request.task.name} was created",
    hint="queue.tasks() and queue.attempts() show it; with the same task_id= it is created once",
    idempotent=True,
)
_TASKS_CREATED = LostAnswer(effect="the tasks were created", hint="queue.tasks() shows them")
_QUEUE_DELETED = LostAnswer(effect="it was deleted", hint=_SHOWN, absent_is_done=True, idempotent=True)
_TASKS_DELETED = LostAnswer(
    effect="they were deleted", hint="queue.tasks() shows what is left; the same call again does no harm"
)
_TASK_DELETED = replace(_TASKS_DELETED, effect="it was deleted", absent_is_done=True, idempotent=True)

_QUEUE, _TASK, _OPERATION, _EMPTY = types.Queue, types.Task, operations_pb2.Operation, empty_pb2.Empty
_NAME = {"route": "name"}
_OF_TASK = {"resource": "task", "route": "name"}

#: Every RPC that the toolkit calls. Permissions: https://cloud.google.com/tasks/docs/reference-access-control
#: Idempotent are the RPCs that Google's client repeats by default, those with a `default_retry` in
#: google/cloud/tasks_v2/services/cloud_tasks/transports/base.py of google-cloud-tasks 2.26, and five more:
#: GetOperation and ListLocations read, a queue that is paused or resumed twice is as after the first time, and
#: CreateTask creates no second task, because each task of the toolkit has a name.
METHODS: dict[str, Method] = {
    "ListQueues": _method(_V2, "ListQueues", "queues.list", _VIEWER),
    "GetQueue": _method(_V2, "GetQueue", "queues.get", _VIEWER, _QUEUE, **_NAME),
    "CreateQueue": _method(_V2, "CreateQueue", "queues.create", _ADMIN, _QUEUE, lost=_CREATED),
    "UpdateQueue": _method(_V2, "UpdateQueue", "queues.update", _ADMIN, _QUEUE, route="queue.name", lost=_CHANGED),
    "DeleteQueue": _method(_V2, "DeleteQueue", "queues.delete", _ADMIN, _EMPTY, **_NAME, lost=_QUEUE_DELETED),
    "PurgeQueue": _method(_V2, "PurgeQueue", "queues.purge", _ADMIN, _QUEUE, **_NAME, lost=_PURGED),
    "PauseQueue": _method(_V2, "PauseQueue", "queues.pause", _ADMIN, _QUEUE, **_NAME, lost=_PAUSED),
    "ResumeQueue": _method(_V2, "ResumeQueue", "queues.resume", _ADMIN, _QUEUE, **_NAME, lost=_RESUMED),
    "ListTasks": _method(_V2, "ListTasks", "tasks.list", _VIEWER),
    "GetTask": _method(_V2, "GetTask", "tasks.get", _VIEWER, _TASK, **_OF_TASK),
    "CreateTask": _method(_V2, "CreateTask", "tasks.create", _ENQUEUER, _TASK, lost=_TASK_CREATED),
    "DeleteTask": _method(_V2, "DeleteTask", "tasks.delete", _DELETER, _EMPTY, **_OF_TASK, lost=_TASK_DELETED),
    "RunTask": _method(_V2, "RunTask", "tasks.run", _RUNNER, _TASK, **_OF_TASK, lost=_RUN),
    "BatchCreateTasks": _method(_V2, "BatchCreateTasks", "tasks.create", _ENQUEUER, _OPERATION, lost=_TASKS_CREATED),
    "BatchDeleteTasks": _method(_V2, "BatchDeleteTasks", "tasks.delete", _DELETER, _OPERATION, lost=_TASKS_DELETED),
    "TestIamPermissions": _method(_V2_IAM, "TestIamPermissions", "queues.get", _VIEWER, route="resource"),
    "GetOperation": _method(
        _OPERATIONS, "GetOperation", "operations.get", _ENQUEUER, _OPERATION, resource="operation", **_NAME
    ),
    "ListLocations": _method(_LOCATIONS, "ListLocations", "locations.list", _VIEWER, resource="location", **_NAME),
    "ListQueueStats": _method(_V2BETA3, "ListQueues", "queues.list", _VIEWER),
    "GetQueueStats": _method(_V2BETA3, "GetQueue", "queues.get", _VIEWER, tasks_v2beta3.Queue, **_NAME),
    "ListLogEntries": _method(
        _LOGGING, "ListLogEntries", "logEntries.list", "roles/logging.viewer", resource="log", route=""
    ),
}
