"""Queues with statistics: `google.cloud.tasks.v2beta3`, through Google's own client."""

from datetime import timedelta

import pytest
from google.cloud import tasks_v2beta3

from tests.integration.conftest import Emulator, Target
from tests.integration.emulator.conftest import NOWHERE

BOTH_TRANSPORTS = True


@pytest.fixture
def beta(emulator: Emulator) -> tasks_v2beta3.CloudTasksClient:
    """Give Google's v2beta3 client on the emulator."""
    client: tasks_v2beta3.CloudTasksClient = emulator.connect(tasks_v2beta3.CloudTasksClient)
    return client


def stats(beta: tasks_v2beta3.CloudTasksClient, queue: str) -> tasks_v2beta3.QueueStats:
    """Read a queue's statistics."""
    return beta.get_queue({"name": queue, "read_mask": "stats"}).stats


def test_the_counts_follow_the_tasks(beta: tasks_v2beta3.CloudTasksClient, emulator: Emulator, target: Target) -> None:
    """Waiting and running tasks, and the answers of the last minute, are counted."""
    queue = emulator.make_queue(rate_limits={"max_concurrent_dispatches": 1})
    held = target.hold()
    target.script(held)
    tasks = [emulator.enqueue(queue, target.url) for _ in range(3)]
    target.wait()
    running = stats(beta, queue)
    found = (running.tasks_count, running.concurrent_dispatches_count, running.executed_last_minute_count)
    assert found == (3, 1, 0)
    held.release()
    for task in tasks:
        emulator.gone(task.name)
    done = stats(beta, queue)
    assert (done.tasks_count, done.concurrent_dispatches_count, done.executed_last_minute_count) == (0, 0, 3)
    assert "oldest_estimated_arrival_time" not in done
    emulator.advance(61)
    assert stats(beta, queue).executed_last_minute_count == 0


def test_the_next_schedule_time(beta: tasks_v2beta3.CloudTasksClient, emulator: Emulator, paused: str) -> None:
    """`oldest_estimated_arrival_time` is the nearest schedule time, and the rate is the queue's."""
    now = emulator.enqueue(paused, NOWHERE).schedule_time
    (first,) = emulator.client.list_tasks(parent=paused)
    emulator.client.delete_task(name=first.name)
    for hours in (5, 2, 9):
        emulator.enqueue(paused, NOWHERE, schedule_time=now + timedelta(hours=hours))
    shown = stats(beta, paused)
    assert shown.oldest_estimated_arrival_time == now + timedelta(hours=2)
    assert shown.effective_execution_rate == 500
