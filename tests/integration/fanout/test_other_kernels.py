"""What one kernel wishes, the others see, and carry out when it is gone."""

import signal
import sys

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator
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
