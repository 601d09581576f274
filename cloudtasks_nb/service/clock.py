"""The time of the service that a connection calls: the clock of an emulator can be ahead of this machine's."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA

__all__ = ["ServiceClock", "now_micros"]

#: Microseconds by which the clock of the emulator at an address (``host:port``) is ahead. It is kept for all
#: connections of this process, because another one may have moved the clock.
_ahead: dict[str, int] = {}


def now_micros() -> int:
    """Return the time of this machine in microseconds since 1970."""
    return time.time_ns() // 1000


class ServiceClock:
    """The clock of a service. Google's counts as this machine's; an emulator says in its answers how far ahead it is.

    Parameters
    ----------
    target : callable
        Returns ``host:port`` of the service, which can move.
    """

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target

    @property
    def ahead(self) -> int:
        """Microseconds by which it is known to be ahead of this machine's."""
        return _ahead.get(self._target(), 0)

    @ahead.setter
    def ahead(self, value: int) -> None:
        _ahead[self._target()] = value

    def learn(self, metadata: Mapping[str, Any]) -> None:
        """Take over what an answer says."""
        ahead = metadata.get(CLOCK_AHEAD_METADATA)
        if ahead is not None or self._target() in _ahead:
            self.ahead = int(ahead or 0)

    def micros(self) -> int:
        """Return the time in microseconds since 1970."""
        return now_micros() + self.ahead

    def now(self) -> dt.datetime:
        """Return the time in UTC."""
        return dt.datetime.now(dt.UTC) + dt.timedelta(microseconds=self.ahead)
