"""Periods as a calendar of squares, drawn as a picture or as buttons.

All styles of the picture stand in its elements, and it has no SVG: viewers of notebooks strip style sheets. From
outputs that it does not trust JupyterLab strips SVG too, as well as `grid-area` and the theme's colours.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cloudtasks_nb.display.axis import TEXT
from cloudtasks_nb.display.charts import FONT, counts_text
from cloudtasks_nb.display.colours import COLOURS

__all__ = ["Calendar", "Periods", "Unit"]

#: What the rows of a calendar are: days of hours, weeks of days, years of weeks or months; others are in one strip.
Unit = Literal["time", "day", "week", "month", "year"]

_MOST = 800  # squares; more periods share those of a day, a month or a year
_GROUPS: tuple[tuple[str, Unit], ...] = (("D", "day"), ("M", "month"), ("Y", "year"))
_COLUMNS = {"time": 48, "day": 53, "year": 40}  # a longer row is continued below

_EMPTY = "unsent"  # leaves a square empty
_FAILED = ("failed", "rejected")
_FAILED_MARK = "✕"
_LEAST_SHARE = 0.5  # of a square: one failure among many is seen, and has room for its cross

_GRID_STYLE = (
    "display:inline-grid;grid-template-columns:auto;grid-auto-rows:15px;grid-auto-columns:15px;gap:3px;"
    "font:700 10px/13px sans-serif;text-align:center"
)
_LABEL_STYLE = "font-weight:400;line-height:15px;text-align:left;white-space:nowrap"
_SQUARE_STYLE = "border:1px solid #8888;border-radius:3px;color:#fff"
_LEGEND_STYLE = f"display:flex;flex-wrap:wrap;gap:.15em 1.3em;margin-top:.6em;color:{TEXT};{FONT}"
_SAMPLE_STYLE = (
    "display:inline-block;width:13px;margin-right:.5em;vertical-align:middle;text-align:center;"
    "font:700 10px/13px sans-serif;height:13px"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The periods of a backfill, and how many rows of each are in which state."""

    starts: pd.DatetimeIndex  #: in their zone, ascending
    labels: Sequence[str]
    unit: Unit
    counts: Mapping[str, npt.NDArray[np.int64]]  #: for each state the number of rows in each period
    line: str  #: which periods these are, in words


class Calendar:
    """Periods as squares that fill as their rows end.

    Parameters
    ----------
    periods : Periods
        More than 800 are grouped by day, month or year.
    """

    def __init__(self, periods: Periods) -> None:
        self._periods = periods
        self._width, self._unit, self._heads, self._labels = "", periods.unit, periods.starts, list(periods.labels)
        for width, unit in _GROUPS:
            if len(self._heads) <= _MOST:
                break
            groups = periods.starts.tz_localize(None).to_period(width).unique()
            self._width, self._unit, self._labels = width, unit, groups.astype(str).tolist()
            self._heads = pd.DatetimeIndex(groups.start_time)
        self.keys = [moment.isoformat() for moment in self._heads]  #: of the squares, oldest first
        self._codes = self._squares_of(periods.starts)  # in which square each period is; ascends

    def count(self, keys: Collection[str], states: Collection[str]) -> int:
        """Return how many rows of some squares are in some states."""
        inside = self._inside(self._codes, keys)
        return sum(int(counts[inside].sum()) for state, counts in self._periods.counts.items() if state in states)

    def rows(self, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
        """Return the rows of a frame whose `start` is in some squares."""
        return frame[self._inside(self._squares_of(self._local(frame)), keys)]

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame with a first column `partition`, the label of the period that begins at `start`."""
        labels = pd.Series(list(self._periods.labels), index=self._periods.starts, dtype="str")
        made = frame.drop(columns="partition", errors="ignore")
        made.insert(0, "partition", labels.reindex(self._local(frame)).to_numpy())
        return made

    def words(self, keys: Collection[str]) -> str:
        """Return the labels of some squares; of many the first three, and how many more there are."""
        chosen = [label for key, label in zip(self.keys, self._labels, strict=True) if key in keys]
        more = f" and {len(chosen) - 3:,} more" if len(chosen) > 3 else ""  # noqa: PLR2004 - as many as are named
        return ", ".join(chosen[:3]) + more

    def html(self, *, buttons: bool = False) -> str:
        """Return the calendar as a picture, or with `buttons` that have ``data-key``.

        Only the first button is a tab stop, because arrow keys move the focus.
        """
        firsts = np.searchsorted(self._codes, np.arange(len(self._heads)))
        sums = {state: np.add.reduceat(counts, firsts) for state, counts in self._periods.counts.items()}
        total = {state: int(counts.sum()) for state, counts in sums.items()}
        columns = {state: counts.tolist() for state, counts in sums.items() if total[state]}
        places, names = _layout(self._unit, self._heads.to_pydatetime().tolist(), self._labels)
        parts = [_label(row, column, text) for (row, column), text in names.items()]
        for number, (place, label, key) in enumerate(zip(places, self._labels, self.keys, strict=True)):
            counts = {state: column[number] for state, column in columns.items() if column[number]}
            tip = html.escape(f"{label}: {counts_text(counts, 'rows')}")
            inside = f'title="{tip}" style="{_area(*place)};{_SQUARE_STYLE};{_fill(counts)}">{_mark(counts)}'
            stop = 0 if number == 0 else -1
            name = f'type="button" data-key="{html.escape(key)}" tabindex="{stop}" aria-label="{tip}"'
            parts.append(f"<button {name} {inside}</button>" if buttons else f"<b {inside}</b>")
        name = html.escape(f"{self._periods.line}: {counts_text(total, 'rows')}")
        role = "group" if buttons else "img"
        grid = (
            f'<div class="ctn-calendar" role="{role}" aria-label="{name}" style="{_GRID_STYLE}">{"".join(parts)}</div>'
        )
        return f'<div style="overflow-x:auto;padding:2px">{grid}</div>{_legend(columns)}'

    def _local(self, frame: pd.DataFrame) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(frame["start"]).tz_convert(self._periods.starts.tz)

    def _squares_of(self, starts: pd.DatetimeIndex) -> npt.NDArray[np.intp]:
        """Return the number of the square of each period; -1 for a period that is not in the calendar."""
        if self._width:  # wide squares start at local midnight
            starts = pd.DatetimeIndex(starts.tz_localize(None).to_period(self._width).start_time)
        return self._heads.get_indexer(starts)

    def _inside(self, codes: npt.NDArray[np.intp], keys: Collection[str]) -> npt.NDArray[np.bool_]:
        return np.isin(codes, [number for number, key in enumerate(self.keys) if key in keys])


_Place = tuple[int, int]  # row and column, from 0; labels stand at -1 too


def _layout(unit: Unit, starts: Sequence[datetime], labels: Sequence[str]) -> tuple[list[_Place], dict[_Place, str]]:
    """Return the place of each square, and the labels of rows and columns."""
    if unit == "day":
        return _by_week(starts)
    if unit in ("week", "month"):
        return _by_year(starts, weekly=unit == "week")
    if unit == "time":
        return _by_day(starts)
    places = [divmod(number, _COLUMNS["year"]) for number in range(len(starts))]
    return places, {(row, -1): labels[number] for number, (row, column) in enumerate(places) if column == 0}


def _by_week(days: Sequence[datetime]) -> tuple[list[_Place], dict[_Place, str]]:
    monday = days[0].date() - timedelta(days=days[0].weekday())
    places: list[_Place] = []
    names: dict[_Place, str] = {}
    last = (-2, 0, 0)  # row, column and month of the last label
    for day in days:
        band, column = divmod((day.date() - monday).days // 7, _COLUMNS["day"])
        top = 8 * band
        places.append((top + day.weekday(), column))
        names |= {(top + number, -1): name for number, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun"))}
        names.setdefault((top - 1, -1), f"{day:%Y}")
        # The first week of a month, unless its name would run into the one before.
        if last[0] != top - 1 or (day.month != last[2] and column - last[1] > 1):
            last = (top - 1, column, day.month)
            names[last[:2]] = f"{day:%b}"
    return places, names


def _by_year(days: Sequence[datetime], *, weekly: bool) -> tuple[list[_Place], dict[_Place, str]]:
    first = days[0].year
    months = [date(first, month, 1) for month in range(1, 13)]
    names = {(-1, _column(month, weekly=weekly)): f"{month:%b}"[: 3 if weekly else 1] for month in months}
    names |= {(day.year - first, -1): f"{day:%Y}" for day in days}
    return [(day.year - first, _column(day, weekly=weekly)) for day in days], names


def _column(day: date, *, weekly: bool) -> int:
    return (day.timetuple().tm_yday - 1) // 7 if weekly else day.month - 1


def _by_day(starts: Sequence[datetime]) -> tuple[list[_Place], dict[_Place, str]]:
    """Give each time of day a column; the second of two equal times of a day has its own."""
    clocks = [f"{start:%H:%M:%S}" + ("+" if start.fold else "") for start in starts]
    columns = {clock: number for number, clock in enumerate(sorted(set(clocks)))}
    width = _COLUMNS["time"]
    folded = len(columns) > width
    rows: dict[tuple[date, int], int] = {}
    names: dict[_Place, str] = {}
    places = []
    for start, clock in zip(starts, clocks, strict=True):
        part, column = divmod(columns[clock], width)
        row = rows.setdefault((start.date(), part), len(rows))
        places.append((row, column))
        names.setdefault((row, -1), f"{start:%Y-%m-%d %H:%M}" if folded else f"{start:%Y-%m-%d}")
    every = max(1, -(-len(columns) // 4))
    heads = {} if folded else {(-1, n): clock[:5] for clock, n in columns.items() if n % every == 0}
    return places, names | heads


def _area(row: int, column: int) -> str:
    return f"grid-row:{row + 2};grid-column:{column + 2}"


def _label(row: int, column: int, text: str) -> str:
    size = "padding-right:.5em" if column < 0 else "width:0"  # the name of a column may be wider than the column
    return f'<span aria-hidden="true" style="{_area(row, column)};{_LABEL_STYLE};{size}">{html.escape(text)}</span>'


def _fill(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shares = {state: counts[state] / total for state in COLOURS if counts.get(state) and state != _EMPTY}
    shares |= {state: max(share, _LEAST_SHARE) for state, share in shares.items() if state in _FAILED}
    scale = 100 / max(sum(shares.values()), 1)
    stops, level = [], 0.0
    for state, share in shares.items():
        stops.append(f"{COLOURS[state]} {level:.0f}% {level + scale * share:.0f}%")
        level += scale * share
    if len(stops) == 1 and round(level) == 100:  # noqa: PLR2004 - per cent
        return f"background:{COLOURS[next(iter(shares))]}"
    return (
        f"background:linear-gradient(0deg,{','.join(stops)},transparent {level:.0f}%) border-box"
        if stops
        else "background:none"
    )


def _mark(counts: Collection[str]) -> str:
    return _FAILED_MARK if any(state in counts for state in _FAILED) else ""


def _legend(states: Iterable[str]) -> str:
    items = "".join(
        f'<span style="white-space:nowrap"><b style="{_SAMPLE_STYLE};{_SQUARE_STYLE};{_fill({state: 1})}">'
        f"{_mark([state])}</b>{html.escape(state)}</span>"
        for state in states
    )
    return f'<div aria-hidden="true" style="{_LEGEND_STYLE}">{items}</div>'
