"""When a plan would end on its queue, computed without a run: from rate, places, retries and due times.

Tasks that would not be dispatched before the service deletes them are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._settings import parse_duration, wrong_argument
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["Simulation", "check_drain", "simulate"]

_Floats = npt.NDArray[np.float64]

#: The service deletes a task that is 31 days old (https://cloud.google.com/tasks/docs/quotas); a day is for retries.
_DRAINED_WITHIN = 30 * 86_400  # seconds
_FASTEST = 500  # dispatches a second that a queue may have
_MOST_ATTEMPTS = 1_000  # of a row
_BINDS = 1.25  # a limit binds if with half of it the end is so many times as late


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """When a plan would end on its queue; made by `Plan.simulate`.

    Examples
    --------
    >>> simulation = plan.simulate("2s", failures=0)
    >>> simulation
    ends after about 2 s (limit: durations)
    >>> simulation.duration, simulation.limit
    (Timedelta('0 days 00:00:02'), 'durations')
    """

    duration: pd.Timedelta  #: from the first task's creation to the end of the last attempt
    #: What binds: "rate", "max_concurrent" or "backoff" of the queue; "due times" of the rows, also those of
    #: `send_rate`; or only the "durations" of the attempts.
    limit: str

    def __repr__(self) -> str:
        return f"ends after about {duration_text(self.duration.total_seconds())} (limit: {self.limit})"


def simulate(
    settings: Mapping[str, Any], *, deadline: float, arrivals: _Floats, duration: Any, failures: Any
) -> Simulation:
    """Compute when a plan would end.

    Parameters
    ----------
    settings : mapping
        Those of the queue, in which a task's own ones have replaced some.
    deadline : float
        Seconds after which an attempt fails.
    arrivals : array
        When each row is created and due, seconds from the start, ascending.
    duration, failures
        As for `Plan.simulate`.
    """
    taken = parse_duration(duration, "duration").total_seconds()
    if not isinstance(failures, (int, float, np.number)) or isinstance(failures, bool) or not 0 <= failures <= 1:
        hint = "failures=0.05 for a twentieth of the attempts"
        raise wrong_argument("failures", failures, "is not a share of the attempts", hint)
    if not len(arrivals):
        return Simulation(duration=pd.Timedelta(0), limit="nothing to send")
    share, seconds = 1.0 if taken > deadline else float(failures), min(taken, deadline)
    waits = _waits(settings, seconds, len(arrivals), share)
    attempts = float((share ** np.arange(len(waits) + 1)).sum())
    rate, burst, places = (settings[name] for name in ("rate", "burst", "max_concurrent"))
    end_if = partial(
        _end, arrivals=arrivals, waits=waits, rate=rate, places=places, seconds=seconds, attempts=attempts, burst=burst
    )
    halved = {
        "rate": end_if(rate=rate / 2),
        "max_concurrent": end_if(places=places / 2),
        "backoff": end_if(waits=2 * waits),
        "due times": end_if(arrivals=2 * arrivals),
    }
    end = end_if()
    limit = max(halved, key=lambda one: halved[one])
    limit = limit if halved[limit] >= _BINDS * end else "durations"
    return Simulation(duration=pd.Timedelta(seconds=round(end, 3)), limit=limit)


def _end(
    *, arrivals: _Floats, waits: _Floats, rate: float, burst: float, places: float, seconds: float, attempts: float
) -> float:
    """Return when the last attempt ends, if one takes so many seconds and a row has so many attempts on average.

    No row starts before those due earlier have had their tokens and places. With retries, all attempts on these rows
    need them; or the last row that is due is the one with the most attempts, and `waits` before each further one.
    """

    def last_start(attempts: float) -> float:  # if each row has so many, one right after the other
        left = np.arange(len(arrivals), 0, -1) * attempts  # from each row on
        by_rate = arrivals + (left - burst) / rate
        by_places = arrivals + (np.ceil(np.round(left / places, 6)) - 1) * seconds
        return float(np.max([by_rate.max(), by_places.max(), arrivals[-1]]))

    longest = last_start(1.0) + waits.sum() + len(waits) * seconds
    return float(max(last_start(attempts), longest) + seconds)


def _waits(settings: Mapping[str, Any], seconds: float, rows: int, share: float) -> _Floats:
    """Return the waits of the row with the most attempts: as many as it may have, while a row is left that fails.

    The wait doubles `max_doublings` times, then it grows by the last doubling. With two limits of the retries, both
    have to be reached.
    """
    most, doublings = settings["max_attempts"], settings["max_doublings"]
    within, least, longest = (
        parse_duration(settings[name], name).total_seconds()
        for name in ("max_retry_duration", "min_backoff", "max_backoff")
    )
    waits, since = list[float](), seconds
    while len(waits) + 1 < _MOST_ATTEMPTS and rows * share ** (len(waits) + 1) >= 0.5:  # noqa: PLR2004 - rounded, a row
        failed = len(waits) + 1
        if (most > 0 or within > 0) and failed >= most and since >= within:
            break
        waits.append(min(least * 2.0 ** min(failed - 1, doublings) * max(1, failed - doublings), longest))
        since += waits[-1] + seconds
    return np.array(waits)


def check_drain(tasks: int, queue: str, rate: float | None, send_rate: float | None) -> None:
    """Refuse tasks that a queue would delete, as too old, before it has dispatched them.

    Parameters
    ----------
    queue : str
        Its id.
    rate : float or None
        Dispatches a second that it allows; None: not known.
    send_rate : float or None
        Tasks created a second. If they are not more than are dispatched, none grows old in the queue.

    Raises
    ------
    InvalidInputError
        With the settings that would do.
    """
    if not rate or tasks <= rate * _DRAINED_WITHIN or (send_rate is not None and send_rate <= rate):
        return
    enough = math.ceil(tasks / _DRAINED_WITHIN * 1000) / 1000
    paced = math.floor(rate * 1e6) / 1e6
    wider = f'tasks.queue("{queue}").update(rate={enough:g}), ' if enough <= _FASTEST else ""
    raise InvalidInputError(
        f"{tasks:,} tasks at {rate:g} a second take {duration_text(tasks / rate)}, and Cloud Tasks deletes tasks that "
        "are 31 days old, so many would never be dispatched",
        resource=queue,
        hint=f"{wider}or send_rate={paced:g}: rows wait here then, and are sent as fast as the queue dispatches them",
    )
