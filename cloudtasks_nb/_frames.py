"""The frames that verbs return: declared columns and dtypes, the same when empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "ATTEMPTS",
    "BATCHES",
    "BATCH_TASKS",
    "DOCTOR",
    "QUEUES",
    "STATES",
    "STATE_DTYPE",
    "TASKS",
    "VERDICTS",
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

#: One row a queue.
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

#: One row a task in a queue.
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

#: Our columns of a batch's tasks, behind the columns of the input.
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

#: One row an attempt of the operations log.
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

#: One row a batch of the outbox.
BATCHES = {
    "batch": _TEXT,
    "queue": _TEXT,
    "url": _TEXT,
    "created": _TIME,
    "seen": _TIME,
    "total": _COUNT,
    **dict.fromkeys(STATES, _COUNT),
    "done": _OK,
}

#: One row a task that something was done to.
VERDICTS = {"task": _TEXT, "ok": _OK, "error": _TEXT}

#: One row a check.
DOCTOR = {"check": _TEXT, "ok": _OK, "detail": _TEXT, "fix": _TEXT}

_NAT = np.iinfo(np.int64).min


def column(values: Sequence[Any], kind: str) -> Any:
    """Return the values as an array of the declared dtype.

    Times are microseconds since 1970 or None, spans seconds or None.
    """
    if kind == _TIME:
        raw = np.array([_NAT if value is None else value for value in values], dtype=np.int64)
        return pd.DatetimeIndex(raw.view("datetime64[us]")).tz_localize("UTC")
    if kind == _SPAN:
        raw = np.array([_NAT if value is None else round(value * 1e6) for value in values], dtype=np.int64)
        return pd.TimedeltaIndex(raw.view("timedelta64[us]"))
    if kind == _ANY:
        out = np.empty(len(values), dtype=object)
        out[:] = [pd.NA if value is None else value for value in values] if len(values) else []
        return out
    if kind == _STATE:
        return pd.Categorical(list(values), dtype=STATE_DTYPE)
    dtype = {_TEXT: pd.StringDtype(), _COUNT: "Int64", _FLOAT: "Float64", _OK: "boolean"}[kind]
    return pd.array(list(values), dtype=dtype)  # type: ignore[call-overload]  # the stubs want one literal dtype


def frame(
    declared: Mapping[str, str], columns: Mapping[str, Sequence[Any]], *, index: str | None = None
) -> pd.DataFrame:
    """Build a frame with the declared columns, in their order; what `columns` lacks is NA.

    Parameters
    ----------
    declared : mapping
        Column name to kind, one of this module's tables.
    columns : mapping
        Plain values a column, all of the same length.
    index : str, optional
        The column that becomes the index.
    """
    length = len(next(iter(columns.values()), ()))
    blank: list[Any] = [None] * length
    made = pd.DataFrame({name: column(columns.get(name, blank), kind) for name, kind in declared.items()})
    return made if index is None else made.set_index(index)
