"""Objects that say who owns a batch, in each kind of store."""

import time

import pytest

from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.store.owners import OwnerObjects, probe
from cloudtasks_nb.store.store import Store
from tests.raising import raises

CLOCKS = 2.0  # seconds by which a store that tells whole seconds may be behind


def test_a_number_is_taken_once(store: Store) -> None:
    """Who creates a number first has it; it is read with the time of its modification by the store's clock."""
    objects, began = OwnerObjects(store, "b"), time.time()
    assert objects.numbers() == {}
    assert objects.read(1) is None
    assert [objects.create(1, data) for data in (b"a", b"b")] == [True, False]
    objects.create(12, b"c")
    objects.write(12, b"d")
    found = objects.read(12)
    assert found is not None
    assert found.data == b"d"
    assert began - CLOCKS <= found.modified <= objects.now() + CLOCKS
    assert set(objects.numbers()) == {1, 12}
    assert objects.numbers()[12] == pytest.approx(found.modified, abs=CLOCKS)
    objects.delete([1])
    assert set(objects.numbers()) == {12}


def test_children_are_listed_without_what_is_below(store: Store) -> None:
    """Folders are named whatever they have, and files that nobody wrote through the store are no numbers."""
    for path in ("batches/a/rows/1", "batches/a/rows/2", "batches/b/record.json", "batches/note"):
        store.put(path, b"x")
    found = store.children("batches/")
    assert (sorted(found.folders), list(found.objects)) == (["a", "b"], ["note"])
    store.put("batches/a/owners/clock-12", b"x")
    assert OwnerObjects(store, "a").numbers() == {}
    assert not any(store.children("none/"))


def test_a_store_that_creates_what_exists_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home looks before its first write whether an object can be created twice; nothing of that look stays."""
    probe(store)
    assert not any(store.children("probes/").objects)
    monkeypatch.setattr(Store, "exclusive", lambda store, path, data: store.put(path, data) or True)
    with raises(StoreError, match="cannot be shared"):
        probe(store)
    monkeypatch.undo()


def test_a_store_without_an_answer_is_no_place_for_an_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before rows are stored it is said that the owner cannot be written."""
    refused = StoreError("probes/x cannot be written: denied", resource="gs://b", hint="ask for the role")

    def refuse(*_: object) -> bool:
        raise refused

    monkeypatch.setattr(Store, "exclusive", refuse)
    with raises(PreconditionError, match="denied", hint="ask for the role"):
        probe(Store("memory://refusing"))
