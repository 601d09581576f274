"""Rows are found by key, filtered, sorted and cut into pages; values become the text of cells."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.widgets.cells import Cell, Column, Kind, cell, json_text, static_table
from cloudtasks_nb.panels.widgets.rows import Query, Selection, TableRows
from cloudtasks_nb.panels.widgets.table import Table
from tests.cases import cases
from tests.raising import raises

COLUMNS = [
    Column("task"),
    Column("state", kind="state"),
    Column("attempts", kind="count"),
    Column("schedule_time", kind="time"),
    Column("dispatch_deadline", kind="duration"),
    Column("url"),
    Column("body", kind="json"),
]


def tasks(**columns: list[Any]) -> pd.DataFrame:
    """Make a Tasks frame; names are a, b, c and so on, unless given."""
    length = len(next(iter(columns.values())))
    letters = [chr(ord("a") + place) for place in range(length)]
    return frame(TASKS, {"task": letters, "name": letters, **columns}, index="task")


def loaded(**columns: list[Any]) -> TableRows:
    """Load a Tasks frame."""
    rows = TableRows(COLUMNS, "name")
    rows.load(tasks(**columns))
    return rows


def found(rows: TableRows, **query: Any) -> str:
    """Names of the rows that a query finds, in order."""
    return "".join(rows.ids(Query(**query)))


@cases(
    ("attempts", [2, None, 1, 2], "cadb", "adcb"),
    ("schedule_time", [3, 1, None, 2], "bdac", "adbc"),
    ("dispatch_deadline", [1.5, 0.2, None, 9.0], "badc", "dabc"),
    ("state", ["failed", "unsent", None, "ready"], "bdac", "adbc"),
    ("url", ["b", None, "a", "B"], "dcab", "acdb"),
    ("body", [{"n": 2}, None, {"n": 1}, "z"], "dcab", "acdb"),
)
def test_every_kind_sorts_both_ways_with_the_missing_last(column: str, values: list[Any], up: str, down: str) -> None:
    """Equal rows keep the loaded order, states sort by their own order, and what is missing is last."""
    rows = loaded(**{column: values})
    assert found(rows, sort=column) == up
    assert found(rows, sort=column, descending=True) == down


@cases(
    ("order 4711", "a"),
    ("für", "a"),
    ("order%204711", "a"),
    ("new york", "bd"),
    ("order_id:4711", "c"),
    ("ORDER_ID:4711 day:2013-01-01", "c"),
    ("shop:17", "ac"),
    ("shop:17.0", "ac"),
    ("shop:17.5", ""),
    ("order_id:471", ""),
    ("city:New York day:2013-01-02", "d"),
    ("4711", "acd"),
    ("order_id=47110 · city", "d"),
    ("https://x", "ab"),
    ("KeyError", "b"),
)
def test_search_finds_what_is_known_of_a_row(text: str, names: str) -> None:
    """URLs are found as people read them, rows by a column and its value, and texts that are not shown too."""
    rows = TableRows([Column("row", kind="name")], "name", searched=("url", "message", "not there"))
    rows.load(
        {
            "name": ["a", "b", "c", "d"],
            "row": [
                "shop=17.0",
                None,
                "order_id=4711 · day=2013-01-01 · shop=17",
                "order_id=47110 · city=New York · day=2013-01-02",
            ],
            "url": ["https://x/order%204711?f=f%C3%BCr", "https://x/?city=New+York", None, None],
            "message": [None, "KeyError: 3", None, None],
        }
    )
    assert found(rows, text=text) == names


@cases(
    ("n:7", 'this table has no column "n"', "it has row, state"),
    ("sate:x", 'has no column "sate"', "did you mean state?"),
)
def test_a_search_for_a_column_that_no_row_has(text: str, message: str, hint: str) -> None:
    """Is refused with the columns that there are, unless it finds the text; a URL is no column."""
    table = Table([Column("row", kind="name")], key="name")
    table.load({"name": ["a"], "row": ["row=1 · state=ready"]})
    with raises(InvalidInputError, message, hint=hint):
        table.filter(text)
    for other in ("https://x", "ow=1", "state:failed"):
        table.filter(other)
    table.load({"name": ["b"], "row": [f"says {text}"]})
    table.filter(text)
    assert table.matching == 1


def test_an_optional_column_is_left_out_while_it_has_nothing_to_show() -> None:
    """One is left out while it is empty, another one while all rows have the same."""
    rows = TableRows([Column("message", hidden_if="empty"), Column("batch", hidden_if="same")], "name")
    assert rows.blank == {"message", "batch"}
    rows.load({"name": ["a", "b"], "message": [None, None], "batch": pd.array(["x", "x"], dtype="string")})
    assert rows.blank == {"message", "batch"}
    rows.patch({"name": ["b"], "message": ["why"]})
    assert rows.blank == {"batch"}
    rows.patch({"name": ["c"], "message": [None], "batch": pd.array([None], dtype="string")})
    assert rows.blank == set()
    rows.drop(["c"])
    assert rows.blank == {"batch"}
    rows.drop(["b"])
    assert rows.blank == {"message", "batch"}


def test_a_patch_leaves_the_frame_that_was_loaded_alone() -> None:
    """The caller's frame is the caller's."""
    given_frame = tasks(state=["ready", "failed"])
    rows = TableRows(COLUMNS, "name")
    rows.load(given_frame)
    rows.patch(tasks(state=["failed"]))
    assert given_frame["state"].tolist() == ["ready", "failed"]
    assert found(rows, where=(("state", ("failed",)),)) == "ab"


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(-3, 3)), st.booleans()), max_size=40))
def test_a_patched_table_equals_one_that_was_loaded_whole(steps: list[tuple[int, int | None, bool]]) -> None:
    """After rows were patched and dropped in any order, order, cells, search and selection equal a fresh load's."""
    columns = [Column("n", kind="count"), Column("text", hidden_if="same")]

    def data(values: dict[int, int | None]) -> dict[str, Any]:
        numbers = list(values.values())
        texts = [None if n is None else f"n={n}" for n in numbers]
        return {
            "key": pd.array(list(values), dtype="Int64"),
            "n": pd.array(numbers, dtype="Int64"),
            "text": pd.array(texts, dtype="string"),
        }

    whole: dict[int, int | None] = {0: None}
    rows, chosen = TableRows(columns, "key"), Selection()
    rows.load(data(whole))
    chosen.choose({**chosen.state, "keys": list("02468")}, number=0, matching=list)
    for key, value, gone in steps:
        rows.order(Query(sort="n", text="n=1"))  # derive something that the step has to mend
        chosen.places(rows.places)
        if gone:
            rows.drop([str(key)])
            whole.pop(key, None)
        else:
            rows.patch(data({key: value}))
            whole[key] = value
    fresh = TableRows(columns, "key")
    fresh.load(data(whole))
    for query in (Query(), Query(sort="n"), Query(sort="text", descending=True), Query(text="n=1"), Query(text="1")):
        assert rows.page(query, 0, 40) == fresh.page(query, 0, 40)
    assert rows.selected(chosen) == [n for n in whole if not n % 2]
    assert (len(rows), rows.blank) == (len(fresh), fresh.blank)


def test_keys_keep_their_type() -> None:
    """The rows' ids are text, the keys that a caller gets are the data's own."""
    rows = TableRows([Column("n", kind="count")], "row")
    rows.load(pd.DataFrame({"n": [5, 6]}, index=pd.Index([10, 11], name="row")))
    assert rows.ids(Query()) == ["10", "11"]
    assert rows.keys(["11", "12"]) == [11]


def test_two_rows_of_one_key_are_refused() -> None:
    """Keys must differ."""
    rows = loaded(state=["ready"])
    with pytest.raises(InvalidInputError, match='two rows have the name "x"'):
        rows.load(tasks(name=["x", "y", "x"]))
    assert found(rows) == "a"


def test_a_column_that_is_not_there_is_named_with_near_ones() -> None:
    """A misspelt column fails when data is loaded, and says which one was meant."""
    rows = TableRows([Column("schedule_tme")], "name")
    with pytest.raises(InvalidInputError, match=r"(?s)no column \"schedule_tme\".*did you mean schedule_time"):
        rows.load(tasks(state=["ready"]))


def test_the_key_is_searched_where_it_is_the_index() -> None:
    """The name of a task is found, although another column is shown in its place."""
    rows = TableRows([Column("row")], "task", ["task"])
    rows.load(pd.DataFrame({"row": ["day=1", "day=2"]}, index=pd.Index(["abc-1", "def-1"], name="task")))
    assert rows.ids(Query(text="def")) == ["def-1"]


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


def test_the_static_table() -> None:
    """What exports show is text, whatever the data holds; times have their day, in UTC; no rows are no blank space."""
    evil = "<img src=x onerror=alert(1)>"
    columns = [Column("a", evil), Column("b", kind="state"), Column("due", kind="time")]
    row: list[Cell] = [[evil, evil + "!"], [evil, evil, '"><b>'], 1_772_701_687_500]
    text = static_table(columns, [row], caption=evil, empty=evil)
    assert ("<img" in text, "<b>" in text, text.count("&lt;img")) == (False, False, 5)
    assert "Due (UTC)</th>" in text
    assert ">2026-03-05 09:08:07</td>" in text
    assert "No tasks" in static_table(columns, [], caption="0 tasks", empty="No tasks")
