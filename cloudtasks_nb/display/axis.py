"""Axes of charts: round ticks, the labels of times, and SVG in the theme's colours."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo

__all__ = [
    "LINE",
    "TEXT",
    "TRACK",
    "dates_text",
    "log_ticks",
    "round_step",
    "svg",
    "text_svg",
    "time_step",
    "time_text",
    "time_ticks",
]

TEXT = "var(--jp-ui-font-color1,CanvasText)"
#: Colour of lines that stand behind the data.
TRACK = f"color-mix(in srgb,{TEXT} 16%,transparent)"
#: Colour of lines that belong to the axes.
LINE = f"color-mix(in srgb,{TEXT} 55%,transparent)"

_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000  # microseconds
_STEPS = (
    *(number * 10**power for power in range(2, 6) for number in (1, 2, 5)),
    *(number * _SECOND for number in (1, 2, 5, 10, 15, 30)),
    *(number * _MINUTE for number in (1, 2, 5, 10, 15, 30)),
    *(number * _HOUR for number in (1, 2, 3, 6, 12)),
    *(number * _DAY for number in (1, 2, 7, 14, 28, 91, 182, 364)),
)
_ROUND_SECONDS = (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3_600, 36_000, 86_400, 864_000)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def round_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that divides `span` into at most `most` steps.

    Examples
    --------
    >>> round_step(100, 4), round_step(7, 4), round_step(0.03, 10)
    (50.0, 2.0, 0.005)
    """
    least = max(span, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(least))
    found = next(number for number in (1, 2, 5, 10) if number * power >= least * (1 - 1e-9))
    return float(f"{found * power:.9g}")


def time_step(least: float) -> int:
    """Return the shortest round span of time, in microseconds, that is not below `least`; at most 52 weeks."""
    return next((step for step in _STEPS if step >= least), _STEPS[-1])


def time_ticks(low: int, high: int, most: int, zone: tzinfo = UTC) -> list[tuple[int, str]]:
    """Return times between two (microseconds since 1970) that are round in a zone, each with its label.

    At most about `most`.
    """
    step = time_step((high - low) / most)
    ahead = (_moment(low, zone).utcoffset() or timedelta()) // timedelta(microseconds=1)
    first = -(-(low + ahead) // step) * step - ahead
    return [(at, _time_label(_moment(at, zone), step)) for at in range(first, high + 1, step)]


def time_text(at: int, zone: tzinfo = UTC) -> str:
    """Return the time of day of a time (microseconds since 1970), with what it has of a second."""
    return _time_label(_moment(at, zone), 1)


def dates_text(low: int, high: int, zone: tzinfo = UTC) -> str:
    """Return the days of an axis and their zone: ``2026-01-02 to 2026-01-03, UTC``."""
    return f"{' to '.join(dict.fromkeys(f'{_moment(at, zone):%Y-%m-%d}' for at in (low, high)))}, {zone}"


def log_ticks(low: float, high: float) -> list[float]:
    """Return round durations between two, in seconds, for a logarithmic axis."""
    return [at for at in _ROUND_SECONDS if low <= at <= high]


def text_svg(x: float, y: float, text: str, *, anchor: str = "middle", style: str = "") -> str:
    """Return a text at a place of a chart."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{TEXT};{style}">{html.escape(text)}</text>'
    )


def svg(name: str, width: float, height: float, parts: Iterable[str], *, fluid: bool = False) -> str:
    """Return a chart with its accessible name, which is its tooltip too.

    Parameters
    ----------
    fluid : bool
        Fill the width of the parent; the text grows and shrinks with it.
    """
    size = 'style="display:block;width:100%;height:auto' if fluid else f'width="{width}" height="{height}" style="'
    return (
        f'<svg role="img" aria-label="{html.escape(name)}" viewBox="0 0 {width} {height}" '
        f'{size};vertical-align:middle;font-size:11px"><title>{html.escape(name)}</title>{"".join(parts)}</svg>'
    )


def _moment(at: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=at)).astimezone(zone)


def _time_label(at: datetime, step: int) -> str:
    if step >= _DAY or (step >= _HOUR and at.hour == at.minute == 0):
        return f"{at:%Y-%m-%d}"
    if step >= _MINUTE:
        return f"{at:%H:%M}"
    text = f"{at:%H:%M:%S}"
    return text if step >= _SECOND else f"{text}.{at.microsecond:06}".rstrip("0").rstrip(".")
