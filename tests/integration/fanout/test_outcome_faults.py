"""No row that succeeded is shown as failed, and none that is unknown as either, whatever the log does."""

import re
from functools import partial

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import BatchTimeoutError
from cloudtasks_nb.fanout.batch import live
from tests.integration.conftest import Emulator, Target, options, until
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


@options("--log-limit", "20")
def test_a_log_that_has_lost_entries(emulator: Emulator, target: Target) -> None:
    """Rows whose first attempt was seen to fail, and nothing else, may have succeeded: no line sends them again."""
    target.script(500, 500, 500)
    connect = partial(ct.connect, "demo", "us-central1", endpoint=emulator.ready["grpc"])
    with connect() as tasks:
        queue = tasks.queue("main", create=True, max_attempts=5, min_backoff="1h", max_backoff="1h")
        batch = queue.fan_out(ROWS.head(3), url=target.url)
        reached(batch, lambda progress: progress.retrying == 3)
    emulator.advance(3_700)
    target.wait(6)
    with connect() as tasks:
        noise = tasks.queue("noise", create=True).fan_out(pd.DataFrame({"n": range(40)}), url=target.url)
        assert noise.wait("240s").succeeded == 40
        emulator.until(lambda: tasks.queue("main").attempts().empty)
        batch = tasks.batch(batch.id)
        reached(batch, lambda progress: progress.gone == 3)
        assert (batch.status().state, states(batch)) == ("unknown", {"gone": 3})
        assert "they may have run" in str(batch.status().reason)
        assert not {"resend", "retry_failed"} & {*re.findall(r"\w+", repr(batch))}
