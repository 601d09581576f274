"""One task in full: what it will send, and what became of its attempts."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, TaskNotFoundError
from cloudtasks_nb.panels.cards.detail import card, code, facts, lines, section
from cloudtasks_nb.panels.cards.timeline import moment, read_attempts, timeline, tracebacks
from cloudtasks_nb.panels.listing import read_task
from cloudtasks_nb.panels.widgets.cells import duration_text
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.watch import now_micros

__all__ = ["read_card"]

_LONGEST_LIFE = 31 * 86_400 * 1_000_000  # microseconds: the service keeps a task for 31 days at most


async def read_card(connection: Connection, queue: QueueName, task: str) -> str:
    """Return the card of a task, as it is now; of one that has left its queue what the log has."""
    values: Mapping[str, Any] = {}
    try:
        values = await read_task(connection, queue, task)
    except TaskNotFoundError:
        note = "It has left the queue: it succeeded, gave up or was deleted, as the last attempt tells."
    else:
        note = ""
    since = values.get("create_time", now_micros() - _LONGEST_LIFE)
    parts = [f"<p>{html.escape(note)}</p>"] if note else [_head(values)]
    if values:
        parts.append(section("Body", code(values["body"])))
        if values["headers"]:
            rows = [(html.escape(name), html.escape(value)) for name, value in values["headers"].items()]
            parts.append(section("Headers", lines(("", ""), rows)))
    parts.append(section("Attempts", await _attempts(connection, queue, task, since, values.get("url", ""))))
    return card(task, *parts, label=f"task {task}")


async def _attempts(connection: Connection, queue: QueueName, task: str, since: int, url: str) -> str:
    try:
        entries = await read_attempts(connection, queue, task, since=since)
    except CloudTasksError as error:  # the log may not be read by everybody
        return html.escape(error.message)
    where = url or next((entry.url for entry in entries if entry.url), "")
    return timeline(entries, tracebacks(where, task))


def _head(values: Mapping[str, Any]) -> str:
    deadline = values["dispatch_deadline"]
    shown = {
        "state": values["state"],
        "request": f"{values['method']} {values['url']}",
        "due": moment(values["schedule_time"]),
        "created": moment(values["create_time"]),
        "attempts": str(values["attempts"]),
        "last answer": values["last_status"] or "",
        "message": values["last_message"] or "",
        "signed as": values["service_account"] or "",
        "deadline": "" if deadline is None else duration_text(deadline),
    }
    return facts(shown)
