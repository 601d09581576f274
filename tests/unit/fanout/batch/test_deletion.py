"""Batches that are deleted because they did not change for long."""

import datetime as dt
from dataclasses import replace

import pytest

from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.deletion import delete_old
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from tests.unit.fanout.conftest import chunks, spool


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
