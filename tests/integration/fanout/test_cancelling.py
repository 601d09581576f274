"""Cancelling a batch of many rows; kernels that end before that are in `test_other_kernels.py`, and in the model."""

from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd

import cloudtasks_nb as ct
from tests.integration.conftest import Intercept
from tests.integration.fanout.conftest import sent

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True


def test_a_cancel_deletes_each_task_once(queue: ct.Queue, intercept: Intercept) -> None:
    """In calls of 1,000, also if it is wished twice; the queue itself is left alone."""
    made = list[str]()

    async def call(rpc: Callable[[], Awaitable[Any]], name: str, _: dict[str, Any]) -> Any:
        made.extend([name] if name in {"PauseQueue", "ResumeQueue", "BatchDeleteTasks"} else [])
        return await rpc()

    batch = sent(queue.fan_out(pd.DataFrame({"row": range(2500)}), url="http://127.0.0.1:9/run", delay="1h"))
    intercept(call)
    assert batch.cancel().cancel().wait("240s").cancelled == 2500
    assert made == ["BatchDeleteTasks"] * 3
