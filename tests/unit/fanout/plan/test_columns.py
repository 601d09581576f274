"""Columns of every dtype to JSON."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cloudtasks_nb.fanout.plan.columns import Column, Source
from tests.cases import cases

DAY = dt.date(2026, 1, 1)
NOON = dt.datetime(2026, 1, 1, 12)  # noqa: DTZ001 - naive is the case
TOKYO = pd.Timestamp("2026-01-01 12:00", tz="Asia/Tokyo")


def _arrow(values: list[Any], kind: pa.DataType) -> pd.Series[Any]:
    return pd.Series(values, dtype=pd.ArrowDtype(kind))


def _block(series: pd.Series[Any]) -> Column:
    return Source("x", series).block(0, len(series))


TEXTS = ["str", "string", "string[python]", pd.ArrowDtype(pa.string()), pd.ArrowDtype(pa.large_string()), "category"]
TIMES = ["datetime64[ns]", "datetime64[s]", "timestamp[us][pyarrow]", "category"]
ZONED = ["datetime64[us, Asia/Tokyo]", pd.ArrowDtype(pa.timestamp("us", "Asia/Tokyo")), "category"]


#: Cells, their JSON values, and dtypes that hold them.
HELD: list[tuple[list[Any], list[Any], list[Any]]] = [
    ([1, -2], [1, -2], ["int64", "category", pd.SparseDtype("int64")]),
    ([1, None], [1, None], ["Int64", "int64[pyarrow]", "float64", "Float64"]),
    ([1.0, 2.5, None], [1.0, 2.5, None], ["float64", "float32", "Float64", "double[pyarrow]"]),
    ([True, None], [True, None], ["boolean", "bool[pyarrow]", "object", "category"]),
    (["a", None, "ü"], ["a", None, "ü"], TEXTS),
    ([NOON, None], ["2026-01-01T12:00:00", None], TIMES),
    ([TOKYO, None], ["2026-01-01T12:00:00+09:00", None], ZONED),
    ([dt.timedelta(minutes=10), None], ["P0DT0H10M0S", None], ["timedelta64[ns]", "duration[ms][pyarrow]"]),
]
OTHERS: dict[str, tuple[pd.Series[Any], list[Any]]] = {
    "uint64": (pd.Series([2**64 - 1], dtype="uint64"), [2**64 - 1]),
    "bool": (pd.Series([True, False]), [True, False]),
    "float64, all missing": (pd.Series([np.nan, np.nan]), [None, None]),
    "float64, too large to be integers": (pd.Series([1e300, None]), [1e300, None]),
    "datetime64[us], fraction": (
        pd.Series([pd.Timestamp("2026-01-01 12:00:00.5")]).astype("datetime64[us]"),
        ["2026-01-01T12:00:00.500000"],
    ),
    "datetime64[ns], nanoseconds": (
        pd.Series([pd.Timestamp("2026-01-01 12:00:00.000000001"), pd.NaT]),
        ["2026-01-01T12:00:00.000000001", None],
    ),
    "datetime64[s], beyond 9999": (pd.Series(np.array(["12000-01-01"], dtype="M8[s]")), ["12000-01-01T00:00:00"]),
    "date32[pyarrow]": (_arrow([DAY, None], pa.date32()), ["2026-01-01", None]),
    "time64[pyarrow]": (_arrow([dt.time(6), None], pa.time64("us")), ["06:00:00", None]),
    "decimal128[pyarrow]": (_arrow([decimal.Decimal("1.10"), None], pa.decimal128(9, 2)), ["1.10", None]),
    "list[pyarrow]": (_arrow([[1, 2], None], pa.list_(pa.int64())), [[1, 2], None]),
    "struct[pyarrow]": (_arrow([{"a": 1}, None], pa.struct([("a", pa.int64())])), [{"a": 1}, None]),
    "list[pyarrow], missing inside": (_arrow([[2**60 + 1, None]], pa.list_(pa.int64())), [[2**60 + 1, None]]),
    "null[pyarrow]": (_arrow([None], pa.null()), [None]),
    "category of integers, missing": (
        pd.Series(pd.Categorical.from_codes([0, -1], pd.Index([2**60 + 1]))),
        [2**60 + 1, None],
    ),
    "category of intervals, missing": (
        pd.cut(pd.Series([1, 9]), [0, 5]),
        [{"left": 0, "right": 5, "closed": "right"}, None],
    ),
    "period": (pd.Series(pd.period_range("2026-01", periods=1, freq="M")), ["2026-01"]),
    "interval": (pd.Series(pd.interval_range(0, 1)), [{"left": 0, "right": 1, "closed": "right"}]),
    "object, mixed": (
        pd.Series(
            [1, "a", None, np.nan, decimal.Decimal("0.1"), DAY, [1, {"b": pd.NA}], uuid.UUID(int=1)], dtype=object
        ),
        [1, "a", None, None, "0.1", "2026-01-01", [1, {"b": None}], str(uuid.UUID(int=1))],
    ),
}


CASES = [
    pytest.param(pd.Series(cells, dtype=dtype), expected, id=f"{dtype} {cells[0]}")
    for cells, expected, dtypes in HELD
    for dtype in dtypes
]


@pytest.mark.parametrize(("series", "expected"), CASES + [pytest.param(*OTHERS[name], id=name) for name in OTHERS])
def test_dtype(series: pd.Series[Any], expected: list[Any]) -> None:
    """Cells of each dtype become the JSON values of the table, of exactly these types."""
    column = _block(series)
    assert column.json == expected
    assert [type(value) for value in column.json] == [type(value) for value in expected]
    assert column.bad == {}


@cases(
    (pd.Series([{1}, {2}]), [0, 1], "sorted"),
    (pd.Series(["a", "\ud800"], dtype=object), [1], "surrogate"),
    (pd.Series([1.0, np.inf]), [1], "infinity"),
    (pd.Series([{1}, 2]), [0], "set"),
    (pd.Series([1 + 2j]), [0], "complex"),
    (pd.Series([object(), 1, object()]), [0, 2], "object"),
)
def test_bad_cells(series: pd.Series[Any], bad: list[int], word: str) -> None:
    """A cell without a form in JSON is noted by position, column, type and way out; the others are there."""
    column = _block(series)
    assert all(column.json[index] is None for index in bad)
    assert sorted(column.bad) == bad
    assert all(word in reason and '"x"' in reason for reason in column.bad.values())


def test_self_containing_cell() -> None:
    """A list that holds itself is a bad cell, not a crash."""
    cell: list[Any] = []
    cell.append(cell)
    series = pd.Series([None, None], dtype=object)
    series.iloc[0] = cell
    column = _block(series)
    assert column.json == [None, None]
    assert "holds itself" in column.bad[0]


def test_a_part_of_a_column() -> None:
    """Where the rest of a column is not known, what a row sends does not depend on its neighbours."""
    for values in ([2.0, 1.5], [2.0, None], [2.0, 3.0]):
        column = Source("x", pd.Series(values), part=True).block(0, 2)
        for form in (column.json, column.raw):
            assert (form[0], type(form[0])) == (2, int)
            assert form[1] == values[1]


def test_whole_is_told_by_the_column() -> None:
    """A block without a missing value still has integers if the rest of its column shows that they were."""
    source = Source("x", pd.Series([1.0, 2.0, None]))
    assert source.block(0, 2).json == [1, 2]
    assert isinstance(source.block(0, 2).json[0], int)
    assert source.block(2, 3).json == [None]


@cases(
    (pd.Series([TOKYO, None]), [TOKYO, None]),
    (pd.Series([1.0, None]), [1, None]),
    (pd.Series([np.inf]), [np.inf]),
    (pd.Series(["a", None]), ["a", None]),
    (pd.Series([DAY, None], dtype=object), [DAY, None]),
    (pd.Series([3, 4], dtype="category"), [3, 4]),
)
def test_raw(series: pd.Series[Any], raw: list[Any]) -> None:
    """Functions and format specifications get Python and pandas values, None where missing."""
    assert _block(series).raw == raw
