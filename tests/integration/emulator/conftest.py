"""Fixtures of the emulator's tests: queues and tasks that Google's own client makes."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from google.cloud import tasks_v2

from tests.integration.conftest import Emulator, Target

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9/"
#: Settings of a queue that retries at once, and of one that writes a log.
QUICK = {"min_backoff": {"nanos": 1_000_000}, "max_backoff": {"nanos": 1_000_000}}
LOGGED = {"stackdriver_logging_config": {"sampling_ratio": 1.0}}


def batch(queue: str, count: int = 100, **http: object) -> dict[str, object]:
    """Build a BatchCreateTasksRequest with tasks that are all the same."""
    task = {"http_request": {"url": NOWHERE, **http}}
    return {"parent": queue, "requests": [{"parent": queue, "task": task}] * count}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what a test has opened."""
    with ExitStack() as opened:
        yield opened


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
