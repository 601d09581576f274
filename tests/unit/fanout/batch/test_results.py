"""Stored results become columns beside the rows of a batch."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from cloudtasks_nb._frames import BATCH_TASKS, frame
from cloudtasks_nb.fanout.batch import row_query
from cloudtasks_nb.fanout.batch.row_query import Joined, join_results, result_notes
from cloudtasks_nb.fanout.batch.stored_results import Answers
from tests.cases import cases

NONE = object()  # no stored result


def answers(found: Mapping[str, Any], tasks: Sequence[str]) -> Answers:
    """Return what tasks have come to; an exception is an error."""
    stored = {task: found[task] for task in tasks if found[task] is not NONE}
    errors = {task: f"{type(one).__name__}: {one}" for task, one in stored.items() if isinstance(one, Exception)}
    return Answers({task: one for task, one in stored.items() if task not in errors}, errors)


def join(values: Sequence[Any], messages: Sequence[str | None] = (), **columns: Any) -> Joined:
    """Join values to rows, as many as there are; `columns` are those of the input."""
    states = ["failed" if isinstance(value, Exception) else "succeeded" for value in values]
    ids = [f"t{row}" for row in range(len(values))]
    ours = frame(BATCH_TASKS, {"task": ids, "state": states, "last_message": messages or [None] * len(ids)})
    tasks = pd.concat([pd.DataFrame(columns, index=ours.index), ours], axis=1).rename_axis("row")
    found = dict(zip(ids, values, strict=True))
    return join_results(tasks, partial(answers, found))


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two results a page."""
    monkeypatch.setattr(row_query, "_PAGE", 2)


def test_fields_become_columns() -> None:
    """Beside those of the input, with missing values where a row has none of them."""
    joined = join([{"y": 1, "z": "a"}, ValueError("no"), {"y": 3}, {}], x=[1, 2, 3, 4])
    assert list(joined.frame.columns) == ["x", "state", "y", "z", "error"]
    assert joined.frame["y"].astype(object).where(joined.frame["y"].notna(), None).tolist() == [1, None, 3, None]
    assert joined.frame["error"].dropna().to_dict() == {1: "ValueError: no"}
    assert joined.frame.index.name == "row"
    assert result_notes(joined, "store") == {}


DTYPES: list[tuple[str, list[Any], str]] = [
    ("integers", [1, None, 3, 4, 5], "Int64"),
    ("floats", [1.0, 2.0, None, 4.5, 5.0], "Float64"),
    ("integers and floats", [1, 2, 3, 4.5, 5], "Float64"),
    ("truth values", [True, None, False, True, True], "boolean"),
    ("text", ["a", None, "b", "c", "d"], "string"),
    ("text that comes late", [None, None, None, None, "d"], "string"),
    ("integers and text", [1, 2, "b", "c", None], "object"),
    ("integers beyond 64 bits", [2**70, 2, 3, 4, 5], "object"),
    ("integers that floats do not have, and floats", [2**53 + 1, 2, 3, 4.5, 5], "object"),
    ("integers of 64 bits without a sign", [2**63, 2, 3, 4, 5], "object"),
    ("lists", [[1], [2], None, [], [3]], "object"),
]


@pytest.mark.parametrize(("what", "values", "dtype"), DTYPES, ids=[what for what, *_ in DTYPES])
def test_dtypes(what: str, values: list[Any], dtype: str) -> None:
    """A column has the dtype of all its values; numbers are never objects."""
    column = join([{"y": value} for value in values]).frame["y"]
    assert column.dtype == dtype
    assert [None if value is pd.NA else value for value in column.astype(object)] == values


@cases(
    ([{"a": 1, "b": [{"c": "x"}]}, None], "struct<a: int64, b: list<element: struct<c: string>>>"),
    ([{"a": 1}, {"b": "x"}], "struct<a: int64, b: string>"),
    ([["a", "b"], [], None], "list<element: string>"),
    ([[1], [2.5]], "list<element: double>"),
    ([[None], None], "list<element: null>"),
)
def test_lists_and_dicts_that_are_alike_in_parquet(tmp_path: Path, values: list[Any], kind: str) -> None:
    """They are lists and structs there, and in a frame of Polars."""
    frame = join([{"y": value} for value in values]).frame
    frame.to_parquet(tmp_path / "results.parquet")
    assert str(pq.read_schema(tmp_path / "results.parquet").field("y").type) == kind
    assert str(pl.from_pandas(frame)["y"].dtype).lower().partition("(")[0] == kind.partition("<")[0]


@cases([[1, "a"], None], [[1], {"a": 1}], [{"a": 1}, {"a": "x"}], [{"a": {}}, {"a": {}}], ["a", [1]], [[2**70], 1])
def test_values_of_several_types_in_parquet(tmp_path: Path, values: list[Any]) -> None:
    """They are JSON text there, also of a part of the frame, in which they stay what they are."""
    frame = join([{"y": value} for value in values], x=range(2)).frame[["x", "y"]]
    frame.to_parquet(tmp_path / "results.parquet")
    read = pd.read_parquet(tmp_path / "results.parquet")
    assert [None if pd.isna(text) else json.loads(text) for text in read["y"]] == values
    assert [None if value is pd.NA else value for value in frame["y"]] == values
    assert read["x"].tolist() == [0, 1]


def test_another_library_for_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow it gets the values as they are."""
    made: Any = join([{"y": 1}, {"y": "a"}]).frame
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda written, _path: written["y"].tolist())
    assert made.to_parquet() == [1, "a"]


def test_an_error_that_is_not_stored() -> None:
    """It is the last message: why a row was rejected, or what Cloud Tasks said. One that was overcome is none."""
    error = ValueError("no")
    found = join([{"y": 1}, error, error], ["UNAVAILABLE(14)", "HTTP status code 500", None]).frame["error"]
    assert found.tolist() == [pd.NA, "ValueError: no", "ValueError: no"]
    tasks = frame(BATCH_TASKS, {"task": [None], "state": ["rejected"], "last_message": ["the body is too large"]})
    assert join_results(tasks, partial(answers, {})).frame["error"].tolist() == ["the body is too large"]


@pytest.mark.parametrize("values", [[1, 2, 3], [{"y": 1}, {"y": 2}, 3], [{"y": 1}, {"y": 2}, [1]]])
def test_results_that_are_not_all_dicts(values: list[Any]) -> None:
    """They are one column, whichever comes first."""
    found = join(values).frame
    assert list(found.columns) == ["state", "result", "error"]
    assert found["result"].tolist() == values


def test_none_is_no_result() -> None:
    """A function that returns a dict or None has fields; one that returns None has none."""
    assert list(join([{"y": 1}, None, None]).frame.columns) == ["state", "y", "error"]
    joined = join([None, None])
    assert list(joined.frame.columns) == ["state", "result", "error"]
    assert joined.frame["result"].isna().all()
    assert joined.missing == 0


def test_too_many_fields_stay_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dicts by some id of their own would make a column each."""
    monkeypatch.setattr(row_query, "_MOST_FIELDS", 3)
    values = [{f"id{row}": row} for row in range(5)]
    assert join(values).frame["result"].tolist() == values


def test_clashing_names() -> None:
    """A field never hides a column of the input or of ours."""
    joined = join([{"x": 1, "state": 2, "error": 3, "row": 4, "task": 5, "y": 6}], x=[0], x_result=[0])
    renamed = ["x_result_result", "state_result", "error_result", "row_result", "task_result"]
    assert list(joined.frame.columns) == ["x", "x_result", "state", *renamed, "y", "error"]
    [note] = result_notes(joined, "store").values()
    assert "x is x_result_result, state is state_result" in note


def test_successes_without_a_result_are_counted() -> None:
    """The note says how many and why."""
    joined = join([{"y": 1}, NONE, NONE, ValueError("no")])
    [note] = result_notes(joined, "file:///store").values()
    assert "2 of 3 succeeded rows have no result in file:///store" in note
    assert joined.frame["y"].isna().tolist() == [False, True, True, True]


def test_what_was_read_and_does_not_count_is_no_missing_result() -> None:
    """Where all results are there, the note says what was wrong, and nothing of rows without a result."""
    damaged = "1 line in objects there is no result of this batch: damaged"
    assert list(result_notes(join([{"y": 1}]), "file:///store", damaged).values()) == [f"file:///store: {damaged}"]
    [note] = result_notes(join([{"y": 1}, NONE]), "file:///store", damaged).values()
    assert note == f"1 of 2 succeeded rows have no result in file:///store: {damaged}"


def test_no_rows() -> None:
    """The columns are there all the same."""
    assert list(join([], x=[]).frame.columns) == ["x", "state", "result", "error"]
