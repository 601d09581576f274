"""The simulated run of a plan: when it ends, what limits it, and what a change would bring."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb._settings import wrong_argument
from cloudtasks_nb.display.axis import time_step
from cloudtasks_nb.display.card import card
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.run_chart import Course, course_chart
from cloudtasks_nb.fanout.plan.queue_model import LIMITS, Draws, Event, Limit, QueueModel, Run, draw, run

__all__ = ["Simulation", "simulate", "simulation_html"]

_RUNS = 25  # of a small plan; the larger one is, the less its runs differ
_ATTEMPTS = 60_000  # of all runs of one queue together, about
_BINDS = 1.25  # a limit binds if half of it takes so many times as long
_GAIN = 0.95  # what takes more than this share of the time as before is no gain
_MOST = {"rate": 500.0, "max_concurrent": 5_000}  # https://cloud.google.com/tasks/docs/quotas
_WORDS = {"rate": "the rate", "max_concurrent": "max_concurrent", "backoff": "the backoff"}
_SPANS = 60  # of the frame, at most
_LONG = 3_600  # seconds; a longer run is told by its time of the day
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a plan would run on its queue; made by `Plan.simulate`.

    Examples
    --------
    >>> simulation = plan.simulate("2s", failures=0)
    >>> simulation
    Simulation of 3 rows on queue reports  [nothing was sent]
      end: 2 s after the start (p10 2 s, p90 2 s)
      attempts: 3
      failed: 0 rows
    ends after about 2 s; no limit of the queue binds: due times and durations decide
    >>> simulation.ends["p50"], simulation.attempts, simulation.failed
    (Timedelta('0 days 00:00:02'), 3, 0)
    >>> simulation.frame.columns.tolist()
    ['started', 'succeeded', 'failed', 'waiting', 'running']
    """

    queue: str
    rows: int
    start: dt.datetime  #: when the plan was made
    ends: Mapping[str, pd.Timedelta]  #: when the last row is final, from the start: `p10`, `p50`, `p90` of the runs
    attempts: int  #: of all rows, half of the runs have no more
    failed: int  #: rows that are given up, half of the runs have no more
    price: float  #: US dollars, as `Plan.price`, but with every attempt; 0 on an emulator
    limit: Limit | None  #: "rate", "max_concurrent" or "backoff": of which half would take longest; None: of none
    sentence: str  #: the end, the limit that binds, and what a change of it would bring
    #: Of the run with the median end: a row a span of time, by its end as a timedelta from the start. `started` are
    #: attempts, `succeeded` and `failed` rows that became final in the span; `waiting` and `running` rows at its end.
    frame: pd.DataFrame = field(repr=False)
    rate: float = field(repr=False)  #: dispatches a second that the queue allows

    def __repr__(self) -> str:
        return _card(self)["text/plain"]

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's
        return {"text/plain": repr(self), "text/html": simulation_html(self)}


def simulation_html(found: Simulation) -> str:
    """Return the figures and the sentence as a card, with a chart."""
    width = found.frame.index[0].total_seconds()
    course = Course(
        start=int(found.start.timestamp()) * _SECOND,  # axis and tooltips read better by whole seconds
        width=round(width * _SECOND),
        attempts=(found.frame["started"] / width).tolist(),
        waiting=found.frame["waiting"].tolist(),
        limit=found.rate,
    )
    return f'{_card(found)["text/html"]}<div style="max-width:560px;margin-top:10px">{course_chart(course)}</div>'


def _card(found: Simulation) -> dict[str, str]:
    p10, p50, p90 = (duration_text(span.total_seconds()) for span in found.ends.values())
    facts = {
        "end": f"{p50} after the start (p10 {p10}, p90 {p90})",
        "attempts": f"{found.attempts:,}",
        "failed": counted(found.failed, "rows"),
        "price": f"about ${found.price:,.2f}" if found.price else None,
    }
    title = f"Simulation of {counted(found.rows, 'rows')} on queue {found.queue}"
    return card(title, badge="nothing was sent", facts=facts, notes=[found.sentence])


def simulate(
    model: QueueModel,
    *,
    duration: Any,
    failures: float | None,
    seed: int,
    queue: str,
    start: dt.datetime,
    price: Callable[[int], float],
) -> Simulation:
    """Simulate the run of a plan.

    Parameters
    ----------
    model : QueueModel
        The queue, and when the rows are due.
    duration, failures, seed
        As for `Plan.simulate`.
    queue : str
        Its id.
    start : datetime
        When the plan was made.
    price : callable
        Returns the US dollars for a number of attempts.
    """
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError):
        why, hint = "is not a whole number from 0 on", "seed=1 draws other attempts than seed=0"
        raise wrong_argument("seed", seed, why, hint) from None
    lab = _Lab(draw(duration, failures, model.deadline, rng), rng)
    runs = lab.runs(model, 3)
    ends = np.quantile([one.seconds for one in runs], [0.1, 0.5, 0.9])
    attempts = round(float(np.median([one.attempts for one in runs])))
    limits = lab.binding(model, float(ends[1]))
    return Simulation(
        queue=queue,
        rows=len(model.arrivals),
        start=start,
        ends=dict(zip(("p10", "p50", "p90"), pd.to_timedelta(ends.round(3), unit="s"), strict=True)),
        attempts=attempts,
        failed=round(float(np.median([one.failed for one in runs]))),
        price=price(attempts),
        limit=limits[0] if limits else None,
        sentence=_sentence(model, lab, limits, float(ends[1]), start),
        frame=_frame(lab.log(model, runs)),
        rate=model.rate,
    )


class _Lab:
    """Simulates queues with the same drawn attempts, so that a difference comes from their settings."""

    def __init__(self, draws: Draws, rng: np.random.Generator) -> None:
        self._draws = draws
        self._firsts: list[int] = rng.integers(len(draws.seconds) // 2, size=_RUNS).tolist()  # of each run

    def runs(self, model: QueueModel, least: int = 1) -> list[Run]:
        """Return several runs, fewer of a large plan."""
        tries = model.tries(self._draws)
        count = min(_RUNS, max(least, int(_ATTEMPTS / (1 + len(tries) * model.attempts(self._draws)))))
        return [run(model, self._draws, tries, first) for first in self._firsts[:count]]

    def log(self, model: QueueModel, runs: Sequence[Run]) -> list[Event]:
        """Return what happens in the run with the median end."""
        middle = sorted(range(len(runs)), key=lambda number: runs[number].seconds)[len(runs) // 2]
        events: list[Event] = []
        run(model, self._draws, model.tries(self._draws), self._firsts[middle], events)
        return events

    def end(self, model: QueueModel) -> float:
        """Return the median of the ends, in seconds."""
        return float(np.median([one.seconds for one in self.runs(model)]))

    def binding(self, model: QueueModel, end: float) -> list[Limit]:
        """Return the limits of which half would take much longer than to this end, the one that takes longest first."""
        halved = {limit: self.end(model.scaled(limit, 0.5)) for limit in LIMITS} if end else {}
        return [limit for limit in sorted(halved, key=lambda one: -halved[one]) if halved[limit] >= _BINDS * end]


def _sentence(model: QueueModel, lab: _Lab, limits: Sequence[Limit], end: float, start: dt.datetime) -> str:
    """Return when the last row is final, what binds, and what twice as much of it would bring."""

    def when(seconds: float) -> str:
        if end < _LONG:
            return f"after {duration_text(seconds)}"
        at = start + dt.timedelta(seconds=seconds)
        return f"at {at:%H:%M}" if at.date() == start.date() else f"at {at:%Y-%m-%d %H:%M}"

    ends = f"ends after about {duration_text(end)}" if end < _LONG else f"ends about {when(end)[3:]} UTC"
    if not len(model.arrivals):
        return "there is nothing to send"
    if not limits:
        return f"{ends}; no limit of the queue binds: due times and durations decide"
    limit, *others = limits
    if limit == "backoff":
        factor, present = 2.0, _WORDS[limit]
        more = f"half of it (min_backoff={model.min_backoff / 2:g}, max_backoff={model.max_backoff / 2:g})"
    else:
        value: float = getattr(model, limit)
        factor, present = min(2 * value, max(_MOST[limit], value)) / value, f"{limit}={value:g}"
        more = f"{value * factor:g}"
    if factor == 1:
        return f"{ends}; {present} binds, and no queue has more: several queues can share the rows"
    relaxed = model.scaled(limit, factor)
    sooner = lab.end(relaxed)
    if sooner > _GAIN * end:
        both = f"{present} and {_WORDS[others[0]]} both bind" if others else f"{present} is just enough"
        return f"{ends}; {both}, {more} alone would not end it sooner"
    then = lab.binding(relaxed, sooner)
    rest = f"then {_WORDS[then[0]]} binds" if then else "then no limit of the queue binds"
    rest = "and still bind" if then[:1] == [limit] else rest
    return f"{ends}; {present} binds, {more} would end it {when(sooner)}, {rest}"


def _frame(events: Sequence[Event]) -> pd.DataFrame:
    """Count what happens in spans of a round length."""
    due, start, end, rows, succeeded, given_up = np.array(events or np.empty((0, 6)), dtype=np.float64).T
    whole = float(end.max(initial=0.0))
    width = time_step(max(whole * _SECOND / _SPANS, 1.0)) / _SECOND
    times = np.arange(1, math.floor(whole / width + 1e-9) + 2) * width  # when each span ends
    pace = (rows - 1) / np.maximum(end - start, 1e-9)  # rows a second of a group, but for its last one
    each = np.array([rows, succeeded, given_up]) / rows
    seen = []
    for at in times:
        come = np.clip((at - start) * pace, 0, rows - 1) + (end < at)
        seen.append([rows[due < at].sum(), *(each @ come)])
    there, ended, good, lost = np.rint(seen).astype(np.int64).T
    running = np.searchsorted(np.sort(start), times) - np.searchsorted(np.sort(end), times)
    columns = {
        "started": np.diff(ended + running, prepend=0),
        "succeeded": np.diff(good, prepend=0),
        "failed": np.diff(lost, prepend=0),
        "waiting": there - ended - running,
        "running": running,
    }
    return pd.DataFrame(columns, index=pd.TimedeltaIndex(pd.to_timedelta(times, unit="s"), name="after"))
