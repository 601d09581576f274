"""A model of a queue that dispatches rows: token bucket, places, retries. It has no clock, and sends nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush, heapreplace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._settings import parse_duration, wrong_argument
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["LIMITS", "Draws", "Event", "Floats", "Limit", "QueueModel", "Run", "Try", "draw", "run"]

Floats = npt.NDArray[np.float64]
#: What of a queue's settings a batch may wait for.
Limit = Literal["rate", "max_concurrent", "backoff"]
LIMITS: tuple[Limit, ...] = get_args(Limit)

_DRAWN = 1 << 17  # attempts that are drawn; a run goes through them from a place of its own, and begins again
_MOST_ATTEMPTS = 1_000  # of a row
_EVENTS = 20_000  # up to which every row is simulated by itself
_MOST_EVENTS = 200_000
_EACH_PLACE = 25  # groups for each attempt that is in flight at a time: the last rows wait for a small share of all
_DURATION_HINT = 'use "2s", seconds, a Series of durations, an earlier batch, or a function of (rng, size)'


class Event(NamedTuple):
    """An attempt of some rows, one after the other in one place; times are seconds from the start."""

    due: float
    start: float
    end: float
    rows: int
    succeeded: int
    given_up: int


class Run(NamedTuple):
    """How a simulated run ended."""

    seconds: float
    attempts: int
    failed: int


class Try(NamedTuple):
    """Rows that are due together."""

    due: float
    rows: int
    before: int = 0  #: attempts before this one
    first: float = 0.0  #: start of the first attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Attempts that were drawn, as running sums from 0 on: their seconds, and how many fail."""

    seconds: list[float]
    failing: list[int]

    @property
    def share(self) -> float:
        """The share of the attempts that fail."""
        return self.failing[-1] / _DRAWN

    @property
    def mean(self) -> float:
        """Seconds of an attempt."""
        return self.seconds[-1] / _DRAWN


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueModel:
    """The settings of a queue, and when the rows of a plan are due in it; durations are seconds."""

    rate: float  #: dispatches a second
    burst: int
    max_concurrent: int
    max_attempts: int  #: -1: no limit
    max_retry_duration: float  #: 0: no limit
    min_backoff: float
    max_backoff: float
    max_doublings: int
    deadline: float  #: after which an attempt fails
    arrivals: Floats  #: when each row is created and due, seconds from the start, ascending
    hold: float = 1.0  #: how long an attempt keeps its place, in its own durations

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, deadline: float, arrivals: Floats) -> QueueModel:
        """Read the settings of a queue, in which a task's own ones have replaced some."""
        names = ("rate", "burst", "max_concurrent", "max_attempts", "max_doublings")
        values: dict[str, Any] = {name: settings[name] for name in names}
        for name in ("max_retry_duration", "min_backoff", "max_backoff"):
            values[name] = parse_duration(settings[name], name).total_seconds()
        return cls(**values, deadline=deadline, arrivals=arrivals)

    def scaled(self, limit: Limit, factor: float) -> QueueModel:
        """Return the same queue with more (or, below 1, less) of one limit; half of the waits is twice the backoff."""
        if limit == "rate":
            return replace(self, rate=self.rate * factor)
        if limit == "backoff":
            return replace(self, min_backoff=self.min_backoff / factor, max_backoff=self.max_backoff / factor)
        places = math.ceil(self.max_concurrent * factor)  # of one place half is one that is kept twice as long
        return replace(self, max_concurrent=places, hold=self.hold * places / (self.max_concurrent * factor))

    def wait(self, failures: int) -> float:
        """Return the wait after so many failures: it doubles `max_doublings` times, then grows by the last doubling."""
        times = 2.0 ** min(failures - 1, self.max_doublings) * max(1, failures - self.max_doublings)
        return min(self.min_backoff * times, self.max_backoff)

    def gives_up(self, attempts: int, since_first: float) -> bool:
        """Return whether rows are given up after so many attempts; with two limits, after both are reached."""
        if attempts >= _MOST_ATTEMPTS:
            return True
        counted, timed = self.max_attempts > 0, self.max_retry_duration > 0
        if not (counted or timed):
            return False
        return attempts >= self.max_attempts and since_first >= self.max_retry_duration

    def attempts(self, draws: Draws) -> float:
        """Return how many attempts a row has on average, about."""
        limit = self.max_attempts if self.max_attempts > 0 and not self.max_retry_duration else _MOST_ATTEMPTS
        return min(limit, 1 / max(1 - draws.share, 1e-9))

    def tries(self, draws: Draws) -> list[Try]:
        """Return the first attempts; if there are many, of groups of rows that one place runs one after the other."""
        rows, in_flight = len(self.arrivals), min(self.max_concurrent, self.rate * draws.mean)
        attempts = rows * self.attempts(draws)
        largest = max(rows / (_EACH_PLACE * max(in_flight, 1)), attempts / _MOST_EVENTS)
        size = max(1, math.floor(min(attempts / _EVENTS, largest, _DRAWN / 16)))
        ends = [*range(size, rows, size), rows] if rows else []
        dues = self.arrivals[np.array(ends, dtype=np.int64) - 1].tolist()
        return [Try(due, end - start) for due, start, end in zip(dues, [0, *ends], ends, strict=False)]


def draw(duration: Any, failures: float | None, deadline: float, rng: np.random.Generator) -> Draws:
    """Draw attempts.

    Parameters
    ----------
    duration, failures
        As for `Plan.simulate`.
    deadline : float
        Seconds after which an attempt fails.

    Raises
    ------
    InvalidInputError
        If one of the arguments cannot be used.
    """
    share = 0.05 if failures is None else failures
    if hasattr(duration, "tasks"):
        duration, found = _measured(duration)
        share = found if failures is None else failures
    if not isinstance(share, (int, float, np.number)) or isinstance(share, bool) or not 0 <= share <= 1:
        hint = "failures=0.05 for a twentieth of the attempts"
        raise wrong_argument("failures", failures, "is not a share of the attempts", hint)
    if callable(duration):
        try:
            drawn = duration(rng, _DRAWN)
        except TypeError as error:
            what = f"duration cannot be called: {error}"
            raise InvalidInputError(what, resource="duration", hint=_DURATION_HINT) from error
        seconds = _seconds(drawn, _DRAWN)[:_DRAWN]
    elif np.ndim(duration):
        seconds = rng.choice(_seconds(duration), _DRAWN)
    else:
        seconds = np.full(_DRAWN, parse_duration(duration, "duration").total_seconds())
    failing = (rng.random(_DRAWN) < share) | (seconds > deadline)
    sums = np.cumsum(np.minimum(seconds, deadline)), np.cumsum(failing)
    return Draws(seconds=[0.0, *sums[0].tolist()], failing=[0, *sums[1].tolist()])


def _measured(batch: Any) -> tuple[Any, float]:
    """Return how long the last attempts of a batch's rows took, and which share of all its attempts has failed."""
    rows = batch.tasks()
    rows = rows[rows["state"].isin(["succeeded", "failed"]) & (rows["attempts"] > 0)]
    known = rows["duration"].dropna()
    if known.empty:
        raise InvalidInputError(
            f"of no row of batch {batch.id} is it known how long it took", resource="duration", hint=_DURATION_HINT
        )
    return known, 1 - float((rows["state"] == "succeeded").sum()) / float(rows["attempts"].sum())


def _seconds(values: Any, least: int = 1) -> Floats:
    found = pd.Series(values if np.ndim(values) == 1 else [None]).to_numpy()
    if found.dtype.kind == "m":
        found = found / np.timedelta64(1, "s")
    if found.dtype.kind not in "iuf" or len(found) < least or not np.isfinite(found).all() or found.min() < 0:
        what = "duration has too few values, or one that is missing or no duration"
        raise InvalidInputError(what, resource="duration", hint=_DURATION_HINT)
    return found.astype(np.float64)


def run(model: QueueModel, draws: Draws, tries: list[Try], first: int, log: list[Event] | None = None) -> Run:
    """Simulate one run: rows are dispatched in the order in which they are due, once a token and a place are free.

    Parameters
    ----------
    tries : list of Try
        `QueueModel.tries` of the same draws.
    first : int
        Where in the drawn attempts the run begins.
    log : list, optional
        Takes what happens.
    """
    seconds, failing = draws.seconds, draws.failing
    each, full = 1 / model.rate, max(model.burst - 1, 0) / model.rate
    token = -full  # when the next token is there; it is never longer ago than a full bucket takes to fill
    places = [0.0] * model.max_concurrent  # when each is free
    retries: list[Try] = []
    ended, attempts, failed, at = 0.0, 0, 0, first
    for due, rows, before, began in _in_order(tries, retries):
        start = max(due, token, places[0])
        token = max(token, start - full) + rows * each
        if at + rows > _DRAWN:
            at = 0
        end = start + seconds[at + rows] - seconds[at]
        bad = failing[at + rows] - failing[at]
        at += rows
        attempts += rows
        ended = max(ended, end)
        heapreplace(places, start + model.hold * (end - start))
        since = began if before else start
        lost = bad if bad and model.gives_up(before + 1, end - since) else 0
        failed += lost
        if bad > lost:
            heappush(retries, Try(end + model.wait(before + 1), bad, before + 1, since))
        if log is not None:
            log.append(Event(due, start, end, rows, rows - bad, lost))
    return Run(ended, attempts, failed)


def _in_order(tries: list[Try], retries: list[Try]) -> Iterator[Try]:
    """Yield what is due next; `retries` is a heap to which the caller adds meanwhile."""
    for one in tries:
        while retries and retries[0] < one:
            yield heappop(retries)
        yield one
    while retries:
        yield heappop(retries)
