"""Charts as HTML: geometry, accessible names, and escaping."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.panels.widgets.charts import Square, calendar, sparkline, state_bar

__all__: list[str] = []

EVIL = "</title><img src=x onerror=\"alert('1')\">"


def parsed(chart: str) -> ET.Element:
    """Read a chart as XML, without its style sheet: every element is closed, every attribute quoted."""
    return ET.fromstring("<div>" + re.sub(r"<style>.*?</style>", "", chart, flags=re.DOTALL) + "</div>")  # noqa: S314 - our own text


def points(chart: str) -> list[list[tuple[float, float]]]:
    """Corners of each line of a sparkline."""
    lines = parsed(chart).iter("polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] for line in lines]  # type: ignore[misc]  # pairs


def squares(
    *counts: dict[str, int], start: date = date(2026, 1, 1), step: timedelta = timedelta(days=1)
) -> list[Square]:
    """Make periods one after another."""
    return [Square(key=f"k{n}", start=start + n * step, counts=count) for n, count in enumerate(counts)]


def buttons(chart: str) -> list[dict[str, str]]:
    """Attributes of the squares, in order, their style split off as `area` and `fill`."""
    found = []
    for button in parsed(chart).iter("button"):
        area, _, fill = button.attrib["style"].partition(";")
        found.append(
            {**button.attrib, "area": area.removeprefix("grid-area:"), "fill": fill, "mark": button.text or ""}
        )
    return found


def test_a_sparkline_stands_on_zero_and_has_gaps() -> None:
    """The highest value is at the top, zero at the bottom, oldest left; an unknown value leaves a gap in the line."""
    assert points(sparkline([0, 50, 100], label="depth", width=106, height=36)) == [[(3, 33), (53, 18), (103, 3)]]
    assert [len(line) for line in points(sparkline([1, 2, None, 3, 4, 5], label="depth"))] == [2, 3]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([0, 2000, 1234], "depth of q: 1,234 tasks now, between 0 and 2,000 before"),
        ([5], "depth of q: 5 tasks now, between 5 and 5 before"),
        ([5, None], "depth of q: not known now, between 5 and 5 before"),
        ([None], "depth of q: not known yet"),
        ([], "depth of q: not known yet"),
    ],
)
def test_a_sparkline_has_an_accessible_name(values: list[float | None], name: str) -> None:
    """Name and tooltip have the figures."""
    svg = parsed(sparkline(values, label="depth of q"))[0]
    assert (svg.attrib["role"], svg.attrib["aria-label"], svg.findtext("title")) == ("img", name, name)


def test_a_bar_fills_from_what_is_done() -> None:
    """Parts stand in the order of a task's life, as wide as their share, in their state's colour."""
    parts = list(parsed(state_bar({"unsent": 50, "running": 25, "succeeded": 25}, label="b")).iter("rect"))
    assert [part.attrib["fill"] for part in parts] == [COLOURS[state] for state in ("succeeded", "running", "unsent")]
    assert [float(part.attrib["x"]) for part in parts] == [0, 250, 500]
    assert parts[0].findtext("title") == "succeeded: 25 of 100 (25 %)"


def test_a_few_among_many_are_seen() -> None:
    """Three failures of 300,000 have a visible part and a percentage that is neither 0 nor 100."""
    parts = list(parsed(state_bar({"succeeded": 299_997, "failed": 3}, label="b")).iter("rect"))
    assert float(parts[1].attrib["width"]) > 3
    assert [part.findtext("title") for part in parts] == [
        "succeeded: 299,997 of 300,000 (99 %)",
        "failed: 3 of 300,000 (<1 %)",
    ]


def test_a_bar_counts_in_words_too() -> None:
    """The legend and the accessible name have every count that is known and not zero; a bar without counts says so."""
    chart = parsed(state_bar({"succeeded": 1200, "failed": 0, "gone": None, "odd": 2}, label="batch a91f"))
    assert "".join(chart.itertext()).endswith(" succeeded 1,200 odd 2")
    svg = next(chart.iter("svg"))
    assert svg.attrib["aria-label"] == "batch a91f: 1,202 tasks: 1,200 succeeded, 2 odd"
    assert "nothing yet" in "".join(parsed(state_bar({}, label="b")).itertext())


def test_days_stand_in_weeks() -> None:
    """Columns are weeks from Monday, rows weekdays; the first of January 2026 was a Thursday."""
    chart = calendar(squares(*[{"succeeded": 1}] * 32), label="b")
    areas = [button["area"] for button in buttons(chart)]
    assert (areas[0], areas[3], areas[4], areas[31]) == ("5/2", "8/2", "2/3", "8/6")
    labels = {span.attrib["style"]: span.text for span in parsed(chart).iter("span") if "class" in span.attrib}
    assert labels == {
        "grid-area:2/1": "Mon",
        "grid-area:4/1": "Wed",
        "grid-area:6/1": "Fri",
        "grid-area:8/1": "Sun",
        "grid-area:1/2": "Jan",
        "grid-area:1/6": "Feb",
    }


def test_hours_stand_in_days_and_months_in_years() -> None:
    """Other frequencies have a layout of their own."""
    hourly = squares(*[{"ready": 1}] * 26, start=datetime(2026, 1, 1, tzinfo=UTC), step=timedelta(hours=1))
    found = buttons(calendar(hourly, label="b"))
    assert [found[n]["area"] for n in (0, 23, 24)] == ["2/2", "2/25", "3/2"]
    assert found[23]["title"] == "2026-01-01 23:00: 1 row: 1 ready"
    assert buttons(calendar([], label="b")) == []
    monthly = [Square(key=str(n), start=date(2025 + n // 12, n % 12 + 1, 1), counts={}) for n in range(14)]
    assert [button["area"] for button in buttons(calendar(monthly, label="b"))][11:] == ["2/13", "3/2", "3/3"]


@pytest.mark.parametrize(
    ("counts", "mark", "fill"),
    [
        ({"unsent": 3}, "", ""),
        ({}, "", ""),
        ({"succeeded": 3}, "", "{succeeded} 0% 100%,transparent 100%"),
        ({"succeeded": 1, "unsent": 1}, "", "{succeeded} 0% 50%,transparent 50%"),
        ({"failed": 2}, "✕", "{failed} 0% 100%,transparent 100%"),
        ({"succeeded": 99, "failed": 1}, "✕", "{succeeded} 0% 66%,{failed} 66% 100%,transparent 100%"),
    ],
)
def test_a_square_fills_as_its_tasks_end(counts: dict[str, int], mark: str, fill: str) -> None:
    """A square without sent rows is hollow; one failure among many is visible and has a cross."""
    (button,) = buttons(calendar(squares(counts), label="b"))
    assert button["mark"] == mark
    assert button["fill"] == (f"background-image:linear-gradient(0deg,{fill.format(**COLOURS)})" if fill else "")


def test_squares_can_be_found_and_are_one_tab_stop() -> None:
    """A square has its key and its words; the calendar has one stop for Tab and a name with the totals."""
    chart = calendar(reversed(squares({"succeeded": 2}, {"succeeded": 1, "failed": 1})), label="backfill x")
    found = buttons(chart)
    assert [(button["data-key"], button["tabindex"]) for button in found] == [("k0", "0"), ("k1", "-1")]
    assert found[1]["aria-label"] == found[1]["title"] == "2026-01-02: 2 rows: 1 succeeded, 1 failed"
    group = next(node for node in parsed(chart).iter("div") if node.get("role") == "group")
    assert group.attrib["aria-label"] == "backfill x: 2 periods, 4 rows: 3 succeeded, 1 failed"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: sparkline([1, 2], label=EVIL),
        lambda: state_bar({EVIL: 1}, label=EVIL),
        lambda: calendar([Square(key=EVIL, start=date(2026, 1, 1), counts={EVIL: 1})], label=EVIL),
    ],
)
def test_everything_is_escaped(draw: Callable[[], str]) -> None:
    """Names from outside become text, never elements or attributes."""
    chart: Any = parsed(draw())
    assert [node for node in chart.iter() if node.tag == "img" or "onerror" in node.attrib] == []
    assert EVIL in "".join([*chart.itertext(), *(value for node in chart.iter() for value in node.attrib.values())])
