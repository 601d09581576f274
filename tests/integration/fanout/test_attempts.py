"""Every attempt on the tasks of a batch, or of a queue, from the log."""

from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb._frames import ATTEMPTS
from tests.cases import cases
from tests.integration.fanout.conftest import sent

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True


@pytest.fixture
def retried(once: ct.Queue, serve: Any, capsys: pytest.CaptureFixture[str]) -> ct.Batch:
    """Give a batch of three rows, of which the last one failed twice; another batch shares its queue."""

    def run(row: int) -> None:
        if row == 2:
            raise LookupError(f"no {row}")

    handler = serve(run)
    other = once.fan_out(pd.DataFrame({"row": [7]}), url=handler, name="other")
    batch = once.fan_out(pd.DataFrame({"row": range(3)}), url=handler, name="numbers")
    other.wait()
    batch.wait()
    batch.retry_failed().wait()
    capsys.readouterr()
    return batch


def test_the_attempts_of_a_batch(retried: ct.Batch) -> None:
    """Those of earlier tries too, newest first, with the row, and how long each waited and took."""
    found = retried.attempts()
    assert list(found) == ["row", *ATTEMPTS]
    assert sorted(found.row) == [0, 1, 2, 2]
    assert found.time.is_monotonic_decreasing
    assert found.status.value_counts().to_dict() == {"OK": 2, "INTERNAL": 2}
    assert (found.attempt == 1).all()
    assert (found["wait"] >= pd.Timedelta(0)).all()
    assert (found["duration"] > pd.Timedelta(0)).all()
    assert found.loc[found.status == "INTERNAL", "message"].iloc[0] == "LookupError: no 2"


def test_numbers_of_attempts(tasks: ct.Client, serve: Any) -> None:
    """Each attempt on a task is a row."""

    def fails() -> None:
        raise ValueError("never")

    queue = tasks.queue("reports", create=True, max_attempts=3, min_backoff="10ms")
    batch = queue.fan_out(pd.DataFrame({"n": [1]}), url=serve(fails), body={})
    batch.wait()
    found = batch.attempts()
    assert found.attempt.tolist() == [3, 2, 1]
    assert found.retry_time.isna().tolist() == [True, False, False]
    assert found.message.isna().tolist() == [False, True, True]


@cases(
    (lambda _: {}, 5),
    (lambda batch: {"batch": batch}, 4),
    (lambda batch: {"batch": batch.id}, 4),
    (lambda _: {"batch": "numbers"}, 4),
    (lambda _: {"batch": "other"}, 1),
    (lambda batch: {"task": batch.tasks()}, 3),
    (lambda batch: {"task": batch.tasks().task.iloc[0]}, 1),
    (lambda batch: {"task": batch.tasks().task[:2], "batch": "other"}, 0),
    (lambda _: {"status": "OK"}, 3),
    (lambda _: {"status": "internal"}, 2),
    (lambda _: {"status": ["ERROR", "OK"]}, 5),
    (lambda _: {"status": "4xx"}, 0),
    (lambda batch: {"status": "5xx", "batch": batch, "limit": 1}, 1),
    (lambda batch: {"since": "0s", "batch": batch}, 0),
    (lambda batch: {"status": [200, 503], "batch": batch}, 2),
)
def test_attempts_of_a_queue_are_filtered(retried: ct.Batch, tasks: ct.Client, given: Any, count: int) -> None:
    """By batch, task and status, in any combination."""
    found = tasks.queue(retried.queue).attempts(**given(retried))
    assert (len(found), list(found)) == (count, list(ATTEMPTS))


@cases(
    ({"status": "NOTFOUND"}, "status='NOTFOUND' is no status; did you mean \"NOT_FOUND\"?"),
    ({"status": 2.5}, "status=2.5 is no status"),
    ({"status": []}, "status=[] is no status"),
    ({"batch": 17}, "batch=17"),
    ({"batch": "nothing"}, "nothing"),
    ({"task": 17.5}, "float does not name tasks"),
    ({"task": "a/b"}, "is not a task name"),
    ({"limit": 0}, "limit=0"),
)
def test_a_filter_that_is_none_is_refused(queue: ct.Queue, given: Any, message: str) -> None:
    """The error says what is expected."""
    with pytest.raises(ct.errors.CloudTasksError) as raised:
        queue.attempts(**given)
    assert message in raised.value.message
    assert raised.value.hint


def test_a_batch_of_another_queue_is_refused(retried: ct.Batch, queue: ct.Queue) -> None:
    """The log of a queue has the attempts of its own tasks only."""
    with pytest.raises(ct.errors.InvalidInputError, match=f"is of queue {retried.queue}, not of {queue.id}"):
        queue.attempts(batch=retried)


def test_a_paused_batch_has_no_attempts(paused: ct.Queue) -> None:
    """The frame has its columns all the same."""
    batch = sent(paused.fan_out(pd.DataFrame({"n": [1]}), url="http://127.0.0.1:9/x"))
    assert list(batch.attempts()) == ["row", *ATTEMPTS]
