"""Retries of failed tasks, the limits that end them, and limits of queues; the tests advance the emulator's clock."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.integration.conftest import Answer, Emulator, Target
from tests.integration.emulator.conftest import QUICK


def delays(emulator: Emulator, name: str, count: int) -> list[float]:
    """Fail `count` attempts of a task, moving the clock to the next each time; give the seconds between."""
    found = []
    for number in range(1, count + 1):
        task = emulator.answered(name, number)
        delay = task.schedule_time - task.last_attempt.response_time
        found.append(round(delay.total_seconds(), 3))
        emulator.advance(delay.total_seconds())
    return found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues#RetryConfig
        ({"min": 10, "max": 300, "doublings": 3}, [10, 20, 40, 80, 160, 240, 300, 300]),
        ({"min": 10, "max": 45, "doublings": 1}, [10, 20, 40, 45, 45]),
        ({"min": 1, "max": 5, "doublings": 16}, [1, 2, 4, 5, 5]),
        ({"min": 7, "max": 7, "doublings": 5}, [7, 7, 7]),
    ],
)
@pytest.mark.parametrize("level", ["queue", "task"])
def test_the_documented_backoff(
    emulator: Emulator, target: Target, level: str, config: dict[str, int], expected: list[float]
) -> None:
    """The delays double, then grow evenly, then stay at the maximum; a task's own configuration wins."""
    backoffs = {f"{name}_backoff": {"seconds": config[name]} for name in ("min", "max")}
    retry = {"max_attempts": 50, "max_doublings": config["doublings"], **backoffs}
    other: dict[str, Any] = {"retry_config": {"min_backoff": {"seconds": 1000}}}
    queue = emulator.make_queue(**({"retry_config": retry} if level == "queue" else other))
    target.script(*[500] * len(expected))
    task = emulator.enqueue(queue, target.url, **({"retry_config": retry} if level == "task" else {}))
    assert delays(emulator, task.name, len(expected)) == expected
    emulator.gone(task.name)
    assert len(target.received) == len(expected) + 1


@pytest.mark.parametrize(
    ("status", "header", "expected"),
    [
        (503, "120", 120),
        (429, "5", 10),  # the backoff is longer
        (429, timedelta(hours=2), 7_200),
        (429, timedelta(days=-1), 10),
        (503, "soon", 10),
        (500, "120", 10),
    ],
)
def test_the_target_says_when_to_retry(
    emulator: Emulator, target: Target, status: int, header: str | timedelta, expected: int
) -> None:
    """`Retry-After`, seconds or a date, is considered with 429 and 503: the later of it and the backoff counts."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 10}})
    dated = isinstance(header, timedelta)
    text = format_datetime(datetime.now(UTC) + header, usegmt=True) if isinstance(header, timedelta) else header
    target.script(Answer(status=status, headers={"Retry-After": text}))
    (delay,) = delays(emulator, emulator.enqueue(queue, target.url).name, 1)
    assert delay == pytest.approx(expected, abs=60 if dated and expected > 10 else 0.001)


def test_no_doublings(emulator: Emulator, target: Target) -> None:
    """A queue whose doublings are set to 0 by name adds the minimum each time."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 10}, "max_backoff": {"seconds": 45}})
    mask = {"paths": ["retry_config.max_doublings"]}
    emulator.client.update_queue({"queue": {"name": queue, "retry_config": {"max_doublings": 0}}, "update_mask": mask})
    target.script(*[500] * 6)
    assert delays(emulator, emulator.enqueue(queue, target.url).name, 6) == [10, 20, 30, 40, 45, 45]


def test_the_next_attempts_eta(emulator: Emulator, target: Target) -> None:
    """A retry's TaskETA is the schedule time that GetTask showed."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 30}})
    target.script(500)
    failed = emulator.answered(emulator.enqueue(queue, target.url).name, 1)
    emulator.advance(31)
    eta = float(target.wait(2)[1].headers["x-cloudtasks-tasketa"])
    assert abs(eta - failed.schedule_time.timestamp()) < 2e-6


def test_a_future_task_is_sent_when_it_is_due(emulator: Emulator, queue: str, target: Target) -> None:
    """A task with a future schedule time waits; tasks that are due earlier are sent first."""
    first = emulator.enqueue(queue, target.url)
    later = emulator.enqueue(queue, target.url, schedule_time=first.schedule_time + timedelta(days=20))
    sooner = emulator.enqueue(queue, target.url, schedule_time=first.schedule_time + timedelta(hours=1))
    emulator.gone(first.name)  # an advance ends what is still under way: its deadline is over
    emulator.advance(3_600)
    second = target.wait(2)[1]
    assert sooner.name.endswith(second.headers["x-cloudtasks-taskname"])
    emulator.gone(sooner.name)
    assert emulator.client.get_task(name=later.name).dispatch_count == 0
    emulator.advance(20 * 86_400)
    assert later.name.endswith(target.wait(3)[2].headers["x-cloudtasks-taskname"])


@pytest.mark.parametrize(("level", "attempts"), [("queue", 1), ("queue", 3), ("task", 1), ("task", 2)])
def test_max_attempts(emulator: Emulator, target: Target, level: str, attempts: int) -> None:
    """After its last attempt a task is deleted, whether the number is the queue's or its own."""
    limited = {"max_attempts": attempts, **QUICK}
    queue = emulator.make_queue(retry_config=limited if level == "queue" else QUICK)
    target.script(*[500] * 10)
    task = emulator.enqueue(queue, target.url, **({"retry_config": limited} if level == "task" else {}))
    assert "no longer exists" in emulator.gone(task.name)
    assert len(target.received) == attempts


@pytest.mark.parametrize(
    ("attempts", "duration", "backoff", "expected"),
    [(2, 100, 60, [60, 60]), (-1, 50, 20, [20, 20, 20])],
    ids=["both limits", "duration alone"],
)
def test_a_retry_duration_ends_a_task(
    emulator: Emulator, target: Target, attempts: int, duration: int, backoff: int, expected: list[float]
) -> None:
    """A task is retried until its attempts and its duration, counted from the first attempt, are both used up."""
    pause = {"min_backoff": {"seconds": backoff}, "max_backoff": {"seconds": backoff}}
    limits = {"max_attempts": attempts, "max_retry_duration": {"seconds": duration}}
    target.script(*[500] * 10)
    task = emulator.enqueue(emulator.make_queue(retry_config={**limits, **pause}), target.url)
    assert delays(emulator, task.name, len(expected)) == expected
    emulator.gone(task.name)
    assert len(target.received) == len(expected) + 1


def test_a_changed_configuration_counts_for_waiting_tasks(emulator: Emulator, target: Target) -> None:
    """UpdateQueue lowers the attempts of tasks that are in the queue already."""
    queue = emulator.make_queue(retry_config={"max_attempts": 100, "min_backoff": {"seconds": 10}})
    target.script(500, 500, 500)
    task = emulator.enqueue(queue, target.url)
    emulator.answered(task.name, 1)
    emulator.client.update_queue({"queue": {"name": queue, "retry_config": {"max_attempts": 2}}})
    emulator.advance(10)
    emulator.gone(task.name)
    assert len(target.received) == 2


def test_concurrency_is_bounded(emulator: Emulator, target: Target) -> None:
    """No more attempts are open than `max_concurrent_dispatches`; the next begins when one ends."""
    queue = emulator.make_queue(rate_limits={"max_concurrent_dispatches": 2})
    held = [target.hold() for _ in range(4)]
    target.script(*held)
    for _ in range(4):
        emulator.enqueue(queue, target.url)
    target.wait(2)
    assert _running(emulator, queue) == 2
    held[0].release()
    target.wait(3)
    assert _running(emulator, queue) == 2
    for one in held:
        one.release()
    target.wait(4)


def _running(emulator: Emulator, queue: str) -> int:
    return sum(task.dispatch_count - task.response_count for task in emulator.client.list_tasks(parent=queue))


def test_the_rate_is_a_token_bucket(emulator: Emulator, target: Target) -> None:
    """A burst is sent at once; further tasks wait for the rate."""
    queue = emulator.make_queue(rate_limits={"max_dispatches_per_second": 0.01})
    burst = emulator.client.get_queue(name=queue).rate_limits.max_burst_size
    for _ in range(burst + 2):
        emulator.enqueue(queue, target.url)
    target.wait(burst)
    (*_, last) = emulator.client.list_tasks(parent=queue)
    assert last.dispatch_count == 0
    emulator.advance(100)
    target.wait(burst + 1)
    emulator.until(lambda: len(list(emulator.client.list_tasks(parent=queue))) == 1)
    emulator.advance(100)
    target.wait(burst + 2)


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        # The eleventh task would be sent after a hundred seconds, longer than a test waits.
        ({"max_dispatches_per_second": 0.01}, {"max_dispatches_per_second": 500}, 10),
        ({"max_concurrent_dispatches": 1}, {"max_concurrent_dispatches": 12}, 1),
    ],
)
def test_higher_limits_count_at_once(
    emulator: Emulator, target: Target, before: dict[str, Any], after: dict[str, Any], first: int
) -> None:
    """Tasks that wait for the rate of their queue, or for another attempt to end, are sent when the limit is raised."""
    queue = emulator.make_queue(rate_limits=before)
    target.script(*(target.hold() for _ in range(12)))
    for _ in range(12):
        emulator.enqueue(queue, target.url)
    assert len(target.wait(first)) == first
    emulator.client.update_queue({"queue": {"name": queue, "rate_limits": after}})
    assert len(target.wait(12)) == 12
