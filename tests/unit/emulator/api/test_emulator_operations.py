"""Operations: what a finished batch says, and how long it can be asked for."""

from __future__ import annotations

import itertools
import re

import pytest
from google.longrunning.operations_pb2 import Operation

from cloudtasks_nb.emulator.api.operations import (
    CREATE,
    DELETE,
    BatchMethod,
    BatchOperation,
    load_operation,
    operation_name,
    save_operation,
)
from cloudtasks_nb.emulator.model.clock import HOUR, Clock
from cloudtasks_nb.emulator.model.protobuf import v2
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.store.sweep import sweep
from tests.unit.emulator.conftest import NOW, QUEUE, MakeStore, commit

LOCATION = QUEUE.rpartition("/queues/")[0]


def batch(kind: BatchMethod, failed: int, total: int) -> BatchOperation:
    """Make a batch in which the first items failed."""
    return BatchOperation(
        kind=kind,
        api="v2",
        name=f"{LOCATION}/operations/o",
        started=NOW,
        ended=NOW + 5,
        total=total,
        failed={index: RefusedError("NOT_FOUND", f"no {index}") for index in range(failed)},
        response=v2.BatchCreateTasksResponse(tasks=[v2.Task(name="t")]).SerializeToString() if kind is CREATE else b"",
    )


def test_an_unfinished_batch() -> None:
    """An operation that is held back is running and has no result."""
    operation = Operation.FromString(batch(CREATE, 1, 2).unfinished())
    metadata = v2.BatchCreateTasksMetadata()
    operation.metadata.Unpack(metadata)
    assert (operation.done, operation.WhichOneof("result"), metadata.state) == (False, None, 1)
    assert not metadata.failed_requests


def test_names_of_operations() -> None:
    """A request id names one operation of a call, a queue and a version; without one each call is its own."""
    calls = list(itertools.product(("v2", "v2beta3"), (CREATE, DELETE), (QUEUE, f"{QUEUE}-2"), ("my-id", "a/b\nc")))
    names = [operation_name(*call) for call in calls]
    assert names == [operation_name(*call) for call in calls]
    assert len(set(names)) == len(calls)
    assert all(re.fullmatch(rf"{LOCATION}/operations/[A-Za-z0-9_-]+", name) for name in names)
    assert operation_name("v2", CREATE, QUEUE, "") != operation_name("v2", CREATE, QUEUE, "")


def test_operations_are_kept_for_an_hour(make_store: MakeStore, clock: Clock) -> None:
    """An operation is there after a restart, and gone after an hour."""
    store = make_store()
    save_operation(store, "one", b"1", NOW)
    save_operation(store, "two", b"2", NOW)
    commit(store)
    store = make_store()
    assert (load_operation(store, "one"), load_operation(store, "two")) == (b"1", b"2")
    clock.advance(HOUR + 10)
    sweep(store, clock.now())
    commit(store)
    with pytest.raises(RefusedError, match=r"^Requested entity was not found\.$"):
        load_operation(store, "one")
    assert store.contents.operations == {}
    with pytest.raises(RefusedError, match="not found"):
        load_operation(make_store(), "two")
