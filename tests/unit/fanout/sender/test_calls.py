"""Requests spliced on the wire are those that protobuf writes."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.sender.calls import MAX_BYTES, Envelope, by_name

QUEUE = "projects/p/locations/l/queues/q"
ENVELOPE = Envelope(QUEUE)
Batch = types.BatchCreateTasksRequest.pb()
Create = types.CreateTaskRequest.pb()
Task = types.Task.pb()

bodies = st.binary(max_size=300) | st.sampled_from([b"x" * n for n in (100, 127, 128, 4_000, 16_383, 16_384, 70_000)])


def _wire(body: bytes) -> bytes:
    wire: bytes = Task(http_request={"url": "https://svc/x", "body": body}).SerializeToString() if body else b""
    return wire


def _built(task: str, wire: bytes) -> Any:
    request = Create(parent=QUEUE, response_view=1)
    request.task.MergeFromString(wire)
    request.task.name = f"{QUEUE}/tasks/{task}"
    return request


@given(st.lists(st.tuples(st.sampled_from(["a", "b" * 20 + "-a91f03c2-1", "c" * 500]), bodies), max_size=5))
def test_a_batch_is_what_protobuf_builds(rows: list[tuple[str, bytes]]) -> None:
    """The spliced batch call is, byte for byte, the message built with protobuf."""
    tasks, wires = [task for task, _ in rows], [_wire(body) for _, body in rows]
    built = Batch(parent=QUEUE, request_id="6e1c")
    for task, wire in zip(tasks, wires, strict=True):
        built.requests.append(_built(task, wire))
    assert ENVELOPE.batch(tasks, wires, "6e1c") == built.SerializeToString(deterministic=True)


@given(bodies)
def test_a_single_call_is_what_protobuf_builds(body: bytes) -> None:
    """The spliced single call is, byte for byte, the message built with protobuf."""
    assert ENVELOPE.create("t-1", _wire(body)) == _built("t-1", _wire(body)).SerializeToString(deterministic=True)


def test_requests_by_name() -> None:
    """GetTask and GetOperation are asked for by name alone."""
    assert by_name("n" * 200) == types.GetTaskRequest.pb()(name="n" * 200).SerializeToString()
    assert by_name("op") == operations_pb2.GetOperationRequest(name="op").SerializeToString()


@pytest.mark.parametrize(
    ("size", "rows", "pieces"),
    [(0, 0, 1), (300, 100, 1), (40_000, 100, 1), (42_000, 100, 2), (1_048_000, 9, 3), (1_048_569, 1, 1)],
)
def test_a_call_stays_within_what_servers_take(size: int, rows: int, pieces: int) -> None:
    """However large the tasks, no call is over 4 MiB, and none is cut without need."""
    tasks, wires = [f"{row:020x}-a91f03c2-1" for row in range(rows)], [b"x" * size] * rows
    slices = list(ENVELOPE.cut(tasks, wires))
    assert len(slices) == pieces
    assert [task for part in slices for task in tasks[part]] == tasks
    assert all(len(ENVELOPE.batch(tasks[part], wires[part], "r" * 36)) <= MAX_BYTES for part in slices)
