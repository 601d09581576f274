"""Operations: their names, and how long they are kept."""

import itertools
import re

import pytest
from google.longrunning import operations_pb2

from cloudtasks_nb.emulator.api.operations import CREATE, DELETE, load_operation
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.store.sweep import sweep
from tests.unit.emulator.conftest import LOCATION, NOW, QUEUE, MakeStore, commit, refused


def test_names_of_operations() -> None:
    """A request id names one operation of a call, a queue and a version; without one each call is its own."""
    calls = list(itertools.product((CREATE, DELETE), ("v2", "v2beta3"), (QUEUE, f"{QUEUE}-2"), ("my-id", "a/b\nc")))
    names = [kind.operation_name(*call) for kind, *call in calls]
    assert names == [kind.operation_name(*call) for kind, *call in calls]
    assert len(set(names)) == len(calls)
    assert all(re.fullmatch(rf"{LOCATION}/operations/[A-Za-z0-9_-]+", name) for name in names)
    assert CREATE.operation_name("v2", QUEUE, "") != CREATE.operation_name("v2", QUEUE, "")


@pytest.mark.parametrize(("tombstone", "kept"), [(0, 120), (600, 600), (86_400, 3600)])
def test_operations_are_kept_like_names(make_store: MakeStore, clock: Clock, tombstone: int, kept: int) -> None:
    """They are kept as long as names of tasks stay taken, but two minutes at least and an hour at most."""
    wires = {name: operations_pb2.Operation(name=name).SerializeToString() for name in ("one", "two")}
    store = make_store(task_tombstone=tombstone * SECOND)
    for name, wire in wires.items():
        store.save_operation(name, wire, NOW)
    commit(store)
    store = make_store(task_tombstone=tombstone * SECOND)
    for advance, left in ((kept - 1, wires), (2, {})):
        clock.advance(advance * SECOND)
        sweep(store, clock.now())
        commit(store)
        for _ in range(2):  # before and after a restart
            assert {name: load_operation(store, name) for name in store.contents.operations} == left
            store = make_store(task_tombstone=tombstone * SECOND)
    with refused("NOT_FOUND", r"^Requested entity was not found\.$"):
        load_operation(store, "one")
