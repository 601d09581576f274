"""`store.types`: what values are, beside their JSON, and values made of both again."""

import datetime as dt
import decimal
import json
import math
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from cloudtasks_nb.store.encode import to_json
from cloudtasks_nb.store.results import pack_result, unpack_result
from cloudtasks_nb.store.types import LONGEST, describe, header_text, restore

ZONES: Any = st.sampled_from([None, dt.UTC, dt.timezone(dt.timedelta(hours=5)), ZoneInfo("Europe/Berlin")])
EARLY, LATE = dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)  # noqa: DTZ001 - the zones come later
MOMENTS = st.datetimes(EARLY, LATE, timezones=ZONES)
STAMPS = MOMENTS.map(pd.Timestamp)
SPANS = st.timedeltas(dt.timedelta(-9_999), dt.timedelta(9_999))
SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_infinity=False),
    st.text(),
    st.binary(),
    st.dates(),
    st.times(),
    MOMENTS,
    STAMPS,
    SPANS,
    SPANS.map(pd.Timedelta),
    st.decimals(allow_infinity=False).filter(lambda number: not number.is_snan()),
    st.uuids(),
    st.floats(allow_infinity=False, width=32).map(np.float32),
    st.integers(0, 255).map(np.uint8),
    st.lists(st.floats(allow_infinity=False)).map(np.array),
)
VALUES = st.recursive(
    SINGLE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(), inner, max_size=4),
    ),
    max_leaves=12,
)


def back(value: Any) -> Any:
    """Return what comes of a value by JSON and its description, which is JSON too."""
    return restore(json.loads(to_json(value)), json.loads(json.dumps(describe(value))))


def same(one: Any, other: Any) -> bool:
    """Return whether values are equal and of one type, NaN too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dt.datetime) and one.utcoffset() != other.utcoffset():
        return False
    return bool(one == other) or (one != one and other != other)  # noqa: PLR0124 - NaN


@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    """Nested values keep their types, zones and NaN."""
    assert same(back(value), value)


DAYS: Any = ["2013", None]
FRAMES = (
    pd.DataFrame({"a": [1, 2], "day": pd.to_datetime(DAYS), "o": [dt.date(2013, 1, 1), b"a"]}),
    pd.DataFrame({"f": [1.0, np.nan], "t": pd.to_timedelta([1, 2], "s"), "n": pd.array([1, None], "Int64")}),
    pd.DataFrame({"z": pd.to_datetime(["2013", "2014"]).tz_localize("Europe/Berlin")}, index=["x", "y"]),
    pd.DataFrame({1: [1]}, index=pd.date_range("2013", periods=1, name="day")),
    pd.DataFrame({"a": []}),
)


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_come_back(frame: pd.DataFrame) -> None:
    """With their dtypes, their labels and the names of their columns."""
    assert_frame_equal(back(frame), frame, check_freq=False)
    column = frame.iloc[:, 0]
    assert_series_equal(back(column), column, check_freq=False)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6).reshape(2, 3),
        np.empty((0, 3)),
        np.array(["a", "bc"]),
        np.array(["2013-01-01"], dtype="M8[ns]"),
        np.datetime64("2013-01-01T00:00:00.000000001"),
        np.timedelta64(5, "ns"),
        pd.Timestamp("2013-10-27 00:30:00.000000001", tz="UTC").tz_convert("Europe/Berlin"),
    ],
)
def test_arrays_and_nanoseconds_come_back(value: Any) -> None:
    """With dtype and shape."""
    found = back(value)
    assert type(found) is type(value)
    np.testing.assert_array_equal(found, value)


def test_what_json_says_needs_no_description() -> None:
    """So rows of text and numbers have no header."""
    assert describe({"a": [1, "x", None, {"b": 0.5}], "c": True}) is None
    assert header_text(None) == ""
    assert header_text(describe([{"a": b"x"}, 1] * LONGEST)) == ""


@pytest.mark.parametrize(
    "description", [["os.system"], ["date", "a", "b"], 3, {"each": ["date"]}, ["array", "O", 1, 2]]
)
def test_a_description_of_anybody(description: Any) -> None:
    """It runs nothing, and leaves a value that it does not fit as it is."""
    assert restore("no date", description) == "no date"


def test_single_values() -> None:
    """As they are written for any service, and as they come back."""
    assert to_json({"b": b"\0\xff", "d": decimal.Decimal("1.10")}) == b'{"b":"AP8=","d":"1.10"}'
    assert back(uuid.UUID(int=1)) == uuid.UUID(int=1)
    assert math.isnan(back(math.nan))
    assert back(pd.NaT) is pd.NaT


def test_a_result_of_an_earlier_version() -> None:
    """A line that commit 75eaff4a has written is read as before: dates are text, tuples are lists."""
    line = (
        b'{"task":"390c14ae7f5104a9e75f-8b6bc87d-1","attempt":1,"status":200,'
        b'"started":"2026-12-07T11:44:24.843420+00:00","duration":0.00001523200080555398,'
        b'"tag":"db39a01560cacafc37eb9260daeb3686","version":"cd194484733a",'
        b'"result":{"day":"2013-01-01","price":"1.10","pair":[1,1]}}'
    )
    found = unpack_result(line)
    assert found.types is None
    assert restore(found.result, found.types) == {"day": "2013-01-01", "price": "1.10", "pair": [1, 1]}
    assert pack_result(found) == line  # and a result without types is written as before
