"""Fixtures of the emulator's tests: queues and tasks that Google's own client makes."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from google.cloud import tasks_v2
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.types import LogEntry
from google.protobuf.json_format import MessageToDict

from tests.integration.conftest import Emulator, Target
from tests.web import Request

#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9/"
#: Settings of a queue that retries at once, and of one that writes a log.
QUICK = {"min_backoff": {"nanos": 1_000_000}, "max_backoff": {"nanos": 1_000_000}}
LOGGED = {"stackdriver_logging_config": {"sampling_ratio": 1.0}}


def batch(queue: str, count: int = 100, **http: object) -> dict[str, object]:
    """Build a BatchCreateTasksRequest with tasks that are all the same."""
    task = {"http_request": {"url": NOWHERE, **http}}
    return {"parent": queue, "requests": [{"parent": queue, "task": task}] * count}


def log_entries(emulator: Emulator, queue: str, count: int = 0) -> list[dict[str, Any]]:
    """Read a queue's entries in the log as JSON, oldest first, as soon as there are so many."""
    client = emulator.connect(LoggingServiceV2Client)
    query = {"resource_names": ["projects/demo"], "order_by": "timestamp asc", "page_size": 1000}
    query["filter"] = f'resource.labels.queue_id="{queue.rpartition("/")[2]}"'

    def read() -> list[dict[str, Any]] | None:
        found = [MessageToDict(LogEntry.pb(entry)) for entry in client.list_log_entries(query)]
        return found if len(found) >= count else None

    return emulator.until(read)


def counts(request: Request, prefix: str = "x-cloudtasks-") -> tuple[str | None, ...]:
    """Give the retry count, the execution count, the previous response and the retry reason of a request."""
    names = ("taskretrycount", "taskexecutioncount", "taskpreviousresponse", "taskretryreason")
    return tuple(request.headers.get(prefix + name) for name in names)


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
