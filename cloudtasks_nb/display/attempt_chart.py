"""A chart of the attempts on one task: when it waited, when it ran, and when it is tried again."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo

from cloudtasks_nb.display.axis import LINE, TRACK, dates_text, svg, text_svg, time_text, time_ticks
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted

__all__ = ["Attempt", "attempts_chart"]

_WIDTH, _LEFT, _RIGHT, _TOP = 640, 34, 460, 18  # pixels; the answers stand on the right of the axis
_LANES = 240  # height of all attempts, if they have to share it
_LOWEST, _HIGHEST, _READABLE = 3.0, 18.0, 13.0  # heights of an attempt, and of one that has a text
_THINNEST = 3.0  # width of the shortest run
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt; times are microseconds since 1970."""

    name: str  #: its number, or what else happened
    due: int | None  #: for when it was scheduled; None: that is not known
    start: int
    end: int
    answer: str  #: a canonical code; empty: that is not known

    @property
    def text(self) -> str:
        """The answer with a sign, and how long it took."""
        sign = ("✓ " if self.answer == "OK" else "✗ ") if self.answer else ""
        took = [duration_text((self.end - self.start) / _SECOND)] if self.end > self.start else []
        return f"{sign}{', '.join([self.answer or 'answer not known', *took])}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    low: int
    high: int
    lane: float  #: height of an attempt
    lanes: int
    zone: tzinfo

    @property
    def floor(self) -> float:
        return _TOP + self.lane * self.lanes + 4

    def x(self, at: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (at - self.low) / (self.high - self.low)

    def y(self, number: int) -> float:
        """Return the middle of a lane."""
        return _TOP + self.lane * (number + 0.5)


def attempts_chart(
    attempts: Sequence[Attempt], *, retry: int | None = None, now: int | None = None, zone: tzinfo = UTC
) -> str:
    """Return the attempts below each other: thin lines are waits, bars are runs, the dashed line ends at the next try.

    Parameters
    ----------
    attempts : sequence of Attempt
        At least one, oldest first.
    retry : int, optional
        When the task is tried again, microseconds since 1970.
    now : int, optional
        Is marked; None if nothing more happens to the task.
    zone : tzinfo
        Of the times that are written.
    """
    first, last = attempts[0], attempts[-1]
    low = min(first.start, first.start if first.due is None else first.due)
    high = max(*(one.end for one in attempts), retry or 0, now or 0, low + 1)
    lanes = len(attempts) + (retry is not None)
    lane = min(max(_LANES / lanes, _LOWEST), _HIGHEST)
    axis = _Axis(low=low, high=high, lane=lane, lanes=lanes, zone=zone)
    parts = list(_time_axis(axis))
    labelled = -_READABLE
    for number, one in enumerate(attempts):
        begin = attempts[number - 1].end if number else low
        parts += _lane(axis, number, one, begin)
        if axis.y(number) - labelled >= _READABLE:
            labelled = axis.y(number)
            parts += _labels(axis, number, one.name, one.text)
    if retry is not None:
        y = axis.y(lanes - 1)
        style = f"stroke:{colour('retrying')};stroke-width:2;stroke-dasharray:5 3"
        parts.append(f'<path d="M{axis.x(last.end):.1f} {y:.1f}H{axis.x(retry):.1f}m0 -4v8" style="{style}"/>')
        parts += _labels(axis, lanes - 1, "next", f"next try {time_text(retry // _SECOND * _SECOND, zone)}")
    if now is not None:
        x = axis.x(now)
        parts.append(f'<path d="M{x:.1f} {_TOP - 4}V{axis.floor:.1f}" style="stroke:{LINE};stroke-dasharray:1 2"/>')
        parts.append(text_svg(x, _TOP - 7, "now"))
    words = _words(attempts, retry, zone)
    return f'<div style="max-width:{_WIDTH}px">{svg(words, _WIDTH, axis.floor + 36, parts, fluid=True)}</div>'


def _time_axis(axis: _Axis) -> Iterator[str]:
    yield f'<path d="M{_LEFT} {axis.floor:.1f}H{_RIGHT}" style="stroke:{LINE}"/>'
    free = 0.0
    for at, text in time_ticks(axis.low, axis.high, 5, axis.zone):
        x = axis.x(at)
        yield f'<path d="M{x:.1f} {_TOP}V{axis.floor + 4:.1f}" style="stroke:{TRACK}"/>'
        if x - 3.2 * len(text) >= free:
            free = x + 3.2 * len(text) + 6
            yield text_svg(x, axis.floor + 16, text)
    name = f"time ({dates_text(axis.low, axis.high, axis.zone)})"
    yield text_svg((_LEFT + _RIGHT) / 2, axis.floor + 31, name, style="opacity:.8")


def _lane(axis: _Axis, number: int, attempt: Attempt, begin: int) -> Iterator[str]:
    """Yield the wait before an attempt, and its run."""
    x, y, thick = axis.x(attempt.start), axis.y(number), max(axis.lane - 6, 2.0)
    yield f'<path d="M{min(axis.x(begin), x):.1f} {y:.1f}H{x:.1f}" style="stroke:{LINE}"/>'
    wide = max(axis.x(attempt.end) - x, _THINNEST)
    tip = html.escape(f"{attempt.name}: {attempt.text}")
    yield (
        f'<rect x="{x:.1f}" y="{y - thick / 2:.1f}" width="{wide:.1f}" height="{thick:.1f}" rx="1" '
        f'style="fill:{colour(attempt.answer or "gone")}"><title>{tip}</title></rect>'
    )


def _labels(axis: _Axis, number: int, left: str, right: str) -> list[str]:
    y = axis.y(number) + 4
    return [text_svg(_LEFT - 6, y, left, anchor="end"), text_svg(_RIGHT + 10, y, right, anchor="start")]


def _words(attempts: Sequence[Attempt], retry: int | None, zone: tzinfo) -> str:
    """Return the figures as a sentence."""
    answers = Counter(one.answer or "not known" for one in attempts).most_common()
    start, end = (time_text(at // _SECOND * _SECOND, zone) for at in (attempts[0].start, attempts[-1].end))
    again = f"; next try {time_text(retry // _SECOND * _SECOND, zone)}" if retry is not None else ""
    found = ", ".join(f"{count} {answer}" for answer, count in answers)
    return f"{counted(len(attempts), 'attempts')} from {start} to {end}: {found}{again}"
