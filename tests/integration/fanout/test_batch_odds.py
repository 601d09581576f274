"""Verbs of a batch at the edge: what is done already, what is another's, what makes no sense."""

import pickle
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import reached, sent

URL = "http://127.0.0.1:9/{a}"
DATA = pd.DataFrame({"a": [1, 2], "day": pd.to_datetime(["2026-01-01", "2026-01-02"])})


@pytest.fixture
def waiting(paused: ct.Queue) -> ct.Batch:
    """Give a batch whose two tasks wait in a paused queue."""
    return sent(paused.fan_out(DATA, url=URL))


def test_waiting_no_time_asks_whether_it_is_done(waiting: ct.Batch) -> None:
    """`wait(timeout=0)` raises while rows are not final, and returns once they are."""
    with pytest.raises(errors.BatchTimeoutError, match="not done after 0"):
        waiting.wait(timeout=0)
    waiting.cancel().wait(timeout="60s")
    assert waiting.wait(timeout=0).cancelled == len(DATA)


def test_no_failed_rows_have_the_columns_all_the_same(queue: ct.Queue, target: Target) -> None:
    """Columns and dtypes of `failed()` are those of `tasks()`, whether a row failed or not."""
    batch = queue.fan_out(DATA, url=f"{target.url}/{{a}}")
    batch.wait(timeout="60s")
    failed, everything = batch.failed(), batch.tasks()
    assert (len(failed), len(everything)) == (0, 2)
    assert failed.dtypes.to_dict() == everything.dtypes.to_dict()
    assert failed.index.name == "row"
    assert failed.value_counts("last_status").empty


def test_rows_of_another_batch_are_not_resent(waiting: ct.Batch, paused: ct.Queue) -> None:
    """Rows of another batch are refused, whether few or all are; nothing is sent."""
    other = paused.fan_out(DATA, url=URL, name="other").cancel()
    other.wait(timeout="60s")
    with pytest.raises(errors.InvalidInputError, match=f"2 of 4 tasks are not of batch {other.id}"):
        other.resend(pd.concat([waiting.tasks(), other.tasks()]))
    assert other.progress().cancelled == len(DATA)


def test_a_paused_queue_is_said(waiting: ct.Batch, paused: ct.Queue) -> None:
    """Who looks at a batch that does not move hears that its queue is paused, until it is done."""
    reached(waiting, lambda _: "is paused" in repr(waiting))
    assert f"the queue {paused.id} is paused and dispatches nothing → queue.resume()" in repr(waiting)
    waiting.cancel().wait(timeout="60s")
    assert "is paused" not in repr(waiting)


def test_a_notification_that_cannot_be_is_refused_at_once(waiting: ct.Batch) -> None:
    """A token for somebody without an account that signs it is refused when it is asked for, not at the end."""
    with pytest.raises(errors.InvalidInputError, match="audience="):
        waiting.on_complete("https://svc.example.com/done", audience="https://svc.example.com")


def test_a_batch_is_not_pickled(waiting: ct.Batch) -> None:
    """Who sends a batch to another process hears how to have it there; its progress can be sent."""
    with pytest.raises(TypeError, match=f'tasks.batch."{waiting.id}".'):
        pickle.dumps(waiting)
    assert pickle.loads(pickle.dumps(waiting.progress())) == waiting.progress()  # noqa: S301 - our own bytes


def test_tasks_that_were_there_already_are_said(
    emulator: Emulator, paused: ct.Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that does not have the outbox makes no task twice, and says that it found some."""
    sent(paused.fan_out(DATA.head(1), url=URL, name="march"))
    monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path))
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as elsewhere:
        batch = elsewhere.queue(paused.id).fan_out(DATA, url=URL, name="march")
        reached(batch, lambda progress: progress.ready == len(DATA))
        assert sorted(batch.tasks()["task"]) == sorted(paused.tasks().index)
        assert "rows were sent from elsewhere" in repr(batch)
