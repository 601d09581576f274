"""The card of a row of a batch: why it failed, what it returned, and the request of its newest task."""

from __future__ import annotations

import html

from cloudtasks_nb.display.card import html_card, lines_html, section_html, state_html, table_html
from cloudtasks_nb.fanout.batch.row_query import StoredRow
from cloudtasks_nb.panels.cards.task import tracebacks
from cloudtasks_nb.panels.widgets.cells import code_html

__all__ = ["error_of", "row_card"]


def row_card(row: StoredRow, task: str) -> str:
    """Return the card of a row; the request only if the task has left its queue, whose card has it otherwise."""
    request = row.request
    parts = [f"<div>{state_html(row.state)}</div>"]
    if row.state != "succeeded" and (error := error_of(row, task)):
        parts.append(section_html("Error", code_html(error)))
    if row.result is not None and row.result.ok:
        parts.append(section_html("Result", code_html(row.result.result)))
    if row.state != "sent":
        line = lines_html([f"{request['method']} {request['url']}"])
        parts.append(section_html("Payload", line + code_html(request["body"])))
        headers = [(html.escape(name), html.escape(value)) for name, value in request["headers"].items()]
        parts += [section_html("Headers", table_html((), headers))] if headers else []
    return html_card(f"Row {row.row:,}", *parts, label=f"row {row.row}")


def error_of(row: StoredRow, task: str) -> str | None:
    """Return the traceback of the last failed attempt: the stored one, that of a handler here, or the message."""
    if row.result is not None and row.result.error:
        return row.result.error
    here = tracebacks(row.request["url"], task)
    return here[max(here)] if here else row.message
