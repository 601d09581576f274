"""The JSON encoder, value by value."""

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import math
import uuid
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from cloudtasks_nb.errors import NotSerializableError
from cloudtasks_nb.store.encode import json_text, plain, to_json


class _Port(enum.Enum):
    NEWARK = "EWR"


@dataclasses.dataclass
class _Row:
    day: dt.date
    port: _Port


class _Code(enum.IntEnum):
    ONE = 1


class _Word(str, enum.Enum):  # noqa: UP042 - the older spelling has another str() and must work too
    A = "a"


DAY = pd.Interval(pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-02"), closed="left")
VALUES: list[tuple[Any, Any]] = [
    *((missing, None) for missing in (None, pd.NA, pd.NaT, math.nan, np.float64("nan"), decimal.Decimal("NaN"))),
    (np.datetime64("NaT", "ns"), None),
    *((value, value) for value in (True, 2**64 - 1, 1.5, "Zürich")),
    *((np.True_, True), (np.int8(-3), -3), (np.float32(0.5), 0.5), (np.longdouble(0.25), 0.25), (np.str_("a"), "a")),
    *((_Port.NEWARK, "EWR"), (_Code.ONE, 1), (_Word.A, "a"), (pd.Index(["a"]), ["a"])),
    *((span, "P0DT0H10M0S") for span in (dt.timedelta(minutes=10), np.timedelta64(10, "m"))),
    (pd.Timedelta("1.5s"), "P0DT0H0M1.5S"),
    *((series, [1, 2]) for series in (pd.Series([1, 2]), pd.Series([1, 2], index=["a", "a"]), pl.Series([1, 2]))),
    (decimal.Decimal("1.10"), "1.10"),
    (decimal.Decimal(2) ** 200, str(decimal.Decimal(2) ** 200)),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(6, 30), "06:30:00"),
    (dt.datetime(2026, 1, 2, 6), "2026-01-02T06:00:00"),  # noqa: DTZ001 - naive is the case
    (dt.datetime(2026, 1, 2, 6, tzinfo=dt.UTC), "2026-01-02T06:00:00+00:00"),
    (pd.Timestamp("2026-01-02 06:00", tz="Asia/Tokyo"), "2026-01-02T06:00:00+09:00"),
    (pd.Timestamp("2026-01-02 06:00:00.000000001"), "2026-01-02T06:00:00.000000001"),
    (np.datetime64("2026-01-02T06:00:00"), "2026-01-02T06:00:00"),
    (pd.Period("2026-01", "M"), "2026-01"),
    (pd.Interval(0, 1), {"left": 0, "right": 1, "closed": "right"}),
    (DAY, {"left": "2026-01-01T00:00:00", "right": "2026-01-02T00:00:00", "closed": "left"}),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ([1, (2, [None, math.nan])], [1, [2, [None, None]]]),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array(["2026-01-01"], dtype="datetime64[ns]"), ["2026-01-01T00:00:00"]),
    (np.array(7), 7),
    (pd.Series({"mean": 1.5, "days": 2}), {"mean": 1.5, "days": 2.0}),
    ({"a": {"b": pd.NA}, 7: 2, None: 3, True: 4, 0.5: 5}, {"a": {"b": None}, "7": 2, "null": 3, "true": 4, "0.5": 5}),
    ({pd.Timestamp("2026-01-01"): 1}, {"2026-01-01T00:00:00": 1}),
    (np.array([1.5, 2.5]), [1.5, 2.5]),
    (pd.array([1, None], dtype="Int64"), [1, None]),
    (np.datetime64("2026-01-02T06:00:00.000000001"), "2026-01-02T06:00:00.000000001"),
    (np.timedelta64(-1, "ns"), "P-1DT23H59M59.999999999S"),
    (dt.timedelta(days=-1, seconds=1, microseconds=120), "P-1DT0H0M1.00012S"),
    (PurePosixPath("/data/a.csv"), "/data/a.csv"),
    (_Row(day=dt.date(2026, 1, 2), port=_Port.NEWARK), {"day": "2026-01-02", "port": "EWR"}),
    (pd.DataFrame({"a": [1, None], "b": ["x", "y"]}), [{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}]),
    (pd.DataFrame({"a": [1]}, index=pd.Index(["EWR"], name="origin")), [{"origin": "EWR", "a": 1}]),
    (pl.DataFrame({"a": [1, 2]}), [{"a": 1}, {"a": 2}]),
    (pa.table({"a": [1]}), [{"a": 1}]),
]


@pytest.mark.parametrize(
    ("value", "expected"), VALUES, ids=[f"{type(v).__name__}-{n}" for n, (v, _) in enumerate(VALUES)]
)
def test_value(value: Any, expected: Any) -> None:
    """A value becomes what JSON knows, and comes back from the bytes as that."""
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)
    assert orjson.loads(to_json(value)) == expected


def test_an_array_with_missing_values() -> None:
    """NaN in an array becomes null in the bytes."""
    assert to_json(np.array([1.5, math.nan])) == b"[1.5,null]"


def _cyclic() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def _deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(300):
        made = [made]
    return made


REFUSED: dict[str, list[Any]] = {
    "sorted": [{1, 2}, frozenset()],
    "infinity": [math.inf, np.float32("-inf"), decimal.Decimal("Infinity"), np.array([1.0, math.inf])],
    "4,300 digits": [[10**5000]],
    "surrogate": ["\ud800"],
    "complex": [1 + 2j, np.complex128(1)],
    "Fraction": [fractions.Fraction(1, 3)],
    "object": [object()],
    "same name": [pd.DataFrame([[1, 2]], columns=["a", "a"])],
    "sets": [{"a": [{1}]}],
    "nested": [_cyclic(), _deep()],
}


@pytest.mark.parametrize(("word", "value"), [(word, value) for word, values in REFUSED.items() for value in values])
def test_refused(value: Any, word: str) -> None:
    """What JSON cannot hold is refused by its name, with a way out."""
    with pytest.raises(NotSerializableError, match=word):
        to_json(value)


@pytest.mark.parametrize(
    ("value", "text"), [("a b", "a b"), (1, "1"), (1.5, "1.5"), (True, "true"), ([1, "a"], '[1,"a"]')]
)
def test_json_text(value: Any, text: str) -> None:
    """In a URL a value stands as in JSON, but text without quotes."""
    assert json_text(value) == text


@pytest.mark.parametrize("value", [2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**40])
def test_integers_of_any_size(value: int) -> None:
    """No digit of an integer is lost, wherever in a value it stands."""
    assert to_json({"n": [value, np.array([value], dtype=object)]}) == f'{{"n":[{value},[{value}]]}}'.encode()
    assert (to_json({value: 1}), json_text(plain(value))) == (f'{{"{value}":1}}'.encode(), str(value))
