"""`queue.wait`: what became of tasks that were created one by one, as log, stored results and queue tell it."""

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb._frames import OUTCOMES
from cloudtasks_nb.fanout.batch import search
from cloudtasks_nb.fanout.batch.witnesses import Witnesses
from cloudtasks_nb.fanout.evidence import Evidence, Fact, Source
from cloudtasks_nb.store.results import ResultWriter, StoredResult
from tests.integration.conftest import Emulator, Target, dtypes, until
from tests.integration.fanout.conftest import fault

Serve = Callable[..., ct.Handler]
COLUMNS = list(OUTCOMES)
UNREAD = "memory://unread"  # the store of handlers whose results no connection reads


@pytest.fixture
def serve(tasks: ct.Client) -> Serve:
    """Serve a function of a body with a number, by default with the store of the connection."""

    def letter(n: int) -> dict[str, int]:
        if n < 0:
            raise ct.GiveUp("nobody lives there")
        if n == 0:
            raise ValueError("no address")
        return {"page": n}

    return lambda store=tasks.store: ct.serve(letter, tasks=tasks, store=store)


def quick(tasks: ct.Client, **settings: Any) -> ct.Queue:
    """Return a queue that gives up after two attempts."""
    return tasks.queue("letters", create=True, **{"max_attempts": 2, "min_backoff": "100ms", **settings})


def outcomes(found: pd.DataFrame) -> list[list[Any]]:
    """Return the values of the columns that `wait` adds, None where missing."""
    return [[None if value is pd.NA else value for value in row] for row in found[COLUMNS].astype(object).to_numpy()]


def put(queue: ct.Queue, task: str, started: dt.datetime) -> None:
    """Store a result of a single task."""
    fields: dict[str, Any] = {"attempt": 1, "status": 200, "started": started, "duration": 1.0, "error": None}
    ResultWriter(queue._connection.store).put(StoredResult(task=task, result="stored", **fields), queue.id)


SUCCEEDED: list[Any] = ["succeeded", 1, "OK", {"page": 1}, None]
FAILED = ["failed", 2, "ERROR", None, "ValueError: no address"]
GAVE_UP = ["failed", 1, "OK", None, "nobody lives there"]


@pytest.mark.parametrize("ratio", [1.0, 0.0])
def test_single_tasks_have_outcomes_and_results(tasks: ct.Client, serve: Serve, ratio: float) -> None:
    """With a log and without one; rows, index and columns are those of the frame."""
    queue, handler = quick(tasks, log_sampling_ratio=ratio), serve()
    made = pd.concat([queue.enqueue(handler, {"n": n}, task_id=f"t{n}") for n in (1, 0, -1)])
    found = queue.wait(made, "20s")
    assert outcomes(found) == [SUCCEEDED, FAILED, GAVE_UP]
    assert found.index.tolist() == ["t1", "t0", "t-1"]
    assert [*found.columns] == [*made.columns, "result", "error"]
    assert (found["last_attempt_time"] >= made["create_time"]).all(), "nothing is left of the time before the attempts"
    assert found["last_message"].isna().tolist() == [True, False, False]
    assert found["responses"].isna().all()
    assert outcomes(queue.wait("t1", 20)) == [SUCCEEDED]


def test_results_that_nobody_reads(tasks: ct.Client, serve: Serve) -> None:
    """The log tells how tasks ended, and the queue what it was told of the last attempt that it has shown."""
    queue, handler = quick(tasks), serve(UNREAD)
    found = queue.wait(pd.concat([queue.enqueue(handler, {"n": n}) for n in (1, 0)]), "20s")
    assert [row[:4] for row in outcomes(found)] == [["succeeded", 1, "OK", None], ["failed", 2, "INTERNAL", None]]
    silent = tasks.queue("silent", create=True, log_sampling_ratio=0.0)
    assert outcomes(silent.wait(silent.enqueue(handler, {"n": 1}), "20s")) == [["gone", None, None, None, None]]


class Metrics:
    """A witness that has a success of each task that it is asked about."""

    async def read(self, tasks: Sequence[str] | None, since: int) -> AsyncIterator[Sequence[Evidence]]:  # noqa: ARG002 - as every witness is called
        """Yield it."""
        told: dict[str, Any] = {"source": Source.RESULTS, "fact": Fact.STORED, "attempts": 1, "status": 0}
        yield [Evidence(task=task, **told) for task in tasks or ()]


def test_a_further_witness_is_asked_by_batches_and_by_wait(
    tasks: ct.Client, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One class and one item of one list turn what is gone without it into what it tells."""
    of = Witnesses.of
    monkeypatch.setattr(Witnesses, "of", lambda *given: of(*given)._replace(stored=[*of(*given).stored, Metrics()]))
    queue, handler = quick(tasks, log_sampling_ratio=0.0), serve(UNREAD)
    assert queue.fan_out([{"n": 1}, {"n": 2}], url=handler).wait("60s").succeeded == 2
    assert queue.wait(queue.enqueue(handler, {"n": 3}), "20s")["state"].tolist() == ["succeeded"]


@pytest.mark.parametrize("way", ["delete", "purge"])
def test_a_task_that_was_deleted_is_gone(tasks: ct.Client, target: Target, way: str) -> None:
    """The error says how it left its queue."""
    queue = quick(tasks)
    task = queue.schedule(target.url, delay="1h")
    if way == "delete":
        queue.delete_tasks(task)
    else:
        queue.purge()
    ((state, *_, error),) = outcomes(queue.wait(task, "20s"))
    assert (state, error) == ("gone", "deleted from the queue" if way == "delete" else search._PURGED)


def test_a_failure_that_only_the_log_knows_of(tasks: ct.Client, target: Target) -> None:
    """A task that has its own limit of attempts has failed: it left its queue after a failed attempt."""
    queue = quick(tasks, max_attempts=9)
    target.script(500)
    task = queue.enqueue(target.url, retry={"max_attempts": 1})
    assert outcomes(queue.wait(task, "20s"))[0][:3] == ["failed", 1, "INTERNAL"]


def test_a_log_that_cannot_be_read(
    tasks: ct.Client, emulator: Emulator, serve: Serve, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored results are enough; of other tasks nothing is known in the end."""
    monkeypatch.setattr(search, "_SHORTEST_WAIT", 0)
    queue, handler = quick(tasks), serve()
    with fault(emulator, "ListLogEntries", "PERMISSION_DENIED"):
        made = pd.concat([queue.enqueue(handler, {"n": 1}), queue.enqueue(target.url)])
        assert queue.wait(made, "20s")["state"].tolist() == ["succeeded", "gone"]


def test_a_timeout_says_what_the_tasks_do(tasks: ct.Client, serve: Serve) -> None:
    """Those that are done are not counted; the error says what to do."""
    queue, handler = quick(tasks), serve()
    made = pd.concat([queue.enqueue(handler, {"n": 1}), queue.schedule(handler, {"n": 2}, delay="1h")])
    queue.wait(made.head(1), "20s")
    with pytest.raises(errors.BatchTimeoutError, match="1 of 2 tasks of queue letters is not done after 2 s: sched"):
        queue.wait(made, 2)
    queue.run(made.tail(1))
    assert queue.wait(made, "20s")["result"].tolist() == [{"page": 1}, {"page": 2}]


def test_a_connection_that_is_closed(tasks: ct.Client, serve: Serve) -> None:
    """Who waits hears of it, and so does who waits after that."""
    queue = quick(tasks)
    later = queue.schedule(serve(), {"n": 1}, delay="1h")
    reads = queue._connection.watcher
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.wait, later, "30s")
        until(lambda: queue._name in reads._queues)
        tasks.close()
        for again in (waiting, pool.submit(queue.wait, later, "30s")):
            with pytest.raises(errors.PreconditionError, match="connection is closed"):
                again.result()


def test_a_name_that_is_used_again(tasks: ct.Client, serve: Serve, target: Target, emulator: Emulator) -> None:
    """A result, and log entries, of an earlier task of this name do not count; ids alone have no time."""
    queue = quick(tasks)
    earlier = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    put(queue, "mine", earlier)
    first = queue.enqueue(serve(UNREAD), {"n": 1}, task_id="mine")
    assert outcomes(queue.wait(first, "20s")) == [["succeeded", 1, "OK", None, None]]
    emulator.advance(25 * 3600)
    target.script(500, 500)
    again = queue.enqueue(target.url, task_id="mine")
    assert outcomes(queue.wait(again, "20s"))[0][:3] == ["failed", 2, "INTERNAL"]
    assert queue.wait(["mine"], "20s")["result"].tolist() == ["stored"]


def test_a_result_that_is_later_than_its_task(tasks: ct.Client, serve: Serve) -> None:
    """The clock of the emulator was moved forward before; the handler writes by that of its machine."""
    queue, handler = quick(tasks, log_sampling_ratio=0.0), serve()
    tasks.clock.advance("1 day")
    assert outcomes(queue.wait(queue.enqueue(handler, {"n": 1}), "20s")) == [SUCCEEDED]


def test_a_forged_result(tasks: ct.Client, target: Target) -> None:
    """Results of single tasks are not signed: whoever writes to the store decides what is shown."""
    queue = quick(tasks, log_sampling_ratio=0.0)
    task = queue.enqueue(target.url, task_id="forged")
    put(queue, "forged", dt.datetime.now(dt.UTC))
    assert outcomes(queue.wait(task, "20s")) == [["succeeded", 1, "OK", "stored", None]]


def test_tasks_of_a_batch(tasks: ct.Client, serve: Serve) -> None:
    """A frame with tasks may have those of batches; a row without a task has no values."""
    queue, handler = quick(tasks, log_sampling_ratio=0.0), serve()
    batch = queue.pause().fan_out(pd.DataFrame({"n": [1, -1]}), url=handler)
    until(lambda: len(queue.tasks()) == 2)
    frame = queue.tasks().sort_values("url")
    queue.resume()
    rows = queue.wait(frame, "20s")
    assert sorted(rows["state"]) == ["failed", "succeeded"]
    assert {"page": 1} in rows["result"].tolist()
    batch.wait("240s")
    bare = batch.tasks()
    bare.loc[0, "task"] = pd.NA
    assert [row[0] for row in outcomes(queue.wait(bare, "20s"))] == [None, "failed"]


def test_nothing_to_wait_for(tasks: ct.Client, queue: ct.Queue) -> None:
    """No task is a frame with the declared columns; a queue that does not exist is an error."""
    empty = queue.wait([])
    assert dtypes(empty) == dtypes(pd.DataFrame(empty)) and [*empty.columns] == COLUMNS  # noqa: PT018 - one thought
    with pytest.raises(errors.QueueNotFoundError):
        tasks.queue("nowhere").wait(["t"], "20s")
