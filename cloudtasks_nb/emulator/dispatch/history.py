"""Keep the newest attempts in memory, for the endpoint ``/admin/history`` and the console."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, NamedTuple

from cloudtasks_nb._names import code_name
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.model.attempts import Attempts
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.store.state import Claim

__all__ = ["EndedAttempt", "History", "instant_text"]

_MAX_ENDED = 5000  # attempts of all tasks
_MAX_SHOWN = 100  # attempts of one task
_MAX_BODY = 10_000  # bytes; longer bodies are not kept


class EndedAttempt(NamedTuple):
    """An attempt that ended; the fields that a `LogRecord` has too have the same names there."""

    number: int  #: attempts are numbered from 1 in the order in which they end, also after `History.clear`
    queue: str  #: name
    key: tuple[int, int]  #: numbers of queue and task, which are never used again
    task: str  #: short id
    target: str  #: method and URL
    at: int  #: microseconds since 1970
    code: int
    http_status: int
    cause: str  #: why there was no answer; empty if there was one
    dispatches: int  #: number of the attempt on its task
    duration: int  #: microseconds
    retry_at: int  #: when the next attempt is due; 0 if the task has left the queue
    headers: dict[str, str]  #: of the request
    body: bytes | None  #: None if it was too long to be kept


@dataclass(slots=True)
class History:
    """The newest attempts."""

    _ended: deque[EndedAttempt] = field(default_factory=lambda: deque(maxlen=_MAX_ENDED))
    _count: int = 0
    clears: int = 0  #: how often everything was removed

    def record(self, claim: Claim, call: HttpCall, attempts: Attempts, *, cause: str, gone: bool) -> None:
        """Record an attempt that ended.

        Parameters
        ----------
        claim, call, attempts : Claim, HttpCall and Attempts
            The task, the request, and the attempts so far.
        cause : str
            Why there was no answer; empty if there was one.
        gone : bool
            Whether the task left the queue after it.
        """
        self._count += 1
        self._ended.append(
            EndedAttempt(
                number=self._count,
                queue=claim.queue.name,
                key=(claim.queue.q, claim.task.number),
                task=claim.task.id,
                target=f"{call.method} {call.url}",
                at=attempts.responded,
                code=attempts.code,
                http_status=attempts.http_status,
                cause=cause,
                dispatches=attempts.dispatches,
                duration=attempts.responded - attempts.dispatched,
                retry_at=0 if gone else attempts.due,
                headers=call.headers,
                body=call.body if len(call.body) <= _MAX_BODY else None,
            )
        )

    def clear(self) -> None:
        """Remove everything."""
        self._ended.clear()
        self.clears += 1

    def ended(self, after: int = 0) -> Iterator[EndedAttempt]:
        """Return the newest attempts, the newest first, down to the one with the number `after`, which is left out."""
        return takewhile(lambda attempt: attempt.number > after, reversed(self._ended))

    def newest(self, queue: str, limit: int, *, bodies: bool) -> list[dict[str, Any]]:
        """Return finished tasks with their newest attempts, the newest task first.

        Parameters
        ----------
        queue : str
            Name or short id of a queue; empty for all.
        limit : int
            Largest number of tasks.
        bodies : bool
            Whether to show the bodies that were sent, as text.
        """
        tasks: dict[tuple[int, int], list[EndedAttempt]] = {}
        for one in reversed(self._ended):
            if one.key in tasks:
                tasks[one.key].append(one)
            elif not one.retry_at and queue in ("", one.queue, one.queue.rpartition("/")[2]) and len(tasks) < limit:
                tasks[one.key] = [one]
        return [
            {
                "queue": last.queue,
                "task": last.task,
                "status": code_name(last.code),
                "finished": instant_text(last.at),
                "attempts": [_as_json(one, bodies=bodies) for one in reversed((last, *before)[:_MAX_SHOWN])],
            }
            for last, *before in tasks.values()
        ]


def _as_json(attempt: EndedAttempt, *, bodies: bool) -> dict[str, Any]:
    method, _, url = attempt.target.partition(" ")
    document: dict[str, Any] = {
        "dispatched": instant_text(attempt.at - attempt.duration),
        "status": code_name(attempt.code),
        "http_status": attempt.http_status,
        "cause": attempt.cause,
        "duration_s": attempt.duration / SECOND,
        "method": method,
        "url": url,
        "headers": attempt.headers,
    }
    if bodies:
        document["body"] = None if attempt.body is None else attempt.body.decode(errors="replace")
    return document


def instant_text(instant: int) -> str:
    """Return microseconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(instant / SECOND, UTC).isoformat()
