"""Counts, rate and time left of a batch."""

import datetime as dt
from dataclasses import asdict

from cloudtasks_nb.fanout.batch.progress import Pace
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.batch.conftest import Tracked, progress
from tests.unit.fanout.conftest import chunks, put, put_facts, refs, spool

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def test_the_repr_is_one_line_and_leaves_zeros_out() -> None:
    """The text has every count that is not zero, and the rate while tasks are done."""
    made = progress(ready=4, succeeded=6, rate=2.0, eta=NOW)
    assert repr(made) == "10 rows: 4 ready, 6 succeeded; 2.0/s, done about 2026-01-01 12:00:00 UTC"


def test_what_is_not_known_is_said_as_being_in_the_queue() -> None:
    """None is not zero: the rows are counted without a state."""
    made = progress(total=10, scheduled=None, ready=None, running=None, retrying=None, succeeded=6)
    assert repr(made) == "10 rows: 6 succeeded, 4 in the queue"
    assert made.counts()["ready"] is None


def test_another_process_reads_what_was_seen(outbox: Outbox) -> None:
    """What is stored is shown until the batch is watched; after rows were added, their counts alone are known."""
    batch = spool(outbox, chunks(range(10)), name="n").batch
    put(outbox, batch, refs(outbox, batch), State.SENT)
    put(outbox, batch, refs(outbox, batch)[:6], State.SUCCEEDED)
    now = dt.datetime.now(dt.UTC)
    seen = progress(ready=4, succeeded=6, state="paused", reason="so", eta=NOW, at=now, since=NOW, sources={"log": NOW})
    put_facts(outbox, batch, progress=asdict(seen))
    assert Tracked(outbox, batch).tracker.progress == seen
    spool(outbox, chunks(range(11)), name="n")
    assert repr(Tracked(outbox, batch).tracker.progress) == "11 rows: 1 unsent, 4 ready, 6 succeeded; stopped"


@cases(
    ({}, 100.0, None, None),
    ({99: 10}, 100.0, None, None),
    ({97: 3, 98: 10, 99: 12}, 100.9, None, 11.0),
    ({97: 3, 98: 10, 99: 10, 100: 2}, 100.9, None, 10.0),  # the last second is not over
    ({60: 900, 98: 10, 99: 10}, 100.0, None, 10.0),  # before half a minute
    ({80: 900, 98: 10, 99: 10}, 100.0, None, 10.0),  # before a gap
    ({90: 900, 91: 900}, 100.0, None, None),  # nothing has ended for some seconds
    ({71: 1, 81: 1, 91: 1}, 100.0, 0.1, 0.1),  # a gap is what is long for the queue
    ({71: 1, 81: 1, 91: 1}, 100.0, 500.0, None),
)
def test_the_rate(ends: dict[int, int], until: float, limit: float | None, rate: float | None) -> None:
    """Rows a second, by the times of their attempts, over whole seconds without a gap."""
    pace = Pace()
    pace.add(ends, None)
    assert pace.per_second(until, limit) == rate


def test_what_was_done_long_ago_is_no_pace() -> None:
    """Rows that are read at once after a pause tell nothing of how fast rows end now, and take no memory."""
    pace = Pace()
    pace.add(dict.fromkeys(range(10000), 50), 9_000)
    pace.add(dict.fromkeys(range(20000, 20010), 20), 8_000)
    assert pace.per_second(20_010.5, None) == 20.0
    assert (pace.last, pace.failed, len(pace._ends)) == (20_009, 9_000, 10)
