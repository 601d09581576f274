"""Draw small charts as HTML in the theme's colours; every text is escaped.

No information is in a colour alone: it is also text in a tooltip, in the accessible name or beside the chart.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import groupby

from cloudtasks_nb.display.colours import COLOURS
from cloudtasks_nb.display.plural import count_text, counted, percent_text

__all__ = ["FONT", "TEXT", "counts_text", "sparkline", "state_bar"]

TEXT = "var(--jp-ui-font-color1,CanvasText)"
FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px)"
_ACCENT = "var(--jp-brand-color1,#1976d2)"
_TRACK = f"color-mix(in srgb,{TEXT} 12%,transparent)"


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
    name = f"{label}: {_range_text(values, known)}"
    top = max([*known, 1])
    step = (width - 6) / max(len(values) - 1, 1)
    points = [
        None if value is None else (3 + place * step, height - 3 - (height - 6) * max(value, 0) / top)
        for place, value in enumerate(values)
    ]
    marks = [_line(list(run), height - 3) for seen, run in groupby(points, key=lambda p: p is not None) if seen]
    if points and points[-1] is not None:
        x, y = points[-1]
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" style="fill:{_ACCENT}"/>')
    base = f'<path d="M3 {height - 2.5}H{width - 3}" style="stroke:{_TRACK}"/>'
    return (
        f'<svg role="img" aria-label="{html.escape(name)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="vertical-align:middle"><title>{html.escape(name)}</title>'
        f"{base}{''.join(marks)}</svg>"
    )


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
        f'<div style="flex:{count} 0 4px;background:{COLOURS[state]}" title="'
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


def _range_text(values: Sequence[float | None], known: list[float]) -> str:
    if not known:
        return "not known yet"
    now = "not known" if values[-1] is None else counted(values[-1], "tasks")
    return f"{now} now, between {count_text(min(known))} and {count_text(max(known))} before"


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


def _legend_item(state: str, count: int) -> str:
    shape = "display:inline-block;width:.65em;height:.65em;border-radius:50%"
    dot = f'<span style="{shape};background:{COLOURS[state]}"></span>'
    return f'<span style="white-space:nowrap">{dot} {html.escape(state)} <b>{count:,}</b></span>'
