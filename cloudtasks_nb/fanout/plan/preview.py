"""The columns and the index of the input that a batch shows again later, as bytes without pickle, and back.

Numbers, text, times and durations come back as they were (Arrow times as pandas' own), categories as categories of
the values that are there, everything else as what JSON makes of it. Integers with missing values are `Int64`. Labels of
an index come back equal, so that frames join by them; also dates and periods.

The rows of a chunk are ``[length, names, dtypes, cells of each column]``. Behind that comes nothing if the index cannot
identify them, ``[]`` if it only counts them, else names, dtypes and labels of its levels and whether the index of the
whole input is known to be unique.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import orjson
import pandas as pd
from pandas.api.types import is_object_dtype, is_string_dtype

from cloudtasks_nb._frames import BATCH_TASKS
from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.fanout.plan.columns import Block, Column, Table

__all__ = ["RESERVED", "Preview", "StoredPreview", "preview_names", "shown_names", "shown_rows"]

#: Columns of `batch.tasks()` that are ours; one of the input with such a name gets the suffix ``_in``.
RESERVED = frozenset({"row", *BATCH_TASKS})

_TIMES = re.compile(r"(?P<kind>datetime64|timedelta64)\[(?P<unit>\w+)(?:, (?P<tz>.+))?\]")
_NAT = np.iinfo(np.int64).min
_DATE = "date"
_WITHOUT_LABELS = 4  # items of a line
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
    there = block.columns if isinstance(block, Block) else block.sources
    levels = [name for name, _ in block.labels or () if name is not None]
    wanted = set(there if chosen is None else chosen)
    names = preview_names(dict.fromkeys([*levels, *(name for name in there if name in wanted)]))
    return names | {name: name for name in levels if name == "row"}  # the name of the index, which is no column there


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The shown columns of a block, and the labels of its index, ready to be cut into rows."""

    names: list[str]
    tags: list[str]  #: how each column is restored: its dtype, or nearly
    values: list[list[Any]]
    labels: list[tuple[str | None, str, list[Any]]] | None  #: name, tag and labels of each level; as in `Table`
    complete: bool  #: whether the labels of the whole input are known to be unique

    @classmethod
    def of(cls, block: Block, chosen: Iterable[str] | None = None, *, complete: bool = True) -> Preview:
        """Take columns of a block, all of them if `chosen` is None; levels of the index are not repeated."""
        shown, labels = shown_names(block, chosen), block.labels
        levels = {level.source for _, level in labels or ()}
        names = [name for name in shown if block.columns[name].source not in levels]
        cells = [_cells(block.columns[name]) for name in names]
        return cls(
            names=[shown[name] for name in names],
            tags=[tag for tag, _ in cells],
            values=[values for _, values in cells],
            labels=None
            if labels is None
            else [(None if name is None else shown[name], *_labels(level)) for name, level in labels],
            complete=complete,
        )

    def encode(self, start: int, stop: int) -> bytes:
        """Return the rows from `start` up to `stop` as JSON."""
        line: list[Any] = [stop - start, self.names, self.tags, [values[start:stop] for values in self.values]]
        if self.labels:
            names, tags, values = zip(*self.labels, strict=True)
            line.append([names, tags, [labels[start:stop] for labels in values], self.complete])
        elif self.labels is not None:
            line.append([])
        return orjson.dumps(line)


def _cells(column: Column) -> tuple[str, list[Any]]:
    kind = column.source.kind
    if kind in ("datetime", "timedelta"):
        return _ticks(column, kind)
    values = column.json
    if column.bad:  # shown all the same: the row may be rejected for this very cell, or a function may not use it
        values = list(values)
        for index in column.bad:
            values[index] = str(column.raw[index]).encode("utf-8", "replace").decode()[:_CUT]
    if kind == "category" or (kind == "object" and not isinstance(column.series.dtype, pd.StringDtype)):
        return kind, values
    return "Int64" if column.source.whole else str(column.series.dtype), values


def _ticks(column: Column, kind: str) -> tuple[str, list[Any]]:
    index: Any = pd.DatetimeIndex(column.series) if kind == "datetime" else pd.TimedeltaIndex(column.series)
    return str(index.dtype), [None if tick == _NAT else tick for tick in index.asi8.tolist()]


def _labels(column: Column) -> tuple[str, list[Any]]:
    """Return the cells of a level, and a tag by which they come back equal."""
    dtype = column.series.dtype
    if isinstance(dtype, pd.PeriodDtype):
        return str(dtype), [None if tick == _NAT else tick for tick in pd.PeriodIndex(column.series).asi8.tolist()]
    if column.source.kind == "object" and any(type(cell) is dt.date for cell in column.raw):
        return _DATE, column.json
    tag, cells = _cells(column)
    return (str(dtype) if column.source.whole else tag), cells


class StoredPreview:
    """What the outbox has stored of the columns and the index of rows of one batch."""

    def __init__(self) -> None:
        self._lines: list[Any] = []  # one a chunk, with the chosen rows only

    def add(self, shown: bytes, indexes: Sequence[int] | None = None) -> None:
        """Add rows of a chunk: those at these places in its `shown`, in ascending order; None: all."""
        line = parse_json(shown)
        self._lines.append(line if indexes is None or len(indexes) == line[0] else _chosen(line, indexes))

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
        pieces: dict[str, list[tuple[str, list[Any]]]] = {}
        total = 0
        for length, names, tags, values, *labels in self._lines:
            for level, tag, cells in zip(*labels[0][:3], strict=True) if levels and any(labels) else ():
                if level is not None:
                    name = level
                    while name == "row" or name in names:
                        name += "_in"
                    _append(pieces.setdefault(name, []), tag, cells, total)
            for name, tag, cells in zip(names, tags, values, strict=True):
                _append(pieces.setdefault(name, []), tag, cells, total)
            total += length
        columns = {name: _column(found, total) for name, found in pieces.items()}
        return pd.DataFrame(columns, index=pd.RangeIndex(total))

    @property
    def labelled(self) -> bool:
        """Whether the first row has labels of an index."""
        return bool(self._lines) and bool(_stored_labels(self._lines[0]))

    @property
    def complete(self) -> bool:
        """Whether the first row has labels that no other row of its input has."""
        return self.labelled and self._lines[0][4][3]

    def index(self, positions: Sequence[int]) -> pd.Index[Any] | None:
        """Return the index of the rows; None if it would not tell them apart, or only counted them.

        Parameters
        ----------
        positions : sequence of int
            The position of each row in the input, which is the label of a row whose index only counted it.
        """
        end = 0
        found: list[pd.Index[Any]] = []
        for _, group in groupby(self._lines, key=_level_dtypes):
            lines = list(group)
            start, end = end, end + sum(line[0] for line in lines)
            labels = _stored_labels(lines[0])
            if labels is None:
                return None
            counted = np.asarray(positions[start:end], dtype=np.int64)
            found.append(_index(lines) if labels else pd.Index(counted))
        return _combined(found) if any(map(_stored_labels, self._lines)) else None


def shown_rows(shown: bytes, places: Sequence[int]) -> bytes:
    """Return some rows of a chunk: those at these places in its `shown`, in ascending order."""
    return json.dumps(_chosen(parse_json(shown), places)).encode()  # orjson writes no integers of more than 64 bits


def _chosen(line: Sequence[Any], places: Sequence[int]) -> list[Any]:
    _, names, tags, values, *labels = line
    chosen = [len(places), names, tags, _cut(values, places)]
    if any(labels):
        levels, level_tags, cells, complete = labels[0]
        labels = [[levels, level_tags, _cut(cells, places), complete]]
    return [*chosen, *labels]


def _cut(columns: Sequence[Sequence[Any]], places: Sequence[int]) -> list[list[Any]]:
    return [[cells[place] for place in places] for cells in columns]


def _stored_labels(line: Sequence[Any]) -> Any:
    """Return what a line has of the index; empty if the index only counts the rows, None if it cannot identify them."""
    return line[4] if len(line) > _WITHOUT_LABELS else None


def _level_dtypes(line: Sequence[Any]) -> Any:
    labels = _stored_labels(line)
    return labels and labels[:2]


def _index(lines: Sequence[Sequence[Any]]) -> pd.Index[Any]:
    """Return the index of lines whose levels have the same names and dtypes."""
    names, tags, *_ = lines[0][4]
    levels = []
    for number, tag in enumerate(tags):
        restored = _restore_labels(tag, [label for line in lines for label in line[4][2][number]])
        levels.append(pd.Index(restored, dtype=restored.dtype, name=names[number]))
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)


def _restore_labels(tag: str, values: list[Any]) -> Any:
    if tag == _DATE:
        return pd.Series([None if value is None else dt.date.fromisoformat(value) for value in values], dtype=object)
    if tag.startswith("period["):
        ticks = np.array([_NAT if value is None else value for value in values], dtype=np.int64)
        return pd.PeriodIndex.from_ordinals(ticks, freq=pd.PeriodDtype(tag).freq)  # type: ignore[attr-defined]  # the stubs lack it
    return _restore(tag, values)


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


def _append(pieces: list[tuple[str, list[Any]]], tag: str, cells: list[Any], before: int) -> None:
    """Add cells to a column of which `before` rows are expected; longer runs of one tag are kept as one list."""
    known = sum(len(values) for _, values in pieces)
    if known < before:
        pieces.append(("object", [None] * (before - known)))
    if pieces and pieces[-1][0] == tag:
        pieces[-1][1].extend(cells)
    else:
        pieces.append((tag, list(cells)))


def _column(pieces: Sequence[tuple[str, list[Any]]], total: int) -> Any:
    known = sum(len(values) for _, values in pieces)
    if len(pieces) == 1 and known == total:
        return _restore(*pieces[0])
    cells: list[Any] = []
    for tag, values in pieces:
        cells += pd.Series(_restore(tag, values)).astype(object).tolist()
    cells += [None] * (total - known)
    return pd.Series(cells, dtype=object).convert_dtypes()


def _restore(tag: str, values: list[Any]) -> Any:
    times = _TIMES.fullmatch(tag)
    if times is not None:
        return _restore_times(values, times["kind"], times["unit"], times["tz"])
    if tag == "category":
        return pd.Categorical(values)
    try:
        return pd.Series(values, dtype=tag)
    except (TypeError, ImportError):  # a dtype that this pandas, or this machine without pyarrow, does not know
        return pd.Series(values, dtype=object).convert_dtypes()


def _restore_times(values: list[Any], kind: str, unit: str, tz: str | None) -> Any:
    ticks = np.array([_NAT if value is None else value for value in values], dtype=np.int64)
    if kind == "timedelta64":
        return pd.TimedeltaIndex(ticks.view(f"timedelta64[{unit}]"))
    moments = pd.DatetimeIndex(ticks.view(f"datetime64[{unit}]"))
    if tz is None:
        return moments
    moments = moments.tz_localize("UTC")
    try:
        return moments.tz_convert(tz)
    except (KeyError, ValueError, OSError):  # a zone of dateutil or pytz, whose name says nothing
        return moments
