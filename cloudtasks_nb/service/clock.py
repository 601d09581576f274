"""The time of the service that a connection calls, as its answers tell it.

No clock of a machine is trusted: a kernel whose clock is wrong would read the log from wrong times, and schedule tasks
too early or too late. Each answer of Google's frontends has a header `date`, in whole seconds: one over gRPC too
(https://github.com/googleapis/googleapis.github.io/issues/27 shows one), though that is documented nowhere. The
emulator sends the same, and says how far its clock was moved forward on purpose. A service that sends no date counts
as having this machine's clock.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cloudtasks_nb._names import CLOCK_AHEAD_METADATA
from cloudtasks_nb.display.duration import duration_text

__all__ = ["ServiceClock", "bounds", "now_micros"]

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_STEP = _SECOND  # by which this machine's clock must have been set until the service is asked anew


@dataclass(slots=True)
class _Known:
    """What is known of the clock of one service, in microseconds."""

    skew: int = 0  #: by which the clock of the service's machine is ahead of this one's
    advanced: int = 0  #: by which an emulator's clock was moved forward besides
    moved: int = 0  #: when this was learnt, by this machine's monotonic clock
    steady: int | None = None  #: this machine's time less its monotonic clock at the last answer; None: no answer yet


#: By address (``host:port``). It is kept for all connections of this process: another one may have moved the clock.
_known: dict[str, _Known] = {}


def now_micros() -> int:
    """Return the time of this machine in microseconds since 1970. Nothing else here reads its clock."""
    return time.time_ns() // 1000


def bounds(date: int, received: int, elapsed: int) -> tuple[int, int]:
    """Return by how much a service is ahead of this machine at least and at most, by the date of one of its answers.

    The answer was dated after the call was sent and before the answer was received; a date has whole seconds.

    Parameters
    ----------
    date : int
        Microseconds since 1970.
    received : int
        This machine's time after the answer, microseconds since 1970.
    elapsed : int
        Microseconds since before the call was sent, of a clock that is not set.

    Examples
    --------
    >>> bounds(date=60_000_000, received=50_400_000, elapsed=300_000)
    (9600000, 10900000)
    """
    return date - received, date + _SECOND - (received - elapsed)


class ServiceClock:
    """The clock of a service.

    The difference of the two clocks is always within the `bounds` of an answer, so what is taken for the difference is
    moved to the nearer bound if it is outside, and else kept. Each answer can only bring it nearer to the truth; a slow
    one tells little, and the difference to an emulator on this machine stays exactly 0. It begins anew after this
    machine's clock was set.

    Parameters
    ----------
    target : callable
        Returns ``host:port`` of the service, which can move.
    """

    def __init__(self, target: Callable[[], str]) -> None:
        self._target = target

    @property
    def known(self) -> _Known:
        """What is known of it now."""
        return _known.setdefault(self._target(), _Known())

    @property
    def ahead(self) -> int:
        """Microseconds by which it is ahead of this machine's, for whatever reason."""
        return self.known.skew + self.known.advanced

    @property
    def is_known(self) -> bool:
        """Whether the service has answered since this machine's clock was set, or the machine has slept."""
        steady = self.known.steady
        return steady is not None and abs(_steady() - steady) < _STEP

    @property
    def warning(self) -> str | None:
        """A sentence if this machine's clock is wrong by more than a minute, by the clock of the service; else None."""
        skew = self.known.skew
        if abs(skew) <= _MINUTE:
            return None
        way = "behind" if skew > 0 else "ahead of"
        return f"this machine's clock is {duration_text(round(abs(skew) / _MINUTE) * 60)} {way} the service's"

    def learn(self, metadata: Mapping[str, Any], elapsed: float) -> None:
        """Take over what the headers of an answer say.

        Parameters
        ----------
        metadata : mapping
            The headers, by names in lower case.
        elapsed : float
            Seconds since before the call was sent; the answer has just been received.
        """
        known, received, date = self.known, now_micros(), _date(metadata.get("date"))
        advanced, sent = int(metadata.get(CLOCK_AHEAD_METADATA) or 0), _monotonic() - round(elapsed * _SECOND)
        if advanced < known.advanced and sent < known.moved:
            return  # another answer has overtaken this one
        self.move(advanced)
        if date is not None:
            least, most = bounds(date - known.advanced, received, round(elapsed * _SECOND))
            # Rather late than early: what the service has just made must not seem to lie in the future.
            before = known.skew if self.is_known else 0 if least <= 0 else most
            known.skew = min(max(before, least), most)
        known.steady = _steady()

    def move(self, advanced: int) -> None:
        """Take over by how many microseconds an emulator's clock was moved forward."""
        if advanced != self.known.advanced:
            self.known.advanced, self.known.moved = advanced, _monotonic()

    def micros(self) -> int:
        """Return the time in microseconds since 1970."""
        return now_micros() + self.ahead

    def now(self) -> dt.datetime:
        """Return the time in UTC."""
        return dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=self.micros())


def _steady() -> int:
    """Return what changes only if this machine's clock is set, or it sleeps."""
    return now_micros() - _monotonic()


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


@lru_cache(maxsize=8)  # the answers of a second have the same
def _date(text: str | None) -> int | None:
    """Return the time in a header; None if it has none."""
    try:
        return None if text is None else int(email.utils.parsedate_to_datetime(text).timestamp()) * _SECOND
    except (ValueError, OverflowError):
        return None
