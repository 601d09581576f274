"""Write frames of results as Parquet files."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from cloudtasks_nb._frames import is_missing
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.store.encode import to_json

__all__ = ["target_folder", "untyped", "with_json", "write_parts"]

_Frame = TypeVar("_Frame", bound=pd.DataFrame)

_FILES = "part-*.parquet"
#: The types of pandas in which columns of Arrow with missing values keep their values when a file is read.
_NULLABLE = {"int64": pd.Int64Dtype(), "double": pd.Float64Dtype(), "bool": pd.BooleanDtype()}


def untyped(frame: pd.DataFrame) -> list[str]:
    """Return the names of the columns whose values have no common type of Parquet."""
    return [name for name, cells in frame.items() if cells.dtype == object and not _has_type(cells)]  # type: ignore[misc]  # names are texts


def with_json(frame: _Frame, names: Collection[str]) -> _Frame:
    """Return a frame in which the values of some columns are JSON texts."""
    return frame.assign(**{name: pd.array(_json_texts(frame[name]), dtype=pd.StringDtype()) for name in names})


def target_folder(folder: Any) -> Path:
    """Return the folder to write to, which is made if there is none.

    Raises
    ------
    InvalidInputError
        If it is no folder of this machine, or cannot be made, or if pyarrow is not installed.
    """
    if not isinstance(folder, (str, os.PathLike)) or "://" in str(folder):
        hint = 'batch.to_parquet("results") writes a folder here; gcloud storage cp -r results gs://BUCKET copies it'
        raise InvalidInputError(f"folder={folder!r} is not a path of this machine", hint=hint)
    path = Path(folder)
    if find_spec("pyarrow") is None:
        hint = 'pip install "cloudtasks-nb[parquet]"'
        raise InvalidInputError("writing Parquet needs pyarrow", resource="pyarrow", hint=hint)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be a folder: {error.strerror}", resource=str(path)) from error
    return path


def write_parts(frames: Iterable[pd.DataFrame], folder: Path) -> None:
    """Write each frame to a file of its own, in place of those that an earlier call has written to the folder.

    All files have the same columns. Integers beside floats become floats if none of them loses digits. A column whose
    values have no common type becomes JSON text. One frame is in memory at a time: the files are first written with the
    types of their own values, and those are written again whose types others have not.

    Parameters
    ----------
    frames : iterable of DataFrame
        Their indexes become columns.
    folder : Path
        As `target_folder` returns it.
    """
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    kinds: dict[str, Counter[Any]] = {}  # of each column its types, with the number of files
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        written: dict[Path, list[str]] = {}  # with the columns that are JSON text there
        for frame in frames:
            made = frame.reset_index().rename(columns=str)
            path = Path(new, _FILES.replace("*", f"{len(written):05}"))
            written[path] = untyped(made)
            table = _table(with_json(made, written[path]))
            parquet.write_table(table, path)
            for field in table.schema:
                kinds.setdefault(field.name, Counter())[None if field.name in written[path] else field.type] += 1
        # a column without any value is left out if some files lack it, as `result` where all rows of a part failed
        kept = {name: n for name, n in kinds.items() if set(n) != {pa.null()} or n.total() == len(written)}
        types = {name: _common(name, [kind for kind in n if kind != pa.null()], written) for name, n in kept.items()}
        for path, texts in written.items():
            _write_again(path, types, texts)
        for old in folder.glob(_FILES):
            old.unlink()
        for path in written:
            path.rename(folder / path.name)


def _has_type(cells: pd.Series[Any]) -> bool:
    """Return whether a type of Parquet has all these values."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional

        found = str(pa.array(cells, from_pandas=True).type)
    except ImportError:
        return True  # pandas says what is missing, or writes the file without it
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # of which Arrow's errors are subclasses
        return False
    return "struct<>" not in found  # an empty dict, which Arrow has and Parquet has not


def _table(frame: pd.DataFrame) -> Any:
    """Return a frame as a table of Arrow; categories become their values, and periods text, as other readers need."""
    import pyarrow as pa  # noqa: PLC0415 - optional

    plain: dict[str, Any] = {}
    for name, cells in frame.items():
        if isinstance(cells.dtype, pd.CategoricalDtype):
            plain[str(name)] = cells.astype(cells.cat.categories.dtype)
        elif isinstance(cells.dtype, pd.PeriodDtype):
            plain[str(name)] = cells.astype("string")
    return pa.Table.from_pandas(frame.assign(**plain), preserve_index=False)


def _common(name: str, kinds: Collection[Any], paths: Iterable[Path]) -> Any:
    """Return the type that a column has in all files; None: its values have none in common."""
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    if not kinds or None in kinds:
        return None
    try:
        same = [pa.schema([(name, kind)]) for kind in kinds]
        found = pa.unify_schemas(same, promote_options="permissive").field(name).type
        for path in paths if len(kinds) > 1 else ():
            if name in parquet.read_schema(path).names:
                parquet.read_table(path, columns=[name])[name].cast(found)  # fails where digits would be lost
    except (ValueError, TypeError, NotImplementedError):  # of which Arrow's errors are subclasses
        return None
    return found


def _write_again(path: Path, types: Mapping[str, Any], texts: Collection[str]) -> None:
    """Give a file the columns of all files; it has JSON text in `texts`, and each file where the type is None."""
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    schema = pa.schema([(name, kind or pa.large_string()) for name, kind in types.items()])
    empty = schema.empty_table().to_pandas(types_mapper=lambda kind: _NULLABLE.get(str(kind)))
    table = parquet.read_table(path)
    columns = []
    for field in schema:
        cells = table[field.name] if field.name in table.schema.names else pa.nulls(len(table))
        if types[field.name] is None and field.name not in texts:
            cells = pa.array(_json_texts(cells.to_pylist()), field.type)
        columns.append(cells.cast(field.type))
    schema = schema.with_metadata(pa.Schema.from_pandas(empty, preserve_index=False).metadata)
    if table.schema != schema or any(name not in texts for name, kind in types.items() if kind is None):
        parquet.write_table(pa.Table.from_arrays(columns, schema=schema), path)


def _json_texts(cells: Iterable[Any]) -> list[str | None]:
    return [None if is_missing(cell) else to_json(cell).decode() for cell in cells]
