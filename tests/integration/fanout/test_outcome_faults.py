"""No row that succeeded is shown as failed, and none that is unknown as either, whatever the log does."""

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchTimeoutError
from cloudtasks_nb.fanout.batch import live
from tests.integration.conftest import Emulator, options, until
from tests.integration.fanout.conftest import Serve, outcomes, reached
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


@pytest.mark.parametrize("verb", ["results", "retry_failed"])
def test_a_success_that_was_stored_after_the_last_failure(quick: ct.Queue, serve: Serve, verb: str) -> None:
    """A call ended after the deadline of its last attempt: its row has succeeded, and does not run again."""
    batch = send(quick, serve)
    batch.wait("240s")
    task = str(batch.failed()["task"].iloc[0])
    store_result(batch._outbox, batch._connection.store, task, attempt=3)
    if verb == "results":
        found = batch.results()
        assert found.query("row_in == 0")[["state", "result"]].to_numpy().tolist() == [["succeeded", 7]]
    else:
        batch.retry_failed().wait("240s")
        assert batch.tasks()["try"].tolist() == [1, 2, 2, 2, 2, *[1] * 15]
    assert states(batch) == {"succeeded": 16, "failed": 4}


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

    def told() -> bool:
        with pytest.raises(BatchTimeoutError):
            batch.wait("2s")
        return "are settling: their log entries are awaited" in "".join(capsys.readouterr())

    until(told)
    assert batch.progress().gone == 0
    emulator.advance(31)
    assert outcomes(batch) == (15, 5, 0)


def test_cancelling_while_sending(paused: ct.Queue) -> None:
    """Requests that are under way are waited for, and the tasks that they made are deleted."""
    batch = paused.fan_out(pd.DataFrame({"row": range(3000)}), url="http://127.0.0.1:9/x", send_rate=2000)
    reached(batch, lambda progress: progress.unsent < 2500)
    progress = batch.cancel().wait("240s")
    assert progress.cancelled == 3000
    assert paused.tasks().empty
