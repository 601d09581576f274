"""Draw small charts as HTML in the theme's colours; every text is escaped.

No information is in a colour alone: it is also text in a tooltip, in the accessible name or beside the chart.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import groupby

from cloudtasks_nb.display.axis import LINE, TEXT, TRACK, svg, text_svg
from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text, counted, percent_text

__all__ = ["FONT", "counts_text", "sparkline", "state_bar"]

FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px)"
_ACCENT = "var(--jp-brand-color1,#1976d2)"


def sparkline(points: Sequence[tuple[float, float | None]], *, label: str, width: int = 240, height: int = 64) -> str:
    """Return a line chart of a figure over time, such as a queue's depth, with the range of both axes.

    Parameters
    ----------
    points : sequence of (float, float or None)
        Times in seconds, ascending, each with the figure; None where it is not known, which leaves a gap.
    label : str
        Name of the figure: ``"depth of reports"``.
    width, height : int
        Size in pixels.
    """
    known = [value for _, value in points if value is not None]
    top = max([*known, 1])
    highest = count_text(top)
    left, right, ceiling, floor = 8.0 + 6.5 * len(highest), width - 4.0, 7.0, height - 17.0
    first, last = (points[0][0], points[-1][0]) if points else (0.0, 0.0)
    across = (right - left) / (last - first) if last > first else 0.0
    places = [
        None if value is None else (left + (at - first) * across, floor - (floor - ceiling) * max(value, 0) / top)
        for at, value in points
    ]
    span = f"last {duration_text(last - first)}" if last > first else ""
    name = f"{label}{f', {span}' if span else ''}: {_range_text(known, now=points[-1][1] if points else None)}"
    marks = [_line(list(run), floor) for seen, run in groupby(places, key=lambda p: p is not None) if seen]
    if places and places[-1] is not None:
        x, y = places[-1]
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" style="fill:{_ACCENT}"/>')
    axes = [
        f'<path d="M{left} {ceiling}H{right}" style="stroke:{TRACK};stroke-dasharray:2 3"/>',
        f'<path d="M{left} {floor}H{right}" style="stroke:{LINE}"/>',
        text_svg(left - 4, ceiling + 4, highest, anchor="end"),
        text_svg(left - 4, floor + 4, "0", anchor="end"),
        text_svg(left, height - 3, span, anchor="start"),
        text_svg(right, height - 3, "now", anchor="end") if span else "",
    ]
    return svg(name, width, height, [*axes, *marks])


def state_bar(counts: Mapping[str, int], *, label: str, share: float) -> str:
    """Return counts by state as a stacked bar with a legend.

    Parameters
    ----------
    counts : mapping
        State to count.
    label : str
        The subject: ``"batch a91f03c2"``.
    share : float
        The share that is done, 0 to 1.
    """
    shown = {state: count for state in COLOURS if (count := counts.get(state))}
    total = sum(shown.values())
    parts = "".join(
        f'<div style="flex:{count} 0 4px;{_paint(state)}" title="'
        f'{html.escape(f"{state}: {count:,} of {total:,} ({percent_text(count / total)})")}"></div>'
        for state, count in shown.items()
    )
    name = html.escape(f"{label}: {counts_text(shown, 'rows')}")
    bar = (
        f'<div role="progressbar" aria-label="{name}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{int(100 * share)}" style="display:flex;gap:1px;height:12px;border-radius:6px;overflow:hidden;'
        f'background:#8883">{parts}</div>'
    )
    words = "".join(_legend_item(state, count) for state, count in shown.items()) or "<span>nothing yet</span>"
    below = f'<div aria-hidden="true" style="display:flex;flex-wrap:wrap;gap:.15em 1.3em;margin-top:.5em">{words}</div>'
    return f'<div style="color:{TEXT};{FONT}">{bar}{below}</div>'


def counts_text(counts: Mapping[str, int], unit: str) -> str:
    """Return a total and its parts by state: ``4 rows: 3 succeeded, 1 failed``."""
    words = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return counted(sum(counts.values()), unit) + (f": {words}" if words else "")


def _range_text(known: Sequence[float], *, now: float | None) -> str:
    if not known:
        return "not known yet"
    current = "not known" if now is None else counted(now, "tasks")
    return f"{current} now, between {count_text(min(known))} and {count_text(max(known))} before"


def _line(points: list[tuple[float, float] | None], bottom: float) -> str:
    """Return a line without gaps, with the area below it; a dot for a single point."""
    seen = [point for point in points if point is not None]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in seen)
    if len(seen) == 1:
        return f'<circle cx="{seen[0][0]:.1f}" cy="{seen[0][1]:.1f}" r="1.5" style="fill:{_ACCENT}"/>'
    return (
        f'<polygon points="{seen[0][0]:.1f},{bottom} {line} {seen[-1][0]:.1f},{bottom}" '
        f'style="fill:{_ACCENT};fill-opacity:.14"/><polyline points="{line}" '
        f'style="fill:none;stroke:{_ACCENT};stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round"/>'
    )


def _paint(state: str) -> str:
    """Return the background of a state; what is tried again is striped, to differ from failed in more than colour."""
    stripes = ";background-image:repeating-linear-gradient(135deg,#0000 0 3px,#0006 3px 6px)"
    return f"background-color:{COLOURS[state]}{stripes if state == 'retrying' else ''}"


def _legend_item(state: str, count: int) -> str:
    shape = "display:inline-block;width:.65em;height:.65em;border-radius:50%"
    dot = f'<span style="{shape};{_paint(state)}"></span>'
    return f'<span style="white-space:nowrap">{dot} {html.escape(state)} <b>{count:,}</b></span>'
