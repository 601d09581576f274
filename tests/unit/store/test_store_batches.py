"""The objects of a batch in a store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store.batches import block_names, delete_batch, read_blocks, read_record, read_records, write_batch
from cloudtasks_nb.store.store import Store

BATCH = "1a2b3c4d"


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Give an empty store."""
    return Store(tmp_path / "store" if request.param == "folder" else f"memory://{tmp_path}")


def blocks(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield blocks of a batch, the last first."""
    yield from ((f"{number:03d}", b"%d" % number) for number in reversed(range(count)))


def test_what_is_written_is_read(store: Store) -> None:
    """The record, and the blocks in the order of their names, however many there are."""
    assert sorted(write_batch(store, BATCH, b"record", blocks(30))) == [f"{number:03d}" for number in range(30)]
    assert read_record(store, BATCH) == b"record"
    names = block_names(store, BATCH)
    assert list(read_blocks(store, BATCH, [*names, "none"])) == [b"%d" % number for number in range(30)]


def test_records_are_read_once(store: Store) -> None:
    """Those that are known are listed without being read."""
    write_batch(store, BATCH, b"one", blocks(3))
    write_batch(store, "00000000", b"two", blocks(0))
    store.put("results/ffffffff/x.json", b"{}")
    assert read_records(store) == {BATCH: b"one", "00000000": b"two"}
    assert read_records(store, {BATCH}) == {BATCH: None, "00000000": b"two"}


def test_a_batch_is_deleted_with_its_results(store: Store) -> None:
    """Thousands of objects go, those of other batches stay, and nothing to delete is no error."""
    for batch in (BATCH, "00000000"):
        write_batch(store, batch, b"record", blocks(3))
        store.put(f"results/{batch}/x.json", b"{}")
        store.put(f"results/{batch}/-e/x", b"{}")
    for number in range(1_200):
        store.put(f"results/{BATCH}/{number}.json", b"{}")
    delete_batch(store, BATCH)
    assert sorted(path for page in store.pages("results/") for path in page) == [
        "results/00000000/-e/x",
        "results/00000000/x.json",
    ]
    assert read_records(store) == {"00000000": b"record"}
    delete_batch(store, BATCH)


def test_a_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """No record is written without its rows."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        write_batch(Store(tmp_path / "file"), BATCH, b"record", blocks(30))
