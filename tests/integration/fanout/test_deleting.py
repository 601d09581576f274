"""Batches are deleted with what belongs to them."""

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchNotFoundError, PreconditionError
from tests.cases import cases
from tests.integration.conftest import Target
from tests.integration.fanout.conftest import reached
from tests.stored import store_result

ROWS = pd.DataFrame({"day": range(20)})


def cell(queue: ct.Queue, target: Target, **words: Any) -> ct.Batch:
    """Run the cell, and wait until every row is sent and the sender has ended."""
    batch: ct.Batch = queue.fan_out(ROWS, url=target.url, progress=False, **words)
    reached(batch, lambda progress: not progress.unsent and not batch._tracker.sending)
    return batch


@cases(
    "wait", "progress", "tasks", "failed", "retry_failed", "cancel", "resume", "panel", "delete", "on_complete", "stale"
)
def test_a_deleted_batch_is_gone(
    tasks: ct.Client, once: ct.Queue, target: Target, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """Its objects of the store go too; each method says so, and the object can still be shown."""
    batch = cell(once, target, name=verb)
    batch.wait("240s")
    store_result(batch._outbox, tasks._connection.store, batch.tasks()["task"][0])
    capsys.readouterr()
    batch.delete()
    assert capsys.readouterr().out == f"deleted batch {batch.id}: 20 rows, 1 result\n"
    assert batch.id not in tasks.batches().index
    assert list(tasks._connection.store.pages(f"results/{batch.id}/")) == []
    with pytest.raises(BatchNotFoundError, match=batch.id):
        getattr(batch, verb)(*(["http://127.0.0.1:9/done"] if verb == "on_complete" else []))
    assert repr(batch) == f"<batch {batch.id}, deleted>"
    assert (batch.name, batch.queue, batch == batch) == (verb, once.id, True)  # noqa: PLR0124 - equality must not raise


def test_a_batch_with_tasks_in_the_queue_stays(tasks: ct.Client, paused: ct.Queue, target: Target) -> None:
    """The error says how many there are, and that `cancel()` comes first; then it goes."""
    batch = cell(paused, target)
    with pytest.raises(PreconditionError, match="20 tasks may be in the queue") as caught:
        batch.delete()
    assert "batch.cancel()" in str(caught.value)
    batch.cancel().wait("240s")
    batch.delete()
    assert tasks.batches().empty


def test_batches_say_who_made_them(
    tasks: ct.Client, paused: ct.Queue, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name, user and machine, and the disk use; on a hub the user is the person who is logged in there."""
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    monkeypatch.setattr("platform.node", lambda: "pod-7")
    cell(paused, target, name="march")
    (row,) = tasks.batches().to_dict("records")
    assert (row["name"], row["who"], pd.isna(row["where"])) == ("march", "ada@pod-7", True)
    assert row["bytes"] > 1_000
