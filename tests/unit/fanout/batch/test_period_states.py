"""The rows of a backfill by period and state: what is counted, and when the calendar is drawn anew."""

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

from cloudtasks_nb.fanout.batch.view import PeriodStates, upcoming
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.periods.partitions import combinations, partition, period_rows
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from cloudtasks_nb.fanout.states import State
from tests.cases import cases
from tests.unit.fanout.conftest import put, put_facts, refs, send_all, spool, tell

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def plan(outbox: Outbox, start: str, end: str, freq: str = "D", across: Any = None) -> str:
    """Spool a backfill; return its batch."""
    data = period_rows(partition(start, end, freq=freq, tz="America/New_York"), across)
    recipe = compile_recipe(TaskOptions(url="https://svc", key=["start", *data.columns[3:]]))
    chunks = plan_chunks(data, recipe, now=NOW)
    return spool(outbox, chunks, recipe=recipe.identity, name="days").batch


def calendar(outbox: Outbox, batch: str, freq: str = "D", across: Sequence[str] = (), **options: Any) -> PeriodStates:
    """Return what counts and draws the periods of a batch."""
    return PeriodStates(outbox, whole(batch), {"freq": freq, "tz": "America/New_York", "across": across}, **options)


def read(text: tuple[str, str] | None) -> list[str]:
    """Return what the squares of a drawing say."""
    assert text is not None
    return re.findall(r' title="([^"]*)"', text[1])


def settle(outbox: Outbox, batch: str, states: dict[int, State]) -> None:
    """Send every row, and write down what became of some."""
    send_all(outbox, batch)
    known = refs(outbox, batch)
    for row, state in states.items():
        tell(outbox, batch, known[row], state=state)


def test_states_of_rows(outbox: Outbox) -> None:
    """Each partition has the state that the outbox has of its rows, whatever order they were planned in."""
    batch = plan(outbox, "2026-01-01", "2026-01-03", across={"shop": ["a", "b"]})
    settle(outbox, batch, {0: State.SUCCEEDED, 1: State.SUCCEEDED, 2: State.FAILED, 3: State.SUCCEEDED})
    assert read(calendar(outbox, batch).draw(fresh=True)) == [
        "2026-01-01: 2 rows: 2 succeeded",
        "2026-01-02: 2 rows: 1 succeeded, 1 failed",
        "2026-01-03: 2 rows: 2 queued",
    ]


def test_rows_that_come_later(outbox: Outbox) -> None:
    """A longer range is seen by the calendar that was drawn before; earlier days stand before the others."""
    batch = plan(outbox, "2026-01-02", "2026-01-02")
    made = calendar(outbox, batch)
    assert len(read(made.draw(fresh=True))) == 1
    plan(outbox, "2026-01-01", "2026-01-03")
    assert read(made.draw(fresh=True)) == [f"2026-01-0{day}: 1 row: 1 unsent" for day in (1, 2, 3)]


def test_line(outbox: Outbox) -> None:
    """The line says from where to where, where that is beyond what was asked for, and what is left out."""
    batch = plan(outbox, "2026-01-15", "2026-02-10", "MS")
    plan(outbox, "2026-05-01", "2026-05-31", "MS")
    put_facts(outbox, batch, periods=("2026-01-15T05:00:00+00:00", "2026-05-31T04:00:00+00:00"))
    text: Any = calendar(outbox, batch, "MS").draw(fresh=True)
    assert text[0] == (
        "2026-01 … 2026-05, 5 months in America/New_York; 2 between them are not in this batch; "
        "the first partition begins 2026-01-01, before 2026-01-15"
    )


def test_kept_for_a_while(outbox: Outbox) -> None:
    """A drawing that took a second is shown for 20, unless the newest one is wanted; then it is drawn again."""
    batch = plan(outbox, "2026-01-01", "2026-01-01")
    ticks = iter([0.0, 1.0, 20.9, 20.9, 21.0, 41.0, 42.0])
    made = calendar(outbox, batch, clock=lambda: next(ticks))
    first = made.draw(fresh=False)
    settle(outbox, batch, {0: State.FAILED})
    assert made.draw(fresh=False) is first
    assert read(made.draw(fresh=True)) == ["2026-01-01: 1 row: 1 failed"]
    put(outbox, batch, refs(outbox, batch), State.SUCCEEDED)
    assert read(made.draw(fresh=False)) == ["2026-01-01: 1 row: 1 succeeded"]


@cases(
    ("h", "time"),
    ("D", "day"),
    ("2D", "day"),
    ("W", "week"),
    ("2W", "week"),
    ("MS", "month"),
    ("QS", "month"),
    ("YS", "year"),
)
def test_units(outbox: Outbox, freq: str, unit: str) -> None:
    """The frequency decides what a row of the calendar is."""
    batch = plan(outbox, "2026-01-01", "2026-01-20", freq)
    found: Any = calendar(outbox, batch, freq).periods()
    assert found.unit == unit


def test_a_band_for_each_value(outbox: Outbox) -> None:
    """Rows that are tried again are retrying, not queued; a column with a name of ours is found under its new one."""
    batch = plan(outbox, "2026-01-01", "2026-01-02", across={"state": ["b", 1]})
    settle(outbox, batch, {0: State.SUCCEEDED, 1: State.FAILED})
    tell(outbox, batch, refs(outbox, batch)[2], state=State.SENT, attempts=1, last_status=13)
    assert read(calendar(outbox, batch, across=["state"]).draw(fresh=True)) == [
        "b, 2026-01-01: 1 row: 1 succeeded",
        "b, 2026-01-02: 1 row: 1 retrying",
        "1, 2026-01-01: 1 row: 1 failed",
        "1, 2026-01-02: 1 row: 1 queued",
    ]


def test_many_values(outbox: Outbox) -> None:
    """More than twelve values are in one band, and each can be shown alone."""
    shops = [f"shop {number}" for number in range(13)]
    made = calendar(outbox, plan(outbox, "2026-01-01", "2026-01-02", across={"shop": shops}), across=["shop"])
    together, alone = made.periods(), made.periods(["shop 4"])
    assert together is not None
    assert alone is not None
    assert (together.choices, together.counts["unsent"].loc[""].tolist()) == (shops, [13, 13])
    assert (alone.choices, alone.counts["unsent"].loc["shop 4"].tolist()) == (shops, [1, 1])


def test_periods_to_come(outbox: Outbox) -> None:
    """What the batch has is in its state, the rest is new; rows of the batch beyond the range are left out."""
    batch = plan(outbox, "2026-01-01", "2026-01-03", across={"shop": ["a", "b"]})
    settle(outbox, batch, {2: State.FAILED, 4: State.SUCCEEDED})
    before = calendar(outbox, batch, across=["shop"])
    partitions = partition("2026-01-02", "2026-01-05", freq="D", tz="America/New_York")
    found = upcoming(partitions, combinations({"shop": ["a", "c"]}), before)
    assert found.counts.index.unique("band").tolist() == ["a", "c"]
    assert found.counts.to_dict("list") == {
        "succeeded": [0, 1, 0, 0, 0, 0, 0, 0],
        "failed": [1, 0, 0, 0, 0, 0, 0, 0],
        "new": [0, 0, 1, 1, 1, 1, 1, 1],
    }
    assert upcoming(partitions, None, None).counts["new"].tolist() == [1, 1, 1, 1]
