"""A bad day of an operator: in each situation the status has the word, the reason with its number, and what helps."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Answer, Emulator, Target, impatient, until
from tests.integration.fanout.conftest import Serve, outcomes, reached

ROWS = [{"row": row} for row in range(100)]
MOMENT = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
THROTTLED = r"last errors of rows that are tried again: RESOURCE_EXHAUSTED 100; the next attempt is due at " + MOMENT


@dataclass(frozen=True)
class Day:
    """What a situation is made of."""

    tasks: ct.Client
    target: Target
    serve: Serve

    def fan_out(self, url: Any = None, *, settings: dict[str, Any] | None = None, **options: Any) -> ct.Batch:
        """Send rows to a queue with some settings."""
        queue = self.tasks.queue("nightly", create=True, **(settings or {}))
        batch: ct.Batch = queue.fan_out(ROWS, url=url or self.target.url, progress=False, **options)
        return batch


def work(row: int) -> float:
    """Fail for one row."""
    return 1 / (row - 13)


def fail(row: int) -> None:
    """Fail for three reasons."""
    raise (KeyError, ValueError, OSError)[row % 3](f"no data for {row % 3}")


def paused(day: Day) -> ct.Batch:
    """Pause the queue."""
    day.tasks.queue("nightly", create=True).pause()
    return day.fan_out()


def one_at_a_time(day: Day) -> ct.Batch:
    """Let the only attempt that the queue makes take long."""
    day.target.script(day.target.hold())
    return day.fan_out(settings={"max_concurrent": 1})


def throttled(day: Day) -> ct.Batch:
    """Answer 429 with the time after which to come back."""
    day.target.script(*[Answer(status=429, headers={"Retry-After": "120"})] * 100)
    return day.fan_out()


def behind(day: Day) -> ct.Batch:
    """Send a batch before it, of which one attempt takes long."""
    day.target.script(day.target.hold())
    day.fan_out(settings={"max_concurrent": 1}, name="earlier")
    return day.fan_out(url=f"{day.target.url}/later")


def cancelled(day: Day) -> ct.Batch:
    """Cancel all that waits."""
    batch = paused(day)
    batch.cancel()
    return batch


def braked(day: Day) -> ct.Batch:
    """Hold rows back when too many fail."""
    day.target.script(*[400] * 200)
    return day.fan_out(settings={"max_attempts": 1}, pause_at=20, send_rate=40)


Make = Callable[[Day], ct.Batch]
SITUATIONS: dict[str, tuple[Make, str, str, str | None]] = {
    "a paused queue": (paused, "paused", "the queue nightly is paused and dispatches nothing", "queue.resume()"),
    "one at a time": (one_at_a_time, "running", r"at the queue's limit of 1 at a time \(max_concurrent\).*", None),
    "throttled": (throttled, "failing", THROTTLED, "batch.errors()"),
    "a poison row": (
        lambda day: day.fan_out(day.serve(work), settings={"max_attempts": 1}),
        "failed",
        r"1 failed \(ZeroDivisionError: division by zero 1\)",
        "batch.retry_failed()",
    ),
    "three causes": (
        lambda day: day.fan_out(day.serve(fail), settings={"max_attempts": 1}),
        "failed",
        "100 failed "
        + re.escape("(KeyError: no data for 0 … and 33 like it, ")
        + re.escape("OSError: no data for 2 … and 32 like it, ValueError: no data for 1 … and 32 like it)"),
        "batch.retry_failed()",
    ),
    "a brake": (
        braked,
        "held",
        r"paused: \d\d of \d\d rows failed .*: the other \d\d rows are not sent",
        "batch.resume()",
    ),
    "the queue's rate": (
        lambda day: day.fan_out(settings={"rate": 5}),
        "running",
        f"at the queue's limit of 5/s, not before {MOMENT}",
        None,
    ),
    "a batch before it": (behind, "running", r"100 tasks of batch \w+ before it.*", None),
    "cancelled": (
        cancelled,
        "cancelled",
        "100 cancelled",
        "batch.resend(batch.tasks().query(\"state == 'cancelled'\"))",
    ),
    "later": (lambda day: day.fan_out(delay="6h"), "running", f"100 rows are scheduled for {MOMENT}", None),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_the_status_says(tasks: ct.Client, emulator: Emulator, target: Target, serve: Serve, name: str) -> None:
    """Also two minutes later, as far as it still holds: only a success ends `failing`."""
    make, state, reason, action = SITUATIONS[name]
    batch = make(Day(tasks, target, serve))

    def said(progress: ct.Progress) -> bool:
        found = re.fullmatch(reason, progress.reason or "")
        return found is not None and (progress.state, progress.action) == (state, action)

    reached(batch, said)
    if state == "failing":
        target.script(*[Answer(status=429, headers={"Retry-After": "1200"})] * 100)
        emulator.advance(150)
        reached(batch, lambda progress: progress.retrying == len(ROWS) and said(progress))


def test_a_target_that_does_not_listen(free_port: int) -> None:
    """The batch goes on by itself when one does, as the reason says."""
    with ct.local() as tasks:
        batch = Day(tasks, None, None).fan_out(f"http://127.0.0.1:{free_port}/night")  # type: ignore[arg-type]  # not used
        found = reached(batch, lambda progress: progress.state == "stopped")
        waits = f"no handler listens at 127.0.0.1:{free_port}: its tasks wait, and no attempt is spent"
        assert found.reason == f"{waits}; the batch goes on by itself when one does"
        with Target(free_port):
            assert outcomes(batch) == (len(ROWS), 0, 0)


def test_a_service_that_is_gone(emulator: Emulator, start_emulator: Callable[[], Emulator]) -> None:
    """It is told since when, and what brings the batch back."""
    own = start_emulator()
    with impatient("demo", "us-central1", own.ready["grpc"]) as tasks:
        tasks.queue("nightly", create=True).pause()
        batch = tasks.queue("nightly").fan_out(ROWS, url="https://svc.example/run", progress=False)
        reached(batch, lambda progress: progress.state == "paused")
        own.kill()
        found = reached(batch, lambda progress: progress.state == "stopped")
    assert re.search(rf"nothing answers at .* since {MOMENT}", found.reason), found.reason


def test_late_tasks_without_a_batch(free_port: int) -> None:
    """The queue tells when the first of them was due, though its target does not listen."""
    with ct.local() as tasks:
        mail, queue = f"http://127.0.0.1:{free_port}/mail", tasks.queue("mailer", create=True)
        due, *_ = [queue.schedule(mail, delay=f"{late}m")["schedule_time"].min() for late in (1, 2, 3)]
        tasks.clock.advance("2h")
        until(lambda: tasks.queues()["oldest_due"]["mailer"] == due)
