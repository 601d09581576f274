"""The newest calls of a handler, as a DataFrame and as counts."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudtasks_nb import _frames
from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import decode

__all__ = ["CALLS", "Call", "CallHistory", "Summary"]

#: One row a call, oldest first.
CALLS = {
    "time": "time",
    "task": "text",
    "queue": "text",
    "attempt": "count",
    "body": "any",
    "status": "count",
    "result": "any",
    "error": "text",
    "duration": "span",
}
_NEWEST = 10_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request with its answer."""

    time: dt.datetime  #: when the request came
    task: str | None  #: short id; None: the request did not come from a queue
    queue: str | None
    attempt: int | None  #: 1 for the first
    body: bytes  #: as received: the function may change the value that was decoded from it
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts of all calls, and the newest few of them."""

    succeeded: int
    failed: int
    running: int
    last_error: str | None  #: one line
    latest: tuple[Call, ...]  #: the newest calls, oldest first

    @property
    def total(self) -> int:
        """Calls that have ended."""
        return self.succeeded + self.failed


class CallHistory:
    """The newest calls, and counts of all; safe to use from several threads.

    Parameters
    ----------
    newest : int
        How many calls are kept.
    """

    def __init__(self, newest: int = _NEWEST) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque(maxlen=newest)
        self._succeeded = self._failed = self._running = 0
        self._last_error: str | None = None

    def begin(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._running += 1

    def end(self, call: Call) -> None:
        """Record a call that has ended."""
        with self._lock:
            self._running -= 1
            self._calls.append(call)
            if call.answer.ok:
                self._succeeded += 1
            else:
                self._failed += 1
                self._last_error = call.answer.message

    def summary(self, latest: int = 5) -> Summary:
        """Return the counts, and the newest few calls."""
        with self._lock:
            return Summary(
                succeeded=self._succeeded,
                failed=self._failed,
                running=self._running,
                last_error=self._last_error,
                latest=tuple(self._calls)[-latest:],
            )

    def frame(self) -> pd.DataFrame:
        """Return the calls as a frame, oldest first; the same columns and dtypes when there are none."""
        with self._lock:
            calls = list(self._calls)
        calls.sort(key=lambda call: call.time)  # until now in the order in which they ended
        values: dict[str, Sequence[Any]] = {
            "time": [(call.time - _EPOCH) // dt.timedelta(microseconds=1) for call in calls],
            "task": [_text(call.task) for call in calls],
            "queue": [_text(call.queue) for call in calls],
            "attempt": [call.attempt for call in calls],
            "body": [decode(call.body) for call in calls],
            "status": [call.answer.status for call in calls],
            "result": [call.answer.result for call in calls],
            "error": [_text(call.answer.error) for call in calls],
            "duration": [call.answer.duration for call in calls],
        }
        return _frames.frame(CALLS, values)


def _text(value: str | None) -> str | None:
    # Header bytes that are no UTF-8 come as lone surrogates, which Arrow-backed text columns refuse.
    return None if value is None else value.encode("utf-8", "replace").decode()
