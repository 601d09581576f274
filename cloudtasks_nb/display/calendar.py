"""Periods as a calendar of squares, drawn as a picture or as buttons.

All styles of the picture stand in its elements, and it has no SVG: viewers of notebooks strip style sheets. From
outputs that it does not trust JupyterLab strips SVG too, as well as `grid-area` and the theme's colours.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb.display.axis import TEXT
from cloudtasks_nb.display.charts import FONT, counts_text
from cloudtasks_nb.display.colours import COLOURS, MARKS
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text

__all__ = ["Calendar", "Periods", "Unit", "band_labels"]

#: What the rows of a calendar are: days of hours, weeks of days, years of weeks or months; others are in one strip.
Unit = Literal["time", "day", "week", "month", "year"]

_MOST = 800  # squares of a band; more periods share those of a day, a month or a year
_GROUPS: tuple[tuple[str, Unit], ...] = (("D", "day"), ("M", "month"), ("Y", "year"))
_NOUNS = {"D": "days", "M": "months", "Y": "years"}
_COLUMNS = {"time": 48, "year": 40}  # a longer row is continued below
_NAMED = 3  # as many single periods are named

_EMPTY = {"unsent": "solid", "new": "dashed"}  # states that leave a square empty, and the line around it
_FAILED = ("failed", "rejected")
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

    starts: pd.DatetimeIndex  #: in their zone, ascending
    labels: Sequence[str]
    unit: Unit
    #: For each state the number of rows in each period; with several bands a line for each.
    counts: Mapping[str, npt.NDArray[np.int64]]
    line: str  #: which periods these are, in words
    counted: Callable[[int], str] = _counted_periods  #: a number of periods in words
    across: Sequence[str] = ()  #: columns whose values tell the bands apart
    bands: Sequence[str] = ("",)  #: the label of each band, as `band_labels` makes it
    choices: Sequence[str] = ()  #: labels of the bands that can be shown alone, where there are too many for all


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
        for width, unit in _GROUPS:
            if len(self._heads) <= _MOST:
                break
            groups = periods.starts.tz_localize(None).to_period(width).unique()
            self._width, self._unit, self._labels = width, unit, groups.astype(str).tolist()
            self._heads = pd.DatetimeIndex(groups.start_time)
            self._counted = partial(counted, plural=_NOUNS[width])
        self._moments = [moment.isoformat() for moment in self._heads]
        codes = self._squares_of(periods.starts)  # in which square each period is; ascends
        firsts = np.searchsorted(codes, np.arange(len(self._heads)))
        sums = {
            state: np.add.reduceat(np.atleast_2d(counts), firsts, axis=1) for state, counts in periods.counts.items()
        }
        self._sums = {state: counts for state, counts in sums.items() if counts.any()}  # a line for each band
        self.choices = periods.choices

    @property
    def keys(self) -> list[str]:
        """Keys of the squares that have rows: band after band, oldest first."""
        there = sum(self._sums.values(), np.zeros((len(self._periods.bands), len(self._heads)), dtype=np.int64))
        return [self._key(int(band), int(head)) for band, head in np.argwhere(there > 0)]

    def counts(self, keys: Collection[str]) -> dict[str, int]:
        """Return how many rows of some squares are in which state."""
        chosen = self._chosen(keys)
        found = {state: int(counts[chosen].sum()) for state, counts in self._sums.items()}
        return {state: count for state, count in found.items() if count}

    def count(self, keys: Collection[str], states: Collection[str]) -> int:
        """Return how many rows of some squares are in some states."""
        return sum(count for state, count in self.counts(keys).items() if state in states)

    def rows(self, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
        """Return the rows of a frame that are in some squares, by their `start` and the columns of the bands."""
        heads = self._squares_of(self._local(frame))
        bands = np.zeros(len(frame), dtype=np.intp)
        if self._periods.across:
            bands = pd.Index(self._periods.bands).get_indexer(pd.Index(band_labels(frame, self._periods.across)))
        return frame[(heads >= 0) & (bands >= 0) & self._chosen(keys)[bands, heads]]

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame with a first column `partition`, the label of the period that begins at `start`."""
        labels = pd.Series(list(self._periods.labels), index=self._periods.starts, dtype="str")
        made = frame.drop(columns="partition", errors="ignore")
        made.insert(0, "partition", labels.reindex(self._local(frame)).to_numpy())
        return made

    def words(self, keys: Collection[str]) -> str:
        """Return which squares these are: ``42 days of bern, 2013-02-01 to 2013-03-14``; empty for none."""
        same: dict[tuple[int, ...], list[str]] = {}  # bands with the same periods are named together
        for band, chosen in zip(self._periods.bands, self._chosen(keys), strict=True):
            if chosen.any():
                same.setdefault(tuple(np.flatnonzero(chosen).tolist()), []).append(band)
        return "; ".join(self._span(heads, bands) for heads, bands in same.items())

    def html(self, *, buttons: bool = False) -> str:
        """Return the calendar as a picture, or with `buttons` that have ``data-key``.

        Only the first button is a tab stop, because arrow keys move the focus.
        """
        total = {state: int(counts.sum()) for state, counts in self._sums.items()}
        places, sides, heads = _layout(self._unit, self._heads.to_pydatetime().tolist(), self._labels)
        top = -min((row for row, _ in heads), default=0)  # of the first band, in rows of the grid
        parts = [_label((row + top, column), text) for (row, column), text in heads.items()]
        height = 1 + max(*(row for row, _ in places), *sides)
        stop = True
        for number, band in enumerate(self._periods.bands):
            if self._periods.across:
                parts.append(self._band_name(number, top))
                top += 1
            parts += [_side(top + row, text) for row, text in sides.items()]
            squares = list(self._squares(number, places, top, buttons=buttons))
            if stop and buttons and squares:
                squares[0], stop = squares[0].replace('tabindex="-1"', 'tabindex="0"', 1), False
            name = html.escape(f"{band}: {self._band_counts(number)}")
            group = f'<div role="group" aria-label="{name}" style="display:contents">{"".join(squares)}</div>'
            parts.append(group if buttons and band else "".join(squares))
            top += height
        name = html.escape(f"{self._periods.line}: {counts_text(total, 'rows')}")
        role = "group" if buttons else "img"
        grid = (
            f'<div class="ctn-calendar" role="{role}" aria-label="{name}" style="{_GRID_STYLE}">{"".join(parts)}</div>'
        )
        focus = "" if buttons else ' tabindex="0"'  # a picture is scrolled by keyboard too
        return f'<div{focus} style="overflow-x:auto;padding:2px 2px 8px">{grid}</div>{_legend(total)}'

    def _key(self, band: int, head: int) -> str:
        label = self._periods.bands[band]
        return f"{self._moments[head]} {label}" if label else self._moments[head]

    def _chosen(self, keys: Collection[str]) -> npt.NDArray[np.bool_]:
        """Return for each band and head whether its square is one of these."""
        bands = {label: number for number, label in enumerate(self._periods.bands)}
        heads = {moment: number for number, moment in enumerate(self._moments)}
        chosen = np.zeros((len(bands), len(heads)), dtype=np.bool_)
        for key in keys:
            moment, _, label = key.partition(" ")
            if moment in heads and label in bands:
                chosen[bands[label], heads[moment]] = True
        return chosen

    def _span(self, heads: Sequence[int], bands: Sequence[str]) -> str:
        of = f" of {', '.join(bands[:-1])}{' and ' if len(bands) > 1 else ''}{bands[-1]}" if bands[-1] else ""
        labels = [self._labels[head] for head in heads]
        if len(heads) > 1 and heads[-1] - heads[0] == len(heads) - 1:
            return f"{self._counted(len(heads))}{of}, {labels[0]} to {labels[-1]}"
        if len(heads) <= _NAMED:
            return ", ".join(labels) + of
        return f"{self._counted(len(heads))}{of}, between {labels[0]} and {labels[-1]}"

    def _band_counts(self, band: int) -> str:
        return counts_text({state: int(lines[band].sum()) for state, lines in self._sums.items()}, "rows")

    def _band_name(self, band: int, row: int) -> str:
        name, counts = html.escape(self._periods.bands[band]), self._band_counts(band)
        place = f"{_area(row, -1)};{_LABEL_STYLE};{_FIXED_STYLE};width:0;font-size:11px"
        return f'<span aria-hidden="true" style="{place}"><b>{name}</b> <span data-text="">{counts}</span></span>'

    def _squares(self, band: int, places: Sequence[_Place], top: int, *, buttons: bool) -> Iterator[str]:
        """Yield the squares of a band; a period in which it has no row has none."""
        label = self._periods.bands[band]
        before = f"{label}, " if label else ""
        known: dict[tuple[int, ...], tuple[str, str, str]] = {}
        columns = zip(*(lines[band].tolist() for lines in self._sums.values()), strict=True)
        for number, column in enumerate(columns):
            if not any(column):
                continue
            if column not in known:
                counts = {state: count for state, count in zip(self._sums, column, strict=True) if count}
                known[column] = counts_text(counts, "rows"), f"{_SQUARE_STYLE};{_fill(counts)}", _mark(counts)
            words, style, mark = known[column]
            row, place = places[number]
            tip = html.escape(f"{before}{self._labels[number]}: {words}")
            inside = f'title="{tip}" style="{_area(top + row, place)};{style}">{mark}'
            key = html.escape(self._key(band, number))
            name = f'type="button" data-key="{key}" tabindex="-1" aria-label="{tip}"'
            yield f"<button {name} {inside}</button>" if buttons else f"<b {inside}</b>"

    def _local(self, frame: pd.DataFrame) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(frame["start"]).tz_convert(self._periods.starts.tz)

    def _squares_of(self, starts: pd.DatetimeIndex) -> npt.NDArray[np.intp]:
        """Return the number of the square of each period; -1 for a period that is not in the calendar."""
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
    shares |= {state: max(share, _LEAST_SHARE) for state, share in shares.items() if state in _FAILED}
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
