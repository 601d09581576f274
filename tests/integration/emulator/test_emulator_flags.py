"""The options that make the emulator kinder or more like the service than it is by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, NotFound

from tests.integration.conftest import LOCATION, Emulator, StartEmulator, Target, options

QUEUE = f"{LOCATION}/queues/flags"
TASK = {"parent": QUEUE, "task": {"name": f"{QUEUE}/tasks/a", "http_request": {"url": "http://127.0.0.1:9/"}}}


def test_hard_reset_on_purge(start_emulator: StartEmulator, tmp_path: Path) -> None:
    """With `--hard-reset-on-purge-queue` a purge frees the names, also those of tasks that went before it."""
    arguments = ("--hard-reset-on-purge-queue", "--queue", QUEUE, "--data-dir", str(tmp_path))
    first = start_emulator(*arguments)
    first.client.pause_queue(name=QUEUE)
    first.client.create_task(TASK)
    first.client.delete_task(name=f"{QUEUE}/tasks/a")
    first.client.purge_queue(name=QUEUE)
    first.client.create_task(TASK)
    first.client.purge_queue(name=QUEUE)
    first.kill()
    second = start_emulator(*arguments)
    assert list(second.client.list_tasks(parent=QUEUE)) == []
    assert second.client.create_task(TASK).name == f"{QUEUE}/tasks/a"


@options("--task-tombstone", "100", "--queue-tombstone", "50", "--queue", QUEUE)
def test_lives_of_tombstones(emulator: Emulator) -> None:
    """`--task-tombstone` and `--queue-tombstone` say for how long names stay taken."""
    emulator.client.pause_queue(name=QUEUE)
    emulator.client.create_task(TASK)
    emulator.client.delete_task(name=f"{QUEUE}/tasks/a")
    emulator.advance(90)
    with pytest.raises(AlreadyExists):
        emulator.client.create_task(TASK)
    emulator.advance(11)
    emulator.client.create_task(TASK)
    emulator.client.delete_queue(name=QUEUE)
    emulator.advance(40)
    with pytest.raises(FailedPrecondition):
        emulator.client.create_queue({"parent": LOCATION, "queue": {"name": QUEUE}})
    emulator.advance(11)
    emulator.client.create_queue({"parent": LOCATION, "queue": {"name": QUEUE}})
    assert emulator.client.create_task(TASK).name == f"{QUEUE}/tasks/a"


@options("--new-queue-delay", "3600")
def test_a_new_queue_takes_its_time(emulator: Emulator) -> None:
    """With `--new-queue-delay` a new queue is not found at first, as on the service."""
    emulator.client.create_queue({"parent": LOCATION, "queue": {"name": QUEUE}})
    with pytest.raises(NotFound, match="wait at least a minute for the queue to initialize"):
        emulator.client.create_task(TASK)
    emulator.advance(3590)
    with pytest.raises(NotFound):
        emulator.client.create_task(TASK)
    emulator.advance(11)
    assert emulator.client.create_task(TASK).name == f"{QUEUE}/tasks/a"


@options("--create-queues-on-demand")
def test_queues_on_demand(emulator: Emulator, target: Target) -> None:
    """With `--create-queues-on-demand` a task makes its queue."""
    emulator.client.create_task({"parent": QUEUE, "task": {"http_request": {"url": target.url}}})
    assert target.wait()[0].headers["x-cloudtasks-queuename"] == "flags"
    assert emulator.client.get_queue(name=QUEUE).name == QUEUE
