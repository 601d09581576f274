"""HTML parts of which cards consist, from plain values, everything escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import orjson

from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.panels.widgets.cells import is_missing, json_text

__all__ = ["card", "code", "facts", "section", "state"]

_LONGEST = 20_000  # characters of a payload that are shown


def card(title: str, *parts: str, label: str | None = None) -> str:
    """Return a box with a title and parts that are HTML."""
    name = html.escape(label or title)
    return f'<div class="ctn-card" role="group" aria-label="{name}"><h4>{html.escape(title)}</h4>{"".join(parts)}</div>'


def section(title: str, part: str) -> str:
    """Return a part that is HTML under its title."""
    return f"<h5>{html.escape(title)}</h5>{part}"


def facts(values: Mapping[str, str]) -> str:
    """Return names and values side by side; a value that is empty is left out."""
    items = (
        f"<div><span>{html.escape(name)}</span><b>{html.escape(value)}</b></div>"
        for name, value in values.items()
        if value
    )
    return f'<div class="ctn-facts">{"".join(items)}</div>'


def state(word: str) -> str:
    """Return a state or a status with its dot."""
    return f'<span style="color:{colour(word)}">●</span> {html.escape(word)}'


def code(value: Any) -> str:
    """Return a decoded payload, a mapping or a text as code."""
    if is_missing(value):
        return '<span class="ctn-quiet">none</span>'
    text = _pretty(value)
    more = f"\n… {len(text) - _LONGEST:,} more characters" if len(text) > _LONGEST else ""
    return f'<pre tabindex="0">{html.escape(text[:_LONGEST] + more)}</pre>'


def _pretty(value: Any) -> str:
    if isinstance(value, str | bytes):
        return json_text(value)
    try:
        options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return orjson.dumps(value, option=options, default=str).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return str(value)
