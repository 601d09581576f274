"""What each verb does to a row in each state: the table of the documentation, row by row."""

from collections.abc import Callable

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests.integration.fanout.conftest import reached, sent
from tests.unit.fanout.conftest import Outcome, record_outcomes

FINAL = {
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "cancelled": State.CANCELLED,
    "gone": State.GONE,
}
SAME, NEW = "left", "new try"


def same_cell(queue: ct.Queue, _: ct.Batch) -> None:
    """Run the cell again."""
    queue.fan_out(ROWS, url="http://127.0.0.1:9/{row}", name="n")


VERBS: dict[str, Callable[[ct.Queue, ct.Batch], object]] = {
    "same cell": same_cell,
    "resume": lambda _, batch: batch.resume(),
    "retry_failed": lambda _, batch: batch.retry_failed(),
    "resend": lambda _, batch: batch.resend(batch.tasks()),
    "cancel": lambda _, batch: batch.cancel(),
}
ROWS = pd.DataFrame({"row": [1]})
#: What the verbs, in their order, do to a row in a state: a new try is a task that is ready.
AFTER = {
    "ready": (SAME, SAME, SAME, SAME, "cancelled"),
    "succeeded": (SAME, SAME, SAME, NEW, SAME),
    "failed": (SAME, SAME, NEW, NEW, SAME),
    "cancelled": (SAME, SAME, SAME, NEW, SAME),
    "gone": (SAME, SAME, SAME, NEW, SAME),
}
TABLE = [(state, *one) for state, row in AFTER.items() for one in zip(VERBS, row, strict=True)]


@pytest.mark.parametrize(("before", "verb", "done"), TABLE)
def test_verb_on_a_row(paused: ct.Queue, before: str, verb: str, done: str) -> None:
    """A row stays as it is, or gets a new try whose task is in the queue, or is deleted there."""
    batch = sent(paused.fan_out(ROWS, url="http://127.0.0.1:9/{row}", name="n"))
    if before in FINAL:
        paused.delete_tasks(batch.tasks())
        outbox = batch._outbox
        ref = next(outbox.rows.pages(whole(batch.id))).refs[0]
        record_outcomes(outbox, batch.id, [Outcome(ref=ref, attempt=1, state=FINAL[before])])
    VERBS[verb](paused, batch)
    reached(batch, lambda progress: not progress.unsent and (verb != "cancel" or progress.finished))
    row, after = batch.tasks().iloc[0], {SAME: before, NEW: "ready"}.get(done, done)
    assert (row["state"], row["try"]) == (after, 2 if done == NEW else 1)
    in_queue = list(paused.tasks().index)
    assert in_queue == ([row["task"]] if after == "ready" else [])
