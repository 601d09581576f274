"""What `fan_out` reads: one frame, many frames or an Arrow stream; passed on a block of rows at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pandas as pd

from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.columns import Column, Source

__all__ = ["BLOCK", "Block", "Table", "frames", "once"]

#: Rows that are encoded together: enough to make pandas' own cost per call small, few enough to stay in the cache.
BLOCK = 2_000

#: How pyarrow stores an index level that has no name.
_UNNAMED = re.compile(r"__index_level_\d+__$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A few rows of the input, as columns."""

    first: int  #: position of the first row in the whole input
    length: int
    columns: Mapping[str, Column]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Return each row as a dictionary of Python and pandas values, None where missing."""
        if not self.columns:
            return ({} for _ in range(self.length))
        cells = [column.raw for column in self.columns.values()]
        return (dict(zip(self.columns, row, strict=True)) for row in zip(*cells, strict=True))


class Table:
    """A frame with its columns by name: named index levels first, then the columns.

    Parameters
    ----------
    frame : pandas.DataFrame
        An index level without a name is no column, nor is one whose name a column has.

    Raises
    ------
    InvalidInputError
        If two columns have one name, or one has a name of several levels.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        _check_flat(frame)
        names = [str(name) for name in frame.columns]
        twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
        if twice:
            raise InvalidInputError(
                "the frame has several columns named " + ", ".join(f'"{name}"' for name in twice),
                resource=twice[0],
                hint="rename them, or keep the first: df.loc[:, ~df.columns.duplicated()]",
            )
        self.length = len(frame)
        self.sources: dict[str, Source] = {}
        for level, name in enumerate(frame.index.names):
            if name is not None and str(name) not in names:
                values = frame.index.get_level_values(level)
                self.sources[str(name)] = Source(str(name), pd.Series(values, index=range(self.length)))
        for position, name in enumerate(names):
            self.sources[name] = Source(name, frame.iloc[:, position])

    def blocks(self, first: int) -> Iterator[Block]:
        """Cut the table into blocks; its first row is at the position `first` of the whole input."""
        for start in range(0, self.length, BLOCK):
            stop = min(start + BLOCK, self.length)
            columns = {name: source.block(start, stop) for name, source in self.sources.items()}
            yield Block(first=first + start, length=stop - start, columns=columns)


def _check_flat(frame: pd.DataFrame) -> None:
    """Refuse columns whose names have several levels, as a pivot leaves them: no template could name them."""
    names: list[Any] = list(frame.columns)
    deep = next((name for name in names if isinstance(name, tuple)), None)
    if deep is not None:
        raise InvalidInputError(
            f"the frame has the column {deep!r}, whose name has several levels",
            resource=str(deep),
            hint='join them: df.columns = ["_".join(map(str, name)) for name in df.columns]'
            if isinstance(frame.columns, pd.MultiIndex)
            else "rename it",
        )


def once(data: Any) -> bool:
    """Tell whether the input can be read only once, as a generator or the chunks of `read_csv`."""
    return isinstance(data, Iterator)


def frames(data: Any) -> Iterator[pd.DataFrame]:
    """Read the input, each part when it is asked for.

    Parameters
    ----------
    data : pandas.DataFrame, iterable of them, or object with ``__arrow_c_stream__``
        Parts of an iterable may also be Arrow streams, or lazy partitions with a ``compute()`` method.

    Raises
    ------
    InvalidInputError
        If it is none of these.
    """
    if isinstance(data, pd.DataFrame):
        yield data
    elif hasattr(data, "__arrow_c_stream__") and not isinstance(data, pd.Series):
        yield from _arrow(data)
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping, pd.Series)):
        for number, part in enumerate(data):
            yield from _part(part, number)
    else:
        raise InvalidInputError(
            f"{type(data).__name__} is not a DataFrame",
            hint="give a DataFrame (pd.DataFrame(...)), an iterable of DataFrames, or an Arrow table",
        )


def _part(part: Any, number: int) -> Iterator[pd.DataFrame]:
    computed = part.compute() if callable(getattr(part, "compute", None)) else part
    if isinstance(computed, pd.DataFrame):
        yield computed
    elif hasattr(computed, "__arrow_c_stream__") and not isinstance(computed, pd.Series):
        yield from _arrow(computed)
    else:
        raise InvalidInputError(
            f"part {number} of the input is of type {type(computed).__name__}, not a DataFrame",
            hint="give an iterable of DataFrames, or make one frame of the rows: pd.DataFrame(rows)",
        )


def _arrow(data: Any) -> Iterator[pd.DataFrame]:
    """Read an Arrow stream batch by batch; the cells keep their Arrow types, so that integers stay integers."""
    pyarrow = _pyarrow(type(data).__name__)
    with pyarrow.RecordBatchReader.from_stream(data) as reader:
        for batch in reader:
            names = batch.schema.names
            kept = [position for position, name in enumerate(names) if not _UNNAMED.match(name)]
            columns = [_plain_type(pyarrow, batch.column(position)) for position in kept]
            table = pyarrow.Table.from_arrays(columns, names=[names[position] for position in kept])
            yield table.to_pandas(types_mapper=pd.ArrowDtype)


def _plain_type(pyarrow: ModuleType, column: Any) -> Any:
    """Replace the layouts that pandas cannot hold (dictionaries, string views) by the plain one of the same values."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        return _plain_type(pyarrow, column.dictionary).take(column.indices)
    if types.is_string_view(column.type):
        return column.cast(pyarrow.large_string())
    return column.cast(pyarrow.large_binary()) if types.is_binary_view(column.type) else column


def _pyarrow(what: str) -> ModuleType:
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional: only who has Arrow data needs it
    except ImportError as error:
        raise InvalidInputError(
            f"reading a {what} needs pyarrow", resource="pyarrow", hint="pip install pyarrow"
        ) from error
    module: ModuleType = pa
    return module
