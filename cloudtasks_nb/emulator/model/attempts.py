"""A task's attempts: the result of one, the counts of all, and the backoff before the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter

from cloudtasks_nb._names import CODES, code_name, code_of
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.protobuf import int_field, len_field, timestamp

__all__ = ["NO_ANSWER", "AttemptResult", "Attempts", "RetryPolicy"]

#: The HTTP status of an attempt without a response.
NO_ANSWER = 0

_OK = 0
_DEADLINE_EXCEEDED = CODES.index("DEADLINE_EXCEEDED")
_PERMISSION_DENIED = CODES.index("PERMISSION_DENIED")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The result of an attempt."""

    http_status: int  #: 0 without a response
    timed_out: bool = False
    no_token: bool = False  #: no token could be made for the request, so it was not sent
    retry_after: int = 0  #: microseconds that the target asked to wait
    cause: str = ""  #: why there is no response

    @property
    def code(self) -> int:
        """Number of the canonical code."""
        if self.no_token:
            return _PERMISSION_DENIED
        return _DEADLINE_EXCEEDED if self.timed_out else code_of(self.http_status)

    @property
    def succeeded(self) -> bool:
        """Whether the attempt succeeded."""
        return self.code == _OK

    @property
    def answered(self) -> bool:
        """Whether the target responded; timeouts and refused connections are not responses."""
        return self.http_status != NO_ANSWER and not self.timed_out


@dataclass(slots=True)
class Attempts:
    """A task's attempts so far; instants are microseconds since 1970, 0 if not known yet."""

    due: int  #: when the next attempt is scheduled
    dispatches: int = 0  #: attempts sent, those in flight included
    responses: int = 0  #: attempts with a response
    failures: int = 0  #: attempts that ended without success
    executions: int = 0  #: failures that count for the header `X-CloudTasks-TaskExecutionCount`
    first_dispatched: int = 0
    scheduled: int = 0  #: of the last attempt, as all fields below
    dispatched: int = 0
    responded: int = 0
    code: int = 0
    http_status: int = 0

    def row(self) -> tuple[int, ...]:
        """Return the fields in their order, in which they can be given again."""
        return _values(self)

    def begin(self, now: int) -> None:
        """Record that an attempt was sent."""
        self.dispatches += 1
        self.first_dispatched = self.first_dispatched or now
        self.scheduled, self.dispatched, self.responded = self.due, now, 0

    def end(self, result: AttemptResult, now: int, *, app_engine: bool) -> None:
        """Record the result of an attempt.

        App Engine targets count every response as an execution; HTTP targets do not count 5xx.
        """
        self.responded = now
        self.code, self.http_status = result.code, result.http_status
        self.responses += result.answered
        if result.succeeded:
            return
        self.failures += 1
        server_error = result.http_status // 100 == 5  # noqa: PLR2004 - the class of HTTP statuses
        self.executions += result.answered and (app_engine or not server_error)

    @property
    def message(self) -> str:
        """The last attempt's status as the service's text."""
        return "" if self.code == _OK else f"{code_name(self.code)}({self.code}): HTTP status code {self.http_status}"

    def wire(self) -> bytes:
        """Return the fields of a v2 `Task` that describe its attempts."""
        if not self.dispatches:
            return b""
        last = len_field(1, timestamp(self.scheduled)) + len_field(2, timestamp(self.dispatched))
        if self.responded:
            status = int_field(1, self.code) + (len_field(2, self.message.encode()) if self.code else b"")
            last += len_field(3, timestamp(self.responded)) + len_field(4, status)
        return (
            int_field(7, self.dispatches)
            + int_field(8, self.responses)
            + len_field(9, len_field(2, timestamp(self.first_dispatched)))
            + len_field(10, last)
        )


_values: Callable[[Attempts], tuple[int, ...]] = attrgetter(*(field.name for field in fields(Attempts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """A `RetryConfig` with all defaults filled in (https://cloud.google.com/tasks/docs/reference/rest/v2/RetryConfig)."""

    max_attempts: int = 100  #: -1 is unlimited
    max_retry_duration: int = 0  #: microseconds since the first attempt; 0 is unlimited
    min_backoff: int = SECOND // 10  #: microseconds
    max_backoff: int = 3600 * SECOND  #: microseconds
    max_doublings: int = 16

    def backoff(self, failures: int) -> int:
        """Return the microseconds between the `failures`-th failure (counted from 1) and the next attempt.

        The interval doubles `max_doublings` times and then grows by the last doubled interval, up to `max_backoff`.
        """
        if failures <= self.max_doublings + 1:
            # The shift is limited, because a thousand doublings would be a huge number.
            interval = self.min_backoff << min(failures - 1, 64)
        else:
            interval = (self.min_backoff << min(self.max_doublings, 64)) * (failures - self.max_doublings)
        return min(interval, self.max_backoff)

    def gives_up(self, attempts: int, since_first: int) -> bool:
        """Return whether a task is given up after its `attempts`-th failed attempt.

        Both limits have to be reached. If one is unlimited, the other decides; if both are, only the queue's
        retention ends a task.

        Parameters
        ----------
        attempts : int
            Attempts made, the failed one included.
        since_first : int
            Microseconds since the first attempt.
        """
        counted = self.max_attempts >= 0
        timed = self.max_retry_duration > 0
        if not (counted or timed):
            return False
        return (not counted or attempts >= self.max_attempts) and (not timed or since_first >= self.max_retry_duration)
