"""How an object shows itself: one card as text and as static HTML, which exports and other viewers show too."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

import pandas as pd

__all__ = ["card"]

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
    extra_html: str = "",
    extra_text: str = "",
) -> dict[str, str]:
    """Return a MIME bundle (text and HTML) of a title, facts, a table and closing notes.

    Everything is escaped but `extra_html`, which stands between the title and the facts; `extra_text` is its text form.
    """
    facts = {key: value for key, value in (facts or {}).items() if value is not None}
    notes = list(notes)
    table = frame is not None and len(frame.columns) > 0 and len(frame) > 0
    words = [f"{title}  [{badge}]" if badge else title]
    words += [extra_text] if extra_text else []
    words += [f"  {key}: {value}" for key, value in facts.items()]
    words += [frame.to_string(max_colwidth=60)] if frame is not None and table else []
    words += notes
    parts = [f'<div style="{_STYLE}"><div style="font-weight:600">{html.escape(title)}']
    parts.append(f'<span style="{_BADGE}">{html.escape(badge)}</span></div>' if badge else "</div>")
    parts.append(extra_html)
    if facts:
        items = (f"<span>{html.escape(key)}: <b>{html.escape(str(value))}</b></span>" for key, value in facts.items())
        parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:.2em 1.2em;margin:.3em 0">{"".join(items)}</div>')
    if frame is not None and table:
        with pd.option_context("display.max_colwidth", 80):
            parts.append(f'<div style="overflow-x:auto">{frame.to_html(escape=True, border=0)}</div>')
    parts += [f'<div style="opacity:.8">{html.escape(note)}</div>' for note in notes]
    parts.append("</div>")
    return {"text/plain": "\n".join(words), "text/html": "".join(parts)}
