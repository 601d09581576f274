"""Count the rows of a backfill by period and state, and draw them as a calendar."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._settings import parse_zone
from cloudtasks_nb.display.calendar import Calendar, Periods, Unit
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.periods.partitions import Freq, Partitions, parse_freq, partition
from cloudtasks_nb.fanout.plan.preview import StoredPreview

__all__ = ["ASKED", "CalendarText", "PeriodStates"]

_Numbers = npt.NDArray[np.int64]

#: Setting of a batch: first and last moment of what was asked for, as ISO text.
ASKED = "asked"

_RELAX = 20  # a drawing is shown so many times longer than it took
_WEEK = dt.timedelta(days=7)
_YEAR = 12  # months

_STATES = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.CANCELLED: "cancelled",
    State.GONE: "gone",
    State.SENT: "queued",
    State.UNSENT: "unsent",
}
_CODES = np.zeros(256, dtype=np.int64)
_CODES[list(_STATES)] = range(len(_STATES))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarText:
    """A calendar as it was at one moment."""

    line: str  #: which partitions these are
    grid: str  #: HTML


class PeriodStates:
    """Counts the rows of one backfill, as the outbox has them, by period and state.

    Parameters
    ----------
    batch : str
        Its id.
    series : mapping
        `freq` and `tz` of its partitions.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(
        self, outbox: Outbox, batch: str, series: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._batch = batch
        self._freq = parse_freq(series["freq"])
        self._tz = parse_zone(series["tz"])
        self._read: tuple[tuple[int, int], pd.DatetimeIndex, list[str], Partitions, _Numbers] | None = None
        self._drawn: CalendarText | None = None
        self._until = 0.0

    def draw(self, *, round_: int, fresh: bool) -> CalendarText | None:
        """Return the calendar as it is now; None if the batch has no rows.

        Parameters
        ----------
        round_ : int
            Grows when rows are added.
        fresh : bool
            Whether it has to be of this moment; else a drawing that took long is shown for a while.
        """
        began = self._clock()
        if not fresh and began < self._until:
            return self._drawn
        found = self.periods(round_)
        if found is not None:
            self._drawn = CalendarText(line=found.line, grid=Calendar(found).html())
        now = self._clock()
        self._until = now + _RELAX * (now - began)
        return self._drawn

    def periods(self, round_: int) -> Periods | None:
        """Return the partitions as they are now; None if the batch has no rows, or gets new ones this moment.

        Parameters
        ----------
        round_ : int
            Grows when rows are added.
        """
        states = self._outbox.rows.states(self._batch)
        if not states:
            return None
        starts, labels, whole, places = self._partitions((round_, len(states)))
        if len(places) != len(states):  # rows came in between
            return None
        cells = places * len(_STATES) + _CODES[np.frombuffer(states, dtype=np.uint8)]
        table = np.bincount(cells, minlength=len(starts) * len(_STATES)).reshape(len(starts), len(_STATES))
        counts = dict(zip(_STATES.values(), table.T, strict=True))
        line = self._line(len(starts), whole)
        return Periods(starts=starts, labels=labels, unit=_unit(self._freq), counts=counts, line=line)

    def _partitions(self, version: tuple[int, int]) -> tuple[pd.DatetimeIndex, list[str], Partitions, _Numbers]:
        """Return starts and labels of the partitions, all from the first to the last, and the partition of each row."""
        if self._read is None or self._read[0] != version:
            moments = self._starts()
            starts = moments.unique().sort_values()
            whole = partition(starts[0], starts[-1], freq=self._freq.name, tz=self._tz)
            self._read = (version, starts, self._freq.labels(starts), whole, starts.get_indexer(moments))
        return self._read[1:]

    def _starts(self) -> pd.DatetimeIndex:
        """Return where the partition of each row starts."""
        stored = StoredPreview()
        for page in self._outbox.rows.pages(self._batch):
            stored.add(page.shown, page.indexes)
        return pd.DatetimeIndex(stored.columns()["start"]).tz_convert(self._tz)

    def _line(self, count: int, whole: Partitions) -> str:
        asked = self._outbox.batches.settings(self._batch).get(ASKED)
        if asked is not None:
            first, last = (pd.Timestamp(moment).tz_convert(self._tz) for moment in asked)
            whole = replace(whole, requested=(first, last))
        holes = len(whole) - count
        between = [f"{holes:,} between them are not in this batch"] if holes else []
        return "; ".join([str(whole), *between, *whole.notes])


def _unit(freq: Freq) -> Unit:
    if freq.step is None:
        return "month" if freq.months < _YEAR else "year"
    if not freq.dated:
        return "time"
    return "day" if freq.step % _WEEK else "week"
