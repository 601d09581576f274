"""Count the rows of a backfill by period and state, and draw them as a calendar."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb.display.calendar import Calendar, Periods, Unit, band_labels, starts_in
from cloudtasks_nb.fanout.batch.table import ReadRows
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Scope, whole
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Freq, Partitions, one_zone, parse_freq, partition
from cloudtasks_nb.fanout.plan.preview import preview_names
from cloudtasks_nb.fanout.states import WORDS

__all__ = ["PeriodStates", "upcoming"]

_RELAX = 20  # a drawing is shown so many times longer than it took
_WEEK = dt.timedelta(days=7)
_YEAR = 12  # months
_MOST_BANDS = 12  # values of `across` that have a band each
_MOST_CHOICES = 1_000  # values of `across` that are offered to be shown alone


@dataclass(frozen=True, slots=True)
class _Places:
    """In which period and band the rows are."""

    rows: pd.DataFrame  #: the `band` and the `start` of each row, both as categories
    labels: list[str]  #: of the periods that have rows
    whole: Partitions  #: all periods from the first to the last


class PeriodStates:
    """Counts the rows of one backfill, as the outbox has them, by period and state.

    Parameters
    ----------
    rows : Scope
        Those that are shown.
    series : mapping
        `freq` and `tz` of its partitions, and the columns of `across`.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(
        self, outbox: Outbox, rows: Scope, series: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._rows = rows
        self._freq = parse_freq(series["freq"])
        self._tz = series["tz"]
        self._zone = one_zone(series["tz"])  # None: each row has its own, and the calendar shows local times
        across = map(str, series.get("across", ()))
        self._across = [name for given, name in preview_names([*COLUMNS, *across]).items() if given not in COLUMNS]
        self._read: _Places | None = None
        self._drawn: tuple[str, str] | None = None
        self._until = 0.0

    def draw(self, *, fresh: bool) -> tuple[str, str] | None:
        """Return which partitions these are, and their calendar as HTML; None if the batch has no rows.

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
            self._drawn = found.line, Calendar(found).html()
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
        states = np.frombuffer(self._outbox.rows.states(self._rows), dtype=np.uint8)
        if not len(states):
            return None
        read = self._places(len(states))
        rows, across = read.rows, self._across
        if len(rows) != len(states):  # rows came in between
            return None
        choices: list[str] = rows["band"].cat.categories.tolist()
        if bands:
            rows = rows.assign(band=rows["band"].cat.set_categories(bands))
        elif len(choices) > _MOST_BANDS:
            rows, across = rows.assign(band=pd.Categorical([""]).take(np.zeros(len(rows), dtype=np.intp))), []
        words = pd.Index(WORDS.values())
        rows = rows.assign(state=pd.Categorical(states, categories=list(map(int, WORDS))))
        counts = rows.groupby(["band", "start", "state"], observed=False).size().to_numpy().reshape(-1, len(words))
        starts, names = (rows[name].cat.categories for name in ("start", "band"))
        return Periods(
            starts=pd.DatetimeIndex(starts),
            labels=read.labels,
            unit=_unit(self._freq),
            counts=pd.DataFrame(counts, pd.MultiIndex.from_product([names, starts], names=["band", "start"]), words),
            line=self._line(len(starts), read),
            counted=self._freq.counted,
            across=across,
            choices=choices[:_MOST_CHOICES] if len(choices) > _MOST_BANDS else (),
        )

    def _places(self, rows: int) -> _Places:
        """Read in which period and band each row is, unless that is known of so many rows: they only get more."""
        if self._read is None or len(self._read.rows) != rows:
            columns = ReadRows(self._outbox.rows.pages(self._rows)).stored.columns()
            moments = pd.Categorical(starts_in(columns["start"], self._zone))
            labels = band_labels(columns, self._across) if self._across else [""] * len(columns)
            bands = pd.Categorical(labels, categories=list(dict.fromkeys(labels)))
            starts = pd.DatetimeIndex(moments.categories)
            self._read = _Places(
                rows=pd.DataFrame({"band": bands, "start": moments}),
                labels=self._freq.labels(starts),
                whole=partition(starts[0], starts[-1], freq=self._freq.name, tz=self._tz).among(columns),
            )
        return self._read

    def _line(self, count: int, read: _Places) -> str:
        every, zone, notes = read.whole, self._zone or dt.UTC, list[str]()
        total = sum(self._outbox.batches.counts(whole(self._rows.batch)).values())
        asked = self._outbox.batches.facts(self._rows.batch).periods
        if asked is not None and len(read.rows) == total:  # it was asked for all rows
            first, last = (pd.Timestamp(moment).tz_convert(zone) for moment in asked)
            notes = replace(every, requested=(first, last)).notes
        holes = len(every) - count if self._zone else 0
        between = [f"{holes:,} between them are not in this batch"] if holes else []
        return "; ".join([str(every), *between, *notes])


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
    starts = partitions.starts
    rows = Counter([""] if across is None else band_labels(across, list(across.columns)))  # of a partition in each band
    asked = pd.Series(rows).repeat(len(starts))
    asked.index = pd.MultiIndex.from_product([rows, starts], names=["band", "start"])
    found = None if before is None else before.periods(list(rows))
    counts = pd.DataFrame(index=asked.index) if found is None else found.counts.reindex(asked.index, fill_value=0)
    counts = counts.loc[:, counts.any()].assign(new=(asked - counts.sum(axis=1)).clip(lower=0))
    banded = across is not None and len(rows) <= _MOST_BANDS
    if not banded:
        counts = counts.groupby(level="start").sum()
        counts.index = pd.MultiIndex.from_product([[""], starts], names=["band", "start"])
    return Periods(
        starts=starts,
        labels=partitions.freq.labels(starts),
        unit=_unit(partitions.freq),
        counts=counts,
        line=str(partitions),
        counted=partitions.freq.counted,
        across=tuple(across.columns) if banded and across is not None else (),
    )
