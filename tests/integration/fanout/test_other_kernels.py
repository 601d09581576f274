"""A cancel is carried out, once, by whatever kernel; faults and other homes are those of the model of a batch."""

import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, Intercept
from tests.integration.fanout.conftest import sent
from tests.processes import run

MANY = pd.DataFrame({"n": range(3_000)})
URL = "http://127.0.0.1:9/run"
CANCEL = """
import os, sys
import cloudtasks_nb as ct
ct.connect("demo", "us-central1", endpoint=sys.argv[1]).batch(sys.argv[2]).cancel()
if len(sys.argv) > 3:
    os.kill(os.getpid(), int(sys.argv[3]))
"""


@pytest.mark.parametrize("end", [None, signal.SIGKILL], ids=["its last line", "killed"])
def test_a_script_that_ends_with_a_cancel(queue: ct.Queue, emulator: Emulator, end: signal.Signals | None) -> None:
    """The cancel is carried out before the script ends; if that is killed, by who has the batch open."""
    batch = sent(queue.fan_out(MANY, url=URL, delay="1h"))
    ended = run(
        sys.executable, "-c", CANCEL, emulator.ready["grpc"], batch.id, *([] if end is None else [str(end.value)])
    )
    assert (ended.returncode, ended.stderr) == (0 if end is None else -end, "")
    assert batch.wait("240s").cancelled == len(MANY)
    assert batch.status().state == "cancelled"
    assert queue.tasks().empty


def test_a_cancel_deletes_each_task_once(queue: ct.Queue, intercept: Intercept) -> None:
    """In calls of 1,000, also if it is wished twice; the queue itself is left alone."""
    made = list[str]()

    async def call(rpc: Callable[[], Awaitable[Any]], name: str, _: dict[str, Any]) -> Any:
        made.extend([name] if name in {"PauseQueue", "ResumeQueue", "BatchDeleteTasks"} else [])
        return await rpc()

    batch = sent(queue.fan_out(MANY, url=URL, delay="1h"))
    intercept(call)
    assert batch.cancel().cancel().wait("240s").cancelled == len(MANY)
    assert made == ["BatchDeleteTasks"] * 3
