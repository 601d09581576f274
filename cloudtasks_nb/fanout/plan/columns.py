"""The rows of a DataFrame as columns of a few rows at a time, whose cells have the forms that tasks need."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from cloudtasks_nb.errors import InvalidInputError, NotSerializableError
from cloudtasks_nb.store.encode import plain
from cloudtasks_nb.store.types import describe

__all__ = ["BLOCK", "EXACT", "LACKING", "Block", "Column", "Labels", "Source", "Table"]

#: Rows that are encoded together: enough to make pandas' own cost per call small, few enough to stay in the cache.
BLOCK = 2_000

_NAN, _NAT = ["nan"], ["NaT"]

T = TypeVar("T")

#: The levels of an index, each with its name.
Labels: TypeAlias = list[tuple[str | None, T]]

#: Name of the attribute of a frame that was made of dictionaries.
LACKING = "cloudtasks_nb.lacking"

#: Whole floats up to here are exactly one integer; beyond, neighbours share a float.
EXACT = 2.0**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A few rows of the input, as columns."""

    first: int  #: position of the first row in the whole input
    length: int
    columns: Mapping[str, Column]
    labels: Labels[Column] | None = field(default_factory=list)  #: as in `Table`
    levels: Sequence[str] = ()  #: those of the columns that are named levels of the index

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return each row as a dictionary of Python and pandas values, None where missing."""
        if not self.columns:
            return ({} for _ in range(self.length))
        cells = [column.raw for column in self.columns.values()]
        return (dict(zip(self.columns, row, strict=True)) for row in zip(*cells, strict=True))


class Table:
    """A frame with its columns by name: named index levels first, then the columns.

    `labels` has the levels of the index, each with its name. It is empty if the index only counts the rows, and None if
    the index cannot identify a row later; `fault` says why.

    Parameters
    ----------
    frame : pandas.DataFrame
        An index level without a name is no column, nor is one whose name a column has.
    labelled : bool, optional
        Whether the index has labels; when left out it has, unless it only counts the rows from 0.
    part : bool
        Whether other frames of the input follow, so that no column is known as a whole.

    Raises
    ------
    InvalidInputError
        If two columns, or two levels of the index, have one name, or a column has a name of several levels.
    """

    def __init__(self, frame: pd.DataFrame, *, labelled: bool | None = None, part: bool = False) -> None:
        _check_flat(frame)
        names = [str(name) for name in frame.columns]
        _check_unique(names, "columns", "rename them, or keep the first: df.loc[:, ~df.columns.duplicated()]")
        lacking = frame.attrs.get(LACKING, {})
        if lacking:  # pandas copies the attributes with every slice
            frame = frame.copy(deep=False)
            frame.attrs = {}
        self.length = len(frame)
        levels = [] if _counts(frame.index) and not labelled else _levels(frame.index, part=part)
        named = [name for name, _ in levels if name is not None]
        _check_unique(named, "levels of the index", 'rename them: df.index.names = ["first", "second"]')
        self.columns = {name: level for name, level in levels if name is not None and name not in names}
        self._levels = list(self.columns)
        for position, name in enumerate(names):
            gone = lacking.get(name, frozenset())
            self.columns[name] = Source(name, frame.iloc[:, position], gone, part=part)
        self.fault = ""
        if levels and labelled is not False:
            kept = all(level.is_label for _, level in levels)
            self.fault = "is not unique" if not frame.index.is_unique else "" if kept else "has labels of a rare type"
        self.labels = None if self.fault else [] if labelled is False else levels

    def blocks(self, first: int) -> Iterator[Block]:
        """Cut the table into blocks; its first row is at the position `first` of the whole input."""
        for start in range(0, self.length, BLOCK):
            yield self.block(first, start, min(start + BLOCK, self.length))

    def block(self, first: int, start: int, stop: int) -> Block:
        """Return the rows from `start` up to `stop`; `first` is the position of the table's first row."""
        columns = {name: source.block(start, stop) for name, source in self.columns.items()}
        labels = None if self.labels is None else [(name, level.block(start, stop)) for name, level in self.labels]
        return Block(first=first + start, length=stop - start, columns=columns, labels=labels, levels=self._levels)


def _check_unique(names: Sequence[str], what: str, hint: str) -> None:
    """Refuse columns of one name, of which a template could mean any."""
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        raise InvalidInputError(
            f"the frame has several {what} named " + ", ".join(f'"{name}"' for name in twice),
            resource=twice[0],
            hint=hint,
        )


def _counts(index: pd.Index[Any]) -> bool:
    """Return whether an index only counts the rows."""
    return isinstance(index, pd.RangeIndex) and index.name is None and (index.start, index.step) == (0, 1)


def _levels(index: pd.Index[Any], *, part: bool) -> Labels[Source]:
    """Return the levels of an index, each with its name."""
    found: Labels[Source] = []
    for number, name in enumerate(index.names):
        values = index.get_level_values(number)
        shown = None if name is None else str(name)
        found.append((shown, Source(shown or "", pd.Series(values, index=range(len(index))), part=part)))
    return found


def _check_flat(frame: pd.DataFrame) -> None:
    """Refuse columns whose names have several levels, as a pivot leaves them: no template could name them."""
    names: list[Any] = list(frame.columns)
    deep = next((name for name in names if isinstance(name, tuple)), None)
    if deep is not None:
        join = 'join them: df.columns = ["_".join(map(str, name)) for name in df.columns]'
        hint = join if isinstance(frame.columns, pd.MultiIndex) else "rename it"
        message = f"the frame has the column {deep!r}, whose name has several levels"
        raise InvalidInputError(message, resource=str(deep), hint=hint)


class Source:
    """One column of an input frame, with facts that depend on the whole column.

    Parameters
    ----------
    lacking : set of int
        Positions of the rows whose dictionary does not have the column.
    part : bool
        Whether this is a part of the column. Then each whole number is an integer: it must not depend on the other
        rows of its part what a row sends.
    """

    def __init__(
        self, name: str, series: pd.Series[Any], lacking: frozenset[int] = frozenset(), *, part: bool = False
    ) -> None:
        self.name = name
        self.part = part
        self.lacking = lacking
        self.category = isinstance(series.dtype, pd.CategoricalDtype)  #: whether it was given as one
        self.series = _dense(series)
        self.kind = _kind(self.series.dtype)

    @cached_property
    def whole(self) -> bool:
        """Whether these are integers that a missing value turned into floats."""
        if self.kind != "float" or self.category:
            return False
        numbers = _as_floats(self.series)
        missing = np.isnan(numbers)
        there = numbers[~missing]
        return bool(missing.any() and there.size and ((np.abs(there) <= EXACT) & (np.trunc(there) == there)).all())

    @cached_property
    def is_label(self) -> bool:
        """Whether the outbox can store the cells as labels of rows that are equal to the old ones when read again."""
        if self.kind != "object" or isinstance(self.series.dtype, pd.PeriodDtype):
            return True
        types = {type(cell) for cell, gone in zip(self.series, self.series.isna(), strict=True) if not gone}
        return types <= {dt.date} or types <= {str, int, float, bool}

    def block(self, start: int, stop: int) -> Column:
        """Return the cells from `start` up to `stop`."""
        lacking = (at - start for at in range(start, stop) if at in self.lacking) if self.lacking else ()
        return Column(self, self.series.iloc[start:stop], frozenset(lacking))


class Column:
    """The cells of one column in a block of rows; each form of them is computed when it is first used."""

    def __init__(self, source: Source, series: pd.Series[Any], lacking: frozenset[int] = frozenset()) -> None:
        self.source = source
        self.lacking = lacking  #: indexes of the rows whose dictionary does not have the column
        self.name = source.name
        self.series = series
        self.bad: dict[int, str] = {}  #: index -> why the cell is not JSON; complete after `json` was computed

    @cached_property
    def json(self) -> list[Any]:
        """The values for a JSON body; None where missing or `bad`."""
        return _JSON.get(self.source.kind, _objects)(self)

    @property
    def types(self) -> list[Any] | None:
        """What each cell is, where its JSON does not say it, as `describe` returns it; None: JSON says it of all."""
        kind = self.source.kind
        if kind in ("bool", "int", "text"):
            return None
        if kind == "float":
            lacks = isinstance(self.series.dtype, np.dtype) and self.series.hasnans
            return [_NAN if gone else None for gone in self.series.isna().tolist()] if lacks else None
        if kind in ("datetime", "timedelta") and len(self.series):
            one = self.series.dropna()
            typed = describe(one.iloc[0]) if len(one) else _NAT
            return [_NAT if gone else typed for gone in self.series.isna().tolist()]
        found = [None if type(cell) is str else describe(cell) for cell in self.series.tolist()]
        return found if any(one is not None for one in found) else None

    @cached_property
    def raw(self) -> list[Any]:
        """Python and pandas values for format specifications and callables; None where missing."""
        if self.source.kind == "float":
            return _numbers(self)
        if self.source.kind in ("bool", "int", "text"):
            return self.json
        # not astype(object), which makes floats of integers beside a missing value in a nested column of Arrow
        cells = self.series.tolist()
        return [None if gone else cell for cell, gone in zip(cells, self.series.isna().tolist(), strict=True)]


def _dense(series: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column that stores each of few values once, a sparse one or a category, with a value for each cell."""
    if isinstance(series.dtype, pd.SparseDtype):
        return pd.Series(np.asarray(series))
    if isinstance(series.dtype, pd.CategoricalDtype):
        dtype = series.cat.categories.dtype
        holds_missing = _kind(dtype) in ("float", "text", "datetime", "timedelta")
        return series.astype(dtype if holds_missing or not series.hasnans else object)
    return series


def _kind(dtype: Any) -> str:
    """Sort a dtype, numpy's, nullable or Arrow's, by the Python type of its cells."""
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
    if isinstance(column.series.dtype, np.dtype):
        return column.series.tolist()
    missing: Any = None  # the stubs forbid None here, pandas does not
    return column.series.to_numpy(dtype=object, na_value=missing).tolist()


def _numbers(column: Column) -> list[Any]:
    numbers = _as_floats(column.series)
    values = numbers.astype(object)
    if column.source.whole or column.source.part:
        with np.errstate(invalid="ignore"):
            integral = (np.abs(numbers) <= EXACT) & (np.trunc(numbers) == numbers)
        values[integral] = numbers[integral].astype("int64")
    values[np.isnan(numbers)] = None
    return values.tolist()


def _floats(column: Column) -> list[Any]:
    values = _numbers(column)
    for index in np.flatnonzero(np.isinf(_as_floats(column.series))).tolist():
        values[index] = None
        column.bad[index] = f'column "{column.name}": infinity cannot be written as JSON (replace it first)'
    return values


def _datetimes(column: Column) -> list[Any]:
    index = pd.DatetimeIndex(column.series)
    exact = index.unit != "ns" or not (index.asi8 % 1_000).any()
    try:  # Python's own datetimes are made three times faster than Timestamps
        cells = index.to_pydatetime().tolist() if exact else column.raw
    except ValueError:  # beyond the year 9999
        cells = column.raw
    return [None if cell is None or cell is pd.NaT else cell.isoformat() for cell in cells]


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
            deep = "the value holds itself, or is nested too deeply for JSON"
            why = deep if isinstance(error, RecursionError) else f"{error.message} ({error.hint})"
            column.bad[index] = f'column "{column.name}": {why}'
    return values


#: What makes JSON values of the cells of a kind; of all others it is `_objects`.
_JSON = {"bool": _scalars, "int": _scalars, "text": _scalars, "float": _floats, "datetime": _datetimes}
