"""Encode tasks, and the requests that create them, as protobuf bytes without building a message for each row.

Building a protobuf message a row costs more than everything else that a row needs: what is the same for all rows is
serialized once, and a row adds its own bytes. The layout is that of `google.cloud.tasks.v2`
(https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2); the tests hold the result equal to what
protobuf itself writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

__all__ = [
    "MAX_BYTES",
    "CreateEncoder",
    "header",
    "http_requests",
    "name_request",
    "schedule_time",
    "tasks",
]

#: Bytes of a request; gRPC servers refuse more than 4 MiB unless they are configured otherwise.
MAX_BYTES = 4 << 20

# Tags: a field's number times eight, plus 2 for bytes that follow their length, plus 0 for a varint.
_FIRST, _SECOND, _THIRD, _FOURTH = b"\x0a", b"\x12", b"\x1a", b"\x22"
_URL, _HEADER, _BODY = _FIRST, _THIRD, _FOURTH  # HttpRequest 1, 3, 4
_KEY, _VALUE = _FIRST, _SECOND  # an entry of a map: 1, 2
_REQUEST, _SCHEDULE = _THIRD, _FOURTH  # Task 3, 4
_SECONDS, _NANOS = b"\x08", b"\x10"  # Timestamp 1, 2
_BASIC_VIEW = b"\x18\x01"  # CreateTaskRequest.response_view

_MASK = 2**64 - 1  # negative numbers are written as their two's complement


def _varint(number: int) -> bytes:
    number &= _MASK
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


#: The varints of nearly all lengths, computed once.
_SMALL = tuple(_varint(number) for number in range(4_096))


def _length(number: int) -> bytes:
    return _SMALL[number] if number < len(_SMALL) else _varint(number)


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + _length(len(payload)) + payload


def header(name: str, value: str) -> bytes:
    """Return one entry of the field `headers`."""
    return _field(_HEADER, _field(_KEY, name.encode()) + _field(_VALUE, value.encode()))


def schedule_time(micros: int) -> bytes:
    """Return the field `schedule_time` of a point in time, in microseconds since 1970."""
    seconds, rest = divmod(micros, 1_000_000)
    payload = _SECONDS + _varint(seconds) if seconds else b""
    if rest:
        payload += _NANOS + _varint(rest * 1_000)
    return _field(_SCHEDULE, payload)


def http_requests(urls: Sequence[str], heads: Iterable[bytes], bodies: Sequence[bytes]) -> list[bytes]:
    """Return the HttpRequest of each row, without its token.

    Parameters
    ----------
    heads : iterable of bytes
        Method and headers of each row; may be endless.
    bodies : sequence of bytes
        Empty: no body.
    """
    out = []
    for url, head, body in zip(urls, heads, bodies, strict=False):
        raw = url.encode()
        part = _URL + _length(len(raw)) + raw + head
        if body:
            part += _BODY + _length(len(body)) + body
        out.append(part)
    return out


def tasks(
    made: Sequence[bytes], tokens: Sequence[bytes] | bytes, times: Sequence[bytes] | bytes, settings: bytes
) -> list[bytes]:
    """Return the Task of each request.

    Parameters
    ----------
    tokens : bytes or sequence of bytes
        The field `oidc_token` of HttpRequest: one for all, or one a row.
    times : bytes or sequence of bytes
        The field `schedule_time`, in the same way.
    settings : bytes
        The fields `dispatch_deadline` and `retry_config` of Task.
    """
    signed = repeat(tokens, len(made)) if isinstance(tokens, bytes) else tokens
    due = repeat(times, len(made)) if isinstance(times, bytes) else times
    return [
        _REQUEST + _length(len(request) + len(token)) + request + token + time + settings
        for request, token, time in zip(made, signed, due, strict=True)
    ]


def name_request(name: str) -> bytes:
    """Return a request that has only a name: `GetTaskRequest`, `GetOperationRequest`."""
    return _field(_FIRST, name.encode())


class CreateEncoder:
    """Encodes the requests that create tasks in one queue.

    Parameters
    ----------
    queue : str
        Resource name.
    """

    def __init__(self, queue: str) -> None:
        self._parent = _field(_FIRST, queue.encode())
        self._prefix = f"{queue}/tasks/".encode()

    def create(self, task: str, wire: bytes) -> bytes:
        """Return the `CreateTaskRequest` for a task with this id."""
        name = self._prefix + task.encode()
        head = _FIRST + _length(len(name)) + name
        return b"".join((self._parent, _SECOND, _length(len(head) + len(wire)), head, wire, _BASIC_VIEW))

    def batch(self, tasks: Sequence[str], wire: Sequence[bytes], request_id: str) -> bytes:
        """Return the `BatchCreateTasksRequest` for tasks with these ids."""
        pieces = [self._parent]
        heads: dict[tuple[int, int], bytes] = {}
        for task, content in zip(tasks, wire, strict=True):
            size = (len(task), len(content))
            head = heads.get(size)
            if head is None:
                head = heads[size] = self._head(*size)
            pieces += (head, task.encode(), content, _BASIC_VIEW)
        pieces.append(_field(_THIRD, request_id.encode()))
        return b"".join(pieces)

    def _head(self, task: int, content: int) -> bytes:
        """Return what stands before the id of a task, by the lengths of the id and of the rest of the task."""
        name = _FIRST + _length(len(self._prefix) + task)
        inner = len(name) + len(self._prefix) + task + content
        parent = self._parent + _SECOND + _length(inner)
        return _SECOND + _length(len(parent) + inner + len(_BASIC_VIEW)) + parent + name + self._prefix
