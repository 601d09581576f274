"""Small charts as HTML: pure functions, everything escaped, drawn in the theme's colours.

Nothing is shown by colour alone: each mark has its words in a tooltip, in the chart's accessible name or beside it.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from cloudtasks_nb.display.colours import COLOURS, colour
from cloudtasks_nb.display.plural import count_text, counted

__all__ = ["Square", "calendar", "sparkline", "state_bar"]

_TEXT = "var(--jp-ui-font-color1,CanvasText)"
_FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px)"
_ACCENT = "var(--jp-brand-color1,#1976d2)"
_TRACK = f"color-mix(in srgb,{_TEXT} 12%,transparent)"

#: From done to not begun, so that a bar fills from the left.
_BAR_ORDER = (
    "succeeded",
    "failed",
    "rejected",
    "cancelled",
    "gone",
    "running",
    "retrying",
    "ready",
    "queued",  # in the queue, in a state that is not known
    "scheduled",
    "unsent",
)
_BAR_WIDTH = 1_000
_LEAST = 6  # of the bar's width: three failures of 300,000 are seen


def sparkline(values: Sequence[float | None], *, label: str, width: int = 160, height: int = 32) -> str:
    """Return a line chart of a figure over time, such as a queue's depth.

    Parameters
    ----------
    values : sequence of float or None
        Oldest first, at even distances in time; None where the figure is not known, which leaves a gap.
    label : str
        Name of the figure: ``"depth of reports"``.
    width, height : int
        Size in pixels.
    """
    known = [value for value in values if value is not None]
    name = f"{label}: {_course(values, known)}"
    top = max([*known, 1])
    step = (width - 6) / max(len(values) - 1, 1)
    points = [
        None if value is None else (3 + place * step, height - 3 - (height - 6) * max(value, 0) / top)
        for place, value in enumerate(values)
    ]
    marks = [_stretch(list(run), height - 3) for seen, run in groupby(points, key=lambda p: p is not None) if seen]
    if points and points[-1] is not None:
        x, y = points[-1]
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" style="fill:{_ACCENT}"/>')
    base = f'<path d="M3 {height - 2.5}H{width - 3}" style="stroke:{_TRACK}"/>'
    return (
        f'<svg role="img" aria-label="{html.escape(name)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="vertical-align:middle"><title>{html.escape(name)}</title>'
        f"{base}{''.join(marks)}</svg>"
    )


def state_bar(counts: Mapping[str, int | None], *, label: str) -> str:
    """Return counts by state as a stacked bar with a legend.

    Parameters
    ----------
    counts : mapping
        State to count; a count of None is not known and not drawn.
    label : str
        The subject: ``"batch a91f03c2"``.
    """
    states = [*_BAR_ORDER, *(state for state in counts if state not in _BAR_ORDER)]
    shown = [(state, count) for state in states if (count := counts.get(state))]
    total = sum(count for _, count in shown)
    widths = [max(_BAR_WIDTH * count / total, _LEAST) for _, count in shown]
    scale = _BAR_WIDTH / sum(widths) if widths else 0
    parts, left = [], 0.0
    for (state, count), width in zip(shown, widths, strict=True):
        tip = html.escape(f"{state}: {count_text(count)} of {count_text(total)} ({_percent(count, total)})")
        parts.append(
            f'<rect x="{left:.2f}" width="{max(width * scale - 1.5, 1):.2f}" height="12" fill="{colour(state)}">'
            f"<title>{tip}</title></rect>"
        )
        left += width * scale
    name = html.escape(f"{label}: {_in_words(dict(shown), 'tasks')}")
    bar = (
        f'<svg role="img" aria-label="{name}" viewBox="0 0 {_BAR_WIDTH} 12" preserveAspectRatio="none" '
        f'style="display:block;width:100%;height:12px;border-radius:6px;overflow:hidden;background:{_TRACK}">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )
    words = "".join(_legend_item(state, count) for state, count in shown) or "<span>nothing yet</span>"
    below = f'<div aria-hidden="true" style="display:flex;flex-wrap:wrap;gap:.15em 1.3em;margin-top:.5em">{words}</div>'
    return f'<div style="color:{_TEXT};{_FONT}">{bar}{below}</div>'


@dataclass(frozen=True, slots=True, kw_only=True)
class Square:
    """One period of a backfill."""

    key: str  #: `data-key` of its button
    start: date  #: or a datetime
    counts: Mapping[str, int]  #: tasks by state


#: Parts of a square from the bottom up: style class, meaning, states.
_PARTS = (
    ("good", "succeeded", ("succeeded",)),
    ("left", "cancelled or gone", ("cancelled", "gone")),
    ("bad", "failed", ("failed", "rejected")),
    ("busy", "on its way", ("scheduled", "ready", "queued", "running", "retrying")),
)
_PART_COLOURS = {
    "good": COLOURS["succeeded"],
    "left": COLOURS["cancelled"],
    "bad": COLOURS["failed"],
    "busy": f"color-mix(in srgb,{COLOURS['ready']} 65%,transparent)",
}
_CALENDAR_STYLE = f"""<style>
.ctn-calendar{{display:inline-grid;gap:3px;align-items:center;color:{_TEXT};{_FONT}}}
.ctn-calendar span{{font-size:.8em;line-height:1;opacity:.75;white-space:nowrap;overflow:visible;width:0}}
.ctn-calendar span.row{{width:auto;padding-right:.5em;text-align:right}}
.ctn-calendar button,.ctn-legend i{{box-sizing:border-box;width:15px;height:15px;margin:0;padding:0;border-radius:3px;
border:1px solid color-mix(in srgb,{_TEXT} 35%,transparent);background:none border-box;
color:#fff;font:700 10px/13px sans-serif;text-align:center}}
.ctn-calendar button{{cursor:pointer}}
.ctn-calendar button:hover,.ctn-calendar button[aria-pressed=true]{{border-color:{_TEXT};box-shadow:0 0 0 1px {_TEXT}}}
.ctn-calendar button:focus-visible{{outline:2px solid {_ACCENT};outline-offset:1px}}
.ctn-legend{{display:flex;flex-wrap:wrap;gap:.15em 1.3em;margin-top:.6em;color:{_TEXT};{_FONT}}}
.ctn-legend i{{display:inline-block;margin-right:.5em;vertical-align:middle;font-style:normal;overflow:hidden}}
.ctn-legend span{{white-space:nowrap}}
</style>"""
_FAILED_MARK = "✕"
_LEAST_SHARE = 0.5  # of a square: one failure among many is seen


def calendar(squares: Iterable[Square], *, label: str) -> str:
    """Return the periods of a backfill as a grid of squares that fill as their tasks end.

    Days are arranged by weeks, months by years, and periods shorter than a day by days. A square with a failure has a
    cross, a square of which nothing was sent is hollow. Each square is a button with ``data-key``; only the first is a
    tab stop, because arrow keys move the focus.

    Parameters
    ----------
    squares : iterable of Square
        The periods, in any order.
    label : str
        The subject of the chart.
    """
    periods = sorted(squares, key=lambda square: square.start)
    rows, columns, places = _layout(periods)
    parts = [_label_at(row, 1, text, "row") for row, text in rows.items()]
    parts += [_label_at(1, column, text, "column") for column, text in columns.items()]
    for number, (square, (row, column)) in enumerate(zip(periods, places, strict=True)):
        parts.append(_button(square, row, column, stop=number == 0))
    total: Counter[str] = Counter()
    for square in periods:
        total.update(square.counts)
    name = html.escape(f"{label}: {counted(len(periods), 'periods')}, {_in_words(total, 'rows')}")
    grid = f'<div class="ctn-calendar" role="group" aria-label="{name}">{"".join(parts)}</div>'
    return f'{_CALENDAR_STYLE}<div style="overflow-x:auto;padding:2px">{grid}</div>{_calendar_legend()}'


def _course(values: Sequence[float | None], known: list[float]) -> str:
    if not known:
        return "not known yet"
    now = "not known" if values[-1] is None else counted(values[-1], "tasks")
    return f"{now} now, between {count_text(min(known))} and {count_text(max(known))} before"


def _stretch(points: list[tuple[float, float] | None], bottom: float) -> str:
    """One line without gaps, with the area below it."""
    seen = [point for point in points if point is not None]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in seen)
    if len(seen) == 1:
        return f'<circle cx="{seen[0][0]:.1f}" cy="{seen[0][1]:.1f}" r="1.5" style="fill:{_ACCENT}"/>'
    return (
        f'<polygon points="{seen[0][0]:.1f},{bottom} {line} {seen[-1][0]:.1f},{bottom}" '
        f'style="fill:{_ACCENT};fill-opacity:.14"/><polyline points="{line}" '
        f'style="fill:none;stroke:{_ACCENT};stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round"/>'
    )


def _percent(count: int, total: int) -> str:
    share = 100 * count / total
    return "<1 %" if share < 1 else f"{share:.0f} %" if count == total else f"{min(share, 99):.0f} %"


def _in_words(counts: Mapping[str, int], unit: str) -> str:
    total = sum(counts.values())
    words = [f"{count_text(count)} {state}" for state, count in counts.items() if count]
    return counted(total, unit) + (f": {', '.join(words)}" if words else "")


def _legend_item(state: str, count: int) -> str:
    shape = "display:inline-block;width:.65em;height:.65em;border-radius:50%"
    dot = f'<span style="{shape};background:{colour(state)}"></span>'
    return f'<span style="white-space:nowrap">{dot} {html.escape(state)} <b>{count_text(count)}</b></span>'


def _layout(periods: Sequence[Square]) -> tuple[dict[int, str], dict[int, str], list[tuple[int, int]]]:
    """Return labels of rows, labels of columns, and row and column of each period; both begin at 2, behind labels."""
    days = [_day(square.start) for square in periods]
    if len(set(days)) < len(days):
        return _by_day(periods, days)
    if len({(day.year, day.month) for day in days}) == len(days):
        return _by_year(days)
    return _by_week(days)


def _by_week(days: Sequence[date]) -> tuple[dict[int, str], dict[int, str], list[tuple[int, int]]]:
    monday = days[0] - timedelta(days=days[0].weekday())
    places = [(2 + day.weekday(), 2 + (day - monday).days // 7) for day in days]
    months: dict[int, str] = {}
    for day, (_, column) in zip(days, places, strict=True):
        # The month's first week, unless its name would run into the one before.
        if day.strftime("%b") not in list(months.values())[-1:] and column - max(months, default=-9) > 1:
            months[column] = day.strftime("%b")
    return {2: "Mon", 4: "Wed", 6: "Fri", 8: "Sun"}, months, places


def _by_year(days: Sequence[date]) -> tuple[dict[int, str], dict[int, str], list[tuple[int, int]]]:
    first = days[0].year if days else 0
    places = [(2 + day.year - first, 1 + day.month) for day in days]
    months = {1 + month: name for month, name in enumerate("JFMAMJJASOND", start=1)} if days else {}
    return {2 + day.year - first: str(day.year) for day in days}, months, places


def _by_day(
    periods: Sequence[Square], days: Sequence[date]
) -> tuple[dict[int, str], dict[int, str], list[tuple[int, int]]]:
    times = [_clock(square.start) for square in periods]
    row = {day: place for place, day in enumerate(sorted(set(days)), start=2)}
    column = {time: place for place, time in enumerate(sorted(set(times)), start=2)}
    every = max(1, -(-len(column) // 4))
    heads = {place: time[:5] for time, place in column.items() if (place - 2) % every == 0}
    places = [(row[day], column[time]) for day, time in zip(days, times, strict=True)]
    return {place: str(day) for day, place in row.items()}, heads, places


def _clock(start: date) -> str:
    """Return the time of day; the second of two equal local times of a day has a plus sign."""
    return f"{start:%H:%M}" + ("+" if getattr(start, "fold", 0) else "")


def _day(start: date) -> date:
    return start.date() if isinstance(start, datetime) else start


def _label_at(row: int, column: int, text: str, kind: str) -> str:
    return f'<span class="{kind}" aria-hidden="true" style="grid-area:{row}/{column}">{html.escape(text)}</span>'


def _button(square: Square, row: int, column: int, *, stop: bool) -> str:
    when = (
        f"{square.start:%Y-%m-%d %H:%M}"
        if isinstance(square.start, datetime) and _has_time(square.start)
        else str(_day(square.start))
    )
    name = html.escape(f"{when}: {_in_words(square.counts, 'rows')}")
    fill = _gradient(square.counts)
    mark = _FAILED_MARK if _count(square.counts, ("failed", "rejected")) else ""
    return (
        f'<button type="button" data-key="{html.escape(square.key)}" tabindex="{0 if stop else -1}" title="{name}" '
        f'aria-label="{name}" style="grid-area:{row}/{column}{fill}">{mark}</button>'
    )


def _has_time(start: datetime) -> bool:
    return (start.hour, start.minute) != (0, 0)


def _count(counts: Mapping[str, int], states: Iterable[str]) -> int:
    return sum(counts.get(state) or 0 for state in states)


def _shares(counts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Yield the share of each part of a square; failures get room for their cross."""
    total = sum(count or 0 for count in counts.values())
    for part, _, states in _PARTS:
        count = _count(counts, states)
        if count:
            share = count / total
            yield part, max(share, _LEAST_SHARE) if part == "bad" else share


def _gradient(counts: Mapping[str, int]) -> str:
    shares = dict(_shares(counts))
    scale = 1 / max(sum(shares.values()), 1)
    stops, level = [], 0.0
    for part, share in shares.items():
        end = level + 100 * share * scale
        stops.append(f"{_PART_COLOURS[part]} {level:.0f}% {end:.0f}%")
        level = end
    return f";background-image:linear-gradient(0deg,{','.join(stops)},transparent {level:.0f}%)" if stops else ""


def _calendar_legend() -> str:
    items = [("", "", "not sent")]
    items += [
        (f"background-color:{_PART_COLOURS[part]}", _FAILED_MARK if part == "bad" else "", words)
        for part, words, _ in _PARTS
    ]
    parts = "".join(f'<span><i style="{style}">{mark}</i>{words}</span>' for style, mark, words in items)
    return f'<div class="ctn-legend" aria-hidden="true">{parts}</div>'
