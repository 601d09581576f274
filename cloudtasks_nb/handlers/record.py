"""What a handler remembers of its calls."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cloudtasks_nb import _frames
from cloudtasks_nb.handlers.call import Outcome, decode

__all__ = ["CALLS", "Call", "Record", "Summary"]

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
    """One request and what became of it."""

    time: dt.datetime  #: when the request came
    task: str | None  #: short id; None: the request did not come from a queue
    queue: str | None
    attempt: int | None  #: 1 for the first
    body: bytes  #: as it came: the function may change the value that was made of it
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How it went so far."""

    succeeded: int
    failed: int
    running: int
    last_error: str | None  #: one line
    latest: tuple[Call, ...]  #: the newest calls, oldest first

    @property
    def total(self) -> int:
        """Calls that have ended."""
        return self.succeeded + self.failed


class Record:
    """The newest calls, and counts of all; written by the workers, read by anybody.

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
        """Remember a call that has ended."""
        with self._lock:
            self._running -= 1
            self._calls.append(call)
            if call.outcome.ok:
                self._succeeded += 1
            else:
                self._failed += 1
                self._last_error = call.outcome.message

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
        calls.sort(key=lambda call: call.time)  # they stand in the order in which they ended
        outcomes = [call.outcome for call in calls]
        values: dict[str, Sequence[Any]] = {
            "time": [(call.time - _EPOCH) // dt.timedelta(microseconds=1) for call in calls],
            "task": [_text(call.task) for call in calls],
            "queue": [_text(call.queue) for call in calls],
            "attempt": [call.attempt for call in calls],
            "body": [decode(call.body) for call in calls],
            "status": [outcome.status for outcome in outcomes],
            "result": [outcome.result for outcome in outcomes],
            "error": [_text(outcome.error) for outcome in outcomes],
            "duration": [outcome.duration for outcome in outcomes],
        }
        return _frames.frame(CALLS, values)


def _text(value: str | None) -> str | None:
    # Header bytes that are no UTF-8 come as lone surrogates, which Arrow-backed text columns refuse.
    return None if value is None else value.encode("utf-8", "replace").decode()
