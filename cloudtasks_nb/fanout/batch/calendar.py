"""Draw the partitions of a backfill as a calendar, whose cells have the colours of states, and count their rows."""

from __future__ import annotations

import datetime as dt
import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._settings import parse_zone
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.periods.partitions import Freq, Partitions, parse_freq, partition
from cloudtasks_nb.fanout.plan.preview import decode_preview, length_of

__all__ = ["ASKED", "Calendar", "CalendarText", "Periods", "grid"]

_Numbers = npt.NDArray[np.int64]

#: Setting of a batch: first and last moment of what was asked for, as ISO text.
ASKED = "asked"

_CELLS = 800  # more are not drawn: neighbours share one
_COLUMNS = 40  # in a row, where the calendar has none
_PITCH, _SIZE, _CHARACTER = 11, 9, 6.5  # pixels: from cell to cell, of a cell, of a letter
_RELAX = 20  # a drawing lives so many times longer than it took
_DAY, _WEEK, _HALF_HOUR = dt.timedelta(days=1), dt.timedelta(days=7), dt.timedelta(minutes=30)

#: A cell of several rows has the colour of the first of these states that one of them is in.
_ORDER = {
    State.FAILED: "failed",
    State.REJECTED: "rejected",
    State.GONE: "gone",
    State.CANCELLED: "cancelled",
    State.UNSENT: "unsent",
    State.SENT: "queued",
    State.SUCCEEDED: "succeeded",
}
_WORDS = list(_ORDER.values())
_RANKS = np.zeros(256, dtype=np.int64)
_RANKS[list(_ORDER)] = range(len(_ORDER))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalendarText:
    """A calendar as it was at one moment."""

    line: str  #: which partitions these are
    grid: str  #: HTML


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The partitions of a backfill, and how many rows of each are in which state."""

    freq: Freq
    starts: pd.DatetimeIndex  #: where they start, in their zone, ascending
    counts: _Numbers  #: of shape (partitions, states), the states in the order of the worst
    line: str  #: which ones these are

    @property
    def by_state(self) -> dict[str, _Numbers]:
        """Counts of each partition, by the name of the state."""
        return dict(zip(_WORDS, self.counts.T, strict=True))


class Calendar:
    """Draws the calendar of one backfill, from the rows that the outbox has of it.

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
        self._read: tuple[tuple[int, int], pd.DatetimeIndex, Partitions, _Numbers] | None = None
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
            picture = grid(self._freq, found.starts, found.counts, found.line)
            self._drawn = CalendarText(line=found.line, grid=picture)
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
        starts, whole, places = self._partitions((round_, len(states)))
        if len(places) != len(states):  # rows came in between
            return None
        cells = places * len(_ORDER) + _RANKS[np.frombuffer(states, dtype=np.uint8)]
        counts = np.bincount(cells, minlength=len(starts) * len(_ORDER)).reshape(len(starts), len(_ORDER))
        return Periods(freq=self._freq, starts=starts, counts=counts, line=self._line(len(starts), whole))

    def _partitions(self, version: tuple[int, int]) -> tuple[pd.DatetimeIndex, Partitions, _Numbers]:
        """Return where the partitions start, all from the first to the last of them, and the partition of each row."""
        if self._read is None or self._read[0] != version:
            moments = self._starts()
            starts = moments.unique().sort_values()
            whole = partition(starts[0], starts[-1], freq=self._freq.name, tz=self._tz)
            self._read = (version, starts, whole, starts.get_indexer(moments))
        return self._read[1:]

    def _starts(self) -> pd.DatetimeIndex:
        """Return where the partition of each row starts."""
        parts, chosen, offset = [], [], 0
        for page in self._outbox.rows.pages(self._batch):
            parts.append(page.shown)
            chosen += [offset + index for index in page.indexes]
            offset += length_of(page.shown)
        return pd.DatetimeIndex(decode_preview(parts)["start"].iloc[chosen]).tz_convert(self._tz)

    def _line(self, count: int, whole: Partitions) -> str:
        asked = self._outbox.batches.settings(self._batch).get(ASKED)
        if asked is not None:
            first, last = (pd.Timestamp(moment).tz_convert(self._tz) for moment in asked)
            whole = replace(whole, asked=(first, last))
        holes = len(whole) - count
        between = [f"{holes:,} between them are not in this batch"] if holes else []
        return "; ".join([str(whole), *between, *whole.notes])


def grid(freq: Freq, starts: pd.DatetimeIndex, counts: _Numbers, what: str) -> str:
    """Return partitions as a picture: days in months, weeks and months in years, hours in days, others in a strip.

    Parameters
    ----------
    starts : DatetimeIndex
        Where the partitions start, in their zone, ascending.
    counts : array, shape (partitions, states)
        How many rows of each partition are in which state, in the order of the worst.
    what : str
        Description for screen readers.
    """
    labels = freq.labels(starts)
    share = -(-len(starts) // _CELLS)
    heads = list(range(0, len(starts), share))
    if share > 1:
        counts = np.add.reduceat(counts, heads, axis=0)
        ends = [*heads[1:], len(starts)]
        places = _strip([labels[head] for head in heads])
        labels = [f"{labels[head]} … {labels[end - 1]}" for head, end in zip(heads, ends, strict=True)]
    else:
        places = _places(freq, starts) or _strip(labels)
    return _svg(places, labels, counts, what)


def _places(freq: Freq, starts: pd.DatetimeIndex) -> list[tuple[str, int]]:
    """Return the row, by its label, and the column of each partition; nothing where the calendar has no rows."""
    days = [moment.date() for moment in starts]
    if freq.name == "D":
        return [(f"{day:%Y-%m}", day.day - 1) for day in days]
    if freq.name == "MS":
        return [(f"{day:%Y}", day.month - 1) for day in days]
    if freq.step == _WEEK:
        return [(f"{day:%Y}", (day.timetuple().tm_yday - 1) // 7) for day in days]
    if freq.step is not None and _HALF_HOUR <= freq.step < _DAY:
        return [(day.isoformat(), number - days.index(day)) for number, day in enumerate(days)]
    return []


def _strip(labels: Sequence[str]) -> list[tuple[str, int]]:
    return [(labels[number - number % _COLUMNS], number % _COLUMNS) for number in range(len(labels))]


def _svg(places: Sequence[tuple[str, int]], labels: Sequence[str], counts: _Numbers, what: str) -> str:
    rows = {label: number for number, label in enumerate(dict.fromkeys(label for label, _ in places))}
    left = round(max(map(len, rows)) * _CHARACTER) + 4
    width = left + _PITCH * (1 + max(column for _, column in places))
    height = _PITCH * len(rows) + 2
    cells: dict[str, list[str]] = {}
    for (row, column), label, numbers in zip(places, labels, counts.tolist(), strict=True):
        found = [(word, count) for word, count in zip(_WORDS, numbers, strict=True) if count]
        alone = sum(numbers) == 1
        words = ", ".join(word if alone else f"{count:,} {word}" for word, count in found)
        cells.setdefault(found[0][0], []).append(
            f'<rect x="{left + _PITCH * column}" y="{1 + _PITCH * rows[row]}" width="{_SIZE}" height="{_SIZE}">'
            f"<title>{html.escape(f'{label}: {words}')}</title></rect>"
        )
    marks = "".join(f'<g fill="{colour(state)}">{"".join(found)}</g>' for state, found in cells.items())
    names = "".join(
        f'<text x="0" y="{_PITCH * number + _SIZE}">{html.escape(label)}</text>' for label, number in rows.items()
    )
    return (
        f'<svg role="img" aria-label="{html.escape(what)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="max-width:100%;display:block;margin:.4em 0">'
        f'<g fill="currentColor" font-size="10" font-family="var(--jp-code-font-family,monospace)">{names}</g>'
        f"{marks}</svg>"
    )
