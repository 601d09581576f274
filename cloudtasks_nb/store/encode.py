"""The only JSON encoder, of bodies and of results: convert values of any pandas dtype to JSON types.

It imports neither pandas nor numpy, so that a deployed handler needs neither. Their classes are added when a value
comes that nothing else is known about, if somebody else has imported them.
What has no form of its own in JSON is written like this:

=========================  ====================================================================================
missing (NaN, NA, NaT)     ``null``
float column of integers   integers, if it is a missing value that made the column float
Timestamp, datetime        ISO 8601; with its offset if it has a zone, else without
date, time                 ISO 8601
Timedelta                  ISO 8601 duration: ``"P0DT0H10M0S"``
Decimal                    text, so that no digit is lost: ``"1.10"``
category                   its value
Interval                   ``{"left": 0, "right": 1, "closed": "right"}``
Period, UUID               text
array, tuple, Series       list; a table of Polars or Arrow is a list of records; a Series with text labels: an object
DataFrame                  list of records; an index with a name, or of other than integers, is a field of each
dataclass                  its fields
path                       text
bytes                      base64
set, infinity              refused: `NotSerializableError`
=========================  ====================================================================================
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import math
import sys
import uuid
from collections.abc import Mapping
from functools import cache, singledispatch
from pathlib import PurePath
from typing import Any

import orjson

from cloudtasks_nb.errors import NotSerializableError

__all__ = ["json_text", "plain", "to_json"]


def to_json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    try:
        return orjson.dumps(plain(value))
    except (RecursionError, orjson.JSONEncodeError):  # holds itself, or has over 254 levels
        raise NotSerializableError(
            f"{type(value).__name__} is nested too deeply for JSON",
            hint="a value in it holds itself, or has over 254 levels: write its parts under names of their own",
        ) from None


def json_text(value: Any) -> str:
    """Return a JSON-able value as it stands in a URL or inside a text: as in JSON, but text without its quotes."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@singledispatch
def plain(value: Any) -> Any:
    """Return a value with everything in it converted to JSON types.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    kind = type(value)
    if _register_libraries():
        return plain(value)
    library = kind.__module__.partition(".")[0]
    for method in ("to_dicts", "to_list", "to_pylist"):  # the frames and columns of polars and Arrow
        if library in {"polars", "pyarrow"} and hasattr(value, method):
            return plain(getattr(value, method)())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if library == __name__.partition(".")[0]:
        return str(value)  # a function may return the batch that it has sent
    raise _refusal(value, "convert it first, to text or to numbers")


def _refusal(value: object, hint: str) -> NotSerializableError:
    name = type(value).__name__
    return NotSerializableError(f"{name} cannot be written as JSON", resource=name, hint=hint)


@plain.register(type(None))
def _(_value: object) -> None:
    return None


@plain.register(bool)
def _(value: bool) -> bool:  # noqa: FBT001 - singledispatch passes the value alone
    return value


@plain.register
def _(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotSerializableError(
                "text with half a surrogate pair cannot be written as JSON",
                hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
            ) from None
    return str.__str__(value)  # an enum that is text has another idea of str()


@plain.register
def _(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return int(value)
    try:
        return orjson.Fragment(int.__repr__(value))  # orjson writes integers of up to 64 bits
    except ValueError:
        raise NotSerializableError(
            "an integer of more than 4,300 digits cannot be written as JSON",
            resource="int",
            hint="use hex(value)",
        ) from None


@plain.register
def _(value: float) -> float | None:
    if math.isinf(value):
        raise NotSerializableError("infinity cannot be written as JSON", resource="float", hint="use None in its place")
    return None if math.isnan(value) else float(value)


@plain.register
def _(value: decimal.Decimal) -> str | None:
    if value.is_infinite():
        raise NotSerializableError(
            "infinity cannot be written as JSON", resource="Decimal", hint="use None in its place"
        )
    return None if value.is_nan() else str(value)


def _number(value: Any) -> Any:
    """Return a scalar of numpy."""
    if value.dtype.kind in "mM":
        return _numpy_time(value)
    found = value.item()
    if type(found) is type(value):  # long double: numpy has no Python type for it
        return plain(float(value)) if value.dtype.kind == "f" else plain.dispatch(object)(value)
    return plain(found)


def _numpy_time(value: Any) -> str | None:
    """Return a time or a duration of numpy with its nanoseconds, which Python's own types do not have."""
    if value != value:  # noqa: PLR0124 - NaT
        return None
    kind = "datetime64" if value.dtype.kind == "M" else "timedelta64"
    whole = value.astype(f"{kind}[us]")
    precise = value.dtype.str.endswith(("[ns]", "[ps]", "[fs]", "[as]"))
    rest = int((value - whole).astype("timedelta64[ns]").astype(int)) if precise else 0
    found = whole.item()
    if isinstance(found, dt.timedelta):
        return _duration(found, rest)
    if isinstance(found, dt.datetime):
        return found.isoformat(timespec="microseconds") + f"{rest:03}" if rest else found.isoformat()
    return str(whole)  # after the year 9999


def _duration(value: dt.timedelta, nanoseconds: int = 0) -> str:
    minutes, seconds = divmod(value.seconds, 60)
    fraction = f".{value.microseconds * 1000 + nanoseconds:09}".rstrip("0").rstrip(".")
    return f"P{value.days}DT{minutes // 60}H{minutes % 60}M{seconds}{fraction}S"


@plain.register(dt.date)
@plain.register(dt.time)
def _(value: dt.date | dt.time) -> str | None:
    text = value.isoformat()
    return None if text == "NaT" else text  # pd.NaT is a date


@plain.register
def _(value: dt.timedelta) -> str:
    # A pd.Timedelta has nanoseconds.
    return str(value.isoformat()) if hasattr(value, "isoformat") else _duration(value)


@plain.register(uuid.UUID)
@plain.register(PurePath)
def _(value: object) -> str:
    return str(value)


@plain.register
def _(value: enum.Enum) -> Any:
    return plain(value.value)


@plain.register(list)
@plain.register(tuple)
def _(value: Any) -> list[Any]:
    return [plain(item) for item in value]


def _array(value: Any) -> Any:
    """Return an array of numpy."""
    finite = value.dtype.kind == "f" and value.itemsize <= 8 and not (abs(value) == math.inf).any()  # noqa: PLR2004 - long double has no Python type
    if value.dtype.kind in "biu" or finite:
        return value.tolist()  # NaN becomes null as the list is written
    return [plain(item) for item in value] if value.ndim else plain(value[()])


@plain.register(Mapping)
def _(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {json_text(plain(key)): plain(item) for key, item in value.items()}


@plain.register(set)
@plain.register(frozenset)
def _(value: object) -> Any:
    raise _refusal(value, "sets have no order: use sorted(value)")


@plain.register(bytes)
@plain.register(bytearray)
@plain.register(memoryview)
def _(value: Any) -> str:
    return base64.b64encode(value).decode()


def _register_libraries() -> bool:
    """Add the classes of numpy and pandas that have been imported since the last time; return whether there are any."""
    libraries = (("numpy", _register_numpy), ("pandas", _register_pandas))
    new = [one for one in libraries if sys.modules.get(one[0]) and not one[1].cache_info().currsize]
    for name, register in new:
        register(sys.modules[name])
    return bool(new)


@cache
def _register_numpy(numpy: Any) -> None:
    plain.register(numpy.generic, _number)
    plain.register(numpy.ndarray, _array)


@cache
def _register_pandas(pandas: Any) -> None:
    plain.register(type(pandas.NA), lambda _value: None)
    plain.register(pandas.Period, str)
    plain.register(
        pandas.Interval, lambda value: {"left": plain(value.left), "right": plain(value.right), "closed": value.closed}
    )
    for kind in (pandas.Index, pandas.api.extensions.ExtensionArray):
        plain.register(kind, lambda value: [plain(item) for item in value])
    plain.register(pandas.Series, _labelled)
    plain.register(pandas.DataFrame, _records)


def _labelled(series: Any) -> dict[str, Any] | list[Any]:
    """Return the values of a Series of pandas, by label if the labels are texts, as those of a frame's row are."""
    values = [plain(item) for item in series]
    labels = series.index
    named = len(labels) > 0 and labels.is_unique and all(isinstance(label, str) for label in labels)
    return dict(zip(labels, values, strict=True)) if named else values


def _records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a frame of pandas, one dictionary each."""
    if frame.index.nlevels > 1 or frame.index.name is not None or frame.index.dtype.kind not in "iu":
        frame = frame.reset_index()
    names = [json_text(plain(name)) for name in frame.columns]
    if len(set(names)) < len(names):
        raise _refusal(frame, "two of its columns have the same name: rename one")
    columns = [plain(frame.iloc[:, at]) for at in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
