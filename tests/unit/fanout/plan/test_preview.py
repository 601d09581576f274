"""The columns of the input that a batch shows again."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_series_equal

from cloudtasks_nb.fanout.plan.columns import Table
from cloudtasks_nb.fanout.plan.preview import RESERVED, Preview, decode_preview, length_of, preview_names


def _shown(frame: pd.DataFrame) -> Preview:
    (block,) = Table(frame).blocks(0)
    names = preview_names(block.columns)
    return Preview.of((names[name], column) for name, column in block.columns.items())


def _back(*frames: pd.DataFrame) -> pd.DataFrame:
    return decode_preview([_shown(frame).encode(0, len(frame)) for frame in frames])


KEPT = [
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
    pd.Series([2**64, -(2**63) - 1], dtype=object),
]


@pytest.mark.parametrize("series", KEPT, ids=lambda series: str(series.dtype))
def test_kept(series: pd.Series[Any]) -> None:
    """Columns of these dtypes come back equal, dtype included."""
    assert_series_equal(_back(pd.DataFrame({"x": series}))["x"], series, check_names=False)


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (pd.Series([517.0, None]), pd.Series([517, None], dtype="Int64")),
        (
            pd.Series([dt.datetime(2026, 1, 1)], dtype=pd.ArrowDtype(pa.timestamp("us"))),  # noqa: DTZ001 - naive is the case
            pd.Series(pd.to_datetime(["2026-01-01"]).as_unit("us")),
        ),
        (pd.Series(["a", None], dtype="string[python]"), pd.Series(["a", None], dtype="string")),
        (pd.Series([decimal.Decimal("1.10")]), pd.Series(["1.10"], dtype=object)),
        (pd.Series([dt.date(2026, 1, 1)]), pd.Series(["2026-01-01"], dtype=object)),
        (pd.Series([b"\xff"], dtype=object), pd.Series(["b'\\xff'"], dtype=object)),
        (pd.Series(["\ud800", "a"], dtype=object), pd.Series(["?", "a"], dtype=object)),
        (pd.Series(pd.period_range("2026-01", periods=1, freq="M")), pd.Series(["2026-01"], dtype=object)),
    ],
)
def test_changed(series: pd.Series[Any], expected: pd.Series[Any]) -> None:
    """Integers with missing values are Int64 again, Arrow times pandas' own, the rest what JSON makes of it."""
    assert_series_equal(_back(pd.DataFrame({"x": series}))["x"], expected, check_names=False)


def test_slices_and_parts() -> None:
    """Slices of a block, in several lines of several parts, come back in order; their length is in their head."""
    frame = pd.DataFrame({"a": range(10), "b": list("abcdefghij")})
    shown = _shown(frame)
    parts = [b"\n".join([shown.encode(0, 3), shown.encode(3, 4)]), shown.encode(4, 10)]
    pd.testing.assert_frame_equal(decode_preview(parts), frame)
    assert [length_of(part) for part in parts] == [4, 6]


def test_nothing() -> None:
    """No part gives an empty frame, and rows without columns stay rows."""
    assert decode_preview([]).shape == (0, 0)
    assert _back(pd.DataFrame(index=range(3))).shape == (3, 0)


@pytest.mark.parametrize(
    ("parts", "dtype", "cells"),
    [
        ([[1, 2], [3.0, None]], "Int64", [1, 2, 3, pd.NA]),
        ([[1, 2], [2.5]], "Float64", [1, 2, 2.5]),
        ([["a"], [None]], None, ["a", pd.NA]),
        ([[1], ["a"]], "object", [1, "a"]),
    ],
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


def test_unknown_dtype() -> None:
    """A dtype that this machine does not know, as of a package that is not there, is found anew."""
    part = b'[2,["x"],["nonsense[lib]"],[[1,null]]]'
    assert decode_preview([part])["x"].tolist() == [1, pd.NA]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["day", "state"], ["day", "state_in"]),
        (["state", "state_in"], ["state_in_in", "state_in"]),
        (sorted(RESERVED), [f"{name}_in" for name in sorted(RESERVED)]),
        (["a"], ["a"]),
    ],
)
def test_names(names: list[str], shown: list[str]) -> None:
    """A column named like one of ours gets a suffix, and never the name of another one."""
    assert list(preview_names(names).values()) == shown
