"""Two homes that share batches through a store."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch import sharing
from cloudtasks_nb.fanout.batch.sharing import Sharing
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.store.batches import block_names, write_batch
from cloudtasks_nb.store.store import Store
from tests.unit.fanout.batch.conftest import counts
from tests.unit.fanout.conftest import chunks, spool


def add(outbox: Outbox, *bounds: int) -> str:
    """Add rows to the batch, as the cell of a home does."""
    return spool(outbox, chunks(range(*bounds)), name="nightly", description={"key": ["n"]}).batch


def total(outbox: Outbox, batch: str) -> int:
    """Return how many rows of a batch a home has."""
    return outbox.batches.get(batch).total


def test_rows_that_are_added_while_others_are_written_are_written_next_time(
    outbox: Outbox, theirs: Outbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kernels of one home: one has read the blocks, and the other adds rows before they are in the store."""
    batch = add(outbox, 100)

    def write_and_add(*args: Any) -> list[str]:
        names = write_batch(*args)
        add(outbox, 100, 120)
        return names

    monkeypatch.setattr(sharing, "write_batch", write_and_add)
    mine = Sharing(outbox, store)
    mine.publish(batch)
    monkeypatch.undo()
    mine.publish(batch)
    Sharing(theirs, store).fetch(batch)
    assert total(theirs, batch) == 120


def test_what_could_not_be_written_is_written_after_rows_were_fetched(
    outbox: Outbox, theirs: Outbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of others that come here do not hide that rows of this home are missing in the store."""
    batch = add(outbox, 100)
    mine, other = Sharing(outbox, store), Sharing(theirs, store)
    mine.publish(batch)
    other.fetch(batch)
    add(theirs, 200, 210)

    def fail(*_: Any) -> None:
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(sharing, "write_batch", fail)
    other.publish(batch)
    monkeypatch.undo()
    add(outbox, 100, 120)
    mine.publish(batch)
    other.update(batch)
    other.publish(batch)
    mine.fetch(batch)
    assert total(theirs, batch) == total(outbox, batch) == 130


def test_only_what_was_added_is_read_to_be_shared(outbox: Outbox, store: Store) -> None:
    """Ten more rows cost as much in a batch of a million as in an empty one: the first block may even be damaged."""
    batch, mine = add(outbox, 100), Sharing(outbox, store)
    mine.publish(batch)
    with closing(sqlite3.connect(outbox.path)) as connection, connection:
        connection.execute("UPDATE blocks SET keys = x'00'")
    add(outbox, 100, 110)
    mine.publish(batch)
    assert [name[:9] for name in block_names(store, batch)] == ["000000000", "000000100"]


def test_fetched_rows_are_not_written_again(
    outbox: Outbox, theirs: Outbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has them, also those that were added later."""
    mine, other = Sharing(outbox, store), Sharing(theirs, store)
    for rows in (100, 120):
        batch = add(outbox, rows)
        mine.publish(batch)
        other.fetch(batch)
    monkeypatch.delattr(sharing, "write_batch")
    other.publish(batch)


def test_rows_that_two_homes_have_written_are_there_once(outbox: Outbox, theirs: Outbox, store: Store) -> None:
    """Their blocks differ, as each home has made the batch before it knew of the other."""
    for home, rows in ((outbox, 90), (theirs, 120)):
        batch = add(home, rows)
        Sharing(home, store).publish(batch)
    with Outbox(outbox.path.parent / "third" / "outbox.sqlite3") as third:
        Sharing(third, store).fetch(batch)
        assert third.batches.counts(whole(batch)) == counts(unsent=120)
