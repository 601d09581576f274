"""Rows of the operations log as `google.logging.v2.LogEntry`: on the wire, and field by field for filters.

A page has a thousand entries and is asked for every second, so the bytes are put together by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from cloudtasks_nb._names import OPERATIONS_LOG, QueueName, code_name, log_name
from cloudtasks_nb.emulator.api.filter import LOG_ID
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.wire import int_field, len_field, timestamp, varint
from cloudtasks_nb.emulator.store.oplog import Kind, Record

__all__ = ["PARTS", "RESOURCE_TYPE", "Entries"]

RESOURCE_TYPE = "cloud_tasks_queue"
#: The part of the payload that each kind of entry has.
PARTS = {
    "taskCreationLog": Kind.CREATION,
    "attemptDispatchLog": Kind.DISPATCH,
    "attemptResponseLog": Kind.RESPONSE,
    "taskDeletionLog": Kind.DELETION,
}

_PART_OF = {kind.value: part for part, kind in PARTS.items()}
_TYPE = "type.googleapis.com/google.cloud.tasks.logging.v1.TaskActivityLog"
_INFO, _ERROR = int_field(10, 200), int_field(10, 500)
_ZERO = b"\x11" + bytes(8)
_ONE_BYTE_LENGTHS = 124  # a key and a text that are shorter together have lengths of one byte everywhere
#: Fields whose values are the same in most entries.
_COMMON = {"status", "targetType", "dispatchCount", "responseCount", "maxAttempts"}
_SNAKE = {"receiveTimestamp": "receive_timestamp", "insertId": "insert_id", "logName": "log_name"}
_FIELDS = ("timestamp", "receiveTimestamp", "insertId", "logName", "severity")


class Entries:
    """Makes entries of rows.

    Parameters
    ----------
    names : mapping
        Queue names by their numbers.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names

    def wire(self, record: Record) -> bytes:
        """Return the entry on the wire."""
        queue = self._names[record.q]
        at = timestamp(record.at)
        received = at if record.received == record.at else timestamp(record.received)
        return b"".join(
            (
                _frame(queue, record.target_type),
                len_field(4, _insert_id(record).encode()),
                len_field(6, _payload(record, queue)),
                len_field(9, at),
                _ERROR if record.code else _INFO,
                len_field(24, received),
            )
        )

    def getter(self, path: tuple[str, ...]) -> Callable[[Record], Any]:
        """Return a function that gives the field at a path of a filter, None where a record has no such field."""
        if not path:
            return self._text
        head, *rest = path
        simple = {
            "timestamp": lambda record: record.at * 1000,
            "receive_timestamp": lambda record: record.received * 1000,
            "insert_id": _insert_id,
            "severity": lambda record: "ERROR" if record.code else "INFO",
            LOG_ID[0]: lambda _: unquote(OPERATIONS_LOG),
            "log_name": lambda record: log_name(self._queue(record).project),
        }
        name = _SNAKE.get(head, head)
        if name in simple and not rest:
            return self._of_queue(simple[name]) if name == "log_name" else simple[name]
        if head == "resource":
            return self._resource(rest)
        if head in {"jsonPayload", "json_payload"}:
            return self._payload_getter(rest) if rest else _part
        return lambda _: None

    def _queue(self, record: Record) -> QueueName:
        return _parsed(self._names[record.q])

    def _resource(self, path: list[str]) -> Callable[[Record], Any]:
        if path == ["type"]:
            return lambda _: RESOURCE_TYPE
        labels: dict[str, Callable[[Record], Any]] = {
            "project_id": lambda record: self._queue(record).project,
            "location": lambda record: self._queue(record).location,
            "queue_id": lambda record: self._queue(record).queue,
            "target_type": lambda record: record.target_type or None,
        }
        if path in ([], ["labels"]):  # messages that every entry has
            return lambda record: {name: get(record) for name, get in labels.items()}
        if path[0] != "labels" or path[2:] or path[1] not in labels:
            return lambda _: None
        return labels[path[1]] if path[1] == "target_type" else self._of_queue(labels[path[1]])

    def _of_queue(self, getter: Callable[[Record], Any]) -> Callable[[Record], Any]:
        """Remember what is the same for all entries of a queue."""
        known: dict[int, Any] = {}

        def get(record: Record) -> Any:
            if record.q not in known:
                known[record.q] = getter(record)
            return known[record.q]

        return get

    def _payload_getter(self, path: list[str]) -> Callable[[Record], Any]:
        part, *rest = path
        if part == "@type" and not rest:
            return lambda _: _TYPE
        if part == "task" and not rest:
            return lambda record: f"{self._names[record.q]}/tasks/{record.task}"
        kind = PARTS.get(part)
        if kind is None:
            return lambda _: None
        if not rest:
            return lambda record: _part(record) if record.kind == kind else None
        return lambda record: _part(record).get(rest[0]) if record.kind == kind else None

    def _text(self, record: Record) -> str:
        values = [str(self.getter((field,))(record)) for field in _FIELDS]
        return " ".join([*values, self._names[record.q], record.task, *map(str, _part(record).values())])


def _insert_id(record: Record) -> str:
    # Fixed width: insert ids sort like their entries.
    return f"{record.seq:016x}"


_parsed = lru_cache(maxsize=1024)(QueueName.parse)


def _part(record: Record) -> dict[str, Any]:
    """Return the part of the payload that tells about the operation; counts are texts, as 64-bit numbers are."""
    target = {"targetAddress": record.target, "targetType": record.target_type} if record.target_type else {}
    if record.kind == Kind.DELETION:
        return {"status": "OK", **target}
    shown: dict[str, Any] = {"scheduleTime": _text_of(record.due), "status": code_name(record.code), **target}
    if record.kind == Kind.CREATION:
        return shown
    shown |= {"dispatchCount": str(record.dispatches), "responseCount": str(record.responses), "maxAttempts": 0}
    if record.kind == Kind.RESPONSE:
        shown["attemptDuration"] = f"{record.duration / SECOND:.6f}s"
        if record.retry_at:
            shown["retryTime"] = _text_of(record.retry_at)
    return shown


def _text_of(instant: int) -> str:
    second, micros = divmod(instant, SECOND)
    return f"{_second_text(second)}.{micros:06d}Z"


@lru_cache(maxsize=256)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _frame(queue: str, target_type: str) -> bytes:
    """Return what all entries of a queue have in common: log name and resource."""
    name = _parsed(queue)
    labels = {"project_id": name.project, "location": name.location, "queue_id": name.queue}
    if target_type:
        labels["target_type"] = target_type
    resource = len_field(1, RESOURCE_TYPE.encode()) + b"".join(
        len_field(2, len_field(1, key.encode()) + len_field(2, value.encode())) for key, value in labels.items()
    )
    return len_field(12, log_name(name.project).encode()) + len_field(8, resource)


def _payload(record: Record, queue: str) -> bytes:
    part = b"".join(
        [
            _common_field(name, value) if name in _COMMON else _field(_key(name), value)
            for name, value in _part(record).items()
        ]
    )
    return (
        _TYPE_FIELD
        + _field(_key("task"), f"{queue}/tasks/{record.task}")
        + _entry(_key(_PART_OF[record.kind]), b"\x2a" + varint(len(part)) + part)
    )


def _field(key: bytes, value: Any) -> bytes:
    """Return a field of a `google.protobuf.Struct`; the only numbers are zeros."""
    if value == 0:
        return _entry(key, _ZERO)
    text = value.encode()
    size = len(text)
    if len(key) + size < _ONE_BYTE_LENGTHS:
        return b"\x0a%c%b\x12%c\x1a%c%b" % (len(key) + size + 4, key, size + 2, size, text)
    return _entry(key, b"\x1a" + varint(size) + text)


@lru_cache(maxsize=1024)
def _common_field(name: str, value: Any) -> bytes:
    return _field(_key(name), value)


@lru_cache(maxsize=64)
def _key(name: str) -> bytes:
    return len_field(1, name.encode())


def _entry(key: bytes, value: bytes) -> bytes:
    size = varint(len(value))
    return b"\x0a" + varint(len(key) + 1 + len(size) + len(value)) + key + b"\x12" + size + value


_TYPE_FIELD = _field(_key("@type"), _TYPE)
