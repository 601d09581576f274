"""Make the rows of a backfill: the whole periods of a range of dates, crossed with other values.

Periods start at boundaries in the local time of a zone, so that a day has 23 or 25 hours when the clock is changed. The
boundaries depend on the frequency and the zone only: a longer range has the same ones.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries import offsets
from pandas.tseries.frequencies import to_offset

from cloudtasks_nb._settings import did_you_mean, parse_zone, wrong_argument
from cloudtasks_nb.display.calendar import starts_in
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["COLUMNS", "Freq", "Partitions", "combinations", "one_zone", "parse_freq", "partition", "period_rows"]

#: The columns that describe a row's period.
COLUMNS = ("start", "end", "partition")

_SECOND, _MINUTE = dt.timedelta(seconds=1), dt.timedelta(minutes=1)
_HOUR, _DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
_YEAR, _QUARTER = 12, 3  # months
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_EPOCH = dt.date(1970, 1, 1)
_MAX_OFFSET = dt.timedelta(days=2)  # more than the difference of any local time from UTC
_YEARS = range(1700, 2200)  # Timestamps in nanoseconds hold these years, and the periods around them
_MAX_PARTITIONS = 5_000_000  # more are a mistake in the frequency
_MAX_ROWS = 10_000_000  # they are held in memory
#: Months of what pandas calls ``YS`` or ``YE``, and so on.
_OF_MONTHS = {"Y": _YEAR, "Q": _QUARTER, "M": 1}
_UNITS = (("D", 86_400), ("h", 3_600), ("min", 60), ("s", 1))  # seconds
_ALIASES = ("D", "h", "min", "s", "W", "W-MON", "MS", "ME", "QS", "QE", "YS", "YE")
_FREQ_HINT = 'use "D", "h", "15min", "W" (from Sundays), "W-MON", "MS", "QS", "YS", or a multiple such as "2D"'
_NAMED = 5  # zones that are shown
_ZONE_COLUMN = re.compile(r"\{([^{}]+)\}")
_ACROSS = 'across={"shop": ["a", "b"]}, or a DataFrame with a row a combination'


@dataclass(frozen=True, slots=True, kw_only=True)
class Freq:
    """How long a period is, and where on the calendar it starts."""

    name: str  #: the same for the same periods: ``24h`` is ``D``, ``ME`` is ``MS``
    step: dt.timedelta | None = None  #: length in local time; None if it is a number of months
    months: int = 0
    first: int = 0  #: seconds, or months, from 1970 on to a boundary

    @property
    def dated(self) -> bool:
        """Whether every period starts at a midnight."""
        return self.step is None or not self.step % _DAY

    def boundaries(self, first: dt.datetime, last: dt.datetime) -> list[dt.datetime]:
        """Return the boundaries in local time, from the last one not after `first` to the first one after `last`."""
        unit, length = ("M", self.months) if self.step is None else ("s", self.step // _SECOND)
        low, high = np.array([first, last], "datetime64[us]").astype(f"datetime64[{unit}]").astype("int64").tolist()
        numbers = np.arange(low - (low - self.first) % length, high + length + 1, length)
        return numbers.astype(f"datetime64[{unit}]").astype("datetime64[us]").tolist()

    def counted(self, count: int) -> str:
        """Return this number of periods as text: ``90 days``, ``1 quarter``, ``45 periods of 2 hours``."""
        number, unit, _ = self._words
        return counted(count, f"{unit}s") if number == 1 else f"{counted(count, 'periods')} of {number} {unit}s"

    @property
    def plural(self) -> str:
        """The periods in words, with the weekday or month in which they begin if that has to be named."""
        number, unit, anchor = self._words
        start = f" from {anchor}" if anchor else ""
        return f"{unit}s{start}" if number == 1 else f"periods of {number} {unit}s{start}"

    @property
    def _words(self) -> tuple[int, str, str]:
        """The number of units in a period, the unit, and its anchor; empty for January, which is the usual one."""
        offset = to_offset(self.name)  # a Day, Week, QuarterBegin …
        unit = type(offset).__name__.removesuffix("Begin").lower()
        begin = pd.Timestamp(1970, 1 + self.first, 1) if self.months else pd.Timestamp(self.first, unit="s")
        anchor = begin.month_name() if self.months else begin.day_name()
        return offset.n, unit, anchor if "-" in self.name and not self.name.endswith("-JAN") else ""

    def labels(self, starts: pd.DatetimeIndex) -> list[str]:
        """Return a short and unique name for each period, from where it starts."""
        label = self._date_label if self.dated else self._time_label
        return [label(moment) for moment in starts.to_pydatetime().tolist()]

    def _time_label(self, start: dt.datetime) -> str:
        """Return a time as short as the length of the periods allows, with its offset: it may come twice."""
        step = self.step or _DAY
        if step % _MINUTE or start.second:
            return start.isoformat(timespec="seconds")
        return start.isoformat(timespec="minutes" if step % _HOUR or start.minute else "hours")

    def _date_label(self, start: dt.datetime) -> str:
        if self.name == "QS-JAN":
            return f"{start.year}-Q{(start.month + 2) // _QUARTER}"
        usual = "%Y-%m" if self.step is None else "%Y-%m-%d"
        return start.strftime({"W-MON": "%G-W%V", "YS-JAN": "%Y"}.get(self.name, usual))


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitions:
    """Periods in ascending order; each ends where the next one starts."""

    bounds: pd.DatetimeIndex  #: the start of each period and the end of the last one, in the zone
    freq: Freq
    tz: str  #: with ``{column}`` each row has a zone of its own, and the periods here are those in UTC
    requested: tuple[pd.Timestamp, pd.Timestamp]  #: the range that the user asked for, in the zone
    zones: Sequence[str] = ()  #: those of the rows, if each has its own

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __str__(self) -> str:
        labels = self.freq.labels(self.starts[[0, -1]])
        span = labels[0] if len(self) == 1 else f"{labels[0]} … {labels[1]}"
        if not self.zones:
            return f"{span}, {self.freq.counted(len(self))} in {self.tz}"
        zones = ", ".join([*self.zones[:_NAMED], *["…"] * (len(self.zones) > _NAMED)])
        # the clocks of some may change: no count of periods holds for all
        return f"{span}, {self.freq.plural} in {counted(len(self.zones), 'zones')}: {zones}"

    def among(self, rows: pd.DataFrame) -> Partitions:
        """Return the periods with the zones that rows have."""
        named = _ZONE_COLUMN.fullmatch(self.tz)
        return replace(self, zones=rows[named[1]].unique().tolist()) if named and named[1] in rows else self

    @property
    def notes(self) -> list[str]:
        """Notes for the user: where the periods reach beyond the requested range, or perhaps not far enough."""
        start, end = self.requested
        found = []
        if self.bounds[0] < start:
            found.append(f"the first partition begins {_date_text(self.bounds[0])}, before {_date_text(start)}")
        whole_day = end == _midnight(end)  # `end` was given as a date; for periods of hours it means its midnight
        reach = _midnight(end, days=1) if whole_day and self.freq.dated else end
        if self.bounds[-1] - reach > _MINUTE and (self.freq.dated or self.bounds[-2] != end):
            found.append(f"the last partition ends {_date_text(self.bounds[-1])}, after {_date_text(end)}")
        if whole_day and not self.freq.dated and self.bounds[-1] < _midnight(end, days=1):
            day = f"{end:%Y-%m-%d}"
            found.append(f'the last partition begins {day} {end:%H:%M}: end="{day} 23:59" takes that whole day')
        return found

    @property
    def starts(self) -> pd.DatetimeIndex:
        """The start of each period, in the zone; without one if each row has its own."""
        return starts_in(self.bounds[:-1], one_zone(self.tz))

    def frame(self, *, newest_first: bool = False) -> pd.DataFrame:
        """Return a row a partition: `start`, `end`, and `partition`, its label."""
        starts = self.bounds[:-1]
        values = (starts, self.bounds[1:], pd.array(self.freq.labels(starts), "string"))
        made = pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))
        return made.iloc[::-1].reset_index(drop=True) if newest_first else made


def partition(start: Any, end: Any, *, freq: Any, tz: Any = "UTC") -> Partitions:
    """Return the whole periods that touch the range from `start` to `end`, both included as in `pd.date_range`.

    Parameters
    ----------
    start, end : str, date, datetime or Timestamp
        Times without a zone are local times of `tz`; others are converted to it.
    freq : str or pandas offset
        ``D``, ``h``, ``15min``, ``W`` (from Sundays), ``W-MON``, ``MS``, ``QS``, ``YS``. ``ME``, ``QE`` and ``YE`` mean
        the same periods as ``MS``, ``QS`` and ``YS``. Multiples are counted from 1970 on.
    tz : str or tzinfo
        The periods start at boundaries in its local time; ``"{column}"`` for a zone a row. A boundary that a change of
        the clock skips moves to the end of the gap. If a change repeats a boundary, the first one counts; for periods
        of up to an hour both count.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    # A zone is stored by its name, so any tzinfo is reduced to the zone of its name.
    periods, zone = parse_freq(freq), one_zone(tz if isinstance(tz, dt.timezone) else str(tz))
    clock = zone or dt.UTC
    first, last = _end_of_range(start, "start", clock), _end_of_range(end, "end", clock)
    if last < first:
        raise wrong_argument("end", str(end), f"is before start={str(start)!r}", "swap them: the older one is start")
    if zone is None and (pd.Timestamp(start).tzinfo or pd.Timestamp(end).tzinfo):
        hint = "leave the zone of start and end out"
        raise wrong_argument("tz", tz, "are several zones, so start and end are local times of each", hint)
    _check_count(periods, first, last)
    local_times = periods.boundaries(first.tz_localize(None) - _MAX_OFFSET, last.tz_localize(None) + _MAX_OFFSET)
    repeated = periods.step is not None and periods.step <= _HOUR
    found = sorted(set(_in_utc(local_times, clock, repeated=repeated)))
    moments = pd.DatetimeIndex(found).as_unit("us").tz_convert(clock)
    begin, stop = (int(place) for place in moments.searchsorted(pd.DatetimeIndex([first, last]), side="right"))
    return Partitions(bounds=moments[begin - 1 : stop + 1], freq=periods, tz=str(zone or tz), requested=(first, last))


def one_zone(tz: Any) -> dt.tzinfo | None:
    """Parse the time zone of periods; None for ``"{column}"``, a zone a row."""
    return None if isinstance(tz, str) and _ZONE_COLUMN.fullmatch(tz) else parse_zone(tz)


def parse_freq(freq: Any) -> Freq:
    """Read a frequency of pandas whose periods follow each other without gaps.

    Raises
    ------
    InvalidInputError
        If pandas does not know it, or its periods have gaps.
    """
    offset = _offset(freq)
    if offset.n < 1:
        raise wrong_argument("freq", freq, "does not go forward", _FREQ_HINT)
    if isinstance(offset, offsets.Day):
        return _of_fixed_length(freq, offset.n * 86_400 * 10**9)
    if isinstance(offset, offsets.Tick):
        return _of_fixed_length(freq, offset.nanos)
    kind, _, anchor = offset.freqstr.lstrip("0123456789").partition("-")
    if kind == "W" and anchor:
        first = (offset.weekday - _EPOCH.weekday()) % 7
        return Freq(name=offset.freqstr, step=offset.n * 7 * _DAY, first=first * 86_400)
    if re.fullmatch("[YQM][SE]", kind):
        ends = kind in ("YE", "QE")  # the anchor is the month in which a period ends
        return _monthly(offset.n * _OF_MONTHS[kind[0]], (_MONTHS.index(anchor) if anchor else 0) + ends)
    hint = f"{_FREQ_HINT}; for days of your own choice use queue.fan_out with a DataFrame of them"
    raise wrong_argument("freq", freq, "has gaps between its periods", hint)


def _offset(freq: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # spellings that pandas is about to drop
            offset = to_offset(freq)
    except (ValueError, TypeError, FutureWarning, DeprecationWarning):
        why = f"is not a pandas frequency{did_you_mean(str(freq), _ALIASES)}"
        raise wrong_argument("freq", freq, why, _FREQ_HINT) from None
    if offset is None:
        raise wrong_argument("freq", None, "is not the length of a period", _FREQ_HINT)
    return offset


def _of_fixed_length(freq: Any, nanoseconds: int) -> Freq:
    seconds, rest = divmod(nanoseconds, 10**9)
    if rest:
        raise wrong_argument("freq", freq, "is not in whole seconds", _FREQ_HINT)
    unit, size = next((unit, size) for unit, size in _UNITS if not seconds % size)
    count = seconds // size
    return Freq(name=unit if count == 1 else f"{count}{unit}", step=seconds * _SECOND)


def _monthly(months: int, first: int) -> Freq:
    """Return periods of this number of months; `first` is a month, counted from 0, in which a period begins."""
    first %= min(months, _YEAR)
    letter, unit = next((letter, size) for letter, size in _OF_MONTHS.items() if not months % size)
    name = "MS" if letter == "M" else f"{letter}S-{_MONTHS[first]}"
    return Freq(name=name if months == unit else f"{months // unit}{name}", months=months, first=first)


def _end_of_range(value: Any, name: str, tz: dt.tzinfo) -> pd.Timestamp:
    """Read the start or the end of the range."""
    moment: Any = pd.NaT
    if isinstance(value, (str, dt.date, np.datetime64)) and value not in ("now", "today"):
        with suppress(ValueError, OverflowError):
            moment = pd.Timestamp(value)
    if moment is pd.NaT or moment.year not in _YEARS:
        hint = f'{name}="2026-01-31", "2026-01-31 06:00", a date or a Timestamp'
        raise wrong_argument(name, value, f"is not a date or time between {_YEARS[0]} and {_YEARS[-1]}", hint)
    if moment.tzinfo is None:
        (moment,) = _in_utc([moment.floor("us").to_pydatetime()], tz, repeated=False)
    return pd.Timestamp(moment).as_unit("us").tz_convert(tz)


def _check_count(freq: Freq, first: pd.Timestamp, last: pd.Timestamp) -> None:
    step = freq.step or freq.months * 28 * _DAY
    if (count := (last - first) // step) > _MAX_PARTITIONS:
        raise InvalidInputError(
            f"from {_date_text(first)} to {_date_text(last)} there are {freq.counted(count)}",
            resource="freq",
            hint=f"use a longer freq, or cut the range into parts of at most {_MAX_PARTITIONS:,} periods",
        )


def _in_utc(local_times: Iterable[dt.datetime], tz: dt.tzinfo, *, repeated: bool) -> Iterable[dt.datetime]:
    """Convert local times to UTC; a time that a change of the clock skips becomes the end of the gap.

    A time that the change repeats is its first occurrence; with `repeated` both are yielded.

    pandas' own `tz_localize` is not used: its "shift_forward" gives a time an hour late where a clock jumps by a day
    (Apia, 2011) or by half an hour (Lord Howe).
    """
    for local in local_times:
        first = local.replace(tzinfo=tz, fold=0).astimezone(dt.UTC)
        second = local.replace(tzinfo=tz, fold=1).astimezone(dt.UTC)
        if first > second:
            yield _clock_change(second, first, tz)
            continue
        yield first
        if repeated:
            yield second


def _clock_change(before: dt.datetime, after: dt.datetime, tz: dt.tzinfo) -> dt.datetime:
    """Return the second between two times in which the clock was put forward, by bisection."""
    offset = before.astimezone(tz).utcoffset()
    moments = range((after - before) // _SECOND + 1)
    later = bisect_right(moments, False, key=lambda at: (before + at * _SECOND).astimezone(tz).utcoffset() != offset)
    return (before + later * _SECOND).replace(microsecond=0)


def _midnight(moment: pd.Timestamp, days: int = 0) -> pd.Timestamp:
    """Return the first moment of the day of a time, or of a later day."""
    tz: Any = moment.tzinfo
    (found,) = _in_utc([dt.datetime.combine(moment.date() + days * _DAY, dt.time())], tz, repeated=False)
    return pd.Timestamp(found).tz_convert(tz)


def _date_text(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d}" if moment == _midnight(moment) else f"{moment:%Y-%m-%d %H:%M}"


def period_rows(
    partitions: Partitions, across: Any, *, newest_first: bool = False, count: int | None = None
) -> pd.DataFrame:
    """Return the rows of a backfill, or the first few: each period with each combination, in its zone.

    Raises
    ------
    InvalidInputError
        As `combinations`, or if one is there twice; if `tz` names no column of `across`, or one whose values are no
        zones.
    """
    named, table = _ZONE_COLUMN.fullmatch(partitions.tz), combinations(across)
    if named is None:
        return _cross(partitions.frame(newest_first=newest_first).iloc[:count], table).iloc[:count]
    column = named[1]
    if table is None or column not in table:
        near = "" if table is None else did_you_mean(column, table.columns)
        hint = 'across=shops, a DataFrame with a row a shop: pd.DataFrame({"shop": ["bern"], "tz": ["Europe/Zurich"]})'
        raise wrong_argument("tz", partitions.tz, f"names no column of across{near}", hint)
    start, end = (moment.tz_localize(None) for moment in partitions.requested)
    parts = []
    for zone, combined in table.groupby(column, sort=False, dropna=False):
        periods = partition(start, end, freq=partitions.freq.name, tz=zone).frame(newest_first=newest_first)
        part = _cross(periods.astype({"start": object, "end": object}).iloc[:count], combined)
        parts.append(part.set_index(part.index // len(combined)))
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True).iloc[:count]


def _cross(frame: pd.DataFrame, table: pd.DataFrame | None) -> pd.DataFrame:
    """Return each row of a frame with each combination of other values, if there are any."""
    if table is None:
        return frame
    _check_size(len(frame), len(table))
    twice = table[table.astype(object).map(repr).duplicated()]  # repr: lists have no hash
    if len(twice):
        raise InvalidInputError(
            f"across has {counted(len(twice), 'combinations')} twice: {twice.iloc[0].to_dict()}",
            resource="across",
            hint="drop_duplicates() or unique() leaves one of each",
        )
    return frame.merge(table, how="cross")


def combinations(across: Any) -> pd.DataFrame | None:
    """Return the combinations that `across` has, a row each, its columns in the order of their names; None for none.

    Raises
    ------
    InvalidInputError
        If there are none, or one has the name of a column that every backfill has.
    """
    if across is None:
        return None
    table = _table(across)
    for name in table.columns:
        if name in COLUMNS:
            raise InvalidInputError(
                f'across has a column "{name}", which every backfill has', resource=name, hint="rename it"
            )
    if not len(table) or not len(table.columns):
        raise InvalidInputError("across is empty, so there is nothing to do", resource="across", hint=_ACROSS)
    return table[sorted(table.columns)]


def _table(across: Any) -> pd.DataFrame:
    if isinstance(across, pd.DataFrame):
        if isinstance(across.columns, pd.MultiIndex):
            raise InvalidInputError("the names of across have several levels", resource="across", hint=_ACROSS)
        levels = [name for name in across.index.names if name is not None and name not in across.columns]
        table = across.reset_index(levels).reset_index(drop=True).rename(columns=str)
    elif isinstance(across, Mapping):
        columns = [_values(str(name), values) for name, values in across.items()]
        table = columns[0] if columns else pd.DataFrame()
        for column in columns[1:]:
            _check_size(len(table), len(column))
            table = table.merge(column, how="cross")
    else:
        raise InvalidInputError(f"across={type(across).__name__} names no columns", resource="across", hint=_ACROSS)
    return table


def _check_size(one: int, other: int) -> None:
    if one * other > _MAX_ROWS:
        raise InvalidInputError(
            f"{one:,} rows crossed with {other:,} are more than {_MAX_ROWS:,}",
            resource="across",
            hint="backfill parts of the range, or of across, one after the other: they become one batch",
        )


def _values(name: str, values: Any) -> pd.DataFrame:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidInputError(f'across["{name}"]={values!r} is not a list', resource=name, hint=_ACROSS)
    plain = values if hasattr(values, "dtype") else list(values)
    return pd.DataFrame({name: pd.Series(plain).reset_index(drop=True)})
