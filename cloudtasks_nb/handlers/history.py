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

__all__ = ["Call", "CallHistory", "Summary", "TaskRequest"]

#: One row a call, oldest first.
_COLUMNS = {
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
class TaskRequest:
    """The parts of a request that are used to call the function and to record the call."""

    time: dt.datetime  #: of its arrival
    body: bytes  #: as received: the function may change the value that is decoded from it
    authorization: str | None = None  #: header
    task: str | None = None  #: short id; None: the request was not sent by a queue
    queue: str | None = None
    attempt: int | None = None  #: 1 for the first


#: One request with its answer.
Call = tuple[TaskRequest, Answer]


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
    """The newest calls, at most `newest`, and counts of all; safe to use from several threads."""

    def __init__(self, newest: int = _NEWEST) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Call] = deque(maxlen=newest)
        self._succeeded = self._failed = self._running = 0
        self._last_error: str | None = None

    def begin(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._running += 1

    def end(self, request: TaskRequest, answer: Answer) -> None:
        """Record a call that has ended."""
        with self._lock:
            self._running -= 1
            self._calls.append((request, answer))
            if answer.ok:
                self._succeeded += 1
            else:
                self._failed += 1
                self._last_error = answer.message

    def summary(self) -> Summary:
        """Return the counts, and the newest five calls."""
        with self._lock:
            return Summary(
                succeeded=self._succeeded,
                failed=self._failed,
                running=self._running,
                last_error=self._last_error,
                latest=tuple(self._calls)[-5:],
            )

    def frame(self) -> pd.DataFrame:
        """Return the calls as a frame, oldest first; the same columns and dtypes when there are none."""
        with self._lock:
            calls = list(self._calls)
        calls.sort(key=lambda call: call[0].time)  # until now in the order in which they ended
        requests, answers = [request for request, _ in calls], [answer for _, answer in calls]
        values: dict[str, Sequence[Any]] = {
            "time": [(request.time - _EPOCH) // dt.timedelta(microseconds=1) for request in requests],
            "task": [_text(request.task) for request in requests],
            "queue": [_text(request.queue) for request in requests],
            "attempt": [request.attempt for request in requests],
            "body": [decode(request.body) for request in requests],
            "status": [answer.status for answer in answers],
            "result": [answer.result for answer in answers],
            "error": [_text(answer.error) for answer in answers],
            "duration": [answer.duration for answer in answers],
        }
        return _frames.frame(_COLUMNS, values)


def _text(value: str | None) -> str | None:
    # Header bytes that are not UTF-8 become lone surrogates, which Arrow-backed text columns refuse.
    return None if value is None else value.encode("utf-8", "replace").decode()
