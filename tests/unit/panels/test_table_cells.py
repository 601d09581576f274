"""Values become the text of cells."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import Cell, Column, Kind, cell, json_text, static_table
from tests.cases import cases

NONE = "\u2013"


@cases(
    ("<b>", "text", "<b>"),
    (pd.NA, "text", ""),
    (None, "json", ""),
    (np.nan, "count", NONE),
    (pd.NaT, "time", NONE),
    (None, "state", NONE),
    (pd.Timestamp("2026-03-05T09:08:07.5Z"), "time", 1_772_701_687_500),
    (pd.Timestamp("2026-03-05T10:08:07.5+01:00"), "time", 1_772_701_687_500),
    (pd.Timestamp("2026-03-05T09:08:07.5"), "time", "2026-03-05 09:08:07"),
    (pd.Timedelta("90s"), "duration", ["1 min 30 s", "90 s"]),
    (1.5, "duration", ["1.5 s", "1.5 s"]),
    ("failed", "state", ["failed", "failed", COLOURS["failed"]]),
    (True, "state", ["yes", "yes", COLOURS["succeeded"]]),
    ({"day": "2026-01-01", "n": [1, None]}, "json", '{"day":"2026-01-01","n":[1,null]}'),
    ("plain", "json", "plain"),
    (7, "text", "7"),
)
def test_a_value_becomes_a_cell(value: Any, kind: Kind, shown: Cell) -> None:
    """Each kind has its text, and what the text leaves out stands in the tooltip."""
    assert cell(value, Column("x", kind=kind)) == shown


@cases(
    ("abc", Column("api_key"), "•••"),
    ("https://x?sig=1", Column("url"), "https://x?sig=•••"),
    ({"token": "a", "n": 1}, Column("body", kind="json"), '{"token":"•••","n":1}'),
    (pd.NA, Column("token"), ""),
)
def test_secrets_are_dots(value: Any, column: Column, shown: Cell) -> None:
    """A column with a secret name, and secrets in URLs and bodies."""
    assert cell(value, column) == shown


def test_a_long_text_is_cut_and_its_tooltip_too() -> None:
    """Cell and tooltip of a long text are cut; a name keeps its end, in which names differ."""
    name = "x" * 1_000_000 + "4711"
    assert cell(name, Column("x", kind="name"))[0] == "x" * 120 + "…" + "x" * 116 + "4711"  # type: ignore[index]  # it is cut
    assert cell("x" * 1_000_000, Column("x")) == ["x" * 240 + "…", "x" * 1_000 + "…"]


@cases((b"\xff{}", "\\xff{}"), (2**70, str(2**70)), ({1: np.int64(2)}, '{"1":2}'), ({"a": 1j}, '{"a":"1j"}'))
def test_payloads_that_are_no_json_are_shown(value: Any, text: str) -> None:
    """Other payloads are shown as text."""
    assert json_text(value) == text


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
    text = static_table(columns, [[[evil, evil + "!"], [evil, evil, '"><b>']]], caption=evil, empty=evil)
    assert "<img" not in text
    assert "<b>" not in text
    assert text.count("&lt;img") == 5


def test_the_static_table_has_times_in_utc() -> None:
    """The day is always shown, because an export is read later, and the zone once, in the heading."""
    text = static_table([Column("due", kind="time")], [[1_772_701_687_500]], caption="", empty="")
    assert "Due (UTC)</th>" in text
    assert ">2026-03-05 09:08:07</td>" in text


def test_the_static_table_says_when_it_is_empty() -> None:
    """A table without rows is no blank space."""
    assert "No tasks" in static_table([Column("a")], [], caption="0 tasks", empty="No tasks")
