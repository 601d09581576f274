"""The inputs of a fan-out (frames, files, results of queries, …) as DataFrames of a few rows at a time."""

from __future__ import annotations

import math
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype
from pandas.api.typing import DataFrameGroupBy, SeriesGroupBy

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import InvalidInputError, NotSerializableError
from cloudtasks_nb.fanout.plan.columns import EXACT, LACKING
from cloudtasks_nb.store.encode import plain

__all__ = ["PART", "Stream", "frames", "has_columns", "length", "read_input"]

#: Rows that are read together: enough to make the cost per DataFrame small, few enough for wide rows.
PART = 4_000

#: Returns which of the columns that an input has are to be read; None: all.
_Choose: TypeAlias = Callable[[Sequence[str]], Iterable[str] | None]

_BUFFER = 1 << 20  # bytes of a column of a Parquet file that are read at a time
_UNNAMED = re.compile(r"__index_level_\d+__$")  # how pyarrow stores an index level that has no name
#: Types of pandas for integers of Arrow that floats cannot hold.
_WITH_MISSING = {"int64": pd.Int64Dtype(), "uint64": pd.UInt64Dtype()}
_UNNAMED_SERIES = "value"
_IN_A_THREAD = partial(_loop.in_time, math.inf)
#: Methods by which libraries hand out their rows, those first that do it in parts.
_IN_ARROW = ("to_arrow_iterable", "to_arrow_reader", "to_reader", "to_arrow")
_IN_FRAMES = ("to_dataframe_iterable", "to_dataframe")
_ROWS = "rows"  # the column with the rows of a group
_PATIENCE = 30  # seconds for which a library may wait for a network


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Rows of a file or a lazy frame, which are read anew each time, part by part."""

    names: Sequence[str]  #: of the columns, and of what its index restores
    read: Callable[[list[str]], Iterator[pd.DataFrame]]  #: reads these columns
    rows: int | None = None  #: how many; None: not known before they are read
    #: Calls what reads a part: in a thread, so that an interrupt need not wait for a query or a network.
    ask: Callable[..., Any] = _IN_A_THREAD


def length(data: Any) -> int | None:
    """Return how many rows an input has; None if that is known only when it was read."""
    return data.rows if isinstance(data, Stream) else len(data) if isinstance(data, pd.DataFrame) else None


def has_columns(data: Any) -> bool:
    """Return whether an object of a library hands out rows with columns."""
    known = isinstance(data, (pd.DataFrame, DataFrameGroupBy, SeriesGroupBy))
    return known or any(hasattr(data, name) for name in ("__arrow_c_stream__", *_IN_ARROW, *_IN_FRAMES))


def read_input(data: Any) -> Any:
    """Make a DataFrame or a `Stream` of an input that is not made of frames, and return any other as it is.

    Parameters
    ----------
    data : list of dicts, Series, path, lazy frame, groups, dataset, or result of a query
        A Series becomes a column of its name, or ``value``. A file ends with ``.csv`` (also compressed) or
        ``.parquet``; a folder has Parquet files. Of Polars, a Series, and a LazyFrame. Groups become one row each. An
        object with methods such as `to_arrow_iterable` is read by the first of them that it has.

    Raises
    ------
    InvalidInputError
        If a file does not exist or cannot be read, or has another ending; if a query fails.
    """
    if isinstance(data, (str, os.PathLike)):
        return _file(os.fspath(data))
    polars = type(data).__module__.partition(".")[0] == "polars"
    if polars and hasattr(data, "collect"):
        return _lazy(data)
    if isinstance(data, pd.Series) or (polars and hasattr(data, "to_frame")):
        return data.to_frame(_UNNAMED_SERIES if data.name in (None, "") else data.name)
    if isinstance(data, (list, tuple)) and data and all(isinstance(row, Mapping) for row in data):
        return _from_rows(data)
    return data if isinstance(data, pd.DataFrame) or _is_arrow(data) else _of_library(data)


def _of_library(data: Any) -> Any:
    """Return what a library's object has, in parts where it offers that, and any other object as it is."""
    if isinstance(data, (DataFrameGroupBy, SeriesGroupBy)):
        return _groups(data)
    if hasattr(data, "scanner"):  # a dataset of pyarrow
        some = partial(data.to_batches, batch_size=PART, batch_readahead=1, fragment_readahead=1)
        return _batches(data.schema, some, data.count_rows())
    if hasattr(data, "iter_batches"):  # a ParquetFile of pyarrow
        return _batches(data.schema_arrow, partial(data.iter_batches, PART), data.metadata.num_rows)
    what, hint = f"the {type(data).__name__}", "data.to_dataframe() shows why, and its frame is data too"
    with _readable(what, hint), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DuckDB prefers another way to its rows
        if hasattr(data, "result") and hasattr(data, "to_dataframe"):  # a query of BigQuery: its rows come in parts
            data = data.result()
        method = next((name for name in (*_IN_ARROW, *_IN_FRAMES) if hasattr(data, name)), None)
        if method in _IN_ARROW:
            _pyarrow(what)
        found = data if method is None else getattr(data, method)()
    return _told(found, what, hint) if method is not None and not has_columns(found) else found


def _told(parts: Iterable[Any], what: str, hint: str) -> Iterator[Any]:
    """Yield parts; an error in their midst names what is read."""
    with _readable(what, hint):
        yield from parts


def _groups(groups: Any) -> Stream:
    """Return a row for each group of a groupby: its key, and its rows as records of the other columns."""
    sizes = groups.size()
    levels = sizes.columns[:-1] if isinstance(sizes, pd.DataFrame) else sizes.index.names  # with as_index=False
    keys = [f"level_{number}" if name is None else str(name) for number, name in enumerate(levels)]
    if _ROWS in keys or len({*keys}) < len(keys):
        hint = f'data.groupby(data["{_ROWS}"].rename("name"))' if _ROWS in keys else "give each level a name of its own"
        raise InvalidInputError(f"the keys of the groups cannot be columns: {', '.join(keys)}", hint=hint)

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        made, size = list[dict[str, Any]](), 0
        for key, group in groups:
            values = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
            made.append({**values, _ROWS: _records(group, levels)})
            size += len(group)
            if size >= PART:
                yield pd.DataFrame(made, columns=columns)
                made, size = [], 0
        if made or not groups.ngroups:
            yield pd.DataFrame(made, columns=columns)

    return Stream(names=[*keys, _ROWS], read=read, rows=groups.ngroups)


def _records(group: Any, keys: Iterable[Any]) -> Any:
    """Return the rows of a group; its frame if they have no form in JSON: rendering refuses the row with the reason."""
    others = group.to_frame() if isinstance(group, pd.Series) else group.drop(columns=[*keys], errors="ignore")
    found = others.reset_index(drop=True)
    try:
        return plain(found)
    except NotSerializableError:
        return found


def _batches(schema: Any, read: Callable[..., Iterator[Any]], rows: int) -> Stream:
    """Return the rows of a dataset or file of pyarrow, which `read` yields as record batches of some columns."""

    def parts(columns: list[str]) -> Iterator[pd.DataFrame]:
        yield from _whole(read(columns=columns), schema.empty_table().select(columns))

    return Stream(names=[name for name in schema.names if not _UNNAMED.match(name)], read=parts, rows=rows)


def _from_rows(rows: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """Return dictionaries as a frame; large integers beside a missing value keep their digits.

    Its `attrs` have the positions of the rows that lack a key: a body without it is another one than with null.
    """
    # pandas would make floats of keys that are integers beside None or a float
    keys = pd.Index(list(dict.fromkeys(chain.from_iterable(rows))), dtype=object, tupleize_cols=False)
    given = pd.DataFrame([dict(row) for row in rows], columns=keys, dtype=object)
    try:
        frame = given.infer_objects()
    except UnicodeEncodeError:  # of Arrow, for half a surrogate pair: the reason of its row is told later
        frame = given.copy()
    lacking = {name: frozenset(at for at, row in enumerate(rows) if name not in row) for name in frame}
    frame.attrs[LACKING] = {str(name): found for name, found in lacking.items() if found}
    for name in frame:
        if frame[name].dtype == np.float64 and any(type(cell) is int and abs(cell) > EXACT for cell in given[name]):
            frame[name] = given[name]
    return frame


def frames(data: Any, choose: _Choose = lambda _: None) -> Iterator[pd.DataFrame]:
    """Read the input, each part when it is asked for.

    Parameters
    ----------
    data : pandas.DataFrame, Stream, iterable of DataFrames, or object with ``__arrow_c_stream__``
        Parts of an iterable may also be Arrow streams, or lazy partitions with a ``compute()`` method.
    choose : callable, optional
        Called with the names of the columns where only some of them can be read.

    Raises
    ------
    InvalidInputError
        If it is none of these, or cannot be read.
    """
    if isinstance(data, Stream):
        yield from data.read(_chosen(data.names, choose))
        return
    single = isinstance(data, pd.DataFrame) or _is_arrow(data)
    if not single and (not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping, pd.Series))):
        raise InvalidInputError(
            f"{type(data).__name__} is not a DataFrame",
            hint="give a DataFrame (pd.DataFrame(data) of a dictionary of columns), an iterable of DataFrames, an "
            "Arrow table, a Series, a list of dictionaries, or the path of a CSV or Parquet file",
        )
    for number, part in enumerate([data] if single else data):
        computed = part.compute() if callable(getattr(part, "compute", None)) else part
        if isinstance(computed, pd.DataFrame):
            yield computed
        elif _is_arrow(computed):
            yield from _arrow(computed, choose)
        else:
            raise InvalidInputError(
                f"part {number} of the input is of type {type(computed).__name__}, not a DataFrame",
                hint="list(rows) if they are dictionaries; else make one frame of the rows: pd.DataFrame(rows), or of "
                'single values pd.DataFrame({"n": values})',
            )


def _chosen(names: Sequence[str], choose: _Choose) -> list[str]:
    """Return the columns to read in their order: at least one, as the rows of none cannot be counted everywhere."""
    wanted = choose(names)
    return list(names) if wanted is None else [name for name in names if name in set(wanted)] or list(names[:1])


def _is_arrow(data: Any) -> bool:
    return hasattr(data, "__arrow_c_stream__") and not isinstance(data, pd.Series)


def _pyarrow(what: str) -> ModuleType:
    """Return pyarrow, which is optional."""
    try:
        import pyarrow  # noqa: ICN001, PLC0415 - only needed for Arrow data
    except ImportError as error:
        raise InvalidInputError(
            f"reading {what} needs pyarrow", resource="pyarrow", hint='pip install "cloudtasks-nb[parquet]"'
        ) from error
    return pyarrow


def _arrow(data: Any, choose: _Choose) -> Iterator[pd.DataFrame]:
    """Read an Arrow stream in parts; the cells keep their Arrow types, so that integers stay integers."""
    pyarrow = _pyarrow(f"a {type(data).__name__}")
    with pyarrow.RecordBatchReader.from_stream(data) as reader:
        names = reader.schema.names
        chosen = _chosen([name for name in names if not _UNNAMED.match(name)], choose)
        kept = [position for position, name in enumerate(names) if name in chosen]
        parts = (batch.slice(start, PART) for batch in reader for start in range(0, batch.num_rows, PART))
        nothing = [column.chunk(0) for column in reader.schema.empty_table().columns]  # the columns without rows
        empty = pyarrow.RecordBatch.from_arrays(nothing, schema=reader.schema)
        for part in chain([next(parts, empty)], parts):
            columns = [_plain_type(pyarrow, part.column(position)) for position in kept]
            table = pyarrow.Table.from_arrays(columns, names=[names[position] for position in kept])
            yield table.to_pandas(types_mapper=pd.ArrowDtype)


def _whole(parts: Iterator[Any], empty: Any) -> Iterator[pd.DataFrame]:
    """Read all columns of Arrow streams, or of an empty one if there is none."""
    for part in chain([next(parts, empty)], parts):
        yield from _arrow(part, lambda _: None)


def _plain_type(pyarrow: ModuleType, column: Any) -> Any:
    """Replace the layouts that pandas cannot hold (dictionaries, string views) by the plain one of the same values."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        return _plain_type(pyarrow, column.dictionary).take(column.indices)
    if types.is_string_view(column.type):
        return column.cast(pyarrow.large_string())
    return column.cast(pyarrow.large_binary()) if types.is_binary_view(column.type) else column


def _lazy(frame: Any) -> Stream:
    """Return a LazyFrame of Polars, which is executed once each time it is read."""

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        query = frame.select(columns)
        batched = hasattr(query, "collect_batches")  # which older releases lack
        parts = iter(query.collect_batches(chunk_size=PART, maintain_order=True) if batched else [query.collect()])
        empty = type(frame)(schema=query.collect_schema()).collect()
        yield from _whole(parts, empty)

    hint = "data.head().collect() shows why; the path of its file needs the least memory"
    schema = partial(_loop.in_time, _PATIENCE, frame.collect_schema)
    return _named(lambda: Stream(names=schema().names(), read=read), "the LazyFrame", hint)


def _file(path: str) -> Stream:
    """Return the rows of a file, of which the names of the columns have been read."""
    name = re.sub(r"\.(gz|bz2|zip|xz|zst)$", "", path.lower())
    if not name.endswith((".csv", ".parquet", ".pq")) and not Path(path).is_dir():
        hint = 'a file ends with ".csv" or ".parquet"; read others first, and give the DataFrame'
        raise InvalidInputError(f"data={path!r} is not a path to a CSV or Parquet file", resource=path, hint=hint)
    near = "://" not in path
    if near and not Path(path).exists():
        raise InvalidInputError(
            f"the file {path} does not exist", resource=path, hint=f"relative paths start at {Path.cwd()}"
        )
    hint = "the readers of pandas have options: read it with one of them, and give the DataFrame"
    ask = operator.call if near else partial(_loop.in_time, _PATIENCE)
    return _named(lambda: (_csv if name.endswith(".csv") else _parquet)(path, ask), f"the file {path}", hint)


def _named(opened: Callable[[], Stream], what: str, hint: str) -> Stream:
    """Open a stream whose errors, also those in its middle, name what is read, and say what to do."""
    with _readable(what, hint):
        stream = opened()

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        with _readable(what, hint):
            parts = stream.read(columns)
            while (frame := stream.ask(next, parts, None)) is not None:
                yield frame

    return replace(stream, read=read)


@contextmanager
def _readable(what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except InvalidInputError:
        raise
    except Exception as error:  # the readers raise errors of several libraries
        raise InvalidInputError(f"{what} cannot be read: {error}", resource=what, hint=hint) from error


def _csv(path: str, ask: Callable[..., Any]) -> Stream:
    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        chosen = None if columns == names else columns
        kinds: dict[str, str] = {}
        for part in _csv_parts(path, chosen):
            if not isinstance(part.index, pd.RangeIndex):  # pandas took the first cell of each row for a label
                raise InvalidInputError(
                    f"the rows of the file {path} have more cells than its header has names",
                    resource=path,
                    hint=f"say what the first cell is: data=pd.read_csv({path!r}, index_col=0) if it is a label of the "
                    "row, index_col=False if it belongs to the first name, and the last cell to none",
                )
            for name in map(str, part):
                kind = _kind(part[name].dropna())
                if kind and kinds.setdefault(name, kind) != kind:
                    raise _mixed(path, name, kinds[name], kind)
            yield part

    names = list(ask(pd.read_csv, path, nrows=0).columns)
    return Stream(names=names, read=read, ask=ask)


def _csv_parts(path: str, columns: list[str] | None) -> Iterator[pd.DataFrame]:
    """Read a CSV file; from the first part on that has rounded integers, with types that have missing values."""
    options: Any = {"usecols": columns, "chunksize": PART, "low_memory": False}
    number = 0
    with pd.read_csv(path, **options) as parts:
        for part in parts:
            if any(_may_be_rounded(cells) for _, cells in part.items()):
                break
            yield part
            number += 1
        else:
            return
    with pd.read_csv(path, dtype_backend="numpy_nullable", **options) as parts:
        yield from islice(parts, number, None)


def _may_be_rounded(cells: pd.Series[Any]) -> bool:
    """Return whether these may be integers that lost digits when a missing value made them floats."""
    if cells.dtype != np.float64 or not cells.hasnans:
        return False
    there = cells.dropna()
    return bool((there.abs() > EXACT).any() and (there % 1 == 0).all())


def _kind(values: pd.Series[Any]) -> str:
    """Return what the values of a column of a CSV file are; nothing if there are none."""
    kinds = {"string": "texts", "boolean": "truth values"}
    return "" if values.empty else kinds.get(infer_dtype(values), "numbers")


def _mixed(path: str, column: str, *kinds: str) -> InvalidInputError:
    """Return the error for a column whose values would all be texts if the file was read whole."""
    return InvalidInputError(
        f'the column "{column}" of the file {path} begins with {kinds[0]}, and has {kinds[1]} further down',
        resource=column,
        hint=f"say what it holds: data=pd.read_csv({path!r}, dtype={{{column!r}: str}}, chunksize={PART:_})",
    )


def _parquet(path: str, ask: Callable[..., Any]) -> Stream:
    """Return the rows of a Parquet file, or of a folder of them."""
    _pyarrow("a Parquet file")
    from pyarrow import dataset, parquet  # noqa: PLC0415

    found = ask(dataset.dataset, path, format="parquet", partitioning="hive")
    files = list(found.get_fragments())
    rows = sum(ask(file.count_rows) for file in files)

    def read(columns: list[str]) -> Iterator[pd.DataFrame]:
        if not rows:
            yield found.schema.empty_table().to_pandas()
        for file in files:
            partition = dataset.get_partition_keys(file.partition_expression)
            with file.filesystem.open_input_file(file.path) as opened:
                # neither what other columns have nor whole columns are read ahead
                pages = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=_BUFFER)
                span, position = _span(pages.schema_arrow), 0
                for batch in pages.iter_batches(PART, columns=columns, use_pandas_metadata=True):
                    frame = batch.to_pandas(types_mapper=lambda kind: pd.ArrowDtype(kind) if kind.num_fields else None)
                    if span is not None and len(span) == pages.metadata.num_rows:
                        frame.index = span[position : position + len(frame)]
                    position += len(frame)
                    exact = {name: cells for name, cells in _integers(batch).items() if name in frame}
                    yield frame.assign(**exact, **{name: key for name, key in partition.items() if name in columns})

    names = [name for name in found.schema.names if not _UNNAMED.match(name)]
    span = _span(found.schema)
    names += [] if span is None or span.name is None or span.name in names else [span.name]
    return Stream(names=names, read=read, rows=rows, ask=ask)


def _integers(batch: Any) -> dict[str, Any]:
    """Return the columns of integers with missing values, of which pandas makes floats, which have fewer digits."""
    columns = zip(batch.schema.names, batch.columns, strict=True)
    return {
        name: _WITH_MISSING[str(column.type)].__from_arrow__(column)  # type: ignore[attr-defined]  # the stubs lack it
        for name, column in columns
        if column.null_count and str(column.type) in _WITH_MISSING
    }


def _span(schema: Any) -> pd.RangeIndex | None:
    """Return the index of a frame of pandas that is no column of its file, because it is a range."""
    for level in (schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(level, dict):
            return pd.RangeIndex(level["start"], level["stop"], level["step"], name=level["name"])
    return None
