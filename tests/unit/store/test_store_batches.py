"""The objects of a batch in a store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.store.batches import (
    block_names,
    claim_batch,
    delete_batch,
    new_cancels,
    put_cancel,
    read_blocks,
    read_cancelled,
    read_claim,
    read_record,
    read_records,
    write_batch,
)
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


def test_records_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known are listed without being read, and none of their rows is listed."""
    write_batch(store, BATCH, b"one", blocks(3))
    write_batch(store, "00000000", b"two", blocks(0))
    store.put("results/ffffffff/x.json", b"{}")
    store.put("batches/ffffffff/claim", b"{}")
    monkeypatch.delattr(Store, "pages")
    assert read_records(store) == {BATCH: b"one", "00000000": b"two"}
    assert read_records(store, {BATCH}) == {BATCH: None, "00000000": b"two"}


def test_cancels_are_found_in_their_order(store: Store) -> None:
    """Those that are not known, and only if the last one is not; of a part the keys of its rows."""
    assert list(new_cancels(store, BATCH, ())) == []
    put_cancel(store, BATCH, "1-part", b"a", iter([b"one", b"two"]))
    put_cancel(store, BATCH, "2-all", b"b")
    assert list(new_cancels(store, BATCH, ())) == [("1-part", b"a"), ("2-all", b"b")]
    assert list(new_cancels(store, BATCH, ["1-part"])) == [("2-all", b"b")]
    assert list(new_cancels(store, BATCH, ["1-part", "2-all"])) == []
    assert [list(read_cancelled(store, BATCH, name)) for name in ("1-part", "2-all")] == [[b"one", b"two"], []]


def test_the_first_claim_stays(store: Store) -> None:
    """Who comes later gets it, until the batch is deleted."""
    assert read_claim(store, BATCH) is None
    assert [claim_batch(store, BATCH, claim) for claim in (b"first", b"second")] == [b"first"] * 2
    delete_batch(store, BATCH)
    assert claim_batch(store, BATCH, b"third") == read_claim(store, BATCH) == b"third"


def test_a_claim_that_is_deleted_meanwhile_is_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when another one was to be made, and is gone when it is read."""
    claim_batch(store, BATCH, b"first")
    get = store.get

    def deleted(path: str) -> bytes | None:
        store.delete([path])
        return get(path)

    monkeypatch.setattr(store, "get", deleted)
    assert claim_batch(store, BATCH, b"second") == b"second"


def test_a_store_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """No record is written without its rows."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        write_batch(Store(tmp_path / "file"), BATCH, b"record", blocks(30))
