"""Reading the operations log: what Cloud Tasks has written about attempts and deletions.

Field names: https://cloud.google.com/tasks/docs/logging. A queue writes into it only with a ``log_sampling_ratio``
above 0; payloads, response bodies and messages are never in it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from cloudtasks_nb._names import QueueName, log_name
from cloudtasks_nb.service.convert import micros
from cloudtasks_nb.service.transport import Transport

__all__ = ["PAGE", "Entry", "log_filter", "page", "read"]

#: Entries a page; a page is one read of the quota of 60 a minute (https://cloud.google.com/logging/quotas).
PAGE = 1000

_DELETIONS = ("taskDeletionLog", "taskDeleteLog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the log about a task: an attempt that was answered (or ran out of time), or a deletion."""

    insert_id: str  #: unique in the log; the same entry may be delivered twice
    time: int  #: microseconds since 1970
    received: int  #: when the log took it, microseconds since 1970
    task: str  #: short id
    queue: str  #: short id
    deleted: bool  #: somebody deleted the task
    attempt: int  #: how many dispatches there were, this one included; 0 for a deletion
    status: str  #: canonical code name
    duration: float | None  #: seconds
    retry_time: int | None  #: when the next attempt is due, microseconds since 1970
    max_attempts: int  #: as the log has it; 0 when it does not say
    url: str


def log_filter(queue: QueueName, *, since: int, received_from: int | None = None) -> str:
    """Return the filter for attempts and deletions of a queue from a time on (microseconds since 1970)."""
    parts = [
        'resource.type="cloud_tasks_queue"',
        f'resource.labels.queue_id="{queue.queue}"',
        f'resource.labels.location="{queue.location}"',
        f'logName="{log_name(queue.project)}"',
        "(jsonPayload.attemptResponseLog:* OR jsonPayload.taskDeletionLog:*)",
        f'timestamp>="{_iso(since)}"',
    ]
    if received_from is not None:
        parts.append(f'receiveTimestamp>="{_iso(received_from)}"')
    return " AND ".join(parts)


async def page(
    transport: Transport, queue: QueueName, where: str, token: str, *, newest_first: bool = False, size: int = PAGE
) -> tuple[list[Entry], str]:
    """Return one page of the log, and the token of the next one (empty after the last)."""
    answer = await transport.call(
        "ListLogEntries",
        resource_name=log_name(queue.project),
        resource_names=[f"projects/{queue.project}"],
        filter=where,
        order_by="timestamp desc" if newest_first else "timestamp asc",
        page_size=size,
        page_token=token,
    )
    return [entry for entry in map(_entry, answer.entries) if entry is not None], str(answer.next_page_token)


async def read(transport: Transport, queue: QueueName, *, since: int, limit: int | None) -> list[Entry]:
    """Return the newest `limit` attempts of a queue since a time, newest first."""
    found: list[Entry] = []
    where, token = log_filter(queue, since=since), ""
    size = PAGE if limit is None else min(PAGE, limit)
    while True:
        entries, token = await page(transport, queue, where, token, newest_first=True, size=size)
        found += [entry for entry in entries if not entry.deleted]
        if not token or (limit is not None and len(found) >= limit):
            return found[:limit]


def _iso(at: int) -> str:
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def _entry(message: Any) -> Entry | None:
    """Take a raw LogEntry apart; None for one that is about neither an attempt nor a deletion."""
    payload = message.json_payload.fields
    if "attemptResponseLog" in payload:
        facts, deleted = payload["attemptResponseLog"].struct_value.fields, False
    else:
        key = next((key for key in _DELETIONS if key in payload), None)
        if key is None:
            return None
        facts, deleted = payload[key].struct_value.fields, True
    name = payload["task"].string_value
    head, _, task = name.rpartition("/tasks/")
    return Entry(
        insert_id=message.insert_id,
        time=micros(message.timestamp),
        received=micros(message.receive_timestamp),
        task=task,
        queue=head.rpartition("/")[2],
        deleted=deleted,
        attempt=0 if deleted else int(facts["dispatchCount"].string_value or 0),
        status=facts["status"].string_value or "OK",
        duration=_span(facts["attemptDuration"].string_value) if "attemptDuration" in facts else None,
        retry_time=_time(facts["retryTime"].string_value) if "retryTime" in facts else None,
        max_attempts=int(facts["maxAttempts"].number_value) if "maxAttempts" in facts else 0,
        url=facts["targetAddress"].string_value.partition(" ")[2] if "targetAddress" in facts else "",
    )


def _span(text: str) -> float | None:
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        return None


def _time(text: str) -> int | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
