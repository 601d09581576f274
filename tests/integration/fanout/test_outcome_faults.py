"""No row that succeeded is shown as failed, and none that is unknown as either, whatever the log does."""

import re
from functools import partial

import pandas as pd

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, Target, options
from tests.integration.fanout.conftest import reached

ROWS = pd.DataFrame({"row": range(20)})


def states(batch: ct.Batch) -> dict[str, int]:
    """Return how many rows are in each state, zeros left out."""
    return {str(state): count for state, count in batch.tasks()["state"].value_counts().items() if count}


@options("--log-limit", "20")
def test_a_log_that_has_lost_entries(emulator: Emulator, target: Target) -> None:
    """Rows whose first attempt was seen to fail, and nothing else, may have succeeded: no line sends them again."""
    target.script(500, 500, 500)
    connect = partial(ct.connect, "demo", "us-central1", endpoint=emulator.ready["grpc"])
    with connect() as tasks:
        queue = tasks.queue("main", create=True, max_attempts=5, min_backoff="1h", max_backoff="1h")
        batch = queue.fan_out(ROWS.head(3), url=target.url)
        reached(batch, lambda progress: progress.retrying == 3)
    emulator.advance(3_700)
    target.wait(6)
    with connect() as tasks:
        noise = tasks.queue("noise", create=True).fan_out(pd.DataFrame({"n": range(40)}), url=target.url)
        assert noise.wait("240s").succeeded == 40
        emulator.until(lambda: tasks.queue("main").attempts().empty)
        batch = tasks.batch(batch.id)
        reached(batch, lambda progress: progress.gone == 3)
        assert (batch.status().state, states(batch)) == ("unknown", {"gone": 3})
        assert "they may have run" in str(batch.status().reason)
        assert not {"resend", "retry_failed"} & {*re.findall(r"\w+", repr(batch))}
