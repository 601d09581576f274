"""Nothing that was acknowledged is lost, not even by SIGKILL."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable
from google.cloud import tasks_v2

from tests.integration.conftest import DEADLINE, LOCATION, Emulator, StartEmulator, Target
from tests.integration.emulator.conftest import LOGGED, NOWHERE, log_entries

QUEUE = f"{LOCATION}/queues/durable"
TASKS = 5_000
WORKERS = 16
NAMES = [f"{QUEUE}/tasks/t{number}" for number in range(TASKS)]


def request(name: str, **task: object) -> dict[str, Any]:
    """Build a CreateTaskRequest."""
    return {"parent": QUEUE, "task": {"name": name, "http_request": {"url": NOWHERE}, **task}}


def make_queue(emulator: Emulator, **fields: object) -> None:
    """Create the queue of these tests."""
    emulator.client.create_queue({"parent": LOCATION, "queue": {"name": QUEUE, **fields}})


class Killing:
    """Creates tasks and kills the emulator as soon as enough of them were acknowledged."""

    def __init__(self, emulator: Emulator, enough: int) -> None:
        self._emulator = emulator
        self._enough = enough
        self._lock = threading.Lock()
        self.acknowledged: list[str] = []

    def create(self, names: list[str]) -> None:
        """Create tasks, one with CreateTask and several with BatchCreateTasks, and note the acknowledged ones."""
        client = self._emulator.client
        try:
            if len(names) == 1:
                made = [client.create_task(request(names[0]), timeout=DEADLINE)]
            else:
                batch = {"parent": QUEUE, "requests": [request(name) for name in names]}
                made = client.batch_create_tasks(batch, timeout=DEADLINE).result().tasks
        except ServiceUnavailable:
            return
        with self._lock:
            self.acknowledged += [task.name for task in made]
            if len(self.acknowledged) >= self._enough:
                self._emulator.process.kill()


@pytest.mark.parametrize("chunk", [1, 100])
def test_a_kill_in_the_middle_of_creates(start_emulator: StartEmulator, tmp_path: Path, chunk: int) -> None:
    """Every task that was acknowledged is there after the restart, and none twice; the log has all that are there."""
    first = start_emulator("--data-dir", str(tmp_path))
    make_queue(first, **LOGGED)
    first.client.pause_queue(name=QUEUE)
    killing = Killing(first, TASKS // 4)
    chunks = [NAMES[start : start + chunk] for start in range(0, TASKS, chunk)]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(killing.create, chunks))
    assert TASKS // 4 <= len(killing.acknowledged) < TASKS

    second = start_emulator("--data-dir", str(tmp_path))
    assert second.ready["instance"] == first.ready["instance"]
    assert second.client.get_queue(name=QUEUE).state == tasks_v2.Queue.State.PAUSED
    listed = [task.name for task in second.client.list_tasks(parent=QUEUE)]
    assert set(killing.acknowledged) <= set(listed) <= set(NAMES)
    assert len(listed) == len(set(listed))
    assert [entry["jsonPayload"]["task"] for entry in log_entries(second, QUEUE)] == listed

    for start in range(0, TASKS, 100):
        batch = [request(name) for name in NAMES[start : start + 100]]
        second.client.batch_create_tasks({"parent": QUEUE, "requests": batch})
    assert sorted(task.name for task in second.client.list_tasks(parent=QUEUE)) == sorted(NAMES)


def test_a_kill_in_the_middle_of_dispatches(start_emulator: StartEmulator, tmp_path: Path, target: Target) -> None:
    """After a kill every task reaches its target, and finished tasks are not sent again."""
    first = start_emulator("--data-dir", str(tmp_path))
    make_queue(first, rate_limits={"max_concurrent_dispatches": 4})
    first.client.pause_queue(name=QUEUE)
    for start in range(0, 400, 100):
        batch = [request(name, http_request={"url": target.url}) for name in NAMES[start : start + 100]]
        first.client.batch_create_tasks({"parent": QUEUE, "requests": batch})
    first.client.resume_queue(name=QUEUE)
    target.wait(100)
    first.kill()

    second = start_emulator("--data-dir", str(tmp_path))
    second.drained(QUEUE)
    arrived = Counter(received.headers["x-cloudtasks-taskname"] for received in target.received)
    assert set(arrived) == {name.rpartition("/")[2] for name in NAMES[:400]}
    assert arrived.total() - len(arrived) <= 100
