"""Values become the text of cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb._frames import STATES
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import (
    COLOURS,
    Cell,
    Column,
    Kind,
    cell,
    colour,
    count_text,
    counted,
    duration_text,
    json_text,
    table_html,
    time_text,
)

__all__: list[str] = []

NOW = datetime(2026, 3, 5, 14, 0, 0, tzinfo=UTC)
NONE = "\u2013"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.009, "9 ms"),
        (0.0123, "12 ms"),
        (0.35, "350 ms"),
        (0.9996, "1 s"),
        (12.34, "12.3 s"),
        (15, "15 s"),
        (59.97, "1 min"),
        (125, "2 min 05 s"),
        (600, "10 min"),
        (3599.6, "1 h"),
        (3900, "1 h 05 min"),
        (86_400 * 3 + 3_600 * 4, "3 d 04 h"),
        (-12, "-12 s"),
    ],
)
def test_durations_are_said_in_their_leading_units(seconds: float, text: str) -> None:
    """A duration shows two units at most, and no unit of which there is none."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234567, "1,234,567"), (5.0, "5"), (0.5, "0.5"), (1234.567, "1,234.57"), (0.00321, "0.00321")],
)
def test_counts_have_thousands_separators(value: float, text: str) -> None:
    """Whole numbers are grouped; others keep what can be read at a glance."""
    assert count_text(value) == text


@pytest.mark.parametrize(
    ("number", "plural", "text"),
    [(1, "tasks", "1 task"), (0, "tasks", "0 tasks"), (2000, "rows", "2,000 rows"), (1, "batches", "1 batch")],
)
def test_one_is_singular(number: int, plural: str, text: str) -> None:
    """Counts read like a sentence."""
    assert counted(number, plural) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 3, 5, 9, 8, 7, tzinfo=UTC), "09:08:07"),
        (datetime(2026, 3, 4, 23, 59, 59, tzinfo=UTC), "2026-03-04 23:59"),
        (datetime(2026, 3, 5, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-03-04 23:00"),
        (datetime(2026, 3, 5, 9, 8, 7), "09:08:07"),  # noqa: DTZ001 - a naive time is shown as it is
    ],
)
def test_times_of_today_have_no_date(value: datetime, text: str) -> None:
    """A time of today is shown to the second, another one by date and minute, both in the table's time zone."""
    assert time_text(value, now=NOW) == text


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("<b>", "text", "<b>"),
        (pd.NA, "text", ""),
        (None, "json", ""),
        (np.nan, "count", NONE),
        (pd.NaT, "time", NONE),
        (None, "state", NONE),
        (pd.Timestamp("2026-03-05T09:08:07.5Z"), "time", ["09:08:07", "2026-03-05T09:08:07.500000+00:00"]),
        (pd.Timedelta("90s"), "duration", ["1 min 30 s", "90 s"]),
        (1.5, "duration", ["1.5 s", "1.5 s"]),
        ("failed", "state", ["failed", "failed", COLOURS["failed"]]),
        (True, "state", ["yes", "yes", COLOURS["succeeded"]]),
        ({"day": "2026-01-01", "n": [1, None]}, "json", '{"day":"2026-01-01","n":[1,null]}'),
        ("plain", "json", "plain"),
        (7, "text", "7"),
    ],
)
def test_a_value_becomes_a_cell(value: Any, kind: Kind, shown: Cell) -> None:
    """Each kind has its text, and what the text leaves out stands in the tooltip."""
    assert cell(value, kind, now=NOW) == shown


def test_a_long_text_is_cut_and_its_tooltip_too() -> None:
    """A payload of a megabyte does not travel to the page."""
    assert cell("x" * 1_000_000, "text", now=NOW) == ["x" * 240 + "…", "x" * 1_000 + "…"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(b"\xff{}", "\\xff{}"), (2**70, str(2**70)), ({1: np.int64(2)}, '{"1":2}'), ({"a": 1j}, '{"a":"1j"}')],
)
def test_what_json_cannot_hold_is_shown_all_the_same(value: Any, text: str) -> None:
    """A body that is no JSON is shown in its own words."""
    assert json_text(value) == text


@pytest.mark.parametrize(
    ("word", "same"),
    [("RUNNING", "running"), ("PAUSED", "retrying"), ("OK", "succeeded"), ("DEADLINE_EXCEEDED", "failed")],
)
def test_words_of_one_meaning_share_a_colour(word: str, same: str) -> None:
    """States of queues and status codes are coloured like the states of tasks."""
    assert colour(word) == COLOURS[same]


def test_every_state_has_a_colour_that_can_be_seen_on_both_themes() -> None:
    """A dot has a contrast of 3:1 at least, on white and on the dark theme's ground."""
    assert tuple(COLOURS) == STATES
    assert len(set(COLOURS.values())) == len(STATES)
    for ground in ("#ffffff", "#212121"):
        assert {
            name: round(contrast(hue, ground), 1) for name, hue in COLOURS.items() if contrast(hue, ground) < 3
        } == {}


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, as WCAG defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(hue: str) -> float:
    """Relative luminance of `#rrggbb`."""
    channels = (int(hue[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_a_column_knows_its_heading_and_its_side() -> None:
    """A heading is made of the name; numbers stand right."""
    assert Column("schedule_time", kind="time").heading == "Schedule time"
    assert Column("url", "URL").heading == "URL"
    assert Column("attempts", kind="count").side == "right"
    assert Column("attempts", kind="count", align="left").side == "left"


def test_an_unknown_kind_is_refused() -> None:
    """A misspelt kind fails where it is written."""
    with pytest.raises(InvalidInputError, match='no kind "number"'):
        Column("n", kind="number")  # type: ignore[arg-type]  # the mistake


def test_the_static_table_escapes_everything() -> None:
    """What exports show is text, whatever the data holds."""
    evil = "<img src=x onerror=alert(1)>"
    columns = [Column("a", evil), Column("b", kind="state")]
    text = table_html(columns, [[[evil, evil + "!"], [evil, evil, '"><b>']]], caption=evil, empty=evil)
    assert "<img" not in text
    assert "<b>" not in text
    assert text.count("&lt;img") == 5


def test_the_static_table_says_when_it_is_empty() -> None:
    """A table without rows is no blank space."""
    assert "No tasks" in table_html([Column("a")], [], caption="0 tasks", empty="No tasks")
