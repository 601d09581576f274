"""Periods as a calendar of squares, drawn as a picture or as buttons.

All styles of the picture stand in its elements, and it has no SVG: viewers of notebooks strip style sheets. From
outputs that it does not trust JupyterLab strips SVG too, as well as `grid-area` and the theme's colours.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb._frames import STATES
from cloudtasks_nb.display.axis import TEXT
from cloudtasks_nb.display.charts import FONT, counts_text
from cloudtasks_nb.display.colours import COLOURS, MARKS
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text

__all__ = ["Calendar", "Periods", "Unit", "band_labels", "starts_in"]

#: What the rows of a calendar are: days of hours, weeks of days, years of weeks or months; others are in one strip.
Unit = Literal["time", "day", "week", "month", "year"]

_MOST = 800  # periods of a band that have a square each, and squares of all bands if periods share them
_GROUPS: tuple[tuple[str, Unit], ...] = (("D", "day"), ("M", "month"), ("Y", "year"))
_COLUMNS = {"time": 48, "year": 40}  # a longer row is continued below
_NAMED = 3  # as many single periods are named

_BROKEN = [state for state in MARKS if STATES[state].end]  # states that are never too small to be seen
_EMPTY = {"unsent": "solid", "new": "dashed"}  # states that leave a square empty, and the line around it
_LEAST_SHARE = 0.5  # of a square: one failure among many is seen, and has room for its cross

_SIDE = 13  # pixels of a square
_GROUND = "var(--jp-layout-color0,Canvas)"
_GRID_STYLE = (
    f"display:inline-grid;grid-template-columns:auto;grid-auto-rows:{_SIDE}px;grid-auto-columns:{_SIDE}px;gap:2px;"
    f"font:700 10px/{_SIDE - 2}px sans-serif;text-align:center;padding-right:2em"
)
_LABEL_STYLE = f"font-weight:400;line-height:{_SIDE}px;text-align:left;white-space:nowrap"
_FIXED_STYLE = "position:sticky;left:0;z-index:1"  # labels of rows stay in sight while the squares are scrolled
_SQUARE_STYLE = "border-radius:3px;color:#fff"
_LEGEND_STYLE = f"display:flex;flex-wrap:wrap;gap:.15em 1.3em;margin-top:.6em;color:{TEXT};{FONT}"
_SAMPLE_STYLE = (
    "display:inline-block;width:13px;margin-right:.5em;vertical-align:middle;text-align:center;"
    "font:700 10px/11px sans-serif;height:13px;box-sizing:border-box"
)
_counted_periods = partial(counted, plural="periods")


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The periods of a backfill, and how many rows of each are in which state."""

    starts: pd.DatetimeIndex  #: in their zone, ascending; local times without a zone if each row has its own
    labels: Sequence[str]
    unit: Unit
    counts: pd.DataFrame  #: rows in each state, a column each; the index is `band`, of `band_labels`, and `start`
    line: str  #: which periods these are, in words
    counted: Callable[[int], str] = _counted_periods  #: a number of periods in words
    across: Sequence[str] = ()  #: columns whose values tell the bands apart
    choices: Sequence[str] = ()  #: labels of the bands that can be shown alone, where there are too many for all


def starts_in(starts: Any, zone: tzinfo | None) -> pd.DatetimeIndex:
    """Return when periods start, in a zone; if that is None, the local times of each, without a zone."""
    if zone is None:
        return pd.DatetimeIndex([pd.Timestamp(start).replace(tzinfo=None) for start in starts]).as_unit("us")
    return pd.DatetimeIndex(starts).tz_convert(zone)


def band_labels(frame: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Return the label of the band of each row: its values in some columns, with secrets masked."""
    texts = [[_value_text(value) for value in frame[name].tolist()] for name in columns]
    joined = texts[0] if len(texts) == 1 else [", ".join(values) for values in zip(*texts, strict=True)]
    masked = {text: mask_text(text) for text in set(joined)}
    return [masked[text] for text in joined]


class Calendar:
    """Periods as squares that fill as their rows end, in a band for each value that they are crossed with.

    Parameters
    ----------
    periods : Periods
        More than 800 are grouped by day, month or year.
    """

    def __init__(self, periods: Periods) -> None:
        self._periods = periods
        self._width, self._unit, self._heads, self._labels = "", periods.unit, periods.starts, list(periods.labels)
        self._counted = periods.counted
        bands, starts = (periods.counts.index.get_level_values(level) for level in ("band", "start"))
        self._bands = bands.unique().tolist()
        for width, unit in _GROUPS:
            if len(self._heads) * (len(self._bands) if self._width else 1) <= _MOST:
                break
            groups = periods.starts.tz_localize(None).to_period(width).unique()
            self._width, self._unit, self._labels = width, unit, groups.astype(str).tolist()
            self._heads = pd.DatetimeIndex(groups.start_time)
            self._counted = partial(counted, plural=f"{unit}s")
        self._moments = [moment.isoformat() for moment in self._heads]
        counts = periods.counts.groupby([bands, self._squares_of(starts)], sort=False).sum()
        self._counts = counts.loc[counts.any(axis=1), counts.any()]
        #: The band of each square that has rows, and its number there, by its key.
        self._places: dict[str, tuple[str, int]] = {self._key(*place): place for place in self._counts.index}
        self.choices = periods.choices

    @property
    def keys(self) -> list[str]:
        """Keys of the squares that have rows: band after band, oldest first."""
        return list(self._places)

    def counts(self, keys: Collection[str]) -> dict[str, int]:
        """Return how many rows of some squares are in which state."""
        chosen = {*keys}
        return _totals(self._counts.loc[[key in chosen for key in self._places]])

    def rows(self, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
        """Return the rows of a frame that are in some squares, by their `start` and the columns of the bands."""
        squares = self._squares_of(frame["start"]).tolist()
        bands = band_labels(frame, self._periods.across) if self._periods.across else [""] * len(frame)
        chosen = {self._places[key] for key in keys if key in self._places}
        return frame.loc[[place in chosen for place in zip(bands, squares, strict=True)]]

    def words(self, keys: Collection[str]) -> str:
        """Return which squares these are: ``42 days of bern, 2013-02-01 to 2013-03-14``; empty for none."""
        chosen, heads = {*keys}, dict[str, list[int]]()
        for key, (band, head) in self._places.items():
            if key in chosen:
                heads.setdefault(band, []).append(head)
        same: dict[tuple[int, ...], list[str]] = {}  # bands with the same periods are named together
        for band, numbers in heads.items():
            same.setdefault(tuple(numbers), []).append(band)
        return "; ".join(self._span(numbers, bands) for numbers, bands in same.items())

    def html(self, *, buttons: bool = False) -> str:
        """Return the calendar as a picture, or with `buttons` that have ``data-key``.

        Only the first button is a tab stop, because arrow keys move the focus.
        """
        total, banded = _totals(self._counts), bool(self._periods.across)
        places, sides, heads = _layout(self._unit, self._heads.to_pydatetime().tolist(), self._labels)
        top = -min((row for row, _ in heads), default=0) + banded  # of the first band, in rows of the grid
        parts = [_label((row + top - banded, column), text) for (row, column), text in heads.items()]
        height = 1 + max(*(row for row, _ in places), *sides) + banded
        tops = {band: top + height * number for number, band in enumerate(self._bands)}
        squares = self._squares(places, tops, buttons=buttons)
        for band, first in tops.items():
            texts = counts_text(_totals(self._counts.loc[self._counts.index.get_level_values(0) == band]), "rows")
            if banded:
                parts.append(_band_name(band, texts, first - 1))
            parts += [_side(first + row, text) for row, text in sides.items()]
            name = html.escape(f"{band}: {texts}")
            group = f'<div role="group" aria-label="{name}" style="display:contents">{"".join(squares[band])}</div>'
            parts.append(group if buttons and band else "".join(squares[band]))
        name = html.escape(f"{self._periods.line}: {counts_text(total, 'rows')}")
        role = "group" if buttons else "img"
        grid = (
            f'<div class="ctn-calendar" role="{role}" aria-label="{name}" style="{_GRID_STYLE}">{"".join(parts)}</div>'
        )
        focus = "" if buttons else ' tabindex="0"'  # a picture is scrolled by keyboard too
        return f'<div{focus} style="overflow-x:auto;padding:2px 2px 8px">{grid}</div>{_legend(total)}'

    def _squares(self, places: Sequence[_Place], tops: Mapping[str, int], *, buttons: bool) -> dict[str, list[str]]:
        """Return the squares of each band, which begins at a row; a period in which it has no row has none."""
        found: dict[str, list[str]] = {band: [] for band in tops}
        states, lines = tuple(self._counts), self._counts.itertuples(index=False, name=None)
        for number, ((key, (band, head)), line) in enumerate(zip(self._places.items(), lines, strict=True)):
            words, style, mark = _look(states, line)
            row, column = places[head]
            tip = html.escape(f"{band}, {self._labels[head]}: {words}" if band else f"{self._labels[head]}: {words}")
            inside = f'title="{tip}" style="{_area(tops[band] + row, column)};{style}">{mark}'
            name = f'type="button" data-key="{html.escape(key)}" tabindex="{-1 if number else 0}" aria-label="{tip}"'
            found[band].append(f"<button {name} {inside}</button>" if buttons else f"<b {inside}</b>")
        return found

    def _key(self, band: str, head: int) -> str:
        return f"{self._moments[head]} {band}" if band else self._moments[head]

    def _span(self, heads: Sequence[int], bands: Sequence[str]) -> str:
        of = f" of {', '.join(bands[:-1])}{' and ' if len(bands) > 1 else ''}{bands[-1]}" if bands[-1] else ""
        labels = [self._labels[head] for head in heads]
        if len(heads) > 1 and heads[-1] - heads[0] == len(heads) - 1:
            return f"{self._counted(len(heads))}{of}, {labels[0]} to {labels[-1]}"
        if len(heads) <= _NAMED:
            return ", ".join(labels) + of
        return f"{self._counted(len(heads))}{of}, between {labels[0]} and {labels[-1]}"

    def _squares_of(self, begins: Any) -> npt.NDArray[np.intp]:
        """Return the number of the square of each period; -1 for a period that is not in the calendar."""
        starts = starts_in(begins, self._periods.starts.tz)
        if self._width:  # wide squares start at local midnight
            starts = pd.DatetimeIndex(starts.tz_localize(None).to_period(self._width).start_time)
        return self._heads.get_indexer(starts)


def _value_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


_Place = tuple[int, int]  # row and column, from 0; the names of columns stand in rows above, at -1 and -2
_Layout = tuple[list[_Place], dict[int, str], dict[_Place, str]]


def _layout(unit: Unit, starts: Sequence[datetime], labels: Sequence[str]) -> _Layout:
    """Return the place of each square in its band, the names of rows, and those of columns."""
    if unit == "day":
        return _by_week(starts)
    if unit in ("week", "month"):
        return _by_year(starts, weekly=unit == "week")
    if unit == "time":
        return _by_day(starts)
    places = [divmod(number, _COLUMNS["year"]) for number in range(len(starts))]
    return places, {row: labels[number] for number, (row, column) in enumerate(places) if column == 0}, {}


def _by_week(days: Sequence[datetime]) -> _Layout:
    monday = days[0].date() - timedelta(days=days[0].weekday())
    places = [(day.weekday(), (day.date() - monday).days // 7) for day in days]
    heads: dict[_Place, str] = {}
    for row, form in ((-2, "%Y"), (-1, "%b")):
        text, last = "", -2
        for day, (_, column) in zip(days, places, strict=True):
            # The first week of a year or a month, unless its name would run into the one before.
            if f"{day:{form}}" != text and column - last > 1:
                text, last = f"{day:{form}}", column
                heads[row, column] = text
    return places, {0: "Mon", 2: "Wed", 4: "Fri", 6: "Sun"}, heads


def _by_year(days: Sequence[datetime], *, weekly: bool) -> _Layout:
    first = days[0].year
    months = [date(first, month, 1) for month in range(1, 13)]
    heads = {(-1, _column(month, weekly=weekly)): f"{month:%b}"[: 3 if weekly else 1] for month in months}
    places = [(day.year - first, _column(day, weekly=weekly)) for day in days]
    return places, {day.year - first: f"{day:%Y}" for day in days}, heads


def _column(day: date, *, weekly: bool) -> int:
    return (day.timetuple().tm_yday - 1) // 7 if weekly else day.month - 1


def _by_day(starts: Sequence[datetime]) -> _Layout:
    """Give each time of day a column; the second of two equal times of a day has its own."""
    clocks = [f"{start:%H:%M:%S}" + ("+" if start.fold else "") for start in starts]
    columns = {clock: number for number, clock in enumerate(sorted(set(clocks)))}
    width = _COLUMNS["time"]
    folded = len(columns) > width
    rows: dict[tuple[date, int], int] = {}
    sides: dict[int, str] = {}
    places = []
    for start, clock in zip(starts, clocks, strict=True):
        part, column = divmod(columns[clock], width)
        row = rows.setdefault((start.date(), part), len(rows))
        places.append((row, column))
        sides.setdefault(row, f"{start:%Y-%m-%d %H:%M}" if folded else f"{start:%Y-%m-%d}")
    every = max(1, -(-len(columns) // 4))
    heads = {} if folded else {(-1, n): clock[:5] for clock, n in columns.items() if n % every == 0}
    return places, sides, heads


def _totals(counts: pd.DataFrame) -> dict[str, int]:
    """Return how many rows there are in each state that has some."""
    return {str(state): int(count) for state, count in counts.sum().items() if count}


@lru_cache(maxsize=1_000)
def _look(states: tuple[str, ...], numbers: tuple[int, ...]) -> tuple[str, str, str]:
    """Return the words, the style and the mark of a square with so many rows in these states."""
    counts = {state: number for state, number in zip(states, numbers, strict=True) if number}
    return counts_text(counts, "rows"), f"{_SQUARE_STYLE};{_fill(counts)}", _mark(counts)


def _band_name(band: str, counts: str, row: int) -> str:
    name = f'<b>{html.escape(band)}</b> <span data-text="">{counts}</span>'
    style = f"{_area(row, -1)};{_LABEL_STYLE};{_FIXED_STYLE};width:0;font-size:11px"
    return f'<span aria-hidden="true" style="{style}">{name}</span>'


def _area(row: int, column: int) -> str:
    return f"grid-row:{row + 1};grid-column:{column + 2}"


def _label(place: _Place, text: str) -> str:
    style = f"{_area(*place)};{_LABEL_STYLE};width:0"  # the name of a column may be wider than the column
    return f'<span aria-hidden="true" style="{style}">{html.escape(text)}</span>'


def _side(row: int, text: str) -> str:
    style = f"{_area(row, -1)};{_LABEL_STYLE};{_FIXED_STYLE};padding-right:.5em;background:{_GROUND}"
    return f'<span aria-hidden="true" style="{style}">{html.escape(text)}</span>'


def _fill(counts: Mapping[str, int]) -> str:
    """Return the border and the background of a square with these rows."""
    total = sum(counts.values())
    shares = {state: counts[state] / total for state in COLOURS if counts.get(state) and state not in _EMPTY}
    shares |= {
        state: max(share, _LEAST_SHARE)
        for state, share in shares.items()
        if STATES[state].striking and STATES[state].end
    }
    line = next((line for state, line in _EMPTY.items() if state in counts and not shares), "solid")
    border = f"border:1px {line} #8888" if line == "solid" else f"border:1px {line} {TEXT}"
    scale = 100 / max(sum(shares.values()), 1)
    stops, level = [], 0.0
    for state, share in shares.items():
        stops.append(f"{COLOURS[state]} {level:.0f}% {level + scale * share:.0f}%")
        level += scale * share
    if len(stops) == 1 and round(level) == 100:  # noqa: PLR2004 - per cent
        return f"{border};background:{COLOURS[next(iter(shares))]}"
    if not stops:
        return f"{border};background:none"
    return f"{border};background:linear-gradient(0deg,{','.join(stops)},transparent {level:.0f}%) border-box"


def _mark(counts: Collection[str]) -> str:
    return next((mark for state, mark in MARKS.items() if state in counts), "")


def _legend(states: Iterable[str]) -> str:
    items = "".join(
        f'<span style="white-space:nowrap"><b style="{_SAMPLE_STYLE};{_SQUARE_STYLE};{_fill({state: 1})}">'
        f"{_mark([state])}</b>{html.escape(state)}</span>"
        for state in states
    )
    return f'<div aria-hidden="true" style="{_LEGEND_STYLE}">{items}</div>'
