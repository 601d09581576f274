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
    "ERRORS",
    "OUTCOMES",
    "QUEUES",
    "STATES",
    "TASKS",
    "column",
    "frame",
    "is_missing",
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

#: What became of a task that was waited for.
OUTCOMES = {
    "state": _TEXT,
    "attempts": _COUNT,
    "last_status": _TEXT,
    "result": _ANY,
    "error": _TEXT,
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
    "where": _TEXT,
    "common": _TEXT,
}

#: One row for each batch of the outbox.
BATCHES = {
    "batch": _TEXT,
    "name": _TEXT,
    "state": _TEXT,
    "reason": _TEXT,
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


def is_missing(value: Any) -> bool:
    """Return whether a value of a frame is None, NA, NaT or NaN."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN


def column(values: Sequence[Any], kind: str) -> Any:
    """Convert values to an array of the declared dtype, values of any type to a Series, whose dtype stays `object`.

    Times are microseconds since 1970 or None; durations are seconds or None.
    """
    if kind == _TIME:
        return pd.DatetimeIndex(_integers(values).view("datetime64[us]")).tz_localize("UTC")
    if kind == _SPAN:
        raw = _integers([None if value is None else round(value * 1e6) for value in values])
        return pd.TimedeltaIndex(raw.view("timedelta64[us]"))
    if kind == _ANY:
        cells = (pd.NA if is_missing(value) else value for value in values)
        return pd.Series(np.fromiter(cells, dtype=object, count=len(values)), dtype=object)  # an array would be text
    dtype = {_TEXT: pd.StringDtype(), _COUNT: "Int64", _FLOAT: "Float64", _OK: "boolean"}[kind]
    return pd.array(list(values), dtype=dtype)  # type: ignore[call-overload]  # the stubs want one literal dtype


def _integers(values: Sequence[int | None]) -> Any:
    known = (_NAT if value is None else value for value in values)
    return np.fromiter(known, dtype=np.int64, count=len(values))


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
    built = pd.DataFrame(made, copy=False)  # the arrays are ours
    return built if labels is None else built.set_axis(labels)
