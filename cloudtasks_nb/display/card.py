"""Cards: an object as text and as static HTML, which exports and viewers without a kernel show too."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

__all__ = ["card", "html_card", "lines_html", "next_html", "table_html"]

_LEFT = "text-align:left"  # Jupyter aligns the text of cells to the right
_STYLE = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:var(--jp-ui-font-size1,13px)"
_BADGE = (
    "border:1px solid currentColor;border-radius:3px;padding:0 .4em;margin-left:.6em;"
    "font-size:85%;font-weight:normal;white-space:nowrap"
)


def card(
    title: str,
    *,
    badge: str = "",
    facts: Mapping[str, object] | None = None,
    frame: pd.DataFrame | None = None,
    notes: Iterable[str] = (),
) -> dict[str, str]:
    """Return a MIME bundle (text and HTML) of a title, facts, a table and closing notes; everything is escaped."""
    facts = {key: value for key, value in (facts or {}).items() if value is not None}
    notes = list(notes)
    words = [f"{title}  [{badge}]" if badge else title, *(f"  {key}: {value}" for key, value in facts.items())]
    parts = []
    if facts:
        items = (f"<span>{html.escape(key)}: <b>{html.escape(str(value))}</b></span>" for key, value in facts.items())
        parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin:.3em 0">{"".join(items)}</div>')
    if frame is not None and not frame.empty:
        words.append(frame.to_string(max_colwidth=60))
        with pd.option_context("display.max_colwidth", 80):
            parts.append(f'<div style="overflow-x:auto">{frame.to_html(escape=True, border=0)}</div>')
    parts += [f'<div style="opacity:.8">{html.escape(note)}</div>' for note in notes]
    return {"text/plain": "\n".join([*words, *notes]), "text/html": html_card(title, *parts, badge=badge)}


def html_card(title: str, *parts: str, badge: str = "") -> str:
    """Return a title with a badge, which are text, above parts that are HTML."""
    mark = f'<span style="{_BADGE}">{html.escape(badge)}</span>' if badge else ""
    head = f'<div style="font-weight:600">{html.escape(title)}{mark}</div>'
    return f'<div style="{_STYLE}">{head}{"".join(parts)}</div>'


def lines_html(lines: Iterable[str]) -> str:
    """Return lines of text below each other, without the empty ones."""
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines if line)


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells that are HTML, under headings that are text; no row of headings if there are none."""
    head = "".join(f'<th scope="col" style="{_LEFT}">{html.escape(name)}</th>' for name in heads)
    lines = ("".join(f'<td style="{_LEFT}">{cell}</td>' for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if heads else ''}<tbody>{body}</tbody></table>"


def next_html(line: str) -> str:
    """Return the next line of Python to type, as HTML."""
    return f"<div>→ <code>{html.escape(line)}</code></div>"
