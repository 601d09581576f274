"""Counts, rate and time left of a batch."""

import datetime as dt
from typing import Any

import pytest

from cloudtasks_nb._frames import STATES
from cloudtasks_nb.fanout.batch.progress import SNAPSHOT, Progress, Rate
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from tests.unit.fanout.batch.conftest import Tracked
from tests.unit.fanout.conftest import chunks, spool

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def progress(**counts: Any) -> Progress:
    """Return a Progress with nothing but what is named."""
    return Progress(total=10, **{**dict.fromkeys(STATES, 0), **counts})


def test_rows_are_either_done_pending_or_unsent() -> None:
    """The three kinds add up to the total."""
    made = progress(unsent=1, ready=2, running=1, succeeded=3, failed=1, gone=1, cancelled=1)
    assert (made.done, made.pending, made.unsent, made.finished) == (6, 3, 1, False)


def test_finished_means_that_every_row_is_final() -> None:
    """Rejected, cancelled and gone rows are final as well."""
    assert progress(succeeded=6, rejected=1, failed=1, cancelled=1, gone=1).finished


def test_the_repr_is_one_line_and_leaves_zeros_out() -> None:
    """The text has every count that is not zero, and the rate while tasks are done."""
    made = progress(ready=4, succeeded=6, done_per_second=2.0, eta=NOW)
    assert repr(made) == "10 rows: 4 ready, 6 succeeded; 2.0/s, done about 2026-01-01 12:00:00 UTC"


def test_what_is_not_known_is_said_as_being_in_the_queue() -> None:
    """None is not zero: the rows are counted without a state."""
    made = progress(scheduled=None, ready=None, running=None, retrying=None, succeeded=6)
    assert repr(made) == "10 rows: 6 succeeded, 4 in the queue"
    assert made.counts()["ready"] is None


def test_another_process_reads_what_was_seen(outbox: Outbox) -> None:
    """The stored progress is shown until the batch is watched; after rows were added, their counts alone are known."""
    batch = spool(outbox, chunks(range(10)), name="n").batch
    seen = progress(ready=4, succeeded=6, eta=NOW, at=NOW, sources={"log": NOW})
    outbox.batches.set_setting(batch, SNAPSHOT, seen)
    assert Tracked(outbox, batch).tracker.progress == seen
    spool(outbox, chunks(range(11)), name="n")
    assert repr(Tracked(outbox, batch).tracker.progress) == "11 rows: 11 unsent"


POINTS: list[tuple[str, list[tuple[float, int]], float | None]] = [
    ("no point", [], None),
    ("one point", [(0, 0)], None),
    ("steady", [(0, 0), (1, 10), (2, 20)], 10.0),
    ("only the last half minute counts", [(0, 0), (10, 0), (40, 0), (50, 100)], 100 / 40),
    ("a new round begins anew", [(0, 0), (1, 10), (2, 4), (3, 5)], 1.0),
    ("a clock that was set back begins anew", [(10, 0), (5, 1), (6, 3)], 2.0),
    ("two points at one time", [(1, 0), (1, 5)], None),
]


@pytest.mark.parametrize(("what", "points", "rate"), POINTS, ids=[what for what, *_ in POINTS])
def test_rate(what: str, points: list[tuple[float, int]], rate: float | None) -> None:
    """Rows a second over the window."""
    meter = Rate()
    for at, done in points:
        meter = meter.note(at, done)
    assert meter.per_second() == rate


def test_time_left_is_not_known_while_nothing_moves() -> None:
    """A rate of zero gives no estimate, any other one does, unless all rows wait for their next try."""
    meter = Rate().note(0, 5).note(1, 5)
    assert meter.seconds_left(10) is None
    assert meter.note(2, 7).seconds_left(10) == 10.0
    assert meter.note(2, 7).seconds_left(10, waiting=9) == 10.0
    assert meter.note(2, 7).seconds_left(10, waiting=10) is None


def test_a_rate_keeps_few_points() -> None:
    """However often rows are counted, a rate takes little memory, and knows the newest count."""
    rate = Rate()
    for step in range(100_001):
        rate = rate.note(step / 1000, step)
    assert rate.points[-1] == (100.0, 100_000)
    assert len(rate.points) <= 130
    assert rate.per_second() == 1000.0
