"""Operations: their names, and how long they are kept."""

from __future__ import annotations

import itertools
import re

import pytest
from google.longrunning import operations_pb2

from cloudtasks_nb.emulator.api.operations import CREATE, DELETE, load_operation, operation_name, save_operation
from cloudtasks_nb.emulator.model.clock import HOUR, SECOND, Clock
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.store.sweep import sweep
from tests.unit.emulator.conftest import LOCATION, NOW, QUEUE, MakeStore, commit


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
    one, two = (operations_pb2.Operation(name=name).SerializeToString() for name in ("one", "two"))
    save_operation(store, "one", one, NOW)
    save_operation(store, "two", two, NOW)
    commit(store)
    store = make_store()
    assert (load_operation(store, "one"), load_operation(store, "two")) == (one, two)
    clock.advance(HOUR + 10)
    sweep(store, clock.now())
    commit(store)
    with pytest.raises(RefusedError, match=r"^Requested entity was not found\.$"):
        load_operation(store, "one")
    assert store.contents.operations == {}
    with pytest.raises(RefusedError, match="not found"):
        load_operation(make_store(), "two")


@pytest.mark.parametrize(("tombstone", "kept"), [(0, 120), (600, 600), (86_400, 3600)])
def test_operations_are_kept_like_names(make_store: MakeStore, clock: Clock, tombstone: int, kept: int) -> None:
    """They are kept as long as names of tasks stay taken, but two minutes at least and an hour at most."""
    store = make_store(task_tombstone=tombstone * SECOND)
    save_operation(store, "one", operations_pb2.Operation(name="one").SerializeToString(), NOW)
    commit(store)
    for advance, left in ((kept - 1, ["one"]), (2, [])):
        clock.advance(advance * SECOND)
        sweep(store, clock.now())
        assert list(store.contents.operations) == left
