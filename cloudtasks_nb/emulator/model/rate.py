"""The token bucket that limits how fast a queue dispatches."""

from __future__ import annotations

from cloudtasks_nb.emulator.model.clock import SECOND

__all__ = ["TokenBucket"]

# Refilling adds fractions: an accumulated 0.9999999 is a whole token.
_WHOLE = 1.0 - 1e-9


class TokenBucket:
    """Holds up to `burst` tokens, refilled at `rate` a second; full at first.

    Parameters
    ----------
    rate : float
        Tokens a second.
    burst : int
        Capacity; at least one token, so that slow queues dispatch at all.
    now : int
        Microseconds since 1970.
    """

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self._rate = rate
        self._burst = max(float(burst), 1.0)
        self._tokens = self._burst
        self._filled_at = now

    def configure(self, rate: float, burst: int, now: int) -> None:
        """Change the limits and keep the tokens that fit."""
        self._fill(now)
        self._rate = rate
        self._burst = max(float(burst), 1.0)
        self._tokens = min(self._tokens, self._burst)

    def take(self, now: int) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self._tokens < _WHOLE:
            return False
        self._tokens = max(self._tokens - 1.0, 0.0)
        return True

    def give_back(self) -> None:
        """Return a token that was taken for a dispatch that did not happen."""
        self._tokens = min(self._tokens + 1.0, self._burst)

    def wait(self, now: int) -> int:
        """Return the microseconds until a token will be there; 0 if there is one."""
        self._fill(now)
        if self._tokens >= _WHOLE:
            return 0
        return max(1, round((1.0 - self._tokens) / self._rate * SECOND))

    def _fill(self, now: int) -> None:
        elapsed = now - self._filled_at
        if elapsed > 0:
            self._tokens = min(self._burst, self._tokens + elapsed * self._rate / SECOND)
            self._filled_at = now
        elif elapsed < 0:  # the clock was reset
            self._filled_at = now
