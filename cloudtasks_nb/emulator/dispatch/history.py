"""Keep the newest attempts in memory, for the endpoint ``/admin/history`` and the console."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
    """An attempt that ended."""

    number: int  #: attempts are numbered from 1 in the order in which they end, also after `History.clear`
    queue: str  #: name
    task: str  #: short id
    key: tuple[int, int]  #: numbers of queue and task, which are never used again
    attempt: int  #: number of the attempt on its task
    responded: int  #: microseconds since 1970
    retry_at: int  #: when the next attempt is due; 0 if the task has left the queue
    request: dict[str, Any]  #: request and result


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
        request = {
            "dispatched": instant_text(attempts.dispatched),
            "status": code_name(attempts.code),
            "http_status": attempts.http_status,
            "cause": cause,
            "duration_s": (attempts.responded - attempts.dispatched) / SECOND,
            "method": call.method,
            "url": call.url,
            "headers": call.headers,
            "body": call.body if len(call.body) <= _MAX_BODY else None,
        }
        self._count += 1
        self._ended.append(
            EndedAttempt(
                self._count,
                claim.queue.name,
                claim.task.id,
                (claim.queue.q, claim.task.number),
                attempts.dispatches,
                attempts.responded,
                0 if gone else attempts.due,
                request,
            )
        )

    def clear(self) -> None:
        """Remove everything."""
        self._ended.clear()
        self.clears += 1

    def ended(self, after: int = 0) -> Iterator[EndedAttempt]:
        """Yield the newest attempts, the newest first, down to the one with the number `after`, which is left out."""
        for attempt in reversed(self._ended):
            if attempt.number <= after:
                return
            yield attempt

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
                "status": last.request["status"],
                "finished": instant_text(last.responded),
                "attempts": [_as_json(one.request, bodies=bodies) for one in reversed((last, *before)[:_MAX_SHOWN])],
            }
            for last, *before in tasks.values()
        ]


def _as_json(attempt: dict[str, Any], *, bodies: bool) -> dict[str, Any]:
    document = {key: value for key, value in attempt.items() if key != "body"}
    if bodies:
        body = attempt["body"]
        document["body"] = None if body is None else body.decode(errors="replace")
    return document


def instant_text(instant: int) -> str:
    """Return microseconds since 1970 as ISO 8601."""
    return datetime.fromtimestamp(instant / SECOND, UTC).isoformat()
