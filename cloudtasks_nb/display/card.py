"""Cards: an object as text and as static HTML, which exports and viewers without a kernel show too."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import pandas as pd

from cloudtasks_nb.display.charts import FONT
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.secrets import escape_controls, mask_text
from cloudtasks_nb.display.times import sentence_html, time_html, time_text

__all__ = ["card", "facts_html", "html_card", "lines_html", "next_html", "section_html", "state_html", "table_html"]

_LEFT = "text-align:left"  # Jupyter aligns the text of cells to the right
_HEAD = "margin-bottom:.3em;font-weight:600"
_BADGE = (
    "border:1px solid #8888;border-radius:3px;padding:0 .4em;margin-left:.6em;"
    "font-size:85%;font-weight:normal;white-space:nowrap"
)


def card(
    title: str,
    *,
    badge: str = "",
    facts: Mapping[str, object] | None = None,
    frame: pd.DataFrame | None = None,
    notes: Iterable[str] = (),
    link: tuple[str, str] | None = None,
) -> dict[str, str]:
    """Return a MIME bundle (text and HTML) of a title, facts, a table, closing notes and a link; all is escaped."""
    known = {key: mask_text(str(value)) for key, value in (facts or {}).items() if value is not None}
    notes = list(map(mask_text, notes))
    words = [f"{title}  [{badge}]" if badge else title, *(f"  {key}: {value}" for key, value in known.items())]
    parts = [facts_html(known)]
    if frame is not None and not frame.empty:
        frame = _readable(frame)
        words.append(frame.to_string(max_colwidth=60))
        with pd.option_context("display.max_colwidth", 80):
            parts.append(f'<div style="overflow-x:auto">{frame.to_html(escape=True, border=0)}</div>')
    parts.append(f'<div style="opacity:.8">{lines_html(notes)}</div>')
    if link is not None:
        notes.append(": ".join(link))
        name, url = map(html.escape, link)
        parts.append(f'<a href="{url}" target="_blank" rel="noopener noreferrer">{name}</a>')
    text = escape_controls("\n".join([*words, *notes]))
    return {"text/plain": text, "text/html": html_card(title, *parts, badge=badge)}


def html_card(title: str, *parts: str, badge: str = "", label: str = "", name: str = "") -> str:
    """Return a title with a badge above parts that are HTML.

    Parameters
    ----------
    title : str
    *parts : str
    badge : str
    label : str
        The accessible name if it is not the title.
    name : str
        What users have named, in the title: it may be written from right to left.
    """
    mark = f'<span style="{_BADGE}">{html.escape(badge)}</span>' if badge else ""
    words = html.escape(title)
    if name:
        words = words.replace(html.escape(name), f"<bdi>{html.escape(name)}</bdi>", 1)
    head = f'<div role="heading" aria-level="4" style="{_HEAD}">{words}{mark}</div>'
    spoken = html.escape(label or title)
    return f'<div class="ctn-card" role="group" aria-label="{spoken}" style="{FONT}">{head}{"".join(parts)}</div>'


def section_html(title: str, part: str) -> str:
    """Return a part that is HTML under its title."""
    head = f'<div role="heading" aria-level="5" style="{_HEAD};margin-top:1em;opacity:.75">{html.escape(title)}</div>'
    return head + part


def facts_html(values: Mapping[str, str | datetime | None]) -> str:
    """Return names and values side by side, times as `time_html` does; a value that is empty is left out."""
    items = "".join(
        f'<div><span style="opacity:.75">{html.escape(name)}</span> <b>{_fact_html(value)}</b></div>'
        for name, value in values.items()
        if value
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:.2em 1.6em">{items}</div>' if items else ""


def _fact_html(value: str | datetime) -> str:
    return time_html(value) if isinstance(value, datetime) else html.escape(mask_text(value))


def state_html(word: str) -> str:
    """Return a state or a status with its dot."""
    return f'<span style="color:{colour(word)}">●</span> {html.escape(word)}'


def lines_html(lines: Iterable[str]) -> str:
    """Return lines of text below each other, without the empty ones."""
    return "".join(f"<div>{sentence_html(mask_text(line))}</div>" for line in lines if line)


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells that are HTML, under headings that are text; no row of headings if there are none."""
    head = "".join(f'<th scope="col" style="{_LEFT}">{html.escape(name)}</th>' for name in heads)
    lines = ("".join(f'<td style="{_LEFT}">{cell}</td>' for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if heads else ''}<tbody>{body}</tbody></table>"


def next_html(line: str) -> str:
    """Return the next line of Python to type, as HTML."""
    return f"<div>→ <code>{html.escape(line)}</code></div>"


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with its times and durations as people write them, the zone of the times in the heading."""
    columns = {}
    for name, values in frame.items():
        if values.dtype.kind == "M":
            columns[f"{name} (UTC)"] = values.map(time_text, na_action="ignore").astype(object)
        elif values.dtype.kind == "m":
            columns[str(name)] = values.dt.total_seconds().map(duration_text, na_action="ignore").astype(object)
        else:
            columns[str(name)] = values
    return pd.DataFrame(columns, index=frame.index)
