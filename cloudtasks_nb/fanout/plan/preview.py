"""The columns of the input that a batch shows again later, as bytes without pickle, and back with their dtypes.

Numbers, text, times and durations come back as they were (Arrow times as pandas' own), categories as categories of
the values that are there, everything else as what JSON makes of it. Integers with missing values are `Int64`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pandas as pd

from cloudtasks_nb._frames import BATCH_TASKS
from cloudtasks_nb._settings import parse_json
from cloudtasks_nb.fanout.plan.columns import Column

__all__ = ["RESERVED", "Preview", "decode_preview", "length_of", "preview_names"]

#: Columns of `batch.tasks()` that are ours; one of the input with such a name gets the suffix ``_in``.
RESERVED = frozenset({"row", *BATCH_TASKS})

_TIMES = re.compile(r"(?P<kind>datetime64|timedelta64)\[(?P<unit>\w+)(?:, (?P<tz>.+))?\]")
_NAT = np.iinfo(np.int64).min
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The shown columns of a block, ready to be cut into rows."""

    names: list[str]
    tags: list[str]  #: how each column is restored: its dtype, or nearly
    values: list[list[Any]]

    @classmethod
    def of(cls, columns: Iterable[tuple[str, Column]]) -> Preview:
        """Take columns, each with the name under which it is shown."""
        made = [(name, *_cells(column)) for name, column in columns]
        return cls(names=[name for name, *_ in made], tags=[tag for _, tag, _ in made], values=[x for *_, x in made])

    def encode(self, start: int, stop: int) -> bytes:
        """Return the rows from `start` up to `stop` as one line."""
        return orjson.dumps([stop - start, self.names, self.tags, [values[start:stop] for values in self.values]])


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


def decode_preview(parts: Iterable[bytes]) -> pd.DataFrame:
    """Return the rows of the `shown` of chunks, in order, with the dtypes that they had.

    Parameters
    ----------
    parts : iterable of bytes
        `Chunk.shown` of chunks of one batch.

    Returns
    -------
    pandas.DataFrame
        A row each, numbered from 0. A part that lacks a column of another one has missing values there.
    """
    pieces: dict[str, list[tuple[str, list[Any]]]] = {}
    total = 0
    for part in parts:
        for line in part.splitlines():
            length, names, tags, values = parse_json(line)
            for name, tag, cells in zip(names, tags, values, strict=True):
                _append(pieces.setdefault(name, []), tag, cells, total)
            total += length
    columns = {name: _column(found, total) for name, found in pieces.items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(total))


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
    return moments if tz is None else moments.tz_localize("UTC").tz_convert(tz)


def length_of(part: bytes) -> int:
    """Return how many rows the `shown` of a chunk has, without reading them."""
    return sum(int(line[1 : line.index(b",")]) for line in part.splitlines())
