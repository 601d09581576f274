"""Charts of a run: how many rows ended their last attempts when, and how long these took."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from cloudtasks_nb.display.axis import (
    LINE,
    TRACK,
    dates_text,
    log_ticks,
    round_step,
    svg,
    text_svg,
    time_step,
    time_text,
    time_ticks,
)
from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, counted

__all__ = ["Durations", "Throughput", "durations_chart", "throughput_chart"]

_WIDE, _NARROW, _HEIGHT = 540, 380, 178  # pixels
_LEFT, _RIGHT, _TOP, _FLOOR = 52, 16, 28, 140  # where the bars are
_MOST_SPANS = 120
_SHORTEST_SPAN = 1_000_000  # microseconds, or a burst of a few tasks would look like thousands a second
_SHORTEST = 100  # microseconds; shorter durations are shown as this
_MOST_BINS = 30  # of the histogram
_LOG_FROM = 10  # the longest duration is so many times the median: then the axis is logarithmic
_PER_DECADE = 10  # bins of a logarithmic axis
_Ints: TypeAlias = npt.NDArray[np.int64]
_ACCENT = "var(--jp-brand-color1,#1976d2)"
_STRIPES = "stroke-dasharray:2.5 1"
_LIMIT = f"stroke:{COLOURS['failed']};stroke-width:1.5;stroke-dasharray:6 3"
_SWATCH = "stroke-width:20"  # of a bar in the legend
_NEAR = 4  # a limit is drawn if it is at most so many times the highest bar
_GAP = 3  # pixels; wider bars have a gap between them
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """Bars over an axis of times or durations; heights are numbers of rows."""

    width: int
    low: float  #: value at the left
    high: float
    most: float  #: rows in the highest bar
    log: bool = False
    least: float = 1  #: rows between two ticks, at least

    @property
    def top(self) -> float:
        """Number of rows at the top of the axis."""
        step = self.step
        return math.ceil(self.most / step) * step

    @property
    def step(self) -> float:
        """Rows between two ticks."""
        return max(round_step(self.most, 4), self.least)

    def x(self, value: float) -> float:
        low, high = self.low, self.high
        share = math.log(value / low) / math.log(high / low) if self.log else (value - low) / (high - low)
        return _LEFT + (self.width - _LEFT - _RIGHT) * min(max(share, 0.0), 1.0)

    def y(self, rows: float) -> float:
        return _FLOOR - (_FLOOR - _TOP) * rows / self.top

    def bars(self, edges: Sequence[float], spans: Iterable[tuple[float, float]], style: str) -> str:
        """Return bars between edges, each from a number of rows to another."""
        wide = self.x(edges[1]) - self.x(edges[0])
        lines = (
            f"M{self.x(edge) + wide / 2:.2f} {self.y(start):.2f}V{min(self.y(end), self.y(start) - 1):.2f}"
            for edge, (start, end) in zip(edges[:-1], spans, strict=True)
            if end > start
        )
        return f'<path d="{"".join(lines)}" style="fill:none;stroke-width:{wide - (wide > _GAP):.2f};{style}"/>'

    def line(self, rows: float) -> str:
        """Return the line of a limit."""
        return f'<path d="M{_LEFT} {self.y(rows):.1f}H{self.width - _RIGHT}" style="{_LIMIT}"/>'

    def tips(self, edges: Sequence[float], texts: Iterable[str]) -> Iterator[str]:
        """Yield a tooltip for each bar that has a text."""
        for start, end, text in zip(edges[:-1], edges[1:], texts, strict=True):
            if text:
                yield (
                    f'<rect x="{self.x(start):.2f}" y="{_TOP}" width="{self.x(end) - self.x(start):.2f}" '
                    f'height="{_FLOOR - _TOP}" fill="transparent"><title>{html.escape(text)}</title></rect>'
                )

    def axes(self, unit: str, ticks: Iterable[tuple[float, str]], name: str) -> Iterator[str]:
        """Yield lines and labels: upwards the rows per unit, to the right the ticks."""
        right = self.width - _RIGHT
        for number in range(round(self.top / self.step) + 1):
            rows = number * self.step
            style = f"stroke:{TRACK if number else LINE}"
            yield f'<path d="M{_LEFT} {self.y(rows):.1f}H{right}" style="{style}"/>'
            yield text_svg(_LEFT - 6, self.y(rows) + 4, count_text(rows), anchor="end")
        yield text_svg(0, 10, unit, anchor="start")
        free = 0.0
        for value, text in ticks:
            x = self.x(value)
            yield f'<path d="M{x:.1f} {_FLOOR}v4" style="stroke:{LINE}"/>'
            half = 3.2 * len(text)
            if x - half >= free and x + half <= self.width:
                free = x + half + 6
                yield text_svg(x, _FLOOR + 16, text)
        yield text_svg((_LEFT + right) / 2, _HEIGHT - 6, name, style="opacity:.8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """How many last attempts on rows ended in each of equal spans of time, without gaps."""

    start: int  #: of the first span, microseconds since 1970
    width: int  #: microseconds of a span
    succeeded: Sequence[int]
    failed: Sequence[int]
    limit: float | None = None  #: attempts a second that the queue allows

    @classmethod
    def of(cls, ended: _Ints, failed: _Ints) -> Self:
        """Count attempts in at most `_MOST_SPANS` spans of a round length.

        Parameters
        ----------
        ended : array of int
            When they ended, microseconds since 1970.
        failed : array of int
            Whether they failed: 0 or 1.
        """
        first, last = int(ended.min()), int(ended.max())
        least = max(_SHORTEST_SPAN, (last - first) / (_MOST_SPANS - 1))
        width = time_step(least)
        width *= math.ceil(least / width)  # of more than 119 years: clocks of handlers may be wrong
        spans = ended // width - first // width
        counts = np.bincount(2 * spans + failed, minlength=2 * int(spans.max()) + 2)
        succeeded, broken = counts[::2].tolist(), counts[1::2].tolist()
        return cls(start=first // width * width, width=width, succeeded=succeeded, failed=broken)

    @property
    def seconds(self) -> float:
        """Seconds of a span."""
        return self.width / _SECOND

    @property
    def most(self) -> float:
        """The most attempts a second in one span."""
        return max(map(sum, zip(self.succeeded, self.failed, strict=True)), default=0) / self.seconds

    def words(self) -> str:
        """Return the figures as a sentence."""
        limit = "" if self.limit is None else f" of {self.limit:g} that the queue allows"
        return (
            f"attempts over time: {sum(self.succeeded):,} succeeded, {sum(self.failed):,} failed, "
            f"at most {count_text(self.most)} a second{limit}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How many attempts took how long; at least one."""

    edges: Sequence[float]  #: seconds; one more than counts
    counts: Sequence[int]
    log: bool  #: the edges are equidistant on a logarithmic axis
    p50: float  #: seconds; half of the attempts took no longer
    p95: float
    longest: float

    @classmethod
    def of(cls, durations: _Ints) -> Self:
        """Count attempts by their durations, in microseconds."""
        seconds = np.maximum(durations, _SHORTEST) / _SECOND
        p50, p95 = np.quantile(seconds, [0.5, 0.95], method="inverted_cdf").tolist()
        shortest, longest = float(seconds.min()), float(seconds.max())
        edges, log = _edges(shortest, longest, p50)
        counts = np.histogram(np.clip(seconds, edges[0], edges[-1]), edges)[0].tolist()
        return cls(edges=edges, counts=counts, log=log, p50=p50, p95=p95, longest=longest)

    def words(self) -> str:
        """Return the figures as a sentence."""
        return (
            f"durations of {counted(sum(self.counts), 'attempts')}: half took at most {duration_text(self.p50)} (p50), "
            f"95 % at most {duration_text(self.p95)} (p95), the longest {duration_text(self.longest)}"
        )


def throughput_chart(data: Throughput, zone: tzinfo = UTC) -> str:
    """Return bars of the last attempts a second that succeeded and failed; those that failed are striped.

    The limit of the queue is a line if it is near. Times are written in `zone`.
    """
    low, high = data.start, data.start + data.width * len(data.succeeded)
    near = data.limit is not None and data.limit <= _NEAR * data.most
    most = max(data.most, data.limit if near and data.limit else 0, 1e-6)
    plot = _Plot(width=_WIDE, low=low, high=high, most=most, least=0)
    edges = [low + data.width * place for place in range(len(data.succeeded) + 1)]
    both = list(zip(data.succeeded, data.failed, strict=True))
    rates = [(good / data.seconds, bad / data.seconds) for good, bad in both]
    texts = [
        f"{time_text(edge, zone)}, {duration_text(data.seconds)}: {good:,} succeeded, {bad:,} failed"
        if good or bad
        else ""
        for edge, (good, bad) in zip(edges[:-1], both, strict=True)
    ]
    name = f"time ({dates_text(low, high, zone)})"
    parts = [
        *plot.axes("attempts/s", time_ticks(low, high, min(6, (high - low) // _SECOND), zone), name),
        *_legend(
            {
                "succeeded": _bar("succeeded"),
                **({"failed": _bar("failed")} if any(data.failed) else {}),
                **({} if data.limit is None else {f"limit {data.limit:g}/s{'' if near else ', far above'}": _LIMIT}),
            }
        ),
        plot.bars(edges, [(0, good) for good, _ in rates], f"stroke:{COLOURS['succeeded']}"),
        plot.bars(edges, [(good, good + bad) for good, bad in rates], f"stroke:{COLOURS['failed']};{_STRIPES}"),
        plot.line(data.limit) if near and data.limit is not None else "",
        *plot.tips(edges, texts),
    ]
    return svg(data.words(), _WIDE, _HEIGHT, parts, fluid=True)


def durations_chart(data: Durations) -> str:
    """Return a histogram of durations with marks at p50 and p95."""
    edges = data.edges
    plot = _Plot(width=_NARROW, low=edges[0], high=edges[-1], most=max(data.counts), log=data.log)
    texts = [
        f"{duration_text(start)} to {duration_text(end)}: {counted(count, 'rows')}" if count else ""
        for start, end, count in zip(edges[:-1], edges[1:], data.counts, strict=True)
    ]
    name = f"duration of the last attempt{' (logarithmic axis)' if data.log else ''}"
    parts = [
        *plot.axes("rows", [(at, duration_text(at)) for at in _duration_ticks(data)], name),
        plot.bars(edges, [(0, count) for count in data.counts], f"stroke:{_ACCENT};stroke-opacity:.75"),
        _mark(plot, data.p50, "p50", _TOP - 5, "end"),
        _mark(plot, data.p95, "p95", _TOP - 17, "start"),
        *plot.tips(edges, texts),
    ]
    return svg(data.words(), _NARROW, _HEIGHT, parts, fluid=True)


def _legend(styles: Mapping[str, str]) -> Iterator[str]:
    """Yield names at the top, each behind a line of its style."""
    x = _WIDE - _RIGHT - sum(_legend_width(name) for name in styles)
    for name, style in styles.items():
        line = f"M{x + 10:.0f} 3v8" if _SWATCH in style else f"M{x:.0f} 7h20"  # of a bar, upright as the bars are
        yield f'<path d="{line}" style="{style}"/>'
        yield text_svg(x + 25, 11, name, anchor="start")
        x += _legend_width(name)


def _bar(state: str) -> str:
    return f"stroke:{COLOURS[state]};{_SWATCH};{_STRIPES if state == 'failed' else ''}"


def _legend_width(name: str) -> float:
    return 36 + 5.8 * len(name)


def _duration_ticks(data: Durations) -> list[float]:
    low, high = data.edges[0], data.edges[-1]
    if data.log:
        return log_ticks(low, high)
    step = round_step(high - low, 5)
    return [step * number for number in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]


def _mark(plot: _Plot, seconds: float, name: str, y: float, anchor: str) -> str:
    """Return a line at a duration, with its name and value at its top, on one side."""
    x = plot.x(seconds)
    text = f"{name} {duration_text(seconds)}"
    beside = 3 if anchor == "start" else -3
    if not _LEFT <= x + beside * 2.5 * len(text) <= plot.width:  # no room on this side: about 7 pixels a character
        anchor, beside = ("end", -3) if anchor == "start" else ("start", 3)
    line = f'<path d="M{x:.1f} {y - 9}V{_FLOOR}" style="stroke:{LINE};stroke-width:1.5;stroke-dasharray:4 2"/>'
    return line + text_svg(x + beside, y, text, anchor=anchor, style="font-weight:600")


def _edges(shortest: float, longest: float, median: float) -> tuple[list[float], bool]:
    """Return round edges of bins from the shortest to the longest duration, and whether the axis is logarithmic."""
    log = longest > _LOG_FROM * median or median > _LOG_FROM * shortest
    if log:
        low, high = (math.log10(one) * _PER_DECADE for one in (shortest, longest))
        each = math.ceil((high - low) / (2 * _MOST_BINS))
        numbers = range(math.floor(low / each), math.floor(high / each) + 2)
        return [10 ** (number * each / _PER_DECADE) for number in numbers], True
    step = round_step(max(longest - shortest, longest / _MOST_BINS), _MOST_BINS)
    numbers = range(math.floor(shortest / step), math.floor(longest / step) + 2)
    return [number * step for number in numbers], False
