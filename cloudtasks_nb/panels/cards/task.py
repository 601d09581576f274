"""The card of a task, with its request and its attempts, and that of a row of a batch, with its error or result."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any

from cloudtasks_nb._frames import STATES
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.display.attempt_chart import Attempt, attempts_chart
from cloudtasks_nb.display.card import facts_html, html_card, section_html, state_html, table_html
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.errors import CloudTasksError, PermissionDeniedError, TaskNotFoundError
from cloudtasks_nb.fanout.batch.row_query import StoredRow
from cloudtasks_nb.handlers import served_at
from cloudtasks_nb.panels.widgets.cells import code_html
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import request_values, task_columns
from cloudtasks_nb.service.oplog import Entry, Wanted, entries_in, page

__all__ = [
    "error_of",
    "errors_of_attempts",
    "hex_html",
    "last_errors",
    "read_card",
    "row_card",
    "timeline",
    "tracebacks",
]

_MOST_ATTEMPTS = 100  # of one task that are read: more than queues allow in practice
_HEX_BYTES, _HEX_LINE = 256, 16  # of a binary body that are shown, and in a line
_BASIC, _FULL = 1, 2  # google.cloud.tasks.v2.Task.View
_LONGEST_LIFE = 31 * 86_400 * 1_000_000  # microseconds: the service keeps a task for 31 days at most


async def read_card(
    connection: Connection, queue: QueueName, task: str, stored: Callable[[str], Any], zone: tzinfo = UTC
) -> tuple[str, dict[str, Any]]:
    """Read a task, and return its card, and its request with its secrets (empty if it is not known).

    Of a task that is no longer in its queue the card shows the log entries, and the request if `stored` returns a
    raw Task. The times in its chart are those of `zone`.
    """
    note, values = "", {}
    try:
        message = await _read_task(connection, queue, task)
    except TaskNotFoundError:
        note = "It has left the queue: it succeeded, gave up or was deleted, as the last attempt shows."
        message = await asyncio.to_thread(stored, task)
    if message is not None:
        columns = task_columns([message], now=connection.clock.micros(), body=True)
        values = {name: column[0] for name, column in columns.items()}
    since = connection.clock.micros() - _LONGEST_LIFE
    if not note:
        connection.remember(columns)
        since = values["create_time"]
    parts = [f"<p>{html.escape(note)}</p>"] if note else []
    parts += [_head(values, there=not note), *_payload(values)] if values else []
    attempts = await _attempts(connection, queue, task, since, {} if note else values, zone)
    parts.append(section_html("Attempts", attempts))
    request = request_values(message) if message is not None else {}
    return html_card(task, *parts, label=f"task {task}"), request


async def _read_task(connection: Connection, queue: QueueName, task: str) -> Any:
    """Return one task as a raw message, with its body if the user may read it."""
    name = str(TaskName(queue=queue, task=task))
    try:
        return await connection.transport.call("GetTask", name=name, response_view=_FULL)
    except PermissionDeniedError:
        return await connection.transport.call("GetTask", name=name, response_view=_BASIC)


def _payload(values: Mapping[str, Any]) -> list[str]:
    """Return the body and the headers."""
    body = values["body"]
    parts = [section_html("Body", hex_html(body) if isinstance(body, bytes) else code_html(body))]
    if values["headers"]:
        rows = [(html.escape(name), html.escape(value)) for name, value in values["headers"].items()]
        parts.append(section_html("Headers", table_html((), rows)))
    return parts


def hex_html(body: bytes) -> str:
    """Return the size of a binary body and its first bytes, sixteen a line, as hexadecimal numbers and as text."""
    lines = []
    for start in range(0, min(len(body), _HEX_BYTES), _HEX_LINE):
        part = body[start : start + _HEX_LINE]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)  # noqa: PLR2004 - ASCII
        lines.append(f"{start:04x}  {part.hex(' '):<{3 * _HEX_LINE}} {text}")
    first = f", the first {_HEX_BYTES}" if len(body) > _HEX_BYTES else ""
    return f'{counted(len(body), "bytes")}, not text{first}:<pre tabindex="0">{html.escape(chr(10).join(lines))}</pre>'


async def _attempts(
    connection: Connection, queue: QueueName, task: str, since: int, values: Mapping[str, Any], zone: tzinfo
) -> str:
    (filter_,) = Wanted(since=since, tasks=[task]).filters(queue)
    try:
        answer = await page(connection.transport, queue, filter_, "", newest_first=True, size=_MOST_ATTEMPTS)
    except CloudTasksError as error:  # not everybody may read the log
        return html.escape(mask_text(error.message))
    entries = entries_in(answer)[::-1]  # the newest of the task, oldest first
    where = values.get("url") or next((entry.url for entry in entries if entry.url), "")
    now = connection.clock.micros() if values else None
    return timeline(entries, tracebacks(where, task), retry=values.get("schedule_time"), now=now, zone=zone)


def _head(values: Mapping[str, Any], *, there: bool) -> str:
    request = f"{values['method']} {values['url']}"
    if not there:
        return facts_html({"request": request, "signed as": values["service_account"] or ""})
    deadline = values["dispatch_deadline"]
    shown = {
        "state": values["state"],
        "request": request,
        "due": from_micros(values["schedule_time"]),
        "created": from_micros(values["create_time"]),
        "attempts": str(values["attempts"]),
        "last answer": values["last_status"] or "",
        "message": values["last_message"] or "",
        "signed as": values["service_account"] or "",
        "deadline": "" if deadline is None else duration_text(deadline),
    }
    return facts_html(shown)


def tracebacks(url: str, task: str) -> dict[int, str]:
    """Return the exceptions of a handler in this kernel for a task, by attempt; empty if the URL belongs to none."""
    return {attempt: error for (one, attempt), error in _raised([url]).items() if one == task}


def last_errors(urls: Iterable[str]) -> dict[str, str]:
    """Return by task the last line of the newest exception of the handlers in this kernel at these URLs."""
    return {task: line for (task, _), line in errors_of_attempts(urls).items()}


def errors_of_attempts(urls: Iterable[str]) -> dict[tuple[str, int], str]:
    """Return the last lines of exceptions of the handlers in this kernel at these URLs, by task and attempt."""
    return {key: _last_line(error) for key, error in _raised(urls).items()}


def _raised(urls: Iterable[str]) -> dict[tuple[str, int], str]:
    handlers = {handler.url: handler for url in set(urls) if (handler := served_at(url)) is not None}
    found: dict[tuple[str, int], str] = {}
    for handler in handlers.values():
        wrong = handler.calls().dropna(subset=["task", "error"])
        for task, attempt, error in zip(wrong["task"], wrong["attempt"], wrong["error"], strict=True):
            found[str(task), int(attempt)] = str(error)
    return found


def timeline(
    entries: Sequence[Entry],
    errors: Mapping[int, str],
    *,
    retry: int | None = None,
    now: int | None = None,
    zone: tzinfo = UTC,
) -> str:
    """Return attempts as a chart and a table, each with the last line of its traceback if there is one.

    Parameters
    ----------
    retry, now : int, optional
        When the task is tried again, and the present, microseconds since 1970; None if it is no longer in its queue.
    zone : tzinfo
        Of the times in the chart.
    """
    if not entries:
        return '<span class="ctn-quiet">no attempt in the log</span>'
    chart = attempts_chart([_attempt(entry) for entry in entries], retry=retry, now=now, zone=zone)
    rows = [
        (
            time_html(from_micros(entry.time)),
            "deleted" if entry.deleted else str(entry.attempt),
            state_html(entry.status),
            "" if entry.duration is None else duration_text(entry.duration),
            time_html(from_micros(entry.retry_time)),
            html.escape(mask_text(_last_line(errors.get(entry.attempt, "")))),
        )
        for entry in entries
    ]
    heads = ("Time", "Attempt", "Answer", "Took", "Next try", "Error in this kernel" if errors else "")
    return chart + table_html(heads, rows)


def _attempt(entry: Entry) -> Attempt:
    start = entry.time - round(1e6 * (entry.duration or 0))
    name = "deleted" if entry.deleted else str(entry.attempt)
    return Attempt(name=name, due=entry.due, start=start, end=entry.time, answer=entry.status)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


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
