"""A batch is taken up long after, or after the clock was moved: nothing is sent twice without being asked."""

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, Move, Target
from tests.integration.fanout.conftest import fault, sent

TWO_DAYS = 172_800.0
ROWS = pd.DataFrame({"row": range(120)})


def left_unanswered(emulator: Emulator, target: Target) -> str:
    """Create tasks of which no answer arrives, and leave; returns the batch."""
    lost = fault(emulator, "BatchCreateTasks", "UNAVAILABLE", after=True)
    with lost, ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as tasks:
        queue = tasks.queue("old", create=True).pause()
        batch = queue.fan_out(ROWS, url=target.url)
        emulator.until(lambda: len(queue.tasks()) == len(ROWS))
        assert batch.progress().unsent == len(ROWS)
    return batch.id


@pytest.mark.parametrize("ran", [False, True], ids=["tasks that still wait", "tasks that have run"])
def test_resumed_two_days_later(emulator: Emulator, target: Target, move: Move, *, ran: bool) -> None:
    """Requests without an answer are looked up first, in the queue and in the log, and no row is sent again."""
    batch_id = left_unanswered(emulator, target)
    if ran:
        emulator.client.resume_queue(name="projects/demo/locations/us-central1/queues/old")
        target.wait(len(ROWS))
        emulator.drained("projects/demo/locations/us-central1/queues/old")
    emulator.advance(TWO_DAYS)
    move(TWO_DAYS)
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as tasks:
        batch = sent(tasks.batch(batch_id).resume())
        tasks.queue("old").resume()
        progress = batch.wait("60s")
        assert progress.succeeded + progress.gone == len(ROWS)
        assert progress.succeeded == len(ROWS) or ran
    rows = sorted(one.body for one in target.received)
    assert len(rows) == len(set(rows)) == len(ROWS)
