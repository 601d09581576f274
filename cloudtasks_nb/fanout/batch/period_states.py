"""Count the rows of a backfill by period and state, and draw them as a calendar."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._settings import parse_zone
from cloudtasks_nb.display.calendar import Calendar, Periods, Unit, band_labels
from cloudtasks_nb.fanout.batch.table import ReadRows
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Freq, Partitions, parse_freq, partition
from cloudtasks_nb.fanout.plan.preview import preview_names
from cloudtasks_nb.fanout.states import RETRYING, State

__all__ = ["ASKED", "CalendarText", "PeriodStates", "upcoming"]

_Numbers = npt.NDArray[np.int64]

#: Setting of a batch: first and last moment of what was asked for, as ISO text.
ASKED = "asked"

_RELAX = 20  # a drawing is shown so many times longer than it took
_WEEK = dt.timedelta(days=7)
_YEAR = 12  # months
_MOST_BANDS = 12  # values of `across` that have a band each
_MOST_CHOICES = 1_000  # values of `across` that are offered to be shown alone

_STATES = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.CANCELLED: "cancelled",
    State.GONE: "gone",
    RETRYING: "retrying",
    State.SENT: "queued",
    State.UNSENT: "unsent",
}
_CODES = np.zeros(256, dtype=np.int64)
_CODES[list(_STATES)] = range(len(_STATES))


@dataclass(frozen=True, slots=True)
class _Places:
    """In which period and band each row is."""

    starts: pd.DatetimeIndex  #: of the periods that have rows
    labels: list[str]
    whole: Partitions  #: all periods from the first to the last
    periods: _Numbers  #: of each row
    names: list[str]  #: of the bands, in the order of the rows
    bands: _Numbers  #: of each row


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
        `freq` and `tz` of its partitions, and the columns of `across`.
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
        across = map(str, series.get("across", ()))
        self._across = [name for given, name in preview_names([*COLUMNS, *across]).items() if given not in COLUMNS]
        self._read: _Places | None = None
        self._drawn: CalendarText | None = None
        self._until = 0.0

    def draw(self, *, fresh: bool) -> CalendarText | None:
        """Return the calendar as it is now; None if the batch has no rows.

        Parameters
        ----------
        fresh : bool
            Whether it has to be of this moment; else a drawing that took long is shown for a while.
        """
        began = self._clock()
        if not fresh and began < self._until:
            return self._drawn
        found = self.periods()
        if found is not None:
            self._drawn = CalendarText(line=found.line, grid=Calendar(found).html())
        now = self._clock()
        self._until = now + _RELAX * (now - began)
        return self._drawn

    def periods(self, bands: Sequence[str] = ()) -> Periods | None:
        """Return the partitions as they are now; None if the batch has no rows, or gets new ones this moment.

        Parameters
        ----------
        bands : sequence of str
            The labels of the bands to return; none for all, in one band if there are more than 12.
        """
        states = self._outbox.rows.states(self._batch)
        if not states:
            return None
        read = self._places(len(states))
        if len(read.periods) != len(states):  # rows came in between
            return None
        codes, names, across, rows = _CODES[np.frombuffer(states, dtype=np.uint8)], read.names, self._across, read.bands
        if bands:
            names, rows = list(bands), pd.Index(bands).get_indexer(pd.Index(names))[rows]
        elif len(names) > _MOST_BANDS:
            names, across, rows = [""], [], np.zeros_like(rows)
        shape = (len(names), len(read.starts), len(_STATES))
        cells = (rows * shape[1] + read.periods) * shape[2] + codes
        table = np.bincount(cells[rows >= 0], minlength=shape[0] * shape[1] * shape[2]).reshape(shape)
        return Periods(
            starts=read.starts,
            labels=read.labels,
            unit=_unit(self._freq),
            counts={state: table[:, :, code] for code, state in enumerate(_STATES.values())},
            line=self._line(len(read.starts), read.whole),
            counted=self._freq.counted,
            across=across,
            bands=names,
            choices=read.names[:_MOST_CHOICES] if len(read.names) > _MOST_BANDS else (),
        )

    def _places(self, rows: int) -> _Places:
        """Read in which period and band each row is, unless that is known of so many rows: they only get more."""
        if self._read is None or len(self._read.periods) != rows:
            columns = ReadRows(self._outbox.rows.pages(self._batch)).stored.columns()
            moments = pd.DatetimeIndex(columns["start"]).tz_convert(self._tz)
            starts = moments.unique().sort_values()
            whole = partition(starts[0], starts[-1], freq=self._freq.name, tz=self._tz)
            labels = band_labels(columns, self._across) if self._across else [""] * len(columns)
            bands, names = pd.factorize(pd.Index(labels, dtype=object))
            self._read = _Places(
                starts, self._freq.labels(starts), whole, starts.get_indexer(moments), names.tolist(), bands
            )
        return self._read

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


def upcoming(partitions: Partitions, across: pd.DataFrame | None, before: PeriodStates | None) -> Periods:
    """Return the partitions that a backfill would make: what is new, and the states of what its batch has already.

    Parameters
    ----------
    across : DataFrame or None
        The combinations with which each partition is crossed, a row each.
    before : PeriodStates or None
        The batch; None if there is none yet.
    """
    starts = partitions.bounds[:-1]
    rows = Counter([""] if across is None else band_labels(across, list(across.columns)))  # of a partition in each band
    names = list(rows)
    found = None if before is None else before.periods(names)
    counts: dict[str, _Numbers] = {}
    if found is not None:
        places = found.starts.get_indexer(starts)
        known = {state: np.where(places >= 0, table[:, places], 0) for state, table in found.counts.items()}
        counts = {state: table for state, table in known.items() if table.any()}
    asked = np.repeat(np.array([list(rows.values())]).T, len(starts), axis=1)
    counts["new"] = np.maximum(asked - sum(counts.values()), 0)
    banded = across is not None and len(names) <= _MOST_BANDS
    return Periods(
        starts=starts,
        labels=partitions.freq.labels(starts),
        unit=_unit(partitions.freq),
        counts=counts if banded else {state: table.sum(axis=0) for state, table in counts.items()},
        line=str(partitions),
        counted=partitions.freq.counted,
        across=tuple(across.columns) if banded and across is not None else (),
        bands=names if banded else ("",),
    )
