"""Batches that are deleted because they did not change for long."""

import datetime as dt
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.deletion import delete, delete_old, in_use
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.store.batches import claim_batch, read_claim
from cloudtasks_nb.store.store import Store
from tests.unit.fanout.conftest import chunks, put, refs, spool


def test_what_was_deleted_before_an_error_is_said(outbox: Outbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The store stops answering at the second of two batches: the first is deleted, and that is printed."""
    for name in ("one", "two"):
        spool(outbox, chunks(range(3)), name=name)
    then = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    records = [replace(record, changed=then) for record in outbox.batches.find()]

    def delete_one(record: BatchRecord) -> int:
        if record == records[1]:
            raise StoreError("the bucket does not answer")
        return 2

    with pytest.raises(StoreError):
        delete_old(outbox, records, delete_one, older_than="1h", dry_run=False)
    assert capsys.readouterr().out == "deleted 1 batch: 3 rows, 2 results\n"


def test_a_batch_that_is_done_can_be_deleted_while_a_sender_leaves(outbox: Outbox, batch: str) -> None:
    """Its kernel has not seen yet that another one has cancelled the rows; of open rows it may send some."""
    announced = outbox.requests.announce_sender(batch)
    assert in_use(outbox, outbox.batches.get(batch)) == "it is being sent"
    put(outbox, batch, refs(outbox, batch), State.CANCELLED)
    assert in_use(outbox, outbox.batches.get(batch)) is None
    announced.release()


def test_a_batch_whose_claim_is_damaged_can_be_deleted(outbox: Outbox, batch: str) -> None:
    """The error of each reading says so, and the claim goes with it."""
    store = Store("memory://damaged")
    put(outbox, batch, refs(outbox, batch), State.CANCELLED)
    claim_batch(store, batch, b"{}")
    delete(outbox, store, outbox.batches.get(batch))
    assert (outbox.batches.find(batch=batch), read_claim(store, batch)) == ([], None)


def test_a_link_in_a_store_is_not_followed_by_a_deletion(outbox: Outbox, batch: str, tmp_path: Path) -> None:
    """A colleague has put it in the place of the results; nothing is lost where it leads."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "store" / "results").mkdir(parents=True)
    (link := tmp_path / "store" / "results" / batch).symlink_to(tmp_path / "mine")
    put(outbox, batch, refs(outbox, batch), State.CANCELLED)
    store, record = Store(tmp_path / "store"), outbox.batches.get(batch)
    with pytest.raises(StoreError, match=f"results/{batch} is a link"):
        delete(outbox, store, record)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]  # noqa: PTH208 - the names alone
    link.unlink()
    delete(outbox, store, record)
    assert outbox.batches.find(batch=batch) == []
