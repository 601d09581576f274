"""Frames of results, which Parquet can hold whatever functions have returned."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cloudtasks_nb._frames import is_missing
from cloudtasks_nb.store.encode import to_json

__all__ = ["ResultFrame"]


class ResultFrame(pd.DataFrame):
    """A frame whose columns may have values of several types, which Parquet refuses."""

    @property
    def _constructor(self) -> type[ResultFrame]:
        return ResultFrame  # so that parts of it, too, can be written

    def to_parquet(self, path: Any = None, **options: Any) -> Any:
        """Write a Parquet file, with the options of pandas; a column that has no type there becomes JSON text."""
        written = self.copy(deep=False)
        for name, cells in self.items():
            if cells.dtype == object and not _has_type(cells):
                texts = [None if is_missing(cell) else to_json(cell).decode() for cell in cells]
                written[name] = pd.array(texts, dtype=pd.StringDtype())
        return super(ResultFrame, written).to_parquet(path, **options)


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
