"""How a handler shows itself: as text, and as a static table for notebooks."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from cloudtasks_nb.handlers.record import Call, Summary

__all__ = ["Shown", "again", "html", "next_line", "text"]

_WIDEST = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """All that is shown of a handler."""

    name: str
    url: str
    summary: Summary
    closed: bool
    next_line: str  #: what to type now


def text(shown: Shown) -> str:
    """Return a few lines of plain text."""
    lines = [f"{shown.name}: {_state(shown)}", shown.url, _counts(shown.summary)]
    if shown.summary.last_error is not None:
        lines.append(f"last error: {_short(shown.summary.last_error)}")
    return "\n".join([*lines, f"→ {shown.next_line}"])


def html(shown: Shown) -> str:
    """Return a static table; everything in it is escaped."""
    head = f"<b>{escape(shown.name)}</b>: {_state(shown)}<br><code>{escape(shown.url)}</code><br>"
    parts = [head, escape(_counts(shown.summary))]
    if shown.summary.last_error is not None:
        parts.append(f"<br>last error: <code>{escape(_short(shown.summary.last_error))}</code>")
    if shown.summary.latest:
        titles = "".join(
            f"<th>{title}</th>" for title in ("time (UTC)", "task", "attempt", "status", "result or error")
        )
        rows = "".join(_row(call) for call in shown.summary.latest)
        parts.append(f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>")
    else:
        parts.append("<br>")
    return f"<div>{''.join(parts)}→ <code>{escape(shown.next_line)}</code></div>"


def again(name: str, *, lasting: bool) -> str:
    """Say what comes after the end."""
    if lasting:
        return f"ct.serve({name}) serves it again"
    return 'its tasks will reach no other; ct.serve(fn, name="report") has an address that stays'


def next_line(fn: Callable[..., Any], summary: Summary) -> str:
    """Return the line of Python that comes next."""
    if summary.total:
        return "handler.calls()"
    return f"queue.enqueue(handler, {_example(fn)})"


def _example(fn: Callable[..., Any]) -> str:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return "{...}"
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [one.name for one in parameters if one.kind in named and one.default is one.empty]
    return "{" + ", ".join(f'"{name}": ...' for name in names) + "}"


def _state(shown: Shown) -> str:
    return "closed; its tasks wait with ct.local(), elsewhere they fail" if shown.closed else "waiting for tasks"


def _counts(summary: Summary) -> str:
    running = f", {summary.running:,} running" if summary.running else ""
    calls = "call" if summary.total == 1 else "calls"
    return f"{summary.total:,} {calls}: {summary.succeeded:,} succeeded, {summary.failed:,} failed{running}"


def _row(call: Call) -> str:
    outcome = call.outcome
    said = reprlib.repr(outcome.result) if outcome.ok else outcome.message or ""
    cells = (f"{call.time:%H:%M:%S}", call.task or "", str(call.attempt or ""), str(outcome.status), _short(said))
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _short(line: str) -> str:
    flat = " ".join(line.split())
    return flat if len(flat) <= _WIDEST else flat[:_WIDEST] + "…"
