"""Long-running operations: they are finished when their call returns, and are kept for an hour by default."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import uuid4

from cloudtasks_nb._names import CODES
from cloudtasks_nb.emulator.model.apis import beta, operations, v2
from cloudtasks_nb.emulator.model.protobuf import any_message, int_field, len_field, timestamp
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.tasks import as_beta, task_wire
from cloudtasks_nb.emulator.store.store import Store

__all__ = ["CREATE", "DELETE", "BatchMethod", "BatchOperation", "load_operation"]

_ABORTED = CODES.index("ABORTED")
_RUNNING, _SUCCEEDED = 1, 2
_ID_LENGTH = 32  # hexadecimal digits, as many as a UUID has


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchMethod:
    """The differences between the two batch calls."""

    verb: str
    partly: int  #: number of PARTIALLY_SUCCEEDED: the states of the two calls are numbered differently
    response: str  #: name of the response message; the package of the API version comes before it

    def operation_name(self, api: str, queue: str, request_id: str) -> str:
        """Return the name of the operation of a request id; a new name without an id.

        The same id in another call, queue or version of the API names another operation.
        """
        if request_id:
            text = f"{api}\n{self.verb}\n{queue}\n{request_id}"
            short = hashlib.sha256(text.encode()).hexdigest()[:_ID_LENGTH]
        else:
            short = uuid4().hex
        return f"{queue.rsplit('/queues/', 1)[0]}/operations/{short}"


CREATE = BatchMethod(verb="Create", partly=5, response="google.cloud.tasks.{api}.BatchCreateTasksResponse")
DELETE = BatchMethod(verb="Delete", partly=3, response="google.protobuf.Empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOperation:
    """A batch call that was executed."""

    kind: BatchMethod
    api: str  #: ``v2`` or ``v2beta3``
    name: str  #: of the operation
    started: int  #: microseconds since 1970
    ended: int
    total: int  #: number of items
    failed: Mapping[int, RefusedError]  #: by the index of the item

    def wire(self, response: bytes) -> bytes:
        """Return the finished `google.longrunning.Operation` with a response message on the wire."""
        state = self.kind.partly if self.failed else _SUCCEEDED
        if self.failed and len(self.failed) == self.total:
            text = (
                f"None of the requests succeeded, refer to Batch{self.kind.verb}TasksMetadata.failed_requests for "
                "individual error details"
            )
            result = len_field(4, int_field(1, _ABORTED) + len_field(2, text.encode()))
        else:
            result = len_field(5, any_message(self.kind.response.format(api=self.api), response))
        return len_field(1, self.name.encode()) + self._metadata(state) + int_field(3, 1) + result

    def unfinished(self) -> bytes:
        """Return the operation as one that is still running."""
        return len_field(1, self.name.encode()) + self._metadata(_RUNNING)

    def _metadata(self, state: int) -> bytes:
        value = len_field(1, timestamp(self.started)) + int_field(3, state)
        if state != _RUNNING:
            value += len_field(2, timestamp(self.ended))
            value += b"".join(
                len_field(4, int_field(1, index) + len_field(2, error.status().SerializeToString()))
                for index, error in self.failed.items()
            )
        return len_field(2, any_message(f"google.cloud.tasks.{self.api}.Batch{self.kind.verb}TasksMetadata", value))


def load_operation(store: Store, name: str) -> bytes:
    """Return a stored and committed operation.

    Only the names and views of created tasks are stored with it. The other fields are those that the tasks have now;
    tasks that have left their queue have none.

    Raises
    ------
    RefusedError
        ``NOT_FOUND`` if it does not exist.
    """
    operation = operations.Operation.FromString(store.operation(name))
    for messages, encode in ((v2, bytes), (beta, as_beta)):
        response = messages.BatchCreateTasksResponse()
        if operation.response.Unpack(response):
            operation.response.value = b"".join(
                len_field(1, encode(_current(store, task.name, task.view)) or task.SerializeToString())
                for task in response.tasks
            )
    return bytes(operation.SerializeToString())


def _current(store: Store, name: str, view: int) -> bytes:
    """Return a v2 `Task` as it is now, and b"" if it has left its queue."""
    queue_name, _, task_id = name.rpartition("/tasks/")
    queue = store.contents.queues.get(queue_name)
    task = queue and task_id in queue.live and store.read_task(queue, queue.live[task_id])
    if not queue or not task:
        return b""
    return task_wire(task.head, task.due, queue.attempts.get(task.number), task.body, view)
