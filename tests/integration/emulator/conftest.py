"""Fixtures of the emulator's tests: queues and tasks that Google's own client makes."""

from __future__ import annotations

import pytest
from google.cloud import tasks_v2

from tests.integration.conftest import Emulator, Target

__all__ = ["NOWHERE"]

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def queue(emulator: Emulator) -> str:
    """Create one queue with Google's defaults."""
    return emulator.make_queue()


@pytest.fixture
def paused(emulator: Emulator, queue: str) -> str:
    """Give a queue that sends nothing."""
    emulator.client.pause_queue(name=queue)
    return queue


@pytest.fixture
def failed_once(emulator: Emulator, target: Target) -> tasks_v2.Task:
    """Create a task whose first attempt the target refuses; the next one is due after 5 s, when the clock is moved."""
    queue = emulator.make_queue(retry_config={"min_backoff": {"seconds": 5}})
    target.script(500)
    return emulator.answered(emulator.enqueue(queue, target.url).name, 1)
