"""Bad input: one clear error that names the thing and the next step, and nothing half-done stays behind."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.integration.conftest import Intercept, impatient
from tests.interrupts import interrupt, interruptible
from tests.raising import raises

URL = "https://svc.example.com/run"


def test_an_id_that_is_taken(paused: ct.Queue) -> None:
    """The error names the id and the time when it is free again."""
    paused.enqueue(URL, {"n": 1}, task_id="t")
    with raises(errors.AlreadyExistsError, 'a task "t" in queue', hint="another task_id"):
        paused.enqueue(URL, {"n": 2}, task_id="t")
    assert paused.tasks(body=True).body.to_list() == [{"n": 1}]


def test_a_queue_for_a_name(tasks: ct.Client, queue: ct.Queue) -> None:
    """A Queue is as good as its full name, also to change its settings."""
    assert tasks.queue(queue, create=True, rate=5).name == queue.name
    assert tasks.queues().rate[queue.id] == 5


def test_an_emulator_of_the_environment_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """The error says that a variable leads there."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"127.0.0.1:{free_port}")
    with impatient() as tasks, pytest.raises(errors.EndpointError, match="which CLOUD_TASKS_EMULATOR_HOST names"):
        tasks.queues()


def test_an_interrupted_verb_leaves_the_connection_usable(queue: ct.Queue, intercept: Intercept) -> None:
    """After an interrupt the next cell works."""
    calls: list[str] = []

    async def interrupt_first(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        calls.append(rpc)
        if len(calls) == 1:
            interrupt()
        return await call()

    def cell() -> None:
        for _ in range(1000):
            queue.tasks()

    intercept(interrupt_first)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        cell()
    assert len(queue.tasks()) == 0
