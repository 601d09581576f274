"""Build the DataFrames that the public methods return, with declared columns and dtypes also when empty."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import (  # type: ignore[attr-defined]  # the stubs lack the mixin
    ExtensionArray,
    ExtensionDtype,
    ExtensionScalarOpsMixin,
    take,
)
from pandas.api.indexers import check_array_indexer
from pandas.api.types import is_integer

__all__ = [
    "ACTION_RESULTS",
    "ATTEMPTS",
    "BATCHES",
    "BATCH_TASKS",
    "DOCTOR",
    "ERRORS",
    "QUEUES",
    "STATES",
    "TASKS",
    "ObjectArray",
    "ObjectDtype",
    "column",
    "frame",
]

#: Every state of a task, in the order in which frames sort them.
STATES = (
    "unsent",
    "rejected",
    "scheduled",
    "ready",
    "running",
    "retrying",
    "succeeded",
    "failed",
    "cancelled",
    "gone",
)

_TEXT, _TIME, _SPAN, _COUNT, _FLOAT, _OK, _ANY = "text", "time", "span", "count", "float", "ok", "any"

#: One row for each queue.
QUEUES = {
    "queue": _TEXT,
    "state": _TEXT,
    "tasks": _COUNT,
    "oldest_due": _TIME,
    "running": _COUNT,
    "done_last_minute": _COUNT,
    "effective_rate": _FLOAT,
    "rate": _FLOAT,
    "burst": _COUNT,
    "max_concurrent": _COUNT,
    "max_attempts": _COUNT,
    "max_retry_duration": _SPAN,
    "min_backoff": _SPAN,
    "max_backoff": _SPAN,
    "max_doublings": _COUNT,
    "log_sampling_ratio": _FLOAT,
    "target": _TEXT,
    "purge_time": _TIME,
    "name": _TEXT,
}

#: One row for each task in a queue.
TASKS = {
    "task": _TEXT,
    "queue": _TEXT,
    "state": _TEXT,
    "schedule_time": _TIME,
    "create_time": _TIME,
    "attempts": _COUNT,
    "responses": _COUNT,
    "last_status": _TEXT,
    "last_message": _TEXT,
    "last_attempt_time": _TIME,
    "method": _TEXT,
    "url": _TEXT,
    "headers": _ANY,
    "body": _ANY,
    "service_account": _TEXT,
    "dispatch_deadline": _SPAN,
    "name": _TEXT,
}

#: Columns that are added to those of the input in a batch's tasks.
BATCH_TASKS = {
    "url": _TEXT,
    "task": _TEXT,
    "try": _COUNT,
    "state": _TEXT,
    "attempts": _COUNT,
    "last_status": _TEXT,
    "last_http_status": _COUNT,
    "last_message": _TEXT,
    "schedule_time": _TIME,
    "last_attempt_time": _TIME,
    "duration": _SPAN,
}

#: One row for each attempt in the operations log.
ATTEMPTS = {
    "time": _TIME,
    "task": _TEXT,
    "queue": _TEXT,
    "attempt": _COUNT,
    "status": _TEXT,
    "message": _TEXT,
    "wait": _SPAN,
    "duration": _SPAN,
    "retry_time": _TIME,
    "url": _TEXT,
}

#: One row for each cause of errors of a batch.
ERRORS = {
    "cause": _TEXT,
    "rows": _COUNT,
    "failed": _COUNT,
    "retrying": _COUNT,
    "first": _TIME,
    "last": _TIME,
    "row": _ANY,
    "error": _TEXT,
}

#: One row for each batch of the outbox.
BATCHES = {
    "batch": _TEXT,
    "name": _TEXT,
    "queue": _TEXT,
    "url": _TEXT,
    "who": _TEXT,
    "where": _TEXT,
    "created": _TIME,
    "seen": _TIME,
    "total": _COUNT,
    **dict.fromkeys(STATES, _COUNT),
    "done": _OK,
    "bytes": _COUNT,
}

#: One row for each task that was run or deleted.
ACTION_RESULTS = {"task": _TEXT, "ok": _OK, "error": _TEXT}

#: One row for each check.
DOCTOR = {"check": _TEXT, "ok": _OK, "detail": _TEXT, "fix": _TEXT}

_NAT = np.iinfo(np.int64).min


class ObjectDtype(ExtensionDtype):
    """The dtype of a column that holds any values, such as decoded bodies.

    Its name is that of numpy's dtype, so that a file of such a column is read where this package is not installed.
    """

    name = "object"
    type = object
    na_value = pd.NA

    @classmethod
    def construct_array_type(cls) -> Any:
        """Return the class of its arrays."""
        return ObjectArray


class ObjectArray(ExtensionScalarOpsMixin, ExtensionArray):
    """Any values, also of different types; in a Parquet or Feather file each is JSON text.

    Arrow cannot write a column of pandas' own dtype `object` whose values are of several types or empty dicts.
    """

    def __init__(self, cells: np.ndarray[Any, np.dtype[np.object_]]) -> None:
        self._cells = cells

    @classmethod
    def _from_sequence(cls, scalars: Any, *, dtype: Any = None, copy: bool = False) -> ObjectArray:  # noqa: ARG003 - pandas'
        filled = [pd.NA if _is_missing(cell) else cell for cell in scalars]
        return cls(np.fromiter(filled, dtype=object, count=len(filled)))  # np.array would spread lists over a matrix

    @property
    def dtype(self) -> ObjectDtype:
        """The dtype of all such arrays."""
        return ObjectDtype()

    @property
    def nbytes(self) -> int:
        """Bytes of the references to the values."""
        return self._cells.nbytes

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, item: Any) -> Any:
        found = self._cells[check_array_indexer(self, item)]
        return found if is_integer(item) else type(self)(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._cells[check_array_indexer(self, key)] = value

    __hash__ = None  # type: ignore[assignment]  # of no array

    @classmethod
    def _create_method(cls, op: Any, coerce_to_dtype: bool = True, result_dtype: Any = None) -> Any:  # noqa: ARG003, FBT001, FBT002 - pandas'
        """Return the method of an operator; the result has missing values, or False where it compares them."""

        def method(self: ObjectArray, other: Any) -> Any:
            if isinstance(other, (pd.Series, pd.Index, pd.DataFrame)):
                return NotImplemented  # it takes this array out of its own Series
            arrays = (ExtensionArray, np.ndarray, list)
            others = other if isinstance(other, arrays) and len(other) == len(self) else repeat(other, len(self))
            gap: Any = pd.NA if coerce_to_dtype else op is operator.ne
            pairs = zip(self, others, strict=True)
            made = [gap if _is_missing(one) or _is_missing(two) else op(one, two) for one, two in pairs]
            return cls._from_sequence(made) if coerce_to_dtype else np.fromiter(made, dtype=bool, count=len(made))

        return method

    def _reduce(self, name: str, *, skipna: bool = True, keepdims: bool = False, **kwargs: Any) -> Any:
        missing = self.isna()
        known = pd.Series(self._cells[~missing], dtype=object)
        found = pd.NA if missing.any() and not skipna else getattr(known, name)(**kwargs)
        return self._from_sequence([found]) if keepdims else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: FBT001 - numpy's
        return self._cells.copy() if copy else self._cells

    def __arrow_array__(self, type: Any = None) -> Any:  # noqa: A002 - Arrow's
        import pyarrow as pa  # noqa: PLC0415 - optional: whoever calls this has it

        return pa.array([None if _is_missing(cell) else _json(cell) for cell in self._cells], type=pa.string())

    def _values_for_json(self) -> Any:
        return np.fromiter(map(_without_bytes, self._cells), dtype=object, count=len(self))

    def _explode(self) -> tuple[ObjectArray, Any]:
        counts = [max(1, len(cell)) if isinstance(cell, (list, tuple, set)) else 1 for cell in self._cells]
        return self._from_sequence(pd.Series(self._cells).explode()), np.array(counts, dtype=np.uint64)

    def isna(self) -> Any:
        """Return which values are missing."""
        return np.fromiter(map(_is_missing, self._cells), dtype=bool, count=len(self))

    def value_counts(self, dropna: bool = True) -> pd.Series[int]:  # noqa: FBT001, FBT002 - pandas'
        """Count equal values."""
        return pd.Series(self._cells, dtype=object).value_counts(dropna=dropna)

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> ObjectArray:  # noqa: ARG002 - pandas'
        """Return the values at some positions; with `allow_fill`, -1 is a missing one."""
        places = np.asarray(indices, dtype=np.intp)
        taken = take(self._cells, places, allow_fill=allow_fill, fill_value=self.dtype.na_value)
        return type(self)(np.asarray(taken))

    def copy(self) -> ObjectArray:
        """Return a copy that shares the values."""
        return type(self)(self._cells.copy())

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[ObjectArray]) -> ObjectArray:
        return cls(np.concatenate([np.asarray(part) for part in to_concat]))


ObjectArray._add_arithmetic_ops()  # noqa: SLF001 - as pandas' documentation tells
ObjectArray._add_comparison_ops()  # noqa: SLF001


def _is_missing(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and cell != cell)  # noqa: PLR0124 - NaN


def _json(cell: Any) -> str:
    return json.dumps(cell, ensure_ascii=False, default=_text_of)


def _text_of(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _without_bytes(cell: Any) -> Any:
    return _text_of(cell) if isinstance(cell, bytes) else cell


def column(values: Sequence[Any], kind: str) -> Any:
    """Convert values to an array of the declared dtype.

    Times are microseconds since 1970 or None; durations are seconds or None.
    """
    if _all_equal(values, kind):
        return column(values[:1], kind).take(np.zeros(len(values), dtype=np.intp))
    if kind == _TIME:
        return pd.DatetimeIndex(_integers(values).view("datetime64[us]")).tz_localize("UTC")
    if kind == _SPAN:
        raw = _integers([None if value is None else round(value * 1e6) for value in values])
        return pd.TimedeltaIndex(raw.view("timedelta64[us]"))
    if kind == _ANY:
        return ObjectArray._from_sequence(values)  # noqa: SLF001 - the constructor that pandas wants
    dtype = {_TEXT: pd.StringDtype(), _COUNT: "Int64", _FLOAT: "Float64", _OK: "boolean"}[kind]
    return pd.array(list(values), dtype=dtype)  # type: ignore[call-overload]  # the stubs want one literal dtype


def _all_equal(values: Sequence[Any], kind: str) -> bool:
    """Return whether all values of a list are equal, so that one can be converted for all; objects are not shared."""
    if not isinstance(values, list) or len(values) < 2 or (kind == _ANY and values[0] is not None):  # noqa: PLR2004 - one value is alike anyway
        return False
    try:
        return values == values[:1] * len(values)
    except TypeError:  # pd.NA cannot be compared
        return False


def _integers(values: Sequence[int | None]) -> Any:
    try:
        return np.fromiter(values, dtype=np.int64, count=len(values))
    except TypeError:  # some are None
        known = [_NAT if value is None else value for value in values]
        return np.fromiter(known, dtype=np.int64, count=len(known))


def frame(
    declared: Mapping[str, str], columns: Mapping[str, Sequence[Any]], *, index: str | None = None
) -> pd.DataFrame:
    """Build a frame with the declared columns in their order. Columns that are missing in `columns` are NA.

    Parameters
    ----------
    declared : mapping
        Column name to kind: one of this module's tables.
    columns : mapping
        Column name to plain values, all of the same length.
    index : str, optional
        The column that becomes the index.
    """
    length = len(next(iter(columns.values()), ()))
    blank: list[Any] = [None] * length
    made = {name: column(columns.get(name, blank), kind) for name, kind in declared.items()}
    labels = None if index is None else pd.Index(made.pop(index), name=index)
    return pd.DataFrame(made, index=labels, copy=False)  # the arrays are ours
