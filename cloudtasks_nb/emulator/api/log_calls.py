"""The call `ListLogEntries` over the operations log, and the rows of the log as `google.logging.v2.LogEntry`.

A page has a thousand entries and clients request one every second, so entries are encoded without message objects.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any
from urllib.parse import unquote

from cloudtasks_nb._names import OPERATIONS_LOG, QueueName, code_name, log_name
from cloudtasks_nb.emulator.api.engine import Service
from cloudtasks_nb.emulator.api.filter import (
    LOG_ID,
    Compare,
    Group,
    Node,
    compared_texts,
    compile_filter,
    field_name,
    parse_filter,
    parse_time,
)
from cloudtasks_nb.emulator.api.pages import page_reply, read_token
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.protobuf import int_field, len_field, timestamp
from cloudtasks_nb.emulator.model.refusal import invalid_argument
from cloudtasks_nb.emulator.store.oplog import Kind, LogRecord

__all__ = ["LogCalls"]

_DEFAULT_PAGE, _MAX_PAGE = 50, 1000
_ORDERS = {"": True, "timestamp": True, "timestamp asc": True, "timestamp desc": False}
_PROJECT = re.compile(r"projects/([^/]+)(/.*)?")

_RESOURCE_TYPE = "cloud_tasks_queue"
# The part of the payload that each kind of entry has.
_PARTS = {
    "taskCreationLog": Kind.CREATION,
    "attemptDispatchLog": Kind.DISPATCH,
    "attemptResponseLog": Kind.RESPONSE,
    "taskDeletionLog": Kind.DELETION,
}
_PART_OF = {kind.value: part for part, kind in _PARTS.items()}
_TYPE = "type.googleapis.com/google.cloud.tasks.logging.v1.TaskActivityLog"
_INFO, _ERROR = int_field(10, 200), int_field(10, 500)
# Fields whose values are the same in most entries.
_COMMON = {"status", "targetType", "dispatchCount", "responseCount", "maxAttempts", "targetAddress"}
_STRUCT_ZERO = b"\x11" + bytes(8)  # Value.number_value
_SEARCHED = ("timestamp", "receive_timestamp", "insert_id", "log_name", "severity")  # by a text without a field


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Conditions that every matching entry fulfils, for the SQL query; the filter itself tests the rows found."""

    since: int  #: microseconds since 1970
    received_since: int
    kinds: list[Kind]
    queues: frozenset[str] | None  #: short ids; None is any
    text: str  #: a part of the task's name, in lower case


class LogCalls(Service):
    """Executes the RPC of Cloud Logging that reads the operations log."""

    async def list_log_entries(self, request: Any) -> bytes:
        """Return a page of entries."""
        ascending = _ORDERS.get(request.order_by)
        if ascending is None:
            raise invalid_argument(f'order_by "{request.order_by}" is not supported.')
        if request.page_size < 0:
            raise invalid_argument("page_size cannot be negative.")
        node = parse_filter(request.filter)
        entries = _Entries(self._store.contents.names)
        matches, scope = compile_filter(node, entries.getter), _scope(node)
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        query = hashlib.sha256(f"{list(request.resource_names)}{request.filter}{request.order_by}".encode()).hexdigest()
        queues = self._queues(request.resource_names, scope)
        start = read_token(request.page_token, 0, query)
        items = (
            (record.seq, entries.wire(record) if matches(record) else b"")
            for record in self._records(scope, queues, start, ascending=ascending)
        )
        return page_reply(items, size, query)

    def _queues(self, resources: Any, scope: _Scope) -> list[int]:
        projects = {match[1] for resource in resources if (match := _PROJECT.fullmatch(resource))}
        if not projects or len(projects) < len({resource.split("/")[1] for resource in resources if "/" in resource}):
            raise invalid_argument("resource_names must name projects.")
        chosen = []
        for q, name in self._store.contents.names.items():
            queue = _parsed(name)
            if queue.project in projects and (scope.queues is None or queue.queue.casefold() in scope.queues):
                chosen.append(q)
        return chosen

    def _records(self, scope: _Scope, queues: list[int], start: int, *, ascending: bool) -> Iterator[LogRecord]:
        """Return the entries that may pass the filter, in order of time."""
        # `received` is at most the longest delay after `at`, and `seq` is not less than `at`.
        low = max(scope.since, scope.received_since - self._store.log.longest_delay, 0)
        high = (1 << 62) - 1
        if start and ascending:
            low = start + 1
        elif start:
            high = start - 1
        # The text may also be a part of the queue's name.
        names = [f"{self._store.contents.names[q]}/tasks/".casefold() for q in queues]
        text = "" if "/" in scope.text or any(scope.text in name for name in names) else scope.text
        return self._store.log.read(
            low, high, queues=queues, kinds=scope.kinds, now=self._engine.clock.now(), ascending=ascending, text=text
        )


def _scope(node: Node) -> _Scope:
    """Return conditions that every entry matching a filter fulfils."""
    parts = node.nodes if isinstance(node, Group) and node.join is all else (node,)
    since = received = 0
    queues, text = None, ""
    for part in parts:
        path, texts = compared_texts(part, ":")
        if path == ("jsonPayload", "task") and len(texts) == 1:
            [text] = texts
        if isinstance(part, Compare) and part.op in {">", ">=", "="}:
            if part.path == ("timestamp",):
                since = max(since, parse_time(part.value) // 1000)
            elif part.path in {("receiveTimestamp",), ("receive_timestamp",)}:
                received = max(received, parse_time(part.value) // 1000)
            elif part.path == ("resource", "labels", "queue_id") and part.op == "=":
                named = frozenset([part.value.casefold()])
                queues = named if queues is None else queues & named
    kinds = [kind for kind in Kind if _is_possible(node, kind)]
    return _Scope(since=since, received_since=received, kinds=kinds, queues=queues, text=text)


def _is_possible(node: Node, kind: Kind) -> bool:
    """Return whether an entry of a kind can pass a filter."""
    if isinstance(node, Group):
        return node.join(_is_possible(part, kind) for part in node.nodes)
    if isinstance(node, Compare) and len(node.path) > 1 and node.path[0] in {"jsonPayload", "json_payload"}:
        return _PARTS.get(node.path[1], kind) == kind
    return True


class _Entries:
    """Encodes the rows of the log as entries, and reads their fields for filters.

    Parameters
    ----------
    names : mapping
        Queue names by their numbers.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names

    def wire(self, record: LogRecord) -> bytes:
        """Return the entry on the wire."""
        queue = self._names[record.q]
        at = timestamp(record.at)
        received = at if record.received == record.at else timestamp(record.received)
        return b"".join(
            (
                _frame(queue, record.target_type),
                len_field(4, record.insert_id.encode()),
                len_field(6, _payload(record, queue)),
                len_field(9, at),
                _ERROR if record.code else _INFO,
                len_field(24, received),
            )
        )

    def getter(self, path: tuple[str, ...]) -> Callable[[LogRecord], Any]:
        """Return a function that reads the field at a path of a filter; None for a record without it."""
        if not path:
            return self._text
        names, head, below = self._names, field_name(path[0]), path[1:]
        match head, *below:
            case "resource", *_:  # which all entries of a queue share
                shared = cache(lambda q, target_type: _at(_resource(names[q], target_type), below))
                return lambda record: shared(record.q, record.target_type)
            case "json_payload", "task":
                return lambda record: f"{names[record.q]}/tasks/{record.task}"
            case "json_payload", part, *fields if part in _PARTS:
                kind = _PARTS[part]
                return lambda record: _at(_payload_part(record), fields) if record.kind == kind else None
        read: Callable[[LogRecord, str], Any] = _FIELDS.get(head, lambda *_: None)
        if not below:
            return lambda record: read(record, names[record.q])
        return lambda record: _at(read(record, names[record.q]), below)

    def _text(self, record: LogRecord) -> str:
        queue = self._names[record.q]
        values = [str(_FIELDS[name](record, queue)) for name in _SEARCHED]
        return " ".join([*values, queue, record.task, *map(str, _payload_part(record).values())])


# Each call looks at the names of all queues.
_parsed = lru_cache(maxsize=65_536)(QueueName.parse)


@lru_cache(maxsize=1024)
def _resource(queue: str, target_type: str) -> dict[str, Any]:
    """Return an entry's resource, as JSON."""
    name = _parsed(queue)
    labels = {"project_id": name.project, "location": name.location, "queue_id": name.queue}
    return {"type": _RESOURCE_TYPE, "labels": labels | ({"target_type": target_type} if target_type else {})}


def _at(value: Any, path: Sequence[str]) -> Any:
    """Return the value at a path in JSON; None if there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _payload_part(record: LogRecord) -> dict[str, Any]:
    """Return the operation's part of the payload; counts are texts, as 64-bit numbers are in JSON."""
    target = {"targetAddress": record.target, "targetType": record.target_type} if record.target_type else {}
    if record.kind == Kind.DELETION:
        return {"status": "OK", **target}
    part: dict[str, Any] = {"scheduleTime": _text_of(record.due), "status": code_name(record.code), **target}
    if record.kind == Kind.CREATION:
        return part
    part |= {"dispatchCount": str(record.dispatches), "responseCount": str(record.responses), "maxAttempts": 0}
    if record.kind == Kind.RESPONSE:
        part["attemptDuration"] = f"{record.duration / SECOND:.6f}s"
        if record.retry_at:
            part["retryTime"] = _text_of(record.retry_at)
        if record.cause:
            part["debugInfo"] = record.cause
    return part


#: the fields of an entry, for filters, from its record and the name of its queue
_FIELDS: dict[str, Callable[[LogRecord, str], Any]] = {
    LOG_ID[0]: lambda *_: unquote(OPERATIONS_LOG),
    "timestamp": lambda record, _: record.at * 1000,
    "receive_timestamp": lambda record, _: record.received * 1000,
    "insert_id": lambda record, _: record.insert_id,
    "log_name": lambda _, queue: log_name(_parsed(queue).project),
    "severity": lambda record, _: "ERROR" if record.code else "INFO",
    "json_payload": lambda record, _: {"@type": _TYPE, _PART_OF[record.kind]: _payload_part(record)},
}


def _text_of(instant: int) -> str:
    second, micros = divmod(instant, SECOND)
    return f"{_second_text(second)}.{micros:06d}Z"


@lru_cache(maxsize=256)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _frame(queue: str, target_type: str) -> bytes:
    """Encode the fields that all entries of a queue have in common: log name and resource."""
    resource = len_field(1, _RESOURCE_TYPE.encode()) + b"".join(
        len_field(2, len_field(1, key.encode()) + len_field(2, value.encode()))
        for key, value in _resource(queue, target_type)["labels"].items()
    )
    return len_field(12, log_name(_parsed(queue).project).encode()) + len_field(8, resource)


def _payload(record: LogRecord, queue: str) -> bytes:
    """Encode the payload, a `google.protobuf.Struct`."""
    part = b"".join(
        [
            _common_field(name, value) if name in _COMMON else _struct_field(name, value)
            for name, value in _payload_part(record).items()
        ]
    )
    task = _struct_field("task", f"{queue}/tasks/{record.task}")
    return _TYPE_FIELD + task + _struct_entry(_PART_OF[record.kind], len_field(5, part))


def _struct_field(name: str, value: str | float) -> bytes:
    """Encode a text or a zero as a field of a `google.protobuf.Struct`."""
    return _struct_entry(name, _STRUCT_ZERO if value == 0 else len_field(3, str(value).encode()))


def _struct_entry(name: str, value: bytes) -> bytes:
    """Encode a field of a `google.protobuf.Struct` from a serialized `google.protobuf.Value`."""
    return len_field(1, _struct_key(name) + len_field(2, value))


_struct_key = cache(lambda name: len_field(1, name.encode()))
_common_field = lru_cache(maxsize=1024)(_struct_field)
_TYPE_FIELD = _struct_field("@type", _TYPE)
