"""Attempts as they are read: those of one task, and what the handler in this kernel said about them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.handlers import served_at
from cloudtasks_nb.panels.cards.detail import lines, state
from cloudtasks_nb.panels.widgets.cells import duration_text, time_text
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.oplog import Entry, log_filter, page

__all__ = ["last_errors", "moment", "read_attempts", "timeline", "tracebacks"]

_MOST = 100  # attempts of one task: more than the largest number of tries anybody sets


def moment(at: int | None) -> str:
    """Return a time (microseconds since 1970) as text: of day for today; empty for none."""
    return "" if at is None else time_text(datetime.fromtimestamp(at / 1e6, UTC), now=datetime.now(UTC))


async def read_attempts(connection: Connection, queue: QueueName, task: str, *, since: int) -> list[Entry]:
    """Return the newest log entries of one task, oldest first; one read of the log."""
    name = TaskName(queue=queue, task=task)
    where = f'{log_filter(queue, since=since)} AND jsonPayload.task="{name}"'
    entries, _ = await page(connection.transport, queue, where, "", newest_first=True, size=_MOST)
    return entries[::-1]


def tracebacks(url: str, task: str) -> dict[int, str]:
    """Return what a handler of this kernel raised on a task, by attempt; nothing if the URL is not of this kernel."""
    handler = served_at(url)
    if handler is None:
        return {}
    calls = handler.calls()
    mine = calls[(calls["task"] == task) & calls["error"].notna()]
    return {int(attempt): str(error) for attempt, error in zip(mine["attempt"], mine["error"], strict=True)}


def last_errors(urls: Iterable[str]) -> dict[str, str]:
    """Return the last line of what handlers of this kernel, at these URLs, raised on their tasks at last."""
    handlers = {handler.url: handler for url in set(urls) if (handler := served_at(url)) is not None}
    found: dict[str, str] = {}
    for handler in handlers.values():
        calls = handler.calls()
        wrong = calls[calls["task"].notna() & calls["error"].notna()]
        found |= {str(task): _last_line(str(error)) for task, error in zip(wrong["task"], wrong["error"], strict=True)}
    return found


def timeline(entries: Sequence[Entry], errors: Mapping[int, str]) -> str:
    """Return attempts as a table, each with the last line of its traceback if there is one."""
    if not entries:
        return '<span class="ctn-quiet">no attempt in the log</span>'
    rows = [
        (
            html.escape(moment(entry.time)),
            "deleted" if entry.deleted else str(entry.attempt),
            state(entry.status),
            "" if entry.duration is None else duration_text(entry.duration),
            html.escape(moment(entry.retry_time)),
            html.escape(_last_line(errors.get(entry.attempt, ""))),
        )
        for entry in entries
    ]
    return lines(("Time", "Attempt", "Answer", "Took", "Next try", "Error in this kernel" if errors else ""), rows)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
