"""Cancelling a batch: many rows, others in the queue, and kernels that end before the deletion does."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Intercept
from tests.integration.fanout.conftest import PATIENCE, sent

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

URL = "http://127.0.0.1:9/run"
MANY = pd.DataFrame({"row": range(2500)})


class Calls:
    """The calls that change the queue, in their order; it can let one page be deleted and keep the answer."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.losing = False
        self.lost = threading.Event()

    async def __call__(self, call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        """Make a call, unless the kernel is about to end."""
        if rpc not in {"PauseQueue", "ResumeQueue", "BatchDeleteTasks"}:
            return await call()
        first = rpc not in self.made
        self.made.append(rpc)
        if not self.losing:
            return await call()
        if first:
            await call()
            self.lost.set()
        return await asyncio.Event().wait()


@pytest.fixture
def calls(intercept: Intercept) -> Calls:
    """Give the calls that change the queue."""
    made = Calls()
    intercept(made)
    return made


def many(queue: ct.Queue, **options: Any) -> ct.Batch:
    """Return a batch of many rows whose tasks are in the queue."""
    return sent(queue.fan_out(MANY, url=URL, **options))


@pytest.fixture(autouse=True)
def no_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a connection as a kernel is killed."""
    monkeypatch.setattr("cloudtasks_nb.fanout.batch.catalog._LAST_SECONDS", 0.0)


def end_within_a_cancel(tasks: ct.Client, batch: ct.Batch, calls: Calls) -> None:
    """End the kernel of a batch when tasks are deleted and it does not know yet."""
    calls.made.clear()
    calls.losing = True
    batch.cancel()
    assert calls.lost.wait(PATIENCE)
    tasks.close()
    calls.losing = False


def taken_up(batch: ct.Batch) -> ct.Batch:
    """Open the batch, and do no more."""
    return batch


@pytest.mark.parametrize("verb", [taken_up, ct.Batch.cancel])
def test_the_next_kernel_ends_a_cancel(
    tasks: ct.Client,
    other: ct.Client,
    paused: ct.Queue,
    calls: Calls,
    capsys: pytest.CaptureFixture[str],
    verb: Callable[[ct.Batch], ct.Batch],
) -> None:
    """The rows that the killed kernel deleted are cancelled, not gone, and so are the rest; a note reports it."""
    end_within_a_cancel(tasks, many(paused), calls)
    batch = verb(other.batch())
    progress = batch.wait("240s")
    assert (progress.cancelled, progress.gone) == (2500, 0)
    out = capsys.readouterr().out
    assert f'2,500 rows are left: they may run until it is opened: tasks.batch("{batch.id}")' in out
    expected = f"batch {batch.id} was being cancelled by another connection: the remaining tasks are deleted now\n"
    assert out.count(expected) in ([1] if verb is taken_up else [0, 1])  # opened, it may take up the cancel first
    assert other.queue(batch.queue).tasks().empty


def test_a_cancel_deletes_each_task_once(queue: ct.Queue, calls: Calls) -> None:
    """In calls of 1,000, also if it is wished twice; the queue itself is left alone."""
    batch = many(queue, delay="1h")
    calls.made.clear()
    assert batch.cancel().cancel().wait("240s").cancelled == 2500
    assert calls.made == ["BatchDeleteTasks"] * 3
