"""Encode tasks, and the requests that create them, as protobuf bytes without building these messages for each row.

What is the same for all rows is serialized once, and a row adds its own bytes. The layout is that of
`google.cloud.tasks.v2` (https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2); the tests hold the
result equal to what protobuf itself writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.store.results import tag_hash

__all__ = ["MAX_BYTES", "TAG_BYTES", "CreateEncoder", "http_requests", "name_request", "split_task", "tasks"]

#: Bytes of a request; gRPC servers refuse more than 4 MiB unless they are configured otherwise.
MAX_BYTES = 4 << 20

# Tags: a field's number times eight, plus 2 for bytes that follow their length, plus 0 for a varint.
_FIRST, _SECOND, _THIRD, _FOURTH = b"\x0a", b"\x12", b"\x1a", b"\x22"
_URL, _HEADERS, _BODY = _FIRST, _THIRD, _FOURTH  # HttpRequest 1, 3, 4
_REQUEST = _THIRD  # Task 3
_BASIC_VIEW = b"\x18\x01"  # CreateTaskRequest.response_view


@lru_cache(maxsize=4_096)
def _length(number: int) -> bytes:
    """Return a length as a varint."""
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + _length(len(payload)) + payload


# The field of a Task with the header for a tag. Behind the whole Task a reader merges it into that
# (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
_TAG = tag_hash(b"").hexdigest().encode()  # all have its length
_HEADER = _field(_FIRST, TAG_HEADER.encode()) + _field(_SECOND, _TAG)
_BEFORE_TAG = _field(_REQUEST, _field(_HEADERS, _HEADER)).removesuffix(_TAG)
#: Bytes by which the tag makes a task larger.
TAG_BYTES = len(_BEFORE_TAG + _TAG)


def http_requests(urls: Iterable[str], heads: Iterable[bytes], bodies: Iterable[bytes]) -> list[bytes]:
    """Return the HttpRequest of each row; a head is one with everything but URL and body, an empty body is none."""
    return [
        _URL + _length(len(raw := url.encode())) + raw + head + (_BODY + _length(len(body)) + body if body else b"")
        for url, head, body in zip(urls, heads, bodies, strict=False)
    ]


def tasks(made: Iterable[bytes], tokens: Iterable[bytes], times: Iterable[bytes], settings: bytes) -> list[bytes]:
    """Return the Task of each HttpRequest, with its `oidc_token`, `schedule_time`, and the `settings` of all tasks."""
    return [
        _REQUEST + _length(len(request) + len(token)) + request + token + time + settings
        for request, token, time in zip(made, tokens, times, strict=False)
    ]


def split_task(task: bytes) -> tuple[str, bytes]:
    """Return the URL of a Task that `tasks` made, and the fields behind its request."""
    size, start = _number(task, 1)
    length, url = _number(task, start + 1)
    return task[url : url + length].decode(), task[start + size :]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint at a position, and where it ends."""
    number, shift = data[at], 7
    while number >> shift:  # the highest bit of the last byte is set
        at += 1
        number += (data[at] - 1) << shift
        shift += 7
    return number, at + 1


def name_request(name: str) -> bytes:
    """Return a request that has only a name: `GetTaskRequest`, `GetOperationRequest`."""
    return _field(_FIRST, name.encode())


class CreateEncoder:
    """Encodes the requests that create tasks in one queue.

    Parameters
    ----------
    queue : str
        Resource name.
    key : bytes
        The key of the batch, by which each task gets its tag.
    """

    def __init__(self, queue: str, key: bytes) -> None:
        self._hash = tag_hash(key)
        self._parent = _field(_FIRST, queue.encode())
        self._prefix = f"{queue}/tasks/".encode()
        self._heads = lru_cache(maxsize=4_096)(self._head)

    def create(self, task: str, wire: bytes) -> bytes:
        """Return the `CreateTaskRequest` for a task with this id."""
        batch = self.batch([task], [wire], "")
        size, start = _number(batch, len(self._parent) + 1)
        return batch[start : start + size]

    def batch(self, tasks: Sequence[str], wire: Sequence[bytes], request_id: str) -> bytes:
        """Return the `BatchCreateTasksRequest` for tasks with these ids."""
        pieces = [self._parent]
        for task, content in zip(tasks, wire, strict=True):
            name, tag = task.encode(), self._hash.copy()
            tag.update(name)
            head, made = self._heads(len(name), len(content)), tag.hexdigest().encode()
            pieces += (head, name, content, _BEFORE_TAG, made, _BASIC_VIEW)
        return b"".join((*pieces, _field(_THIRD, request_id.encode())))

    def _head(self, task: int, wire: int) -> bytes:
        """Return what stands before the id of a task, by the sizes of the id and of the rest of the task."""
        name = _FIRST + _length(len(self._prefix) + task) + self._prefix
        inner = len(name) + task + wire + TAG_BYTES
        parent = self._parent + _SECOND + _length(inner)
        return _SECOND + _length(len(parent) + inner + len(_BASIC_VIEW)) + parent + name
