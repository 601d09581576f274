"""The types of values that JSON has as text, numbers, lists or objects: described beside the JSON, and restored.

A description is JSON itself, and None where the value is what JSON says. It names one of the kinds below and runs
nothing: what is read from a store may be of anybody. Neither pandas nor numpy is needed; a process without pandas gets
a `datetime` in place of a Timestamp, and a list of dictionaries in place of a frame.

cattrs and msgspec restore values by annotations, which functions of a notebook do not have; pyarrow restores columns of
one type each, is large, and its bytes are not JSON. So the descriptions are made here.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import importlib
import json
import math
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from cloudtasks_nb.store.encode import json_text, plain

__all__ = ["LONGEST", "describe", "header_text", "restore"]

#: Characters of a description in a header: servers take lines of 8 KiB. Values of a longer one stay what JSON says.
LONGEST = 7_000

_EACH, _FIELDS, _ITEMS = "each", "fields", "items"  # how the values in a container are described
_PLAIN = (str, bool, int, type(None))
_DURATION = re.compile(r"P(-?\d+)DT(\d+)H(\d+)M(\d+)(?:\.(\d+))?S")


def describe(value: Any) -> Any:
    """Return the description of a value; None if it is what its JSON says.

    Examples
    --------
    >>> describe({"day": dt.date(2013, 1, 1), "n": 1})
    {'fields': {'day': ['date']}}
    """
    kind = type(value)
    if kind in _PLAIN:
        return None
    if kind is float:
        return ["nan"] if math.isnan(value) else None
    if isinstance(value, Mapping):
        return _fields({json_text(plain(key)): describe(item) for key, item in value.items()})
    if kind in (list, tuple):
        found = _items([describe(item) for item in value])
        return ["tuple", found] if kind is tuple else found
    if kind in _DESCRIBE:
        return _DESCRIBE[kind](value)
    return _describe_library(value)


def restore(value: Any, description: Any) -> Any:
    """Return a JSON value as what its description says; a description that does not fit leaves it as it is.

    Examples
    --------
    >>> restore({"day": "2013-01-01", "n": 1}, {"fields": {"day": ["date"]}})
    {'day': datetime.date(2013, 1, 1), 'n': 1}
    """
    try:
        return _restored(value, description)
    except Exception:  # noqa: BLE001 - of another version, or of whoever can write to the store
        return value


def header_text(description: Any) -> str:
    """Return a description as the text of a header; empty if there is none, or it is too long for one."""
    text = "" if description is None else json.dumps(description, separators=(",", ":"))
    return text if len(text) <= LONGEST else ""


def _fields(found: Mapping[str, Any]) -> Any:
    typed = {name: one for name, one in found.items() if one is not None}
    return {_FIELDS: typed} if typed else None


def _items(found: Sequence[Any]) -> Any:
    if not any(one is not None for one in found):
        return None
    if all(one == found[0] for one in found):
        return {_EACH: found[0]}
    return {_ITEMS: {str(at): one for at, one in enumerate(found) if one is not None}}


def _zone(tz: dt.tzinfo | None) -> str | None:
    """Return the name of a zone; None for a fixed offset, which ISO 8601 has, and without a zone."""
    return getattr(tz, "key", None) or getattr(tz, "zone", None)


_DESCRIBE: dict[type, Callable[[Any], Any]] = {
    dt.date: lambda _: ["date"],
    dt.datetime: lambda value: ["datetime", _zone(value.tzinfo)],
    dt.time: lambda value: ["time", _zone(value.tzinfo)],
    dt.timedelta: lambda _: ["timedelta"],
    decimal.Decimal: lambda value: ["nan decimal"] if value.is_nan() else ["decimal"],
    uuid.UUID: lambda _: ["uuid"],
    bytes: lambda _: ["bytes"],
}


def _describe_library(value: Any) -> Any:
    """Return the description of a value of numpy or pandas, as far as somebody has imported these."""
    numpy: Any = sys.modules.get("numpy")
    pandas: Any = sys.modules.get("pandas")
    found = None if pandas is None else _describe_pandas(value, pandas)
    if found is None and numpy is not None and isinstance(value, numpy.generic):
        return ["numpy", value.dtype.str]
    if found is None and numpy is not None and isinstance(value, numpy.ndarray):
        inner = None if value.dtype.kind in "biuf" else describe([*value.ravel()])
        return ["array", value.dtype.str, [*value.shape], inner]
    return found


def _describe_pandas(value: Any, pandas: Any) -> Any:
    if value is pandas.NaT:
        return ["NaT"]
    if isinstance(value, pandas.Timestamp):
        return ["Timestamp", value.unit, _zone(value.tz)]
    if isinstance(value, pandas.Timedelta):
        return ["Timedelta", value.unit]
    if isinstance(value, pandas.DataFrame):
        columns = [_series(value.iloc[:, at]) for at in range(value.shape[1])]
        names = [*value.columns]
        return ["frame", plain(names), describe(names), columns, _index(value.index)]
    if isinstance(value, pandas.Series):
        return ["series", plain(value.name), _series(value), _index(value.index)]
    return None


def _series(series: Any) -> list[Any]:
    """Return the dtype of a column, and the description of its values where these are objects."""
    return [str(series.dtype), describe([*series]) if series.dtype == object else None]


def _index(index: Any) -> Any:
    """Return the labels of an index that does not only count; None for one that does."""
    if index.name is None and index.nlevels == 1 and index.equals(type(index)(range(len(index)))):
        return None
    values = [*index]
    return [plain(values), describe(values), plain([*index.names]), index.nlevels, str(getattr(index, "dtype", ""))]


def _restored(value: Any, description: Any) -> Any:
    if description is None:
        return value
    if isinstance(description, Mapping):
        if _FIELDS in description:
            typed = description[_FIELDS]
            return {name: _restored(one, typed.get(name)) for name, one in value.items()}
        if _EACH in description:
            return [_restored(one, description[_EACH]) for one in value]
        typed = description[_ITEMS]
        return [_restored(one, typed.get(str(at))) for at, one in enumerate(value)]
    kind, *more = description
    return _RESTORE[kind](value, *more)


def _library(name: str) -> Any:
    """Return a library; None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _datetime(text: str, zone: str | None = None) -> dt.datetime:
    moment = dt.datetime.fromisoformat(text)
    return moment if zone is None else moment.astimezone(ZoneInfo(zone))


def _time(text: str, zone: str | None = None) -> dt.time:
    moment = dt.time.fromisoformat(text)
    return moment if zone is None else moment.replace(tzinfo=ZoneInfo(zone))


def _timestamp(text: str, unit: str, zone: str | None = None) -> Any:
    pandas = _library("pandas")
    if pandas is None:
        return _datetime(re.sub(r"(\.\d{6})\d+", r"\1", text), zone)
    moment = pandas.Timestamp(text).as_unit(unit)
    return moment if zone is None else moment.tz_convert(zone)


def _nanoseconds(text: str) -> int:
    """Return a duration as `plain` writes it in nanoseconds."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(text)
    days, hours, minutes, seconds = map(int, found.groups()[:4])
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return whole * 10**9 + int((found[5] or "").ljust(9, "0"))


def _span(text: str) -> dt.timedelta:
    return dt.timedelta(microseconds=_nanoseconds(text) // 1000)


def _timedelta(text: str, unit: str) -> Any:
    pandas = _library("pandas")
    return _span(text) if pandas is None else pandas.Timedelta(_nanoseconds(text), "ns").as_unit(unit)


def _number(value: Any, dtype: str) -> Any:
    numpy = _library("numpy")
    if numpy is None:
        return math.nan if value is None else value
    kind = numpy.dtype(dtype)
    if kind.kind == "m" and value is not None:
        return numpy.timedelta64(_nanoseconds(value), "ns").astype(kind)
    if kind.kind == "M":
        return numpy.datetime64("NaT" if value is None else value).astype(kind)
    if kind.kind == "m":
        return numpy.timedelta64("NaT").astype(kind)
    return kind.type(math.nan if value is None else value)


def _array(value: Any, dtype: str, shape: list[int], inner: Any) -> Any:
    numpy = _library("numpy")
    if numpy is None:
        return value
    flat = [value]
    for _ in shape:
        flat = [one for part in flat for one in part]
    made = numpy.empty(len(flat), dtype=dtype)
    for at, one in enumerate(flat if inner is None else _restored(flat, inner)):
        made[at] = math.nan if one is None and made.dtype.kind == "f" else one
    return made.reshape(shape)


def _column(pandas: Any, values: list[Any], dtype: str, inner: Any) -> Any:
    if dtype.startswith("timedelta64"):
        values = [None if one is None else pandas.Timedelta(_nanoseconds(one), "ns") for one in values]
    elif dtype.startswith("datetime64["):
        return pandas.Series(pandas.to_datetime(values, utc="," in dtype, format="ISO8601")).astype(dtype)
    return pandas.Series(_restored(values, inner), dtype=dtype)


def _labels(pandas: Any, found: Any, length: int) -> Any:
    if found is None:
        return pandas.RangeIndex(length)
    values, inner, names, levels, dtype = found
    values = _restored(values, inner)
    if levels > 1:
        return pandas.MultiIndex.from_tuples([tuple(one) for one in values], names=names)
    return pandas.Index(_column(pandas, found[0], dtype, inner), name=names[0])


def _frame(value: Any, names: list[Any], typed: Any, columns: list[Any], index: Any) -> Any:
    pandas = _library("pandas")
    if pandas is None:
        return value
    made = {at: _column(pandas, [row[json_text(names[at])] for row in value], *one) for at, one in enumerate(columns)}
    frame = pandas.DataFrame(made, columns=range(len(columns)), index=pandas.RangeIndex(len(value)))
    frame.columns = pandas.Index(_restored(names, typed))
    frame.index = _labels(pandas, index, len(value))
    return frame


def _series_of(value: Any, name: Any, column: list[Any], index: Any) -> Any:
    pandas = _library("pandas")
    if pandas is None:
        return value
    made = _column(pandas, [*(value.values() if isinstance(value, dict) else value)], *column).rename(name)
    made.index = _labels(pandas, index, len(made))
    return made


_RESTORE: dict[str, Callable[..., Any]] = {
    "nan": lambda _: math.nan,
    "NaT": lambda _: getattr(_library("pandas"), "NaT", None),
    "tuple": lambda value, inner: tuple(_restored(value, inner)),
    "date": dt.date.fromisoformat,
    "datetime": _datetime,
    "time": _time,
    "timedelta": _span,
    "decimal": decimal.Decimal,
    "nan decimal": lambda _: decimal.Decimal("NaN"),
    "uuid": uuid.UUID,
    "bytes": lambda value: base64.b64decode(value, validate=True),
    "Timestamp": _timestamp,
    "Timedelta": _timedelta,
    "numpy": _number,
    "array": _array,
    "frame": _frame,
    "series": _series_of,
}
