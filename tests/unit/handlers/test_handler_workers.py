"""Worker threads and the event loop for coroutines."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from unittest.mock import Mock

import pytest

from cloudtasks_nb.handlers.workers import CoroutineRunner, Workers, WorkersClosedError


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Give two threads, which end after the test."""
    made = Workers(2, "test")
    yield made
    assert made.close(20) == 0


def test_an_exception_is_in_the_future_and_the_thread_goes_on() -> None:
    """Even an exit in a job ends neither the thread nor the process; closed workers take no job."""
    workers = Workers(1, "test")
    with pytest.raises(SystemExit):
        workers.submit(Mock(side_effect=SystemExit(1))).result(240)
    assert workers.submit(lambda: 7).result(240) == 7
    assert workers.close(20) == 0
    with pytest.raises(WorkersClosedError):
        workers.submit(lambda: 1)


def test_a_cancelled_job_does_not_run() -> None:
    """A request that was cancelled while it was queued is left out."""
    workers = Workers(1, "test")
    go, ran = threading.Event(), list[str]()
    workers.submit(lambda: go.wait(240))
    second, third = (workers.submit(partial(ran.append, name)) for name in ("second", "third"))
    assert second.cancel()
    go.set()
    third.result(240)
    assert ran == ["third"]
    workers.close(20)


def test_a_job_may_close_its_own_threads(workers: Workers) -> None:
    """A thread does not wait for itself."""
    assert workers.submit(lambda: workers.close(20)).result(240) == 0


def test_closing_cancels_coroutines_that_run() -> None:
    """A coroutine that waits for ever ends with the loop, and its caller gets CancelledError."""
    coroutines = CoroutineRunner("test")
    began = threading.Event()
    ended: list[str] = []

    async def for_ever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("clean")

    workers = Workers(1, "test")
    future = workers.submit(lambda: coroutines.run(for_ever()))
    assert began.wait(240)
    coroutines.close(20)
    assert isinstance(future.exception(20), CancelledError)
    assert ended == ["clean"]
    workers.close(20)


def test_a_loop_is_closed_by_anybody() -> None:
    """One that was not started can be closed, however often; the loop's own thread does not wait for itself."""
    coroutines = CoroutineRunner("test")
    for _ in range(2):
        coroutines.close(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]
    started = CoroutineRunner("test")

    async def close() -> str:
        started.close(20)
        return "returned"

    assert started.run(close()) == "returned"
