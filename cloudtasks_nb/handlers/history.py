"""The newest calls of a handler, as a DataFrame and as counts."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cloudtasks_nb.handlers.answer import Answer
from cloudtasks_nb.handlers.call import ReceivedRequest, decode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Call", "CallHistory", "CallSummary"]

_NEWEST = 10_000
_MOST_BYTES = 32_000_000  # of bodies and results
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


#: One request with its answer.
Call = tuple[ReceivedRequest, Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """Counts of all calls, and the newest few of them."""

    succeeded: int
    failed: int
    running: int
    last_error: str | None  #: one line
    latest: tuple[Call, ...]  #: the newest calls, oldest first
    cut: str | None  #: which calls, bodies and results are not kept any more; None: everything is

    @property
    def total(self) -> int:
        """Calls that have ended."""
        return self.succeeded + self.failed


class CallHistory:
    """The newest calls, the bodies and results of the newest of them, and counts of all; safe to use from threads.

    Parameters
    ----------
    newest : int
        How many calls are kept.
    most_bytes : int
        How many bytes of bodies and results are kept.
    """

    def __init__(self, newest: int = _NEWEST, most_bytes: int = _MOST_BYTES) -> None:
        self._lock = threading.Lock()
        self._newest, self._most_bytes = newest, most_bytes
        self._bare: deque[Call] = deque()  # the older calls, whose bodies and results are not kept
        self._calls: deque[Call] = deque()  # the newer calls
        self._bytes = 0  # of the bodies and results in them
        self._succeeded = self._failed = self._running = 0
        self._last_error: str | None = None

    def begin(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self._running += 1

    def end(self, request: ReceivedRequest, answer: Answer) -> None:
        """Record a call that has ended."""
        with self._lock:
            self._running -= 1
            if answer.ok:
                self._succeeded += 1
            else:
                self._failed += 1
                self._last_error = answer.message
            self._calls.append((request, answer))
            self._bytes += _size(request, answer)
            while self._bytes > self._most_bytes:
                request, answer = self._oldest()
                self._bare.append((replace(request, body=b""), replace(answer, result=None)))
            if len(self._bare) + len(self._calls) > self._newest:
                if self._bare:
                    self._bare.popleft()
                else:
                    self._oldest()

    def _oldest(self) -> Call:
        """Take out the oldest call that has its body and result."""
        call = self._calls.popleft()
        self._bytes -= _size(*call)
        return call

    def answer_to(self, body: bytes, since: dt.datetime) -> Answer | None:
        """Return the answer to the newest request since a time that had this body and was no task's."""
        with self._lock:
            calls = list(self._calls)
        for request, answer in reversed(calls):
            if request.time < since:
                break
            if request.task is None and request.body == body:
                return answer
        return None

    def summary(self) -> CallSummary:
        """Return the counts, and the newest five calls."""
        with self._lock:
            return CallSummary(
                succeeded=self._succeeded,
                failed=self._failed,
                running=self._running,
                last_error=self._last_error,
                latest=(*self._bare, *self._calls)[-5:],
                cut=self._cut(),
            )

    def frame(self) -> pd.DataFrame:
        """Return the calls as a frame, oldest first; the same columns and dtypes when there are none."""
        from cloudtasks_nb import _frames  # noqa: PLC0415 - a deployed handler has no use for pandas

        with self._lock:
            calls = [*self._bare, *self._calls]
            cut = self._cut()
        calls.sort(key=lambda call: call[0].time)  # until now in the order in which they ended
        kinds = {name: kind for name, (kind, _) in _COLUMNS.items()}
        made = _frames.frame(kinds, {name: [value(*call) for call in calls] for name, (_, value) in _COLUMNS.items()})
        if cut is not None:
            made.attrs["cut"] = cut
        return made

    def _cut(self) -> str | None:
        total, kept = self._succeeded + self._failed, len(self._bare) + len(self._calls)
        words = [f"the newest {kept:,} of {total:,} calls"] if kept < total else []
        if self._bare:
            words.append(f"bodies and results of the newest {len(self._calls):,} only")
        return "; ".join([*words, "batch.results() has the results of all rows"]) if words else None


def _size(request: ReceivedRequest, answer: Answer) -> int:
    return len(request.body) + len(answer.result or b"")


def _text(value: str | None) -> str | None:
    # Header bytes that are not UTF-8 become lone surrogates, which Arrow-backed text columns refuse.
    return None if value is None else value.encode("utf-8", "replace").decode()


#: The columns of a frame of calls: what each holds, and how it is read from a call.
_COLUMNS: dict[str, tuple[str, Callable[[ReceivedRequest, Answer], Any]]] = {
    "time": ("time", lambda request, _: (request.time - _EPOCH) // dt.timedelta(microseconds=1)),
    "task": ("text", lambda request, _: _text(request.task)),
    "queue": ("text", lambda request, _: _text(request.queue)),
    "attempt": ("count", lambda request, _: request.attempt),
    "body": ("any", lambda request, _: decode(request.body)),
    "status": ("count", lambda _, answer: answer.status),
    "result": ("any", lambda _, answer: decode(answer.result or b"")),
    "error": ("text", lambda _, answer: _text(answer.error)),
    "duration": ("span", lambda _, answer: answer.duration),
}
