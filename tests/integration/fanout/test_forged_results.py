"""Results that somebody has written who can write to ``results/`` in the store, and nowhere else."""

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.store.results import ResultWriter, StoredResult, tag_of
from cloudtasks_nb.store.store import Store
from tests.integration.conftest import Target
from tests.integration.fanout.conftest import Connect

ROWS = pd.DataFrame({"day": range(20)})
TAGS: list[Callable[[str], str | None]] = [lambda _: None, lambda _: "", lambda task: tag_of(bytes(16), task)]


def cell(tasks: ct.Client, target: Target | ct.Handler) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    return queue.fan_out(ROWS, url=target.url, body=["day"], name="march", progress=False)


def forge(store: Path, tasks: Iterable[str], tag: Callable[[str], str | None], result: object = "forged") -> None:
    """Store successes of tasks."""
    writer, started = ResultWriter(Store(store)), dt.datetime.now(dt.UTC)
    for task in tasks:
        fields = {"task": task, "attempt": 9, "status": 200, "started": started, "duration": 0.1, "error": None}
        writer.put(StoredResult(**fields, result=result, tag=tag(task)))  # type: ignore[arg-type]  # a dict of all


def test_no_row_is_held_back(connect: Connect, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of tasks can be known before any is sent; results under these ids do not make a row a sent one."""
    with monkeypatch.context() as patched:
        patched.setattr(Sending, "begin", lambda _: None)
        known = list(cell(connect("mallory", "mallory-store"), target).tasks()["task"])
    for tag in TAGS:
        forge(tmp_path / "store", known, tag)
    batch = cell(connect("ada"), target)
    assert batch.wait("240s").succeeded == 20
    assert len(target.received) == 20
    assert batch.results()["result"].isna().all()  # a target that is not ours stores none
