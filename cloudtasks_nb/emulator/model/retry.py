"""When a failed task is tried again, and when no more."""

from __future__ import annotations

from dataclasses import dataclass

from cloudtasks_nb.emulator.model.clock import SECOND

__all__ = ["RetryPolicy"]


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
            # Capped before the shift: a thousand doublings are a number nobody needs.
            interval = self.min_backoff << min(failures - 1, 64)
        else:
            interval = (self.min_backoff << min(self.max_doublings, 64)) * (failures - self.max_doublings)
        return min(interval, self.max_backoff)

    def gives_up(self, attempts: int, since_first: int) -> bool:
        """Tell whether a task is dropped after its `attempts`-th failed attempt.

        Both limits have to be reached; one that is unlimited leaves the decision to the other, and with both
        unlimited only the queue's retention ends a task.

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
