"""The one JSON encoder: values of every pandas dtype, cell by cell or a column at a time.

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
array, tuple, Series       list
bytes, set, infinity       refused: `NotSerializableError`
=========================  ====================================================================================
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property, singledispatch
from typing import Any

import numpy as np
import orjson
import pandas as pd

from cloudtasks_nb.errors import NotSerializableError

__all__ = ["Column", "Source", "json_text", "plain", "to_json"]

#: Whole floats up to here are exactly one integer; beyond, neighbours share a float.
_EXACT = 2.0**53


def to_json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    try:
        return orjson.dumps(plain(value))
    except (RecursionError, orjson.JSONEncodeError) as error:  # holds itself, or has over 254 levels
        raise NotSerializableError(f"{type(value).__name__} is nested too deeply for JSON") from error


def json_text(value: Any) -> str:
    """Return a JSON-able value as it stands in a URL or inside a text: as in JSON, but text without its quotes."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@singledispatch
def plain(value: Any) -> Any:
    """Return a value with everything in it replaced by what JSON knows.

    Raises
    ------
    NotSerializableError
        If the value, or one inside it, has no form in JSON.
    """
    raise _refusal(value, "convert it first, to text or to numbers")


def _refusal(value: object, hint: str) -> NotSerializableError:
    name = type(value).__name__
    return NotSerializableError(f"{name} cannot be written as JSON", resource=name, hint=hint)


@plain.register(type(None))
@plain.register(type(pd.NA))
@plain.register(type(pd.NaT))
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
        except UnicodeEncodeError as error:
            raise NotSerializableError(
                "text with half a surrogate pair cannot be written as JSON",
                hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
            ) from error
    return str.__str__(value)  # an enum that is text has another idea of str()


@plain.register
def _(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise NotSerializableError(
            f"the integer {value} has more than 64 bits", resource="int", hint="send it as text: .astype(str)"
        )
    return int(value)


@plain.register
def _(value: float) -> float | None:
    if math.isinf(value):
        raise NotSerializableError(
            "infinity cannot be written as JSON", resource="float", hint="replace it: df.replace([inf, -inf], None)"
        )
    return None if math.isnan(value) else float(value)


@plain.register
def _(value: decimal.Decimal) -> str | None:
    if value.is_infinite():
        raise NotSerializableError("infinity cannot be written as JSON", resource="Decimal", hint="replace it")
    return None if value.is_nan() else str(value)


@plain.register(np.generic)
def _(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return plain(pd.Timestamp(value))
    if isinstance(value, np.timedelta64):
        return plain(pd.Timedelta(value))
    found = value.item()
    if isinstance(found, np.generic):  # long double: numpy knows no Python value for it
        return plain(float(value)) if isinstance(value, np.floating) else plain.dispatch(object)(value)
    return plain(found)


@plain.register(dt.date)
@plain.register(dt.time)
def _(value: dt.date | dt.time) -> str:
    return value.isoformat()


@plain.register
def _(value: dt.timedelta) -> str:
    return pd.Timedelta(value).isoformat()


@plain.register(uuid.UUID)
@plain.register(pd.Period)
def _(value: object) -> str:
    return str(value)


@plain.register(pd.Interval)
def _(value: Any) -> dict[str, Any]:
    return {"left": plain(value.left), "right": plain(value.right), "closed": value.closed}


@plain.register
def _(value: enum.Enum) -> Any:
    return plain(value.value)


@plain.register(list)
@plain.register(tuple)
@plain.register(pd.Series)
@plain.register(pd.Index)
def _(value: Any) -> list[Any]:
    return [plain(item) for item in value]


@plain.register(np.ndarray)
def _(value: Any) -> Any:
    return [plain(item) for item in value] if value.ndim else plain(value[()])


@plain.register(Mapping)
def _(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {json_text(plain(key)): plain(item) for key, item in value.items()}


@plain.register(set)
@plain.register(frozenset)
def _(value: object) -> Any:
    raise _refusal(value, "sets have no order: send sorted(value)")


@plain.register(bytes)
@plain.register(bytearray)
@plain.register(memoryview)
def _(value: object) -> Any:
    raise _refusal(value, "send text: base64.b64encode(value).decode()")


class Source:
    """One column of an input frame, and what only the whole column can tell.

    Parameters
    ----------
    name : str
    series : pandas.Series
    """

    def __init__(self, name: str, series: pd.Series[Any]) -> None:
        self.name = name
        self.series = pd.Series(np.asarray(series)) if isinstance(series.dtype, pd.SparseDtype) else series
        self.kind = _kind(self.series.dtype)

    @cached_property
    def whole(self) -> bool:
        """Whether these are integers that a missing value turned into floats."""
        if self.kind != "float":
            return False
        numbers = _as_floats(self.series)
        missing = np.isnan(numbers)
        there = numbers[~missing]
        return bool(missing.any() and there.size and ((np.abs(there) <= _EXACT) & (np.trunc(there) == there)).all())

    def block(self, start: int, stop: int) -> Column:
        """Return the cells from `start` up to `stop`."""
        return Column(self, self.series.iloc[start:stop])


class Column:
    """The cells of one column in a block of rows; each face of them is made when it is first looked at."""

    def __init__(self, source: Source, series: pd.Series[Any]) -> None:
        self.source = source
        self.name = source.name
        self.series = series
        self.bad: dict[int, str] = {}  #: index -> why the cell is not JSON; complete once `json` was looked at

    @cached_property
    def json(self) -> list[Any]:
        """What stands in a JSON body; None where missing or `bad`."""
        return _JSON[self.source.kind](self)

    @cached_property
    def canonical(self) -> list[Any]:
        """The cells, with whole numbers as integers whatever dtype holds them; the list `json` itself if it is so.

        A row keeps its identity when the column around it changes from integers to floats, as it does where a
        longer frame brings a missing value or a fraction.
        """
        values = self.json
        if self.source.kind == "category":
            return self._by_code(self._categories.canonical)
        if self.source.kind != "float" or self.source.whole:
            return values
        numbers = _as_floats(self.series)
        with np.errstate(invalid="ignore"):
            integral = (np.abs(numbers) <= _EXACT) & (np.trunc(numbers) == numbers)
        if not integral.any():
            return values
        return [int(value) if yes else value for value, yes in zip(values, integral.tolist(), strict=True)]

    @cached_property
    def raw(self) -> list[Any]:
        """Python and pandas values for format specifications and callables; None where missing."""
        if self.source.kind == "float":
            return _numbers(self)
        if self.source.kind in ("bool", "int", "text"):
            return self.json
        cells = self.series.astype(object)
        return [None if gone else cell for cell, gone in zip(cells.tolist(), self.series.isna().tolist(), strict=True)]

    def _refuse(self, index: int, error: NotSerializableError | RecursionError) -> None:
        deep = "the value holds itself, or is nested too deeply for JSON"
        why = deep if isinstance(error, RecursionError) else f"{error.message} ({error.hint})"
        self.bad[index] = f'column "{self.name}": {why}'

    @cached_property
    def _categories(self) -> Column:
        categories = self.series.cat.categories.to_series()
        return Source(self.name, categories).block(0, len(categories))

    def _by_code(self, of_categories: list[Any]) -> list[Any]:
        lookup = [*of_categories, None]  # code -1 is a missing value
        return [lookup[code] for code in self.series.cat.codes.tolist()]


def _kind(dtype: Any) -> str:
    """Sort a dtype, numpy's, nullable or Arrow's, by the Python type of its cells."""
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if getattr(dtype, "storage", None) == "python":  # only these may hold text that is not UTF-8
        return "object"
    return next((kind for kind, types in _KINDS.items() if issubclass(dtype.type, types)), "object")


#: Order matters: `bool` is an `int` to Python.
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "timedelta": (dt.timedelta, np.timedelta64),  # to numpy a kind of integer
    "int": (int, np.integer),
    "float": (float, np.floating),
    "datetime": (dt.datetime, np.datetime64),
    "text": (str,),
}


def _as_floats(series: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return series.to_numpy(dtype="float64", na_value=np.nan)


def _scalars(column: Column) -> list[Any]:
    missing: Any = None  # the stubs forbid None here, pandas does not
    return column.series.to_numpy(dtype=object, na_value=missing).tolist()


def _integers(column: Column) -> list[Any]:
    if isinstance(column.series.dtype, np.dtype):
        return column.series.tolist()
    return _scalars(column)


def _numbers(column: Column) -> list[Any]:
    numbers = _as_floats(column.series)
    missing = np.isnan(numbers)
    whole = column.source.whole
    values: list[Any] = np.where(missing, 0, numbers).astype("int64").tolist() if whole else numbers.tolist()
    for index in np.flatnonzero(missing).tolist():
        values[index] = None
    return values


def _floats(column: Column) -> list[Any]:
    values = _numbers(column)
    for index in np.flatnonzero(np.isinf(_as_floats(column.series))).tolist():
        values[index] = None
        column.bad[index] = f'column "{column.name}": infinity cannot be written as JSON (replace it first)'
    return values


def _datetimes(column: Column) -> list[Any]:
    return [None if cell is None else cell.isoformat() for cell in column.raw]


def _objects(column: Column) -> list[Any]:
    values: list[Any] = []
    for index, cell in enumerate(column.raw):
        if type(cell) is str and cell.isascii():  # the common case, five times faster than the dispatch
            values.append(cell)
            continue
        try:
            values.append(plain(cell))
        except (NotSerializableError, RecursionError) as error:
            values.append(None)
            column._refuse(index, error)  # noqa: SLF001 - the other half of the same class
    return values


def _category(column: Column) -> list[Any]:
    categories = column._categories  # noqa: SLF001 - the other half of the same class
    values = column._by_code(categories.json)  # noqa: SLF001 - same
    if categories.bad:
        for index, code in enumerate(column.series.cat.codes.tolist()):
            if code in categories.bad:
                column.bad[index] = categories.bad[code]
    return values


_JSON: dict[str, Callable[[Column], list[Any]]] = {
    "bool": _integers,
    "int": _integers,
    "float": _floats,
    "text": _scalars,
    "datetime": _datetimes,
    "timedelta": _objects,
    "category": _category,
    "object": _objects,
}
