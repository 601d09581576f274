"""Build the DataFrames that the public methods return, with declared columns and dtypes also when empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "ACTION_RESULTS",
    "ATTEMPTS",
    "BATCHES",
    "BATCH_TASKS",
    "DOCTOR",
    "QUEUES",
    "STATES",
    "STATE_DTYPE",
    "TASKS",
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
STATE_DTYPE = pd.CategoricalDtype(list(STATES), ordered=False)

_TEXT, _TIME, _SPAN, _COUNT, _FLOAT, _OK, _STATE, _ANY = "text", "time", "span", "count", "float", "ok", "state", "any"

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
    "state": _STATE,
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
    "state": _STATE,
    "attempts": _COUNT,
    "last_status": _TEXT,
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
    "duration": _SPAN,
    "retry_time": _TIME,
    "url": _TEXT,
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
_STATE_CODES = {state: code for code, state in enumerate(STATES)}


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
        filled = [pd.NA if value is None else value for value in values]
        # As an Index it keeps its dtype; pandas would infer text for an array of strings.
        return pd.Index(np.fromiter(filled, dtype=object, count=len(filled)), dtype=object)
    if kind == _STATE:
        return pd.Categorical.from_codes([_STATE_CODES.get(value, -1) for value in values], dtype=STATE_DTYPE)
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
