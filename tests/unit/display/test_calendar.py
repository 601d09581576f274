"""The calendar of periods: where its squares stand, what they say, and how they are filled."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb.display.calendar import Calendar, Periods, Unit
from cloudtasks_nb.display.colours import COLOURS
from tests.cases import cases

EVIL = "</b><img src=x onerror=\"alert('1')\">"


def made(starts: pd.DatetimeIndex, unit: Unit, *, line: str = "line", **counts: Sequence[Any]) -> Calendar:
    """Return a calendar, by default of one succeeded row a period."""
    labels = [f"{start:%Y-%m-%d %H:%M}".removesuffix(" 00:00") for start in starts]
    found = counted([""], starts, counts or {"succeeded": [1] * len(starts)})
    return Calendar(Periods(starts=starts, labels=labels, unit=unit, counts=found, line=line))


def counted(bands: Sequence[str], starts: pd.DatetimeIndex, counts: dict[str, Any]) -> pd.DataFrame:
    """Return how many rows are in which state."""
    index = pd.MultiIndex.from_product([bands, starts], names=["band", "start"])
    return pd.DataFrame({state: np.ravel(numbers) for state, numbers in counts.items()}, index)


def banded(bands: Sequence[str]) -> Calendar:
    """Return a calendar of four days: the second one failed in the first band, the last band has no first day."""
    days = over("2026-01-05", "2026-01-08", "D")
    failed = np.zeros((len(bands), 4), dtype=np.int64)
    failed[0, 1] = 1
    succeeded = 1 - failed
    succeeded[-1, 0] = 0
    usual: dict[str, Any] = {"unit": "day", "labels": [f"{day:%Y-%m-%d}" for day in days], "line": "line"}
    usual |= {"counts": counted(bands, days, {"succeeded": succeeded, "failed": failed}), "across": ("shop",)}
    return Calendar(Periods(starts=days, counted=lambda number: f"{number} days", **usual))


def over(start: str, end: str, freq: str, tz: str = "UTC") -> pd.DatetimeIndex:
    """Return where periods begin."""
    return pd.date_range(start, end, freq=freq, tz=tz)


def parsed(html: str) -> ET.Element:
    """Read the HTML as XML: every element is closed, every attribute quoted."""
    return ET.fromstring(f"<div>{html}</div>")  # noqa: S314 - our own text


def area(node: ET.Element) -> tuple[int, int]:
    """Return the row and the column of a square or a label."""
    ((row, column),) = re.findall(r"grid-row:(\d+);grid-column:(\d+)", node.attrib["style"])
    return int(row), int(column)


def squares(html: str) -> list[ET.Element]:
    """Return the squares, oldest first."""
    return [node for node in parsed(html).iter() if node.tag in ("b", "button") and "title" in node.attrib]


def names(html: str) -> dict[tuple[int, int], str]:
    """Return the labels of rows and columns by their place."""
    spans = [node for node in parsed(html).iter("span") if "grid-row" in node.attrib["style"]]
    return {area(span): span.text or "" for span in spans}


def test_days_stand_in_weeks() -> None:
    """Columns are weeks from Monday, rows weekdays; the first of January 2026 was a Thursday."""
    html = made(over("2026-01-01", "2026-02-01", "D"), "day").html()
    places = [area(square) for square in squares(html)]
    assert (places[0], places[3], places[4], places[31]) == ((6, 2), (9, 2), (3, 3), (9, 6))
    weekdays = {(3, 1): "Mon", (5, 1): "Wed", (7, 1): "Fri", (9, 1): "Sun"}
    assert names(html) == {**weekdays, (1, 2): "2026", (2, 2): "Jan", (2, 6): "Feb"}


def test_each_year_is_named_where_it_begins() -> None:
    """More than a year is one row of weeks; names of years and months that would run into each other are moved."""
    named = names(made(over("2025-01-06", "2026-02-01", "D"), "day").html())
    assert {place: text for place, text in named.items() if place[0] == 1} == {(1, 2): "2025", (1, 53): "2026"}
    assert (named[2, 2], named[2, 53]) == ("Jan", "Jan")
    close = names(made(over("2025-12-31", "2026-02-01", "D"), "day").html())
    months = {(2, 2): "Dec", (2, 4): "Jan", (2, 6): "Feb"}
    assert {place: text for place, text in close.items() if place[0] < 3} == {(1, 2): "2025", (1, 4): "2026", **months}


@cases(
    (over("2025-11-01", "2026-02-01", "MS"), "month", [(2, 12), (2, 13), (3, 2), (3, 3)], {(2, 1): "2025"}),
    (over("2025-12-28", "2026-01-10", "W"), "week", [(2, 53), (3, 2)], {(3, 1): "2026", (1, 2): "Jan"}),
    (over("2026-01-01 23:00", "2026-01-02 00:00", "h"), "time", [(2, 3), (3, 2)], {(2, 1): "2026-01-01"}),
    (over("1999-01-01", "2000-01-01", "YS"), "year", [(1, 2), (1, 3)], {(1, 1): "1999-01-01"}),
)
def test_other_periods(starts: pd.DatetimeIndex, unit: Unit, places: list[Any], labels: dict[Any, str]) -> None:
    """Weeks and months stand in years, hours in days, years in a strip."""
    html = made(starts, unit).html()
    assert [area(square) for square in squares(html)] == places
    assert labels.items() <= names(html).items()


def test_days_of_many_periods_have_several_rows() -> None:
    """A row has 48 times of day at most, and says with which it begins; years have 40 a row."""
    html = made(over("2026-01-01", "2026-01-01 23:45", "15min"), "time").html()
    assert [row for row, _ in map(area, squares(html))] == [1] * 48 + [2] * 48
    assert names(html) == {(1, 1): "2026-01-01 00:00", (2, 1): "2026-01-01 12:00"}
    assert [area(square) for square in squares(made(over("1980", "2020", "YS"), "year").html())][-1] == (2, 2)


GRADIENT = {"up": "linear-gradient(0deg,", "end": ",transparent 100%) border-box"}


# Counts, the mark in the square, and the state of its colour or the parts of its gradient.
@cases(
    *(({"unsent": 3}, "", "none"), ({"new": 1}, "", "none"), ({"succeeded": 3}, "", "{succeeded}")),
    *(({"failed": 2}, "✕", "{failed}"), ({"rejected": 1}, "✕", "{rejected}")),
    *(({"queued": 1}, "", "{queued}"), ({"retrying": 1}, "↻", "{retrying}")),
    ({"succeeded": 1, "unsent": 1}, "", "{up}{succeeded} 0% 50%,transparent 50%) border-box"),
    ({"succeeded": 99, "failed": 1}, "✕", "{up}{succeeded} 0% 66%,{failed} 66% 100%{end}"),
    ({"retrying": 1, "failed": 1}, "✕", "{up}{failed} 0% 50%,{retrying} 50% 100%{end}"),
)
def test_a_square_fills_as_its_rows_end(counts: dict[str, int], mark: str, fill: str) -> None:
    """A square without sent rows is empty; one failure among many is visible and has a cross."""
    rows: dict[str, Any] = {state: [count] for state, count in counts.items()}
    html = made(over("2026-01-01", "2026-01-01", "D"), "day", **rows).html()
    (square,) = squares(html)
    assert (square.text or "") == mark
    assert square.attrib["style"].rpartition("background:")[2] == fill.format(**COLOURS, **GRADIENT)
    assert all(state in "".join(parsed(html).itertext()) for state in counts), "the legend has it"


@pytest.mark.parametrize(("buttons", "role", "tag"), [(False, "img", "b"), (True, "group", "button")])
def test_picture_and_buttons_are_the_same_squares(*, buttons: bool, role: str, tag: str) -> None:
    """Both have the same words and name; buttons have keys, names and one stop for Tab besides, and no style sheet."""
    days = over("2026-01-01", "2026-01-02", "D")
    html = made(days, "day", line="2 days", succeeded=[2, 1], failed=[0, 1]).html(buttons=buttons)
    found = squares(html)
    assert [node.tag for node in found] == [tag] * 2
    titles = [node.attrib["title"] for node in found]
    assert titles == ["2026-01-01: 2 rows: 2 succeeded", "2026-01-02: 2 rows: 1 succeeded, 1 failed"]
    (group,) = [node for node in parsed(html).iter("div") if node.get("role") == role]
    assert group.attrib["aria-label"] == "2 days: 4 rows: 3 succeeded, 1 failed"
    if buttons:
        assert [node.attrib["tabindex"] for node in found] == ["0", "-1"]
        assert found[1].attrib["data-key"] == "2026-01-02T00:00:00+00:00"
        assert found[1].attrib["aria-label"] == titles[1]
    assert ("<style" in html, "<svg" in html) == (False, False)


def test_everything_is_escaped() -> None:
    """Labels and the description become text, never elements or attributes."""
    starts = over("2026-01-01", "2026-01-01", "YS")
    counts = counted([""], starts, {"failed": [1]})
    periods = Periods(starts=starts, labels=[EVIL], unit="year", counts=counts, line=EVIL)
    html = Calendar(periods).html(buttons=True)
    assert [node for node in parsed(html).iter() if node.tag == "img" or "onerror" in node.attrib] == []
    assert names(html) == {(1, 1): EVIL}
    assert EVIL not in banded([EVIL]).html(buttons=True)


@cases(
    ("2026-01-01", "2026-01-31", "D", 31, "2026-01-01: 1 row: 1 failed"),
    ("2026-01-01", "2026-01-31 23:00", "h", 744, "2026-01-01: 1 row: 1 failed"),
    ("2026-01-01", "2026-12-31 23:00", "h", 365, "2026-01-01: 24 rows: 1 failed, 23 succeeded"),
    ("2016-01-01", "2025-12-31", "D", 120, "2016-01: 31 rows: 1 failed, 30 succeeded"),
    ("1900-01-01", "2025-12-31", "D", 126, "1900: 365 rows: 1 failed, 364 succeeded"),
)
def test_many_periods_share_squares(start: str, end: str, freq: str, count: int, first: str) -> None:
    """Many periods are grouped by day, month or year, so that there are at most 800 squares, and none is left out."""
    starts = over(start, end, freq)
    rest = len(starts) - 1
    calendar = made(starts, "time" if freq == "h" else "day", failed=[1, *[0] * rest], succeeded=[0, *[1] * rest])
    found = squares(calendar.html())
    assert len(found) == count
    assert found[0].attrib["title"] == first
    assert sum(calendar.counts(calendar.keys).values()) == len(starts)


def test_bands_of_very_many_periods_stay_small() -> None:
    """Ten bands of a year of hours share squares, so that the picture has at most 60 kB."""
    hours, bands = over("2025-01-01", "2026-02-20", "h"), [f"shop={number}" for number in range(10)]
    counts = counted(bands, hours, {"succeeded": np.ones((10, len(hours)), dtype=np.int64)})
    labels = [f"{hour:%Y-%m-%d %H:%M}" for hour in hours]
    periods = Periods(starts=hours, labels=labels, unit="time", counts=counts, line="line", across=("shop",))
    html = Calendar(periods).html()
    assert len(squares(html)) == 10 * 14
    assert len(html) <= 60_000


def test_rows_are_found_by_square_across_a_change_of_the_clock() -> None:
    """The day on which summer time ends has 25 hours."""
    hours = over("2026-10-01", "2026-11-30 23:00", "h", tz="America/New_York")
    calendar = made(hours, "time")
    frame = pd.DataFrame({"start": hours.tz_convert("UTC"), "url": "x"})
    key = "2026-11-01T00:00:00"
    assert len(calendar.rows(frame, [key])) == 25
    assert calendar.counts([key]) == {"succeeded": 25}
    assert calendar.words([key]) == "2026-11-01"
    assert calendar.words(calendar.keys) == "61 days, 2026-10-01 to 2026-11-30"


def test_a_band_for_each_value() -> None:
    """Bands stand below each other under one row of months, each with its name and what became of its rows."""
    html = banded(["bern", "chur"]).html(buttons=True)
    found = squares(html)
    assert [area(square) for square in found] == [(4, 2), (5, 2), (6, 2), (7, 2), (13, 2), (14, 2), (15, 2)]
    assert found[1].attrib["aria-label"] == "bern, 2026-01-06: 1 row: 1 failed"
    assert found[4].attrib["data-key"] == "2026-01-06T00:00:00+00:00 chur"
    groups = [node.attrib["aria-label"] for node in parsed(html).iter("div") if node.get("role") == "group"]
    assert groups[1:] == ["bern: 4 rows: 3 succeeded, 1 failed", "chur: 3 rows: 3 succeeded"]
    assert [square.attrib["tabindex"] for square in found].count("0") == 1
    assert "".join(parsed(html).itertext()).count("Mon") == 2


@cases(
    ([], ""),
    (["bern 5"], "2026-01-05 of bern"),
    (["bern 5", "bern 7"], "2026-01-05, 2026-01-07 of bern"),
    (["bern 5", "bern 6", "bern 7"], "3 days of bern, 2026-01-05 to 2026-01-07"),
    (["bern 6", "bern 7", "chur 6", "chur 7"], "2 days of bern and chur, 2026-01-06 to 2026-01-07"),
    (["bern 5", "chur 6", "basel 5"], "2026-01-05 of bern and basel; 2026-01-06 of chur"),
)
def test_a_selection_in_words(chosen: list[str], words: str) -> None:
    """The periods and the values; bands with the same periods are named together."""
    keys = [f"2026-01-0{key[-1]}T00:00:00+00:00 {key[:-2]}" for key in chosen]
    assert banded(["bern", "basel", "chur"]).words(keys) == words


def test_rows_are_found_by_band() -> None:
    """A square has the rows of its period and of its value only, and none that the calendar does not show."""
    calendar = banded(["bern", "7"])
    frame = pd.DataFrame({"start": over("2026-01-05", "2026-01-06", "D").repeat(3), "shop": ["bern", 7.0, "x"] * 2})
    assert calendar.rows(frame, calendar.keys)["shop"].tolist() == ["bern", "bern", 7.0]
    assert calendar.counts(["2026-01-06T00:00:00+00:00 bern"]) == {"failed": 1}
