"""Retries of failed tasks, the limits that end them, and limits of queues; the tests advance the emulator's clock."""

import tomllib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cases import cases
from tests.integration.conftest import Answer, Emulator, Target

RETRIES = tomllib.loads(Path(__file__).with_name("retries.toml").read_text(encoding="utf-8"))


def delays(emulator: Emulator, name: str, count: int) -> list[float]:
    """Fail `count` attempts of a task, moving the clock to the next each time; give the seconds between."""
    found = []
    for number in range(1, count + 1):
        task = emulator.answered(name, number)
        delay = task.schedule_time - task.last_attempt.response_time
        found.append(round(delay.total_seconds(), 3))
        emulator.advance(delay.total_seconds())
    return found


@pytest.mark.parametrize(("retry", "expected"), RETRIES["rows"])
@pytest.mark.parametrize("level", ["queue", "task"])
def test_the_documented_retries(
    emulator: Emulator, target: Target, level: str, retry: dict[str, Any], expected: list[float]
) -> None:
    """The delays double, then grow evenly, then stay; at a limit the task is deleted; its own configuration wins."""
    other: dict[str, Any] = {"retry_config": {"min_backoff": {"seconds": 1000}}}
    queue = emulator.make_queue(**({"retry_config": retry} if level == "queue" else other))
    target.script(*[500] * 10)
    task = emulator.enqueue(queue, target.url, **({"retry_config": retry} if level == "task" else {}))
    assert delays(emulator, task.name, len(expected)) == expected
    assert "no longer exists" in emulator.gone(task.name)
    assert len(target.received) == len(expected) + 1


@cases(
    (503, "120", 120),
    (429, "5", 10),  # the backoff is longer
    (429, timedelta(hours=2), 7_200),
    (429, timedelta(days=-1), 10),
    (503, "soon", 10),
    (500, "120", 10),
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


@cases(
    # The eleventh task would be sent after a hundred seconds, longer than a test waits.
    ({"max_dispatches_per_second": 0.01}, {"max_dispatches_per_second": 500}, 10),
    ({"max_concurrent_dispatches": 1}, {"max_concurrent_dispatches": 12}, 1),
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
