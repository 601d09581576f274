"""Columns of a panel's table, and one value as the text of a cell."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson

from cloudtasks_nb._frames import is_missing
from cloudtasks_nb._settings import UNLIMITED
from cloudtasks_nb.display.colours import colour
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text
from cloudtasks_nb.display.secrets import MASK, is_secret, mask_text, mask_value
from cloudtasks_nb.display.times import time_text

__all__ = ["Cell", "Column", "Kind", "cell", "code_html", "json_text", "static_table"]

Kind = Literal["text", "lines", "name", "count", "time", "due", "duration", "state", "json", "bar", "button"]

#: A cell as the page gets it: its text; or text and tooltip; or text, tooltip and the colour of its dot; or a time in
#: milliseconds since 1970, which the page writes in the zone that the user has chosen; or a bar or a button, which
#: `Column` describes.
Cell = str | int | list[str] | dict[str, Any]

_LONGEST = 20_000  # characters of a payload that are shown
_NOTHING = "\u2013"  # an en dash
_TEXT_LIMIT = 240  # characters of a cell; more than the widest column shows
_TITLE_LIMIT = 1_000
_CELL_STYLE = "padding:.25em .8em;text-align:{};border-bottom:1px solid rgba(128,128,128,.25);white-space:nowrap"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
        The column (or the index) of the data that it shows.
    title : str, optional
        Its heading; the name in words when left out.
    kind : {"text", "lines", "name", "count", "time", "due", "duration", "state", "json", "bar", "button"}
        How a value becomes text. `due` is a time, with how late it is. `state` is a word with a coloured dot. `name`
        is an id, a URL or a row: where it does not fit, its middle is left out, since names differ in their ends.
        `lines` is text that is wrapped; lines after the first are paler. A `bar` is a mapping: its text as ``bar``, its
        ``parts`` (counts and their colours), a ``title``, and the ``share`` by which rows are sorted. A `button` is its
        text as ``button`` and a ``title``; or text, where there is nothing to press.
    width : str, optional
        The most that the column takes of what its longest text needs, as a CSS width; by kind when left out. A count is
        never cut. The first of the texts, names and JSON without a width has the remaining space.
    align : {"left", "right"}, optional
        Right for counts and durations when left out.
    tip : str, optional
        Tooltip of the heading; the heading itself when left out.
    hidden_if : {"empty", "same"}, optional
        Leave the column out while no loaded row has a value in it, or while all have the same.
    verbatim : bool
        It is a column of the user's data: its heading is its name, as a search expects it.
    """

    name: str
    title: str | None = None
    kind: Kind = "text"
    width: str | None = None
    align: Literal["left", "right"] | None = None
    tip: str | None = None
    hidden_if: Literal["empty", "same"] | None = None
    verbatim: bool = False

    @property
    def heading(self) -> str:
        """The title as shown."""
        if self.verbatim:
            return self.name
        words = self.name.replace("_", " ")
        return self.title or words[:1].upper() + words[1:]

    @property
    def side(self) -> str:
        """The side to which cells and heading are aligned."""
        return self.align or ("right" if self.kind in {"count", "duration"} else "left")


def cell(value: Any, column: Column) -> Cell:
    """Return a value as a cell, without secrets.

    Parameters
    ----------
    value : object
        One value of a frame.
    column : Column
        Its column.
    """
    if isinstance(value, dict) and column.kind in {"bar", "button"}:
        return value
    return _text_cell(value, column)


def _text_cell(value: Any, column: Column) -> Cell:
    kind = column.kind
    if is_missing(value):
        return "" if kind in {"text", "lines", "name", "json", "button"} else _NOTHING
    if kind in {"time", "due"}:
        return time_text(value) if value.tzinfo is None else int(value.timestamp() * 1_000)
    if kind == "duration":
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
        return [duration_text(seconds), f"{seconds:,.6g} s"]
    if kind == "count":
        return "unlimited" if value == UNLIMITED.get(column.name) else count_text(value)
    if kind == "state":
        word = ("no", "yes")[value] if isinstance(value, bool) else str(value)
        return [word, word, colour(word)]
    if is_secret(column.name):
        value = MASK
    text = json_text(mask_value(value)) if kind == "json" else mask_text(str(value))
    return _short(text, middle=kind == "name")


def json_text(value: Any, layout: int = 0) -> str:
    """Return a decoded body or a mapping as JSON; text and what JSON cannot hold stay as they are.

    Parameters
    ----------
    value : object
        A text is returned as it is.
    layout : int
        Options of orjson; without them the JSON is one line.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        options = layout | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        return orjson.dumps(value, option=options, default=str).decode()
    except orjson.JSONEncodeError:  # an integer beyond 64 bits
        return str(value)


def static_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, caption: str, empty: str) -> str:
    """Return rows of cells as a static HTML table, everything escaped: what exports and other viewers show."""
    head = "".join(
        f'<th scope="col" style="{_CELL_STYLE.format(column.side)}">{html.escape(_static_heading(column))}</th>'
        for column in columns
    )
    body = "".join(
        f"<tr>{''.join(_static_cell(item, column) for item, column in zip(cells, columns, strict=True))}</tr>"
        for cells in rows
    )
    body = body or f'<tr><td colspan="{len(columns)}" style="padding:1em;opacity:.7">{html.escape(empty)}</td></tr>'
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f'<caption style="caption-side:bottom;text-align:left;padding:.4em .8em;opacity:.75">{html.escape(caption)}'
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _static_heading(column: Column) -> str:
    return f"{column.heading} (UTC)" if column.kind in {"time", "due"} else column.heading


def _static_cell(item: Cell, column: Column) -> str:
    if isinstance(item, int):
        item = time_text(datetime.fromtimestamp(item / 1_000, UTC))
    if isinstance(item, dict):
        item = [item["bar"], item["title"]] if "bar" in item else item["title"]
    text, title, dot = [item, "", ""] if isinstance(item, str) else [*item, "", ""][:3]
    mark = f'<span style="color:{html.escape(dot)}">●</span> ' if dot else ""
    tip = f' title="{html.escape(title)}"' if title and title != text else ""
    return f'<td style="{_CELL_STYLE.format(column.side)}"{tip}>{mark}{html.escape(text)}</td>'


def _short(text: str, *, middle: bool) -> Cell:
    if len(text) <= _TEXT_LIMIT:
        return text
    title = text if len(text) <= _TITLE_LIMIT else f"{text[:_TITLE_LIMIT]}…"
    half = _TEXT_LIMIT // 2
    return [f"{text[:half]}…{text[-half:]}" if middle else f"{text[:_TEXT_LIMIT]}…", title]


def code_html(value: Any) -> str:
    """Return a decoded payload, a mapping or a text as code, without secrets."""
    if is_missing(value):
        return '<span class="ctn-quiet">none</span>'
    text = json_text(mask_value(value), orjson.OPT_INDENT_2)
    more = f"\n… {len(text) - _LONGEST:,} more characters" if len(text) > _LONGEST else ""
    return f'<pre tabindex="0">{html.escape(text[:_LONGEST] + more)}</pre>'
