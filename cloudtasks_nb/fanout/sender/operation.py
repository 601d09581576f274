"""Read the answer to a batch call: which of its rows have failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2

__all__ = ["parse_operation"]

# Raw messages: those of the client library cost ten times the rest of a call.
_Metadata = types.BatchCreateTasksMetadata.pb()
_Response = types.BatchCreateTasksResponse.pb()
_State = types.BatchCreateTasksMetadata.State
_ENDED = (int(_State.SUCCEEDED), int(_State.PARTIALLY_SUCCEEDED))


class _Operation(NamedTuple):
    """The state of a batch call."""

    name: str
    done: bool
    failed: Mapping[int, Any] | None  #: index in the request -> raw ``google.rpc.Status``; None: not all are known


def parse_operation(data: bytes, rows: int) -> _Operation:
    """Read an answer of `BatchCreateTasks` or `GetOperation` about a request with so many rows."""
    operation = operations_pb2.Operation.FromString(data)
    metadata = _Metadata.FromString(operation.metadata.value)
    failed = dict(metadata.failed_requests)
    complete = len(failed) == rows
    if operation.done and not operation.HasField("error") and not complete:
        # An answer without a state: count the created tasks.
        complete = metadata.state in _ENDED or (
            len(_Response.FromString(operation.response.value).tasks) + len(failed) == rows
        )
    return _Operation(operation.name, operation.done, failed if complete else None)
