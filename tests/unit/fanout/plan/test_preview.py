"""The columns and the index of the input that a batch shows again."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.testing import assert_frame_equal, assert_series_equal

from cloudtasks_nb.fanout.plan.columns import Table
from cloudtasks_nb.fanout.plan.preview import RESERVED, Preview, StoredPreview, preview_names
from tests.cases import cases


def _shown(frame: pd.DataFrame) -> Preview:
    (block,) = Table(frame).blocks(0)
    return Preview.of(block)


def _stored(*parts: bytes) -> StoredPreview:
    stored = StoredPreview()
    for part in parts:
        stored.add(part)
    return stored


def _back(*frames: pd.DataFrame) -> pd.DataFrame:
    return _stored(*(_shown(frame).encode(0, len(frame)) for frame in frames)).columns()


EPOCH = pd.Timestamp(0, tz="UTC")


@cases(
    pd.Series([1, 2]),
    pd.Series([1, 2], dtype="uint8"),
    pd.Series([1, None], dtype="Int64"),
    pd.Series([1, None], dtype="int64[pyarrow]"),
    pd.Series([1.5, None]),
    pd.Series([1.0, 2.0]),
    pd.Series([np.nan, np.nan]),
    pd.Series([np.inf, -np.inf, np.nan, 1.0]),
    pd.Series([1.5, None], dtype="Float64"),
    pd.Series([True, False]),
    pd.Series([True, None], dtype="boolean"),
    pd.Series(["a", None, "ü\n"]),
    pd.Series(["a", None], dtype="string"),
    pd.Series(["a", None], dtype=pd.ArrowDtype(pa.large_string())),
    pd.Series([dt.date(2026, 1, 1), None]),
    pd.Series([dt.time(6, 30, 0, 5), None]),
    pd.Series([decimal.Decimal("1.10"), None]),
    pd.Series(pd.PeriodIndex(["2026-01", None], freq="M")),
    pd.Series(pd.to_datetime(["2026-01-01", "NaT"])),
    pd.Series(pd.to_datetime(["2026-01-01", "NaT"])).astype("datetime64[s]"),
    pd.Series(pd.to_datetime(["2026-01-01 00:00:00.000000001", "NaT"])),
    pd.Series(pd.to_datetime(["2026-10-25 00:30", "2026-10-25 01:30", "NaT"])).dt.tz_localize("UTC"),
    pd.Series(pd.to_datetime(["2026-10-25 00:30", "2026-10-25 01:30"]))
    .dt.tz_localize("UTC")
    .dt.tz_convert("Europe/Zurich"),
    pd.Series(pd.to_timedelta(["1h", "NaT"])),
    pd.Series(["a", "b", None], dtype="category"),
    pd.Series([[1, 2], {"a": None}, "x", None], dtype=object),
    pd.Series([2**64, -(2**63) - 1, 10**400], dtype=object),
    ids=lambda series: str(series.dtype),
)
def test_kept(series: pd.Series[Any]) -> None:
    """Columns of these dtypes come back equal, dtype included."""
    assert_series_equal(_back(pd.DataFrame({"x": series}))["x"], series, check_names=False)


@cases(
    (pd.Series([517.0, None]), pd.Series([517, None], dtype="Int64")),
    (
        pd.Series([dt.datetime(2026, 1, 1)], dtype=pd.ArrowDtype(pa.timestamp("us"))),  # noqa: DTZ001 - naive is the case
        pd.Series(pd.to_datetime(["2026-01-01"]).as_unit("us")),
    ),
    (pd.Series(["a", None], dtype="string[python]"), pd.Series(["a", None], dtype="string")),
    (pd.Series([dt.date(2026, 1, 1), "soon"]), pd.Series(["2026-01-01", "soon"], dtype=object)),
    (pd.Series([b"\xff"], dtype=object), pd.Series(["/w=="], dtype=object)),
    (pd.Series(["\ud800", "a"], dtype=object), pd.Series(["?", "a"], dtype=object)),
    (pd.cut(pd.Series([1]), [0, 5]), pd.Series([{"left": 0, "right": 5, "closed": "right"}], dtype=object)),
    (pd.Series(pd.to_datetime(["2026-01-01"])).astype("category"), pd.Series(pd.to_datetime(["2026-01-01"]))),
)
def test_changed(series: pd.Series[Any], expected: pd.Series[Any]) -> None:
    """Integers with missing values are Int64 again, Arrow times pandas' own, the rest what JSON makes of it."""
    assert_series_equal(_back(pd.DataFrame({"x": series}))["x"], expected, check_names=False)


def test_slices_and_parts() -> None:
    """Slices of a block come back in order, all of their rows or some."""
    frame = pd.DataFrame({"a": range(10), "b": list("abcdefghij")})
    shown = _shown(frame)
    parts = [shown.encode(0, 4), shown.encode(4, 10)]
    assert_frame_equal(_stored(*parts).columns(), frame)
    some = StoredPreview()
    some.add(parts[0], [1, 3])
    some.add(parts[1], [0])
    assert some.columns()["b"].tolist() == ["b", "d", "e"]


def test_nothing() -> None:
    """No part gives an empty frame, and rows without columns stay rows."""
    assert _stored().columns().shape == (0, 0)
    assert _back(pd.DataFrame(index=range(3))).shape == (3, 0)


@cases(
    ([[1, 2], [3.0, None]], "Int64", [1, 2, 3, pd.NA]),
    ([[1, 2], [2.5]], "Float64", [1, 2, 2.5]),
    ([["a"], [None]], None, ["a", pd.NA]),
    ([[1], ["a"]], "object", [1, "a"]),
)
def test_parts_that_differ(parts: list[list[Any]], dtype: str | None, cells: list[Any]) -> None:
    """Where the frames of an iterator have other dtypes, one that holds both is found."""
    back = _back(*(pd.DataFrame({"x": part}) for part in parts))["x"]
    assert dtype is None or str(back.dtype) == dtype
    assert [None if pd.isna(cell) else cell for cell in back] == [None if pd.isna(cell) else cell for cell in cells]


def test_parts_that_lack_columns() -> None:
    """A column that some parts lack is missing there."""
    back = _back(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": ["x"]}), pd.DataFrame({"a": [3], "b": ["y"]}))
    assert back["a"].tolist() == [1, pd.NA, 3]
    assert [None if pd.isna(cell) else cell for cell in back["b"]] == [None, "x", "y"]


@cases(
    (b'[2,["x"],["nonsense[lib]"],[[1,null]]]', [1, pd.NA]),  # as of a package that is not there
    (b"""[1,["x"],["datetime64[us, tzfile('/usr/share/zoneinfo/Europe/Zurich')]"],[[0]]]""", [EPOCH]),  # dateutil's
)
def test_unknown_dtypes(part: bytes, cells: list[Any]) -> None:
    """A dtype that this machine does not know is found anew; times of a zone whose name says nothing are in UTC."""
    assert _stored(part).columns()["x"].tolist() == cells


@cases(
    (["day", "state"], ["day", "state_in"]),
    (["state", "state_in"], ["state_in_in", "state_in"]),
    (sorted(RESERVED), [f"{name}_in" for name in sorted(RESERVED)]),
    (["a"], ["a"]),
)
def test_names(names: list[str], shown: list[str]) -> None:
    """A column named like one of ours gets a suffix, and never the name of another one."""
    assert list(preview_names(names).values()) == shown


DATES = [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]


def _index(*frames: pd.DataFrame) -> pd.Index[Any] | None:
    stored = _stored(*(_shown(frame).encode(0, len(frame)) for frame in frames))
    return stored.index(range(sum(map(len, frames))))


@cases(
    pd.RangeIndex(123, 125),
    pd.RangeIndex(2, name="id"),
    pd.Index([7, 5], dtype="uint8"),
    pd.Index([1.0, 2.0]),
    pd.Index([1.0, None]),
    pd.Index(["a", "b"], name="row"),
    pd.Index(["a", "b"], dtype=object),
    pd.Index(["a", None], dtype="string"),
    pd.Index([1, "a"], dtype=object),
    pd.Index(DATES),
    pd.Index([1, None], dtype="int64[pyarrow]"),
    pd.CategoricalIndex(["b", "a"]),
    pd.DatetimeIndex(["2026-10-25 00:30", "2026-10-25 01:30"], tz="UTC", name="at").tz_convert("Europe/Zurich"),
    pd.DatetimeIndex(["2026-01-01", "NaT"]).as_unit("s"),
    pd.to_timedelta(["1h", "2h"]),
    pd.period_range("2026-01", periods=2, freq="M"),
    pd.period_range("2026-01-05", periods=2, freq="W-TUE"),
    pd.MultiIndex.from_product([["JFK", "EWR"], [1]], names=["origin", None]),
    pd.MultiIndex.from_product([pd.date_range("2026-03-29", periods=2, tz="Europe/Zurich"), ["a"]], names=["day", "x"]),
    ids=lambda index: f"{type(index).__name__}-{getattr(index, 'dtype', '')}",
)
def test_an_index_comes_back(index: pd.Index[Any]) -> None:
    """Labels, dtypes, levels and names of an index are the old ones, and no named level is a column too."""
    frame = pd.DataFrame({"x": [1, 2]}, index=index)
    back = _index(frame)
    assert back is not None
    assert (back.equals(index), list(back.names)) == (True, list(index.names))
    assert back.to_frame().dtypes.tolist() == index.to_frame().dtypes.tolist()
    stored = _stored(_shown(frame).encode(0, 2))
    assert list(stored.columns(levels=False)) == ["x"]


@cases(
    (pd.Index([1, 1]), "is not unique"),
    (pd.interval_range(0, 2), "has labels of a rare type"),
    (pd.Index([decimal.Decimal(1), decimal.Decimal(2)]), "has labels of a rare type"),
    (pd.RangeIndex(2), ""),
)
def test_an_index_that_is_none(index: pd.Index[Any], fault: str) -> None:
    """What only counts the rows, or cannot identify them, does not come back."""
    frame = pd.DataFrame({"x": [1, 2]}, index=index)
    assert Table(frame).fault == fault
    assert _index(frame) is None


@cases(
    ([pd.RangeIndex(2), pd.RangeIndex(123, 125)], [0, 1, 123, 124]),
    ([pd.Index(["a"]), pd.Index(["b"])], ["a", "b"]),
    ([pd.Index(["a"]), pd.Index(["a"])], None),
    ([pd.Index(["a"]), pd.Index([1])], None),
    ([pd.Index(["a"]), pd.Index([2, 2])], None),
    ([pd.Index([1], name="x"), pd.Index([2])], None),
    ([pd.Index([1]), pd.MultiIndex.from_tuples([(1, 2)])], None),
    ([pd.DatetimeIndex(["2026-01-01"]), pd.DatetimeIndex(["2026-01-02"], tz="UTC")], None),
)
def test_indexes_of_several_frames(indexes: list[pd.Index[Any]], together: list[Any] | None) -> None:
    """Labels of one kind are put together if they stay unique."""
    found = _index(*(pd.DataFrame({"x": range(len(index))}, index=index) for index in indexes))
    assert (None if found is None else found.tolist()) == together


def test_rows_without_labels() -> None:
    """Where rows of one input came without labels, those of other rows are no index of all."""
    labelled = _shown(pd.DataFrame({"x": [1]}, index=[5])).encode(0, 1)
    stored = _stored(b'[1,["x"],["int64"],[[0]]]', labelled)
    assert stored.index([0, 0]) is None
    assert stored.columns()["x"].tolist() == [0, 1]


def test_levels_are_columns_where_they_are_no_index() -> None:
    """A named level is shown in front; the name of the position has a suffix."""
    frame = pd.DataFrame({"x": [1]}, index=pd.MultiIndex.from_tuples([("a", 2, 3)], names=["row", None, "state"]))
    shown = _stored(_shown(frame).encode(0, 1))
    assert shown.columns().to_dict("list") == {"row_in": ["a"], "state_in": [3], "x": [1]}
    index = shown.index([0])
    assert index is not None
    assert list(index.names) == ["row", None, "state_in"]
