"""No row that succeeded is shown as failed, and none that is unknown as either, whatever the log does."""

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchTimeoutError
from cloudtasks_nb.fanout.batch import live, search
from tests.cases import cases
from tests.integration.conftest import Emulator, Target, options
from tests.integration.fanout.conftest import Serve, fault, outcomes, reached, sent
from tests.stored import store_result

ROWS = pd.DataFrame({"row": range(20)})
UNREAD = "memory://unread"  # the store of handlers whose results no connection reads: only the log tells outcomes


def states(batch: ct.Batch) -> dict[str, int]:
    """Return how many rows are in each state, zeros left out."""
    return {str(state): count for state, count in batch.tasks()["state"].value_counts().items() if count}


def send(queue: ct.Queue, serve: Serve, failing: int = 5) -> ct.Batch:
    """Fan twenty rows out to a function that refuses the first few."""

    def work(row: int) -> None:
        if row < failing:
            raise RuntimeError(f"row {row} is refused")

    return queue.fan_out(ROWS, url=serve(work, name=f"work-{queue.id}", store=UNREAD))


@pytest.fixture
def quick(tasks: ct.Client) -> ct.Queue:
    """Give a queue that gives up after two attempts, quickly."""
    return tasks.queue("reports", create=True, max_attempts=2, min_backoff="100ms")


def test_successes_and_failures(quick: ct.Queue, serve: Serve) -> None:
    """The usual case: what the log says."""
    batch = send(quick, serve)
    assert outcomes(batch) == (15, 5, 0)
    failed = batch.failed()
    assert list(failed["row_in"]) == [0, 1, 2, 3, 4]
    assert list(failed["attempts"]) == [2] * 5
    assert set(failed["last_status"]) == {"INTERNAL"}


@pytest.mark.parametrize("verb", ["results", "retry_failed"])
def test_a_success_that_was_stored_after_the_last_failure(quick: ct.Queue, serve: Serve, verb: str) -> None:
    """A call ended after the deadline of its last attempt: its row has succeeded, and does not run again."""
    batch = send(quick, serve)
    batch.wait("60s")
    task = str(batch.failed()["task"].iloc[0])
    store_result(batch._outbox, batch._connection.store, task, attempt=3)
    if verb == "results":
        found = batch.results()
        assert found.query("row_in == 0")[["state", "result"]].to_numpy().tolist() == [["succeeded", 7]]
    else:
        batch.retry_failed().wait("60s")
        assert batch.tasks()["try"].tolist() == [1, 2, 2, 2, 2, *[1] * 15]
    assert states(batch) == {"succeeded": 16, "failed": 4}


@cases(({"max_attempts": 5}, {"max_attempts": 2}), ({"max_attempts": -1}, {"max_retry_duration": "1s"}))
def test_rows_that_were_given_up_have_failed_whatever_the_limit_was(
    tasks: ct.Client, serve: Serve, first: dict[str, int], then: dict[str, Any]
) -> None:
    """The limit was lowered meanwhile, or is a duration: their tasks have left without a success or a deletion."""
    queue = tasks.queue("reports", create=True, min_backoff="100ms", **first)
    batch = sent(send(queue.pause(), serve))
    queue.update(**then)
    queue.resume()
    assert outcomes(batch) == (15, 5, 0)
    assert "batch.retry_failed()" in repr(batch)
    batch.retry_failed()
    assert reached(batch, lambda progress: not progress.failed).total == 20
    assert batch.wait("60s").failed == 5


@options("--log-delay", "30")
def test_entries_that_come_late(
    emulator: Emulator,
    tasks: ct.Client,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A log that is half a minute behind only makes it take longer, which is said; nothing is gone meanwhile."""
    monkeypatch.setattr(live, "_LASTING", 0.1)
    batch = send(tasks.queue("late", create=True, max_attempts=1), serve)
    with pytest.raises(BatchTimeoutError):
        batch.wait("8s")
    assert batch.progress().gone == 0
    assert "are settling: their log entries are awaited" in "".join(capsys.readouterr())
    emulator.advance(31)
    assert outcomes(batch) == (15, 5, 0)


def test_a_log_of_half_the_operations(tasks: ct.Client, serve: Serve) -> None:
    """Rows have the outcome that the log has of their task; those that it does not mention are gone."""
    queue = tasks.queue("reports", create=True, max_attempts=1, log_sampling_ratio=0.5)
    batch = send(queue, serve)
    progress = batch.wait("90s")
    assert 0 < progress.gone < 20
    log = queue.attempts().set_index("task")["status"]
    table = batch.tasks()
    known = {task: "succeeded" if status == "OK" else "failed" for task, status in log.items()}
    assert table["state"].tolist() == [known.get(task, "gone") for task in table["task"]]
    assert set(table.index[table["state"] == "failed"]) <= set(range(5))
    assert set(table.index[table["state"] == "succeeded"]) <= set(range(5, 20))


def test_no_log_and_no_result(tasks: ct.Client, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is known, nothing is claimed, and the cell says so at the start."""
    queue = tasks.queue("reports", create=True, max_attempts=1, log_sampling_ratio=0.0)
    batch = queue.fan_out(ROWS, url=target.url)
    assert "queue.update(log_sampling_ratio=1.0)" in capsys.readouterr().out
    assert batch.wait("60s").gone == 20
    assert "queue.update(log_sampling_ratio=1.0)" in repr(batch)


def test_rows_that_were_gone_are_corrected_from_a_new_connection(
    quick: ct.Queue, emulator: Emulator, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that could not be read until the batch was given up is read as soon as possible, with a note."""
    monkeypatch.setattr(search, "_SHORTEST_WAIT", 0)
    with fault(emulator, "ListLogEntries", "PERMISSION_DENIED"):
        batch = send(quick, serve)
        assert batch.wait("60s").gone == 20
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as tasks:
        again = tasks.batch(batch.id)
        progress = reached(again, lambda progress: not progress.gone)
        assert (progress.succeeded, progress.failed) == (15, 5)
        assert "20 rows had another outcome first" in repr(again)


def test_tasks_deleted_while_they_retry(tasks: ct.Client, serve: Serve) -> None:
    """Somebody deletes them in the Console: neither failed nor succeeded, but with the status they had last."""
    queue = tasks.queue("reports", create=True, max_attempts=5, min_backoff="10min")
    batch = send(queue, serve)
    reached(batch, lambda progress: progress.succeeded == 15 and progress.retrying == 5)
    assert queue.delete_tasks(queue.tasks())["ok"].all()
    assert outcomes(batch) == (15, 0, 5)
    assert set(batch.tasks().query("state == 'gone'")["last_status"]) == {"INTERNAL"}


@options("--wait-for-loopback")
def test_nobody_listens_yet(emulator: Emulator, once: ct.Queue, serve: Serve) -> None:
    """With the embedded emulator no attempt is spent on a handler that is not served yet."""

    def later(row: int) -> int:
        return row

    handler = ct.serve(later)
    handler.close()
    batch = once.fan_out(ROWS, url=handler)
    reached(batch, lambda progress: not progress.unsent and progress.ready == 20)
    emulator.advance(60)
    assert states(batch) == {"ready": 20}
    serve(later)
    assert batch.wait("60s").succeeded == 20
    assert set(batch.tasks()["attempts"]) == {1}


def test_cancelling_while_sending(paused: ct.Queue) -> None:
    """Requests that are under way are waited for, and the tasks that they made are deleted."""
    batch = paused.fan_out(pd.DataFrame({"row": range(3000)}), url="http://127.0.0.1:9/x", send_rate=2000)
    reached(batch, lambda progress: progress.unsent < 2500)
    progress = batch.cancel().wait("60s")
    assert progress.cancelled == 3000
    assert paused.tasks().empty
