"""The error messages of attempts."""

import datetime as dt

import pytest

from cloudtasks_nb.fanout.batch import attempts
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.store.results import StoredResult, write_result
from cloudtasks_nb.store.store import Store
from tests.log_entry import log_entry

TASKS = [f"{number:020x}-a91f03c2-1" for number in range(5)]


def test_stored_errors_are_not_read_all_at_once(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """`attempts(limit=None)` may have a hundred thousand failures, each with a traceback in the store."""
    store, started = Store("memory://attempts"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for task in TASKS:
        write_result(
            store,
            StoredResult(task=task, attempt=1, status=500, started=started, duration=0.5, result=None, error="refused"),
        )
    read, sizes = store.get_many, []

    def get_many(paths: list[str]) -> list[bytes | None]:
        sizes.append(len(paths))
        return read(paths)

    monkeypatch.setattr(attempts, "_TOGETHER", 2)
    monkeypatch.setattr(store, "get_many", get_many)
    entries = [log_entry(task, 1, status="INTERNAL", url="https://x") for task in TASKS]
    found = attempts._stored_messages(store, lambda: outbox, entries)
    assert (sizes, found) == ([2, 2, 1], {(task, 1): "refused" for task in TASKS})
