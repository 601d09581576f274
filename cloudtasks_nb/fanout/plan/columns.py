"""Columns of the input as JSON-able cells, a block at a time; by dtype where the dtype says it all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb.errors import NotSerializableError
from cloudtasks_nb.fanout.plan.encode import plain

__all__ = ["Column", "Source"]

#: Whole floats up to here are exactly one integer; beyond, neighbours share a float.
_EXACT = 2.0**53


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

    @cached_property
    def categories(self) -> Column:
        """The values of which a category column is made."""
        values = self.series.cat.categories.to_series()
        return Source(self.name, values).block(0, len(values))

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
            made = self.source.categories
            return values if made.canonical is made.json else self.by_code(made.canonical)
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

    def refuse(self, index: int, error: NotSerializableError | RecursionError) -> None:
        """Note why a cell is not JSON."""
        deep = "the value holds itself, or is nested too deeply for JSON"
        why = deep if isinstance(error, RecursionError) else f"{error.message} ({error.hint})"
        self.bad[index] = f'column "{self.name}": {why}'

    def by_code(self, of_categories: list[Any]) -> list[Any]:
        """Return for each cell of a category column what stands for its category."""
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
    index = pd.DatetimeIndex(column.series)
    cells: list[Any] = column.raw if index.unit == "ns" and (index.asi8 % 1_000).any() else _python_times(index, column)
    return [None if cell is None or cell is pd.NaT else cell.isoformat() for cell in cells]


def _python_times(index: pd.DatetimeIndex, column: Column) -> list[Any]:
    """Return Python's own datetimes, which are made three times faster than Timestamps."""
    try:
        return index.to_pydatetime().tolist()
    except ValueError:  # beyond the year 9999
        return column.raw


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
            column.refuse(index, error)
    return values


def _category(column: Column) -> list[Any]:
    categories = column.source.categories
    values = column.by_code(categories.json)
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
