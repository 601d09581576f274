"""`tasks.clock`: the clock of an emulator is moved, and everything the toolkit says stays true."""

import re
import sys
import threading
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.client import emulator_process
from tests.integration.conftest import Emulator, Target
from tests.processes import run

BOTH_TRANSPORTS = True
HOUR = pd.Timedelta("1h")


def test_advance_makes_every_attempt(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """The result says how far the clock was moved; each time of a backoff has its attempt."""
    target.script(500, 500, 500)
    queue.enqueue(target.url, delay="10min", retry={"min_backoff": "10s", "max_attempts": 10})
    before = tasks.clock.now
    lapse = tasks.clock.advance("1h")
    assert repr(lapse) == "moved 1 h: 4 attempts"
    assert HOUR <= tasks.clock.now - before < 2 * HOUR
    assert tasks.clock.now.tz is not None
    times = queue.attempts(since="1h")["time"].sort_values()
    assert times.diff().dropna().dt.round("s").tolist() == [pd.Timedelta(seconds=pause) for pause in (10, 20, 40)]


def test_a_leap_makes_one(tasks: ct.Client, queue: ct.Queue, target: Target, emulator: Emulator) -> None:
    """With wait=False the clock is moved at once, and a task that is due then is dispatched once."""
    target.script(500, 500)
    queue.enqueue(target.url, delay="10min", retry={"min_backoff": "2h", "max_attempts": 10})
    tasks.clock.advance(pd.Timedelta("1h"), wait=False)
    emulator.until(lambda: queue.tasks()["responses"].tolist() == [1])
    assert len(target.received) == 1


def test_states_and_due_times_are_those_of_the_service(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """A delay counts from the service's time, and what is due by it is ready, also for a batch."""
    tasks.clock.advance("2h")
    queue.pause()
    made = queue.enqueue(target.url, delay="30min")
    batch = queue.fan_out(pd.DataFrame({"a": [1]}), url=target.url, delay="30min", progress=False)
    assert made["state"].tolist() == ["scheduled"]
    assert pd.Timedelta("29min") < made["schedule_time"].iloc[0] - tasks.clock.now <= pd.Timedelta("30min")
    lapse = tasks.clock.advance("1h")
    assert lapse.waiting == {queue.id: "2 tasks waiting, the queue is paused: queue.resume()"}
    assert queue.tasks()["state"].tolist() == ["ready", "ready"]
    assert batch.tasks()["state"].tolist() == ["ready"]
    queue.resume()
    tasks.clock.run_until_idle()
    assert batch.progress().succeeded == 1


def test_another_process_moves_the_clock(tasks: ct.Client, queue: ct.Queue, emulator: Emulator) -> None:
    """The next answer of the service tells how far ahead it is, and after a reset that it no longer is."""
    queue.pause()
    emulator.advance(7200)
    assert len(queue.tasks()) == 0
    due = queue.enqueue("http://127.0.0.1:9/never", delay="10min")["schedule_time"].iloc[0]
    assert due > pd.Timestamp.now("UTC") + 2 * HOUR
    emulator.request("POST", "/admin/reset", {})
    tasks.queues()
    assert tasks._connection.clock.ahead == 0


def test_the_first_call_knows_the_time(emulator: Emulator, queue: ct.Queue) -> None:
    """A kernel that comes to an emulator with a moved clock asks for its time before it computes a delay."""
    emulator.advance(7200)
    code = (
        "import sys, cloudtasks_nb as ct\n"
        "with ct.connect('demo', 'us-central1', endpoint=sys.argv[1]) as tasks:\n"
        "    task = tasks.queue(sys.argv[2]).enqueue('http://127.0.0.1:9/never', delay='10min')\n"
        "    print((task['schedule_time'].iloc[0] - tasks.clock.now).round('min'))\n"
    )
    done = run(sys.executable, "-c", code, emulator.ready["grpc"], queue.id)
    assert done.stdout == "0 days 00:10:00\n", done.stderr


def test_a_batch_is_settled(tasks: ct.Client, target: Target) -> None:
    """When `run_until_idle` returns, every row of a failing batch is final, and the notification was delivered."""
    queue = tasks.queue("settled", create=True, max_attempts=4, min_backoff="10s")
    target.script(*[500] * 5)
    batch = queue.fan_out(pd.DataFrame({"a": range(2)}), url=target.url, delay="1min", progress=False)
    batch.on_complete(f"{target.url}/done")
    lapse = tasks.clock.run_until_idle()
    progress = batch.progress()
    assert (progress.done, progress.succeeded + progress.failed) == (2, 2)
    assert [one.path for one in target.received].count("/job/done") == 1
    assert lapse.attempts == len(target.received)
    assert lapse.waiting == {}
    assert batch.wait("240s") == progress or batch.wait("240s").done == 2


@pytest.mark.parametrize("move", ["advance", "run_until_idle"])
def test_rows_behind_a_canary(tasks: ct.Client, queue: ct.Queue, target: Target, move: str) -> None:
    """When it returns the batch knows of all attempts, also of rows that are sent after the canary has succeeded.

    Other tasks of the queue are due later.
    """
    queue.enqueue(target.url, delay="5h")
    batch = queue.fan_out(pd.DataFrame({"a": range(9)}), url=target.url, canary=2, delay="1h", progress=False)
    assert getattr(tasks.clock, move)("2h").attempts == 9
    assert batch.progress().succeeded == 9


def test_signed_tasks_after_days(tasks: ct.Client, queue: ct.Queue) -> None:
    """A token is valid by the clock of those who check it, however far the emulator's is ahead."""
    account, called = "a@p.iam.gserviceaccount.com", []
    with ct.serve(lambda: called.append(1), name="signed", service_account=account, tasks=tasks) as handler:
        queue.enqueue(handler, delay="3 days", service_account=account)
        assert tasks.clock.run_until_idle().attempts == 1
    assert called == [1]


def test_the_limit_ends_it(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """A task that always fails is attempted until the limit; the result says when the next attempt is due."""
    target.script(*[500] * 100)
    queue.enqueue(target.url, delay="30min", retry={"min_backoff": "1h", "max_backoff": "1h", "max_attempts": 100})
    lapse = tasks.clock.run_until_idle(limit="4h")
    assert lapse.attempts == 4
    assert lapse.waiting[queue.id].startswith("1 task waiting, the next one is due at ")


def test_an_interrupt_ends_it(
    tasks: ct.Client, queue: ct.Queue, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock stays where it is, no bar is left, and what was moved counts for the toolkit."""
    queue.enqueue(target.url, delay="1h")
    call = emulator_process.call_admin

    def interrupted(facts: Any, method: str, path: str, content: Any = None) -> Any:
        found = call(facts, method, path, content)
        if path == "clock/run":
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr("cloudtasks_nb.client.clock.call_admin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tasks.clock.run_until_idle()
    monkeypatch.undo()
    assert tasks.clock.run_until_idle().waiting == {}
    assert not [thread for thread in threading.enumerate() if "tqdm" in type(thread).__name__.lower()]


def test_only_an_emulator_has_a_clock_to_move() -> None:
    """With Google the time is that of this machine until it has answered, and the error says what to do instead."""
    with ct.connect("my-project", "us-central1") as google:
        assert abs(google.clock.now - pd.Timestamp.now("UTC")) < HOUR
        for move in (google.clock.advance, google.clock.run_until_idle):
            with pytest.raises(ct.errors.PreconditionError, match=r"ct\.local\(\).*queue\.run"):
                move("1h")


def test_the_clock_of_an_emulator_that_has_ended() -> None:
    """A notebook shows why there is no time instead of a traceback; `now` raises."""
    with Emulator() as gone, ct.connect("demo", "us-central1", endpoint=gone.ready["grpc"]) as tasks:
        clock = tasks.clock
        assert repr(clock).startswith("<Clock 2")
        gone.kill()
        assert re.fullmatch("<Clock: the emulator at .* does not answer: .*>", repr(clock))
        with pytest.raises(ct.errors.EmulatorError):
            _ = clock.now
