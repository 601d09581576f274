"""Requests to the service on the wire, spliced from the tasks in the outbox and their names. Pure.

The layout is that of `google.cloud.tasks.v2` (https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2);
the tests hold the result equal to what protobuf itself writes. Parsing and building a message a task would cost more
than everything else that a row needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["MAX_BYTES", "Envelope", "by_name"]

#: Bytes of a request; servers of gRPC refuse more than 4 MiB unless they are told otherwise.
MAX_BYTES = 4 << 20

# Tags: a field's number times eight, plus 2 for bytes that follow their length, plus 0 for a varint.
_FIRST, _SECOND, _THIRD = b"\x0a", b"\x12", b"\x1a"
_BASIC_VIEW = b"\x18\x01"  # CreateTaskRequest.response_view
_SEVEN_BITS = 0x7F
_OVERHEAD = 64  # tags and lengths around a task, and the request's own id


def by_name(name: str) -> bytes:
    """Return a request that has only a name: `GetTaskRequest`, `GetOperationRequest`."""
    return _field(_FIRST, name.encode())


class Envelope:
    """Builds the requests that create tasks in one queue.

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
        head = _FIRST + _varint(len(name)) + name
        return b"".join((self._parent, _SECOND, _varint(len(head) + len(wire)), head, wire, _BASIC_VIEW))

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

    def cut(self, tasks: Sequence[str], wire: Sequence[bytes]) -> Iterator[slice]:
        """Yield the slices of a request that are small enough for one call each; nearly always it is one."""
        extra = len(self._parent) + len(self._prefix) + _OVERHEAD
        start, total = 0, extra
        for at, (task, content) in enumerate(zip(tasks, wire, strict=True)):
            size = len(content) + len(task) + extra
            if at > start and total + size > MAX_BYTES:
                yield slice(start, at)
                start, total = at, extra
            total += size
        yield slice(start, len(tasks))

    def _head(self, task: int, content: int) -> bytes:
        """Return what stands before the id of a task, by the lengths of the id and of the rest of the task."""
        name = _FIRST + _varint(len(self._prefix) + task)
        inner = len(name) + len(self._prefix) + task + content
        parent = self._parent + _SECOND + _varint(inner)
        return _SECOND + _varint(len(parent) + inner + len(_BASIC_VIEW)) + parent + name + self._prefix


def _varint(number: int) -> bytes:
    return _SMALL[number] if number < len(_SMALL) else _long_varint(number)


def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number > _SEVEN_BITS:
        out.append(number & _SEVEN_BITS | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


#: Lengths of nearly all tasks, ready made.
_SMALL = tuple(_long_varint(number) for number in range(4_096))


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content
