"""The card of a row of a batch: why it failed, or what it returned."""

from __future__ import annotations

from cloudtasks_nb._frames import STATES
from cloudtasks_nb.display.card import html_card, section_html, state_html
from cloudtasks_nb.fanout.batch.row_query import StoredRow
from cloudtasks_nb.panels.cards.task import tracebacks
from cloudtasks_nb.panels.widgets.cells import code_html

__all__ = ["error_of", "row_card"]


def row_card(row: StoredRow, task: str) -> str:
    """Return the card of a row; the card of its task has the request."""
    parts = [f"<div>{state_html(row.state)}</div>"]
    if not STATES[row.state].success and (error := error_of(row, task)):
        parts.append(section_html("Error", code_html(error)))
    if row.result is not None and row.result.ok:
        parts.append(section_html("Result", code_html(row.result.result)))
    return html_card(f"Row {row.row:,}", *parts, label=f"row {row.row}")


def error_of(row: StoredRow, task: str) -> str | None:
    """Return the traceback of the last failed attempt: the stored one, that of a handler here, or the message."""
    if row.result is not None and row.result.error:
        return row.result.error
    here = tracebacks(row.url, task)
    return here[max(here)] if here else row.message
