"""The columns and the index of the input that a batch shows again later, as bytes without pickle, and back.

Numbers, text, times, durations, periods, and Python's dates, times and Decimals come back as they were (Arrow times as
pandas' own), so that frames merge by them; categories of numbers and text as categories of the values that are there;
everything else as what JSON makes of it. Labels of an index come back equal. Integers with missing values are `Int64`.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
from pandas.api.types import is_object_dtype, is_string_dtype

from cloudtasks_nb._frames import BATCH_TASKS
from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.fanout.plan.columns import Block, Column, Table

__all__ = ["RESERVED", "Preview", "StoredPreview", "difference", "preview_names", "shown_names", "shown_rows"]

#: Our columns in `batch.tasks()` and `batch.failed()`; one of the input with such a name gets the suffix ``_in``.
RESERVED = frozenset({"row", "error", *BATCH_TASKS})

_TICKS = ("datetime64[", "timedelta64[", "period[")  #: these are stored as numbers
_NUMBERS = {"int64", "Int64", "float64"}
#: What a column holds whose tag begins like this.
_WORDS = {"datetime64": "times", "timedelta64": "durations", "bool": "booleans", "date": "dates", "period": "periods"}
_NAT = np.iinfo(np.int64).min
#: Tag of a column of Python objects -> their type, and what makes one of its text.
_OBJECTS: dict[str, tuple[type, Callable[[str], Any]]] = {
    "date": (dt.date, dt.date.fromisoformat),
    "time": (dt.time, dt.time.fromisoformat),
    "decimal": (Decimal, Decimal),
}
_CUT = 200  # characters of a cell that has no form in JSON


def preview_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each column of the input the name under which it is shown."""
    given = list(names)
    taken = RESERVED | set(given)
    shown = {}
    for name in given:
        new = name
        while new in RESERVED or (new != name and new in taken):
            new += "_in"
        shown[name] = new
        taken |= {new}
    return shown


def shown_names(block: Block | Table, chosen: Iterable[str] | None) -> dict[str, str]:
    """Return the name of each column and named level that is shown; `chosen` are columns, None: all."""
    levels = [name for name, _ in block.labels or () if name is not None]
    wanted = set(block.columns if chosen is None else chosen)
    names = preview_names(dict.fromkeys([*levels, *(name for name in block.columns if name in wanted)]))
    return names | {name: name for name in levels if name == "row"}  # the name of the index, which is no column there


class Preview(NamedTuple):
    """The labels of the index and the shown columns of some rows: the levels first, as they are stored."""

    length: int
    names: list[str | None]  #: under which they are shown; None: a level without a name
    tags: list[str]  #: how each is restored: its dtype, or nearly
    cells: list[list[Any]]
    levels: int | None = None  #: of the index; 0: it only counts the rows; None: it cannot identify them
    complete: bool = False  #: whether the labels of the whole input are known to be unique

    @classmethod
    def of(cls, block: Block, chosen: Iterable[str] | None = None, *, complete: bool = True) -> Preview:
        """Take columns of a block, all of them if `chosen` is None; levels of the index are not repeated."""
        shown, labels = shown_names(block, chosen), block.labels or []
        levels = {level.source for _, level in labels}
        names = [name for name in shown if block.columns[name].source not in levels]
        tagged = [_cells(level, label=True) for _, level in labels] + [_cells(block.columns[name]) for name in names]
        return cls(
            length=block.length,
            names=[None if name is None else shown[name] for name in (*(level for level, _ in labels), *names)],
            tags=[tag for tag, _ in tagged],
            cells=[cells for _, cells in tagged],
            levels=None if block.labels is None else len(labels),
            complete=complete,
        )

    def encode(self, start: int, stop: int) -> bytes:
        """Return the rows from `start` up to `stop` as JSON."""
        cut = self._replace(length=stop - start, cells=[column[start:stop] for column in self.cells])
        return orjson.dumps(list(cut))

    def only_labels(self) -> Preview:
        """Return the labels of the rows, without the columns."""
        levels = self.levels or 0
        return self._replace(names=self.names[:levels], tags=self.tags[:levels], cells=self.cells[:levels])

    def pick(self, places: Sequence[int]) -> Preview:
        """Return the rows at these places."""
        return self._replace(length=len(places), cells=[[column[place] for place in places] for column in self.cells])

    def named(self, *, levels: bool) -> Mapping[str, tuple[str, list[Any]]]:
        """Return tag and cells of each column by its name; with `levels` also of the levels that have a name."""
        first, found = self.levels or 0, {}
        for number, (name, tag, cells) in enumerate(zip(self.names, self.tags, self.cells, strict=True)):
            if name is not None and (levels or number >= first):
                while number < first and (name == "row" or name in self.names[first:]):
                    name += "_in"  # noqa: PLW2901 - the next name that is free
                found[name] = tag, cells
        return found


def _cells(column: Column, *, label: bool = False) -> tuple[str, list[Any]]:
    """Return the cells of a column, and a tag by which they come back: equal, if they are labels of the index."""
    kind, dtype = column.source.kind, column.series.dtype
    if isinstance(dtype, pd.PeriodDtype):
        return _ticks(pd.PeriodIndex(column.series))
    if kind in ("datetime", "timedelta"):
        return _ticks(pd.DatetimeIndex(column.series) if kind == "datetime" else pd.TimedeltaIndex(column.series))
    values = column.json
    if column.bad:  # shown all the same: the row may be rejected for this very cell, or a function may not use it
        values = list(values)
        for index in column.bad:
            values[index] = str(column.raw[index]).encode("utf-8", "replace").decode()[:_CUT]
    if column.source.category:
        return "category", values
    if kind == "object" and not isinstance(dtype, pd.StringDtype):
        types = {type(cell) for cell in column.raw} - {type(None)}
        return next((tag for tag, (one, _) in _OBJECTS.items() if types == {one} and not column.bad), kind), values
    return "Int64" if column.source.whole and not label else str(dtype), values


def _ticks(index: Any) -> tuple[str, list[Any]]:
    return str(index.dtype), [None if tick == _NAT else tick for tick in index.asi8.tolist()]


class StoredPreview:
    """What the outbox has stored of the columns and the index of rows of one batch."""

    def __init__(self) -> None:
        self._parts: list[Preview] = []  # one a chunk, with the chosen rows only

    def add(self, shown: bytes, indexes: Sequence[int] | None = None) -> None:
        """Add rows of a chunk: those at these places in its `shown`, in ascending order; None: all."""
        part = Preview(*parse_json(shown))
        self._parts.append(part if indexes is None or len(indexes) == part.length else part.pick(indexes))

    def columns(self, *, levels: bool = True) -> pd.DataFrame:
        """Return the columns of the rows, with the dtypes that they had.

        Parameters
        ----------
        levels : bool
            Also the named levels of the index, in front.

        Returns
        -------
        pandas.DataFrame
            A row each, numbered from 0. A part that lacks a column of another one has missing values there.
        """
        parts = [(part.named(levels=levels), part.length) for part in self._parts]
        names = dict.fromkeys(name for part, _ in parts for name in part)
        columns = {
            name: _column([part[name] if name in part else ("object", [None] * length) for part, length in parts])
            for name in names
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(sum(length for _, length in parts)))

    @property
    def labelled(self) -> bool:
        """Whether the first row has labels of an index."""
        return bool(self._parts) and bool(self._parts[0].levels)

    @property
    def complete(self) -> bool:
        """Whether the first row has labels that no other row of its input has."""
        return self.labelled and self._parts[0].complete

    def index(self, positions: Sequence[int]) -> pd.Index[Any] | None:
        """Return the index of the rows; None if it would not tell them apart, or only counted them.

        Parameters
        ----------
        positions : sequence of int
            The position of each row in the input, which is the label of a row whose index only counted it.
        """
        end = 0
        found: list[pd.Index[Any]] = []
        kind = attrgetter("levels", "names", "tags")
        for (levels, names, tags), group in groupby(map(Preview.only_labels, self._parts), key=kind):
            parts = list(group)
            start, end = end, end + sum(part.length for part in parts)
            if levels is None:
                return None
            restored = [_column([(tag, part.cells[at]) for part in parts]) for at, tag in enumerate(tags)]
            indexes = [pd.Index(one, dtype=one.dtype, name=name) for one, name in zip(restored, names, strict=True)]
            counted = pd.Index(np.asarray(positions[start:end], dtype=np.int64))
            found.append(pd.MultiIndex.from_arrays(indexes) if levels > 1 else indexes[0] if levels else counted)
        return _combined(found) if any(part.levels for part in self._parts) else None


def difference(before: bytes, now: bytes, same: Collection[str] = ()) -> str | None:
    """Return which column differs between rows of a batch and others, of which it has none; None: several, or none.

    Parameters
    ----------
    before, now : bytes
        Chunks of rows that are shown.
    same : collection of str
        Columns whose values another one says too: they differ with that.
    """
    old, new = (Preview(*parse_json(shown)).named(levels=True) for shown in (before, now))
    gone, added = ([name for name in some if name not in others] for some, others in ((old, new), (new, old)))
    if gone or added:
        parts = [f'the column "{name}" is missing' for name in gone] + [f'the column "{name}" is new' for name in added]
        return " and ".join(parts) if max(len(gone), len(added)) == 1 else None
    compared = [name for name in new if name not in same]
    other = [name for name in compared if set(map(repr, old[name][1])).isdisjoint(map(repr, new[name][1]))]
    kinds = {name: (_kind(old[name][0]), _kind(new[name][0])) for name in other}
    changed = [name for name in other if kinds[name][0] != kinds[name][1]]
    if len(changed) == 1:
        return f'the column "{changed[0]}" had {kinds[changed[0]][0]}, it has {kinds[changed[0]][1]}'
    return f'the column "{other[0]}" has other values' if len(other) == 1 else None


def _kind(tag: str) -> str:
    """Return what the cells of a column are, in a word."""
    if tag in _NUMBERS:
        return "numbers"
    return next((word for start, word in _WORDS.items() if tag.startswith(start)), "text")


def shown_rows(shown: bytes, places: Sequence[int]) -> bytes:
    """Return some rows of a chunk: those at these places in its `shown`, in ascending order."""
    # orjson writes no integers of more than 64 bits
    return json.dumps(Preview(*parse_json(shown)).pick(places)).encode()


def _combined(indexes: Sequence[pd.Index[Any]]) -> pd.Index[Any] | None:
    """Return one index; None if the indexes are of different kinds, or have labels in common."""
    first, *others = indexes
    if any(list(other.names) != list(first.names) for other in others):
        return None
    made = first.append(list(others)) if others else first
    for number in range(made.nlevels):
        dtypes = [index.get_level_values(number).dtype for index in (made, *indexes)]
        if is_object_dtype(dtypes[0]) and not all(map(is_string_dtype, dtypes[1:])):  # which dtype `object` is too
            return None
    return made if made.is_unique else None


def _column(pieces: Iterable[tuple[str, list[Any]]]) -> Any:
    """Return the cells of pieces with their tags as one column."""
    runs = [(tag, [cell for _, cells in run for cell in cells]) for tag, run in groupby(pieces, key=itemgetter(0))]
    if len(runs) == 1:
        return _restore(*runs[0])
    if {tag for tag, _ in runs} <= _NUMBERS:  # of the same column, where a missing value or a fraction is in one part
        cells = [cell for _, run in runs for cell in run]
        return _restore("Float64" if float in map(type, cells) else "Int64", cells)
    return pd.Series(
        [cell for run in runs for cell in pd.Series(_restore(*run)).astype(object)], dtype=object
    ).convert_dtypes()


def _restore(tag: str, values: list[Any]) -> Any:
    if tag in _OBJECTS:
        _, parse = _OBJECTS[tag]
        return pd.Series([None if value is None else parse(value) for value in values], dtype=object)
    cells: Any = values
    if tag.startswith(_TICKS):
        cells = np.array([_NAT if value is None else value for value in values], dtype=np.int64)
    if tag.startswith("period["):
        return pd.PeriodIndex.from_ordinals(cells, freq=pd.PeriodDtype(tag).freq)  # type: ignore[attr-defined]  # the stubs lack it
    try:
        return pd.Series(cells, dtype=tag)
    except (TypeError, ImportError):  # no category, or a dtype that this pandas or a machine without pyarrow lacks
        utc = re.sub(r"(datetime64\[\w+), .+", r"\1, UTC]", tag)  # the names of dateutil's and pytz' zones say nothing
        return pd.Series(values, dtype=object).convert_dtypes() if utc == tag else pd.Series(cells, dtype=utc)
