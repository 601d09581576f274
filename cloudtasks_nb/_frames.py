"""Build the DataFrames that the public methods return, with declared columns and dtypes also when empty."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

__all__ = [
    "ACTION_RESULTS",
    "ATTEMPTS",
    "BATCHES",
    "BATCH_TASKS",
    "BY_END",
    "DOCTOR",
    "ENDS",
    "ERRORS",
    "IN_QUEUE",
    "OUTCOMES",
    "QUEUES",
    "STATES",
    "SUCCESSES",
    "TASKS",
    "TASK_STATES",
    "Traits",
    "column",
    "frame",
    "is_missing",
    "spellings",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What follows from a state of a task, and of the row that it belongs to.

    Frames, charts, panels, the status of a batch and the documentation are made from it. The numbers under which rows
    are stored are those of `fanout/states.py`.
    """

    place: int = -1  #: in the life of a task, by which frames sort; -1: in charts and panels only
    need: int  #: of somebody who looks; the highest comes first
    colour: str
    sign: str = ""  #: of its end in the title of the browser's tab, and of what has to be told apart without its colour
    striking: bool = False  #: what has to be told apart, and is never too small to be seen
    in_queue: bool = False  #: whether the task is in its queue
    end: str | None = None  #: the word of a batch whose rows have ended so, the worst of them; None: it is no end
    success: bool = False  #: whether the row has ended well
    known: bool = False  #: whether it is known how the row has ended
    attempted: bool = False  #: whether an attempt has ended the row
    helps: str = ""  #: the line of Python that helps; ``{}`` is the rows in the state
    means: str = ""


_AGAIN = "batch.resend({})"

#: State -> its traits, from done to not begun: the order in which charts stack them. The contrast of each colour to
#: white and to the dark theme's background is at least 3:1, and adjacent states of a bar differ in lightness too. A
#: colour is always shown with the name of its state.
STATES = {
    "succeeded": Traits(
        place=6,
        need=0,
        colour="#2e9e5b",
        sign="✓",
        end="succeeded",
        success=True,
        known=True,
        attempted=True,
        means="the log or a stored result has an attempt that was answered with 2xx",
    ),
    "failed": Traits(
        place=7,
        need=6,
        colour="#e5484d",
        sign="✕",
        striking=True,
        end="failed",
        known=True,
        attempted=True,
        helps="batch.retry_failed()",
        means="given up: the last attempt failed, by the log or a stored result",
    ),
    "rejected": Traits(
        place=1,
        need=2,
        colour="#b5541c",
        sign="✕",
        striking=True,
        end="rejected",
        helps="{}",
        means="never created, with the reason",
    ),
    "cancelled": Traits(
        place=8,
        need=3,
        colour="#6f7782",
        sign="–",  # noqa: RUF001 - a dash
        end="cancelled",
        known=True,
        helps=_AGAIN,
        means="its task was deleted by `cancel()`",
    ),
    "gone": Traits(
        place=9,
        need=4,
        colour="#94796b",
        sign="?",
        end="unknown",
        helps=_AGAIN,
        means="no longer in the queue, outcome unknown",
    ),
    "running": Traits(place=4, need=1, colour="#0e9aa7", in_queue=True, means="an attempt is in flight"),
    "retrying": Traits(
        place=5,
        need=5,
        colour="#d07a00",
        sign="↻",
        striking=True,
        in_queue=True,
        helps="batch.errors()",
        means="at least one attempt failed, another will come",
    ),
    "ready": Traits(place=3, need=1, colour="#3b82f6", in_queue=True, means="due, waiting for the queue's limits"),
    "queued": Traits(need=1, colour="#3b82f6", means="in the queue, in a state that is not known"),
    "scheduled": Traits(place=2, need=1, colour="#8f6ff0", in_queue=True, means="due later, never tried"),
    "settling": Traits(need=1, colour="#94796b", means="no longer in the queue, and its log entry is awaited"),
    "unsent": Traits(
        place=0,
        need=1,
        colour="#8b939c",
        helps="batch.resume()",
        means="safe in the outbox, not yet acknowledged by the service",
    ),
}

#: The states that frames have, in the order in which they sort them.
TASK_STATES = tuple(sorted((word for word in STATES if STATES[word].place >= 0), key=lambda word: STATES[word].place))

#: States of a task that is in its queue.
IN_QUEUE = tuple(word for word in TASK_STATES if STATES[word].in_queue)

#: States in which nothing more happens by itself, the worst first.
ENDS = tuple(sorted((word for word in STATES if STATES[word].end), key=lambda word: -STATES[word].need))

#: Those of them in which a row has ended well.
SUCCESSES = tuple(word for word in ENDS if STATES[word].success)

#: Word of a batch that has ended -> the state of the rows because of which it has that word, the worst first.
BY_END = {str(STATES[word].end): word for word in ENDS}

# The remark on a column is its meaning on the page "Columns of the frames" of the site.
_TEXT, _TIME, _SPAN, _COUNT, _FLOAT, _OK, _ANY = "text", "time", "span", "count", "float", "ok", "any"

#: One row for each queue.
QUEUES = {
    "queue": _TEXT,  #: its short name
    "state": _TEXT,  #: `RUNNING`, `PAUSED` or `DISABLED`
    "tasks": _COUNT,  #: tasks in the queue, as the service estimates
    "oldest_due": _TIME,  #: when the task is due that waits longest
    "running": _COUNT,  #: attempts in flight
    "done_last_minute": _COUNT,  #: attempts that ended in the last minute
    "effective_rate": _FLOAT,  #: dispatches a second that the service allows now
    "rate": _FLOAT,  #: most dispatches a second
    "burst": _COUNT,  #: tasks that may be dispatched at once after a rest
    "max_concurrent": _COUNT,  #: most attempts in flight
    "max_attempts": _COUNT,  #: attempts of a task; -1: unlimited
    "max_retry_duration": _SPAN,  #: after this time no attempt begins; 0: unlimited
    "min_backoff": _SPAN,  #: pause after the first failure
    "max_backoff": _SPAN,  #: longest pause
    "max_doublings": _COUNT,  #: how often the pause doubles before it grows by a constant
    "log_sampling_ratio": _FLOAT,  #: share of the operations that the log has
    "target": _TEXT,  #: URL of the queue's own target
    "purge_time": _TIME,  #: when it was purged last
    "name": _TEXT,  #: its full name
}

#: One row for each task in a queue.
TASKS = {
    "task": _TEXT,  #: its id
    "queue": _TEXT,  #: its queue
    "state": _TEXT,  #: `scheduled`, `ready`, `running` or `retrying`
    "schedule_time": _TIME,  #: when the next attempt is due
    "create_time": _TIME,  #: when it was created
    "attempts": _COUNT,  #: attempts that have begun
    "responses": _COUNT,  #: attempts that were answered
    "last_status": _TEXT,  #: how the last attempt ended: a name such as `OK` or `INTERNAL`
    "last_message": _TEXT,  #: what is known of why it failed
    "last_attempt_time": _TIME,  #: when the last attempt began
    "method": _TEXT,  #: HTTP method
    "url": _TEXT,  #: its target; secrets are dots
    "headers": _ANY,  #: its headers; secrets are dots
    "body": _ANY,  #: its body, with `body=True`
    "service_account": _TEXT,  #: whose token it carries
    "dispatch_deadline": _SPAN,  #: how long an attempt may take
    "name": _TEXT,  #: its full name
}

#: Columns that are added to those of the input in a batch's tasks.
BATCH_TASKS = {
    "url": _TEXT,  #: its target
    "task": _TEXT,  #: id of its newest task
    "try": _COUNT,  #: number of that task: 1, and one more for each retry of the row
    "state": _TEXT,  #: one of the ten states
    "attempts": _COUNT,  #: attempts of that task
    "last_status": _TEXT,  #: how the last attempt ended: a name such as `OK` or `INTERNAL`; `ERROR`: by an exception
    "last_http_status": _COUNT,  #: HTTP status with which the target, or a service that it called, answered
    "last_message": _TEXT,  #: what is known of why it failed
    "schedule_time": _TIME,  #: when it is due, or the next attempt
    "last_attempt_time": _TIME,  #: when the last attempt began
    "duration": _SPAN,  #: how long the last attempt took
}

#: What became of a task that was waited for.
OUTCOMES = {
    "state": _TEXT,  #: `succeeded`, `failed` or `gone`
    "attempts": _COUNT,  #: attempts of the task
    "last_status": _TEXT,  #: how the last attempt ended
    "result": _ANY,  #: what the function returned
    "error": _TEXT,  #: last line of its traceback, or how the task left
}

#: One row for each attempt in the operations log.
ATTEMPTS = {
    "time": _TIME,  #: when it ended
    "task": _TEXT,  #: id of the task
    "queue": _TEXT,  #: its queue
    "attempt": _COUNT,  #: its number
    "status": _TEXT,  #: how it ended: a name such as `OK` or `INTERNAL`
    "message": _TEXT,  #: of the newest attempt, what is known of why it failed
    "wait": _SPAN,  #: from when it was due until its start
    "duration": _SPAN,  #: how long it took
    "retry_time": _TIME,  #: when the next attempt is due
    "url": _TEXT,  #: the target; secrets are dots
}

#: One row for each cause of errors of a batch.
ERRORS = {
    "cause": _TEXT,  #: the message of the first row, else what the messages have in common, with … for values
    "rows": _COUNT,  #: sum of the next two
    "failed": _COUNT,  #: rows that have failed
    "retrying": _COUNT,  #: rows that are tried again
    "first": _TIME,  #: earliest last attempt
    "last": _TIME,  #: latest last attempt
    "row": _ANY,  #: the first row of the input that has it
    "error": _TEXT,  #: its traceback or message
    "where": _TEXT,  #: function and line of your code
    "common": _TEXT,  #: values of the input that most of its rows have, and few others
}

#: One row for each batch of the outbox.
BATCHES = {
    "batch": _TEXT,  #: its id
    "name": _TEXT,  #: the name that you gave it
    "state": _TEXT,  #: the word of `status()`
    "reason": _TEXT,  #: the sentence of `status()`
    "queue": _TEXT,  #: its queue
    "url": _TEXT,  #: its target
    "who": _TEXT,  #: user and host that made it
    "owner": _TEXT,  #: user and host of the home that sends it, or has sent it last, in a shared store
    "where": _TEXT,  #: the store that it was found in; NA: this home
    "created": _TIME,  #: when it was made
    "seen": _TIME,  #: when its queue was read last
    "total": _COUNT,  #: rows
    **dict.fromkeys(TASK_STATES, _COUNT),  #: rows in this state
    "done": _OK,  #: whether every row is final
    "bytes": _COUNT,  #: disk use on this machine, about
}

#: One row for each task that was run or deleted.
ACTION_RESULTS = {
    "task": _TEXT,  #: id of the task
    "ok": _OK,  #: whether it was done
    "error": _TEXT,  #: why not
}

#: One row for each check.
DOCTOR = {
    "check": _TEXT,  #: what was looked at
    "ok": _OK,  #: whether it is in order; NA: not checked
    "detail": _TEXT,  #: what was found
    "fix": _TEXT,  #: the command, call or role that mends it
}

_NAT = np.iinfo(np.int64).min


def is_missing(value: Any) -> bool:
    """Return whether a value of a frame is None, NA, NaT or NaN."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN


def spellings(value: str) -> tuple[str, ...]:
    """Return how frames may write a value that is searched: pandas makes 17.0 of 17 if another one is missing.

    Examples
    --------
    >>> spellings("17"), spellings("17.0"), spellings("b17")
    (('17', '17.0'), ('17', '17.0'), ('b17',))
    """
    whole = re.fullmatch(r"(-?\d+)(\.0*)?", value)
    return (value,) if whole is None else (whole[1], f"{whole[1]}.0")


def column(values: Sequence[Any], kind: str) -> Any:
    """Convert values to an array of the declared dtype, values of any type to a Series, whose dtype stays `object`.

    Times are microseconds since 1970 or None; durations are seconds or None.
    """
    if kind == _TIME:
        return pd.DatetimeIndex(_integers(values).view("datetime64[us]")).tz_localize("UTC")
    if kind == _SPAN:
        return pd.TimedeltaIndex(np.rint(np.array(values, dtype=float) * 1e6).astype("timedelta64[us]"))
    if kind == _TEXT and len(values) > 1 and len({values[0], values[-1]}) == 1 and len(set(values)) == 1:
        # As most columns of many tasks. The first set spares most others; `==` fails for `pandas.NA`, sets do not.
        return column(values[:1], kind).repeat(len(values))
    if kind in (_TEXT, _ANY):
        cells = np.fromiter(values, dtype=object, count=len(values))  # of a list pandas would first find out the type
        if kind == _TEXT:
            return pd.array(cells, dtype=pd.StringDtype())
        cells[pd.isna(cells)] = pd.NA
        return pd.Series(cells, dtype=object)  # an array would be text
    dtype = {_COUNT: "Int64", _FLOAT: "Float64", _OK: "boolean"}[kind]
    return pd.array(list(values), dtype=dtype)  # type: ignore[call-overload]  # the stubs want one literal dtype


def _integers(values: Sequence[int | None]) -> Any:
    known = (_NAT if value is None else value for value in values) if None in values else values
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
