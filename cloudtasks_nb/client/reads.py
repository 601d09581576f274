"""Read the tasks of a queue, and its attempts from the log, into DataFrames."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ATTEMPTS, TASKS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import parse_duration, parse_time
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import InvalidInputError, NaiveTimeError, PermissionDeniedError, QueueNotFoundError
from cloudtasks_nb.service import oplog
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.watch import now_micros

__all__ = ["attempts_frame", "newest_attempts", "tasks_frame"]

_FULL, _BASIC = 2, 1  # google.cloud.tasks.v2.Task.View


def tasks_frame(
    connection: Connection, queue: QueueName, limit: int | None, *, body: bool, secrets: bool
) -> pd.DataFrame:
    """List the tasks of a queue; print a note if there are more than `limit`."""
    _check_limit(limit)
    columns, truncated = connection.wait_for(lambda: _list(connection, queue, limit, body=body, secrets=secrets))
    connection.remember(columns)
    made = frame(TASKS, columns, index="task")
    made.attrs.update(fetched_at=pd.Timestamp.now("UTC").isoformat(), truncated=truncated)
    if truncated:
        notify(f"the first {len(made):,} tasks; there are more: queue.tasks(limit=None)")
    return made


async def _list(
    connection: Connection, queue: QueueName, limit: int | None, *, body: bool, secrets: bool
) -> tuple[dict[str, list[Any]], bool]:
    now = now_micros()
    wanted = None if limit is None else limit + 1
    columns = task_columns((), now=now)
    with Bar("listing", limit, unit="tasks") as bar:
        async for page in connection.transport.pages(
            "ListTasks",
            "tasks",
            limit=wanted,
            page_size=1000,
            parent=str(queue),
            response_view=_FULL if body else _BASIC,
            resource_name=str(queue),
        ):
            for name, values in task_columns(page, now=now, body=body, secrets=secrets).items():
                columns[name] += values
            bar.to(len(columns["task"]))
    truncated = limit is not None and len(columns["task"]) > limit
    if truncated:
        columns = {name: values[:limit] for name, values in columns.items()}
    return columns, truncated


def attempts_frame(connection: Connection, queue: QueueName, since: Any, limit: int | None) -> pd.DataFrame:
    """Read the attempts of a queue from the log, newest first; print a note if there are more than `limit`."""
    _check_limit(limit)
    wanted = None if limit is None else limit + 1
    entries = _loop.run(oplog.read(connection.transport, queue, since=_since(since), limit=wanted))
    made = _attempts(connection, queue, entries[:limit])
    truncated = len(made) < len(entries)
    made.attrs.update(fetched_at=pd.Timestamp.now("UTC").isoformat(), truncated=truncated)
    if truncated:
        notify(f"the newest {len(made):,} attempts; there are more: queue.attempts(limit=None)")
    return made


def newest_attempts(connection: Connection, queue: QueueName, limit: int) -> pd.DataFrame:
    """Read the newest attempts of the last hour, with one read of the log."""
    entries = _loop.run(oplog.read(connection.transport, queue, since=_since("1h"), limit=limit))
    return _attempts(connection, queue, entries)


def _attempts(connection: Connection, queue: QueueName, entries: Sequence[oplog.Entry]) -> pd.DataFrame:
    _read_messages(connection, queue, entries)
    columns: dict[str, Sequence[Any]] = {
        "time": [entry.time for entry in entries],
        "task": [entry.task for entry in entries],
        "queue": [entry.queue for entry in entries],
        "attempt": [entry.attempt for entry in entries],
        "status": [entry.status or None for entry in entries],
        "message": [connection.message(entry.queue, entry.task, entry.attempt) for entry in entries],
        "duration": [entry.duration for entry in entries],
        "retry_time": [entry.retry_time for entry in entries],
        "url": [entry.url for entry in entries],
    }
    return frame(ATTEMPTS, columns)


def _read_messages(connection: Connection, queue: QueueName, entries: Sequence[oplog.Entry]) -> None:
    """Read the messages of tasks that will be tried again; without entries check at least that the queue exists."""
    if not entries:
        with contextlib.suppress(PermissionDeniedError):
            connection.call("GetQueue", name=str(queue))
    elif any(entry.retry_time for entry in entries):
        with contextlib.suppress(QueueNotFoundError):  # the queue was deleted, but its log can still be read
            columns, _ = _loop.run(_list(connection, queue, 1000, body=False, secrets=False))
            connection.remember(columns)


def _check_limit(limit: int | None) -> None:
    whole = isinstance(limit, (int, np.integer)) and not isinstance(limit, bool)
    if limit is not None and not (whole and limit >= 1):
        raise InvalidInputError(
            f"limit={limit!r} is not a whole number from 1 on", resource="limit", hint="limit=None reads all"
        )


def _since(since: Any) -> int:
    if isinstance(since, dt.datetime) or (isinstance(since, str) and since[:4].isdigit() and "-" in since):
        return int(_moment(since).timestamp() * 1_000_000)
    return now_micros() - round(parse_duration(since, "since").total_seconds() * 1_000_000)


def _moment(since: Any) -> dt.datetime:
    try:
        return parse_time(since, "since")
    except NaiveTimeError as error:
        aware = parse_time(since, "since", "UTC").isoformat(sep=" ")
        raise NaiveTimeError(
            error.message,
            resource="since",
            hint=f'add an offset: since="{aware}"; or give a duration back from now: since="2h"',
        ) from None
