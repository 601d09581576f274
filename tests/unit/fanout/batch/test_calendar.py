"""The calendar of a backfill: where its cells stand, what they say, and when they are drawn anew."""

from __future__ import annotations

import datetime as dt
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.fanout.batch.calendar import ASKED, Calendar, CalendarText, grid
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Ack, Outcome, State
from cloudtasks_nb.fanout.periods.partitions import cross, partition
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.fanout.plan.recipe import compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_chunks
from tests.unit.fanout.conftest import all_rows, put, refs, spool

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
STATES = ["failed", "rejected", "gone", "cancelled", "unsent", "queued", "succeeded"]
Cells = list[tuple[int, int, str, str]]


def picture(
    start: str, end: str, freq: str, *, tz: str = "UTC", counts: dict[str, list[int]] | None = None
) -> ET.Element:
    """Draw partitions; `counts` are rows by state, one number a partition, else one that succeeded."""
    made = partition(start, end, freq=freq, tz=tz)
    given = counts or {"succeeded": [1] * len(made)}
    table = np.array([given.get(state, [0] * len(made)) for state in STATES], dtype=np.int64).T
    return ET.fromstring(grid(made.freq, made.bounds[:-1], table, "<what>"))  # noqa: S314 - our own text


def cells(svg: ET.Element) -> Cells:
    """Return row, column, title and state of each cell in reading order; the leftmost has the column 0."""
    words = {colour(state): state for state in STATES}
    found = [
        (int(cell.get("y", "")), int(cell.get("x", "")), cell.findtext("title", ""), words[group.get("fill", "")])
        for group in svg.findall("g")
        for cell in group.findall("rect")
    ]
    left = min(x for _, x, *_ in found)
    return sorted(((y - 1) // 11, (x - left) // 11, title, state) for y, x, title, state in found)


def labels(svg: ET.Element) -> list[str]:
    """Return what stands before the rows."""
    return [text.text or "" for text in svg.iter("text")]


@pytest.mark.parametrize(
    ("start", "end", "freq", "rows", "places"),
    [
        ("2026-01-30", "2026-02-02", "D", ["2026-01", "2026-02"], [(0, 29), (0, 30), (1, 0), (1, 1)]),
        ("2025-12-01", "2026-02-01", "MS", ["2025", "2026"], [(0, 11), (1, 0), (1, 1)]),
        ("2025-12-28", "2026-01-10", "W", ["2025", "2026"], [(0, 51), (1, 0)]),
        ("2026-01-01 23:00", "2026-01-02 01:00", "h", ["2026-01-01", "2026-01-02"], [(0, 0), (1, 0), (1, 1)]),
        ("2026-01-01", "2026-01-03", "2D", ["2026-01-01"], [(0, 0), (0, 1)]),
    ],
)
def test_places(start: str, end: str, freq: str, rows: list[str], places: list[tuple[int, int]]) -> None:
    """Days stand in months, weeks and months in years, hours in days, the rest in a strip."""
    svg = picture(start, end, freq)
    assert labels(svg) == rows
    assert [(row, column) for row, column, *_ in cells(svg)] == places


def test_strip_is_wrapped() -> None:
    """A strip has 40 cells a row, each row named by its first."""
    svg = picture("2026-01-01", "2026-01-01 11:45", "15min")
    assert labels(svg) == ["2026-01-01T00:00+00:00", "2026-01-01T10:00+00:00"]
    assert [row for row, *_ in cells(svg)] == [0] * 40 + [1] * 8


def test_hours_of_a_long_day() -> None:
    """The day on which the clock is put back has 25 cells in its row."""
    rows = [row for row, *_ in cells(picture("2026-10-31", "2026-11-01 23:59", "h", tz="America/New_York"))]
    assert [rows.count(0), rows.count(1)] == [24, 25]


def test_words() -> None:
    """A cell says its partition and state, of several rows how many are in which; the worst gives the colour."""
    counts = {"succeeded": [1, 2, 0, 0], "failed": [0, 1, 0, 0], "queued": [0, 3, 1, 0], "unsent": [0, 0, 1, 2]}
    assert [(title, state) for *_, title, state in cells(picture("2026-01-01", "2026-01-04", "D", counts=counts))] == [
        ("2026-01-01: succeeded", "succeeded"),
        ("2026-01-02: 1 failed, 3 queued, 2 succeeded", "failed"),
        ("2026-01-03: 1 unsent, 1 queued", "unsent"),
        ("2026-01-04: 2 unsent", "unsent"),
    ]


@pytest.mark.parametrize(("days", "expected"), [(800, 800), (801, 401), (4_018, 670)])
def test_many(days: int, expected: int) -> None:
    """There are 800 cells at most: of more partitions neighbours share one, and none is left out."""
    end = (dt.date(2010, 1, 1) + dt.timedelta(days=days - 1)).isoformat()
    failed = [0] * (days - 1) + [1]
    found = cells(picture("2010-01-01", end, "D", counts={"succeeded": [1] * days, "failed": failed}))
    assert len(found) == expected
    assert [state for *_, state in found] == ["succeeded"] * (expected - 1) + ["failed"]
    assert sum("failed" in title for *_, title, _ in found) == 1


def test_last_shared_cell_may_have_fewer() -> None:
    """The title of a shared cell names its first and last partition, of the last one too."""
    found = cells(picture("2010-01-01", "2012-03-11", "D"))
    assert found[0][2] == "2010-01-01 … 2010-01-02: 2 succeeded"
    assert found[-1][2] == "2012-03-11 … 2012-03-11: succeeded"


def test_escaped() -> None:
    """What the picture is of is said to those who do not see it, escaped."""
    assert picture("2026-01-01", "2026-01-01", "D").get("aria-label") == "<what>"


# Drawn from an outbox


def plan(outbox: Outbox, start: str, end: str, freq: str = "D", across: Any = None) -> str:
    """Spool a backfill; return its batch."""
    data = cross(partition(start, end, freq=freq, tz="America/New_York").frame(), across)
    recipe = compile_recipe(TaskOptions(url="https://svc", key=["start", *data.columns[3:]]))
    chunks = plan_chunks(data, recipe, now=NOW)
    return spool(outbox, chunks, recipe=recipe.identity, name="days").batch


def calendar(outbox: Outbox, batch: str, freq: str = "D", **options: Any) -> Calendar:
    """Return the calendar of a batch."""
    return Calendar(outbox, batch, {"freq": freq, "tz": "America/New_York"}, **options)


def read(text: CalendarText | None) -> Cells:
    """Return the cells of a drawing."""
    assert text is not None
    return cells(ET.fromstring(text.grid))  # noqa: S314 - our own text


def settle(outbox: Outbox, batch: str, states: dict[int, State]) -> None:
    """Send every row, and write down what became of some."""
    desk = outbox.requests.queue(batch)
    requests = desk.turn([], 99, now=1.0)
    desk.turn([Ack(seq=request.seq, sent=request.refs) for request in requests], 0, now=1.0)
    refs = all_rows(outbox, batch, "refs")
    outbox.outcomes.record(batch, [Outcome(ref=refs[row], attempt=1, state=state) for row, state in states.items()])


def test_states_of_rows(outbox: Outbox) -> None:
    """Each partition has the state that the outbox has of its rows, whatever order they were planned in."""
    batch = plan(outbox, "2026-01-01", "2026-01-03", across={"shop": ["a", "b"]})
    settle(outbox, batch, {0: State.SUCCEEDED, 1: State.SUCCEEDED, 2: State.FAILED, 3: State.SUCCEEDED})
    assert [(title, state) for *_, title, state in read(calendar(outbox, batch).draw(round_=1, fresh=True))] == [
        ("2026-01-01: 2 succeeded", "succeeded"),
        ("2026-01-02: 1 failed, 1 succeeded", "failed"),
        ("2026-01-03: 2 queued", "queued"),
    ]


def test_rows_that_come_later(outbox: Outbox) -> None:
    """A longer range is seen by the calendar that was drawn before; earlier days stand before the others."""
    batch = plan(outbox, "2026-01-02", "2026-01-02")
    made = calendar(outbox, batch)
    assert len(read(made.draw(round_=1, fresh=True))) == 1
    plan(outbox, "2026-01-01", "2026-01-03")
    titles = [title for *_, title, _ in read(made.draw(round_=2, fresh=True))]
    assert titles == ["2026-01-01: unsent", "2026-01-02: unsent", "2026-01-03: unsent"]


def test_line(outbox: Outbox) -> None:
    """The line says from where to where, where that is beyond what was asked for, and what is left out."""
    batch = plan(outbox, "2026-01-15", "2026-02-10", "MS")
    plan(outbox, "2026-05-01", "2026-05-31", "MS")
    outbox.batches.set_setting(batch, ASKED, ["2026-01-15T05:00:00+00:00", "2026-05-31T04:00:00+00:00"])
    text = calendar(outbox, batch, "MS").draw(round_=1, fresh=True)
    assert text is not None
    assert text.line == (
        "2026-01 … 2026-05, 5 months in America/New_York; 2 between them are not in this batch; "
        "the first partition begins 2026-01-01, before 2026-01-15"
    )


def test_line_of_what_was_not_asked_for(outbox: Outbox) -> None:
    """A batch of which it is not known what was asked for says what it has."""
    text = calendar(outbox, plan(outbox, "2026-01-01", "2026-01-03")).draw(round_=1, fresh=True)
    assert text is not None
    assert text.line == "2026-01-01 … 2026-01-03, 3 days in America/New_York"


def test_kept_for_a_while(outbox: Outbox) -> None:
    """A drawing that took a second is shown for 20, unless the newest one is wanted; then it is drawn again."""
    batch = plan(outbox, "2026-01-01", "2026-01-01")
    ticks = iter([0.0, 1.0, 20.9, 20.9, 21.0, 41.0, 42.0])
    made = calendar(outbox, batch, clock=lambda: next(ticks))
    first = made.draw(round_=1, fresh=False)
    settle(outbox, batch, {0: State.FAILED})
    assert made.draw(round_=1, fresh=False) is first
    assert read(made.draw(round_=1, fresh=True)) == [(0, 0, "2026-01-01: failed", "failed")]
    put(outbox, batch, refs(outbox, batch), State.SUCCEEDED)
    assert read(made.draw(round_=1, fresh=False)) == [(0, 0, "2026-01-01: succeeded", "succeeded")]


def test_no_rows(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch without rows has no calendar."""
    batch = plan(outbox, "2026-01-01", "2026-01-01")
    monkeypatch.setattr(outbox.rows, "states", lambda _: b"")
    assert calendar(outbox, batch).draw(round_=1, fresh=True) is None


def test_rows_in_between(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come between two looks at the outbox spoil nothing: the drawing before stays."""
    batch = plan(outbox, "2026-01-01", "2026-01-02")
    made = calendar(outbox, batch)
    before = made.draw(round_=1, fresh=True)
    monkeypatch.setattr(outbox.rows, "states", lambda _: bytes([State.UNSENT] * 3))
    assert made.draw(round_=2, fresh=True) == before


def test_report_shows_it() -> None:
    """The report of a batch has the line in its text, and line and grid in its HTML."""
    counts: dict[str, Any] = dict.fromkeys(("unsent", "rejected", "scheduled", "ready", "running", "retrying"), 0)
    progress = Progress(total=1, succeeded=1, failed=0, cancelled=0, gone=0, **counts)
    shown = Report(
        batch="a91f03c2",
        name=None,
        queue="reports",
        badge="LOCAL",
        progress=progress,
        sending=False,
        causes={},
        partitions="1 D in <zone>",
        grid="<svg></svg>",
    )
    assert shown.text().splitlines()[1] == "1 D in <zone>"
    assert "1 D in &lt;zone&gt;</div><svg></svg>" in shown.html()
