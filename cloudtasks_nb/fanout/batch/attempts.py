"""Read attempts from the log, with the error messages that are known of them, into a DataFrame."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ATTEMPTS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.secrets import mask_url
from cloudtasks_nb.errors import (
    BatchNotFoundError,
    CloudTasksError,
    PermissionDeniedError,
    QueueNotFoundError,
    StoreError,
)
from cloudtasks_nb.fanout.batch.errors import stored_errors
from cloudtasks_nb.fanout.batch.stored_results import StoredResults
from cloudtasks_nb.fanout.batch.witnesses import Queue, pending_evidence
from cloudtasks_nb.fanout.causes import exception_line
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import Scope
from cloudtasks_nb.fanout.plan.identity import batch_of
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service import oplog
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.oplog import Entry, Wanted
from cloudtasks_nb.service.watch import Pending
from cloudtasks_nb.store.store import Store

__all__ = ["attempts_frame", "pending_tasks", "see"]

_SECOND = 1_000_000
_LISTED = 1000  # tasks of the queue that are listed for their messages
_MOST_PENDING = 10_000  # pending rows for which the queue is listed: more would take minutes of the list quota


def attempts_frame(
    connection: Connection,
    queue: QueueName,
    outbox: Callable[[], Outbox],
    wanted: Wanted,
    limit: int | None,
    *,
    method: str = "",
    secrets: bool = False,
    keep: Callable[[list[Entry]], list[Entry]] = list,
) -> pd.DataFrame:
    """Read the newest attempts of a queue, as `oplog.read`; return a row for each.

    The log has no messages: they are those of the newest attempts of tasks in the queue, and those in the outbox.

    Parameters
    ----------
    outbox : callable
        Returns the outbox; it is not opened unless it may know something.
    method : str
        With it a note says that there are more, and that it reads them.
    secrets : bool
        Show secrets in URLs.
    keep : callable
        As for `oplog.read`.

    Raises
    ------
    CloudTasksError
        If the log cannot be read.
    """
    if wanted.batch is not None and wanted.tasks is not None:
        wanted = replace(wanted, tasks=[task for task in wanted.tasks if batch_of(task) == wanted.batch])
    found = _loop.run(oplog.read(connection.transport, queue, wanted, None if limit is None else limit + 1, keep))
    entries, truncated = found[:limit], limit is not None and len(found) > limit
    if truncated and method:
        notify(f"the newest {limit:,} attempts; there are more: {method}(limit=None)")
    _see_messages(connection, queue, outbox, entries)
    stored = _stored_messages(connection.store, outbox, entries)
    names = ("time", "task", "queue", "attempt", "duration", "retry_time")
    columns: dict[str, Sequence[Any]] = {name: [getattr(entry, name) for entry in entries] for name in names}
    columns["status"] = [entry.status or None for entry in entries]
    columns["message"] = [
        stored.get((entry.task, entry.attempt)) or connection.message(entry.queue, entry.task, entry.attempt)
        for entry in entries
    ]
    columns["wait"] = [_wait(entry) for entry in entries]
    columns["url"] = [entry.url if secrets else mask_url(entry.url or "") for entry in entries]
    made = frame(ATTEMPTS, columns)
    made.attrs.update(fetched_at=connection.clock.now().isoformat(), truncated=truncated)
    return made


def _wait(entry: Entry) -> float | None:
    """Return the seconds between the time for which an attempt was scheduled and its start."""
    if entry.due is None or entry.duration is None:
        return None
    return max(0.0, (entry.time - entry.due) / _SECOND - entry.duration)


def _see_messages(
    connection: Connection, queue: QueueName, outbox: Callable[[], Outbox], entries: Sequence[Entry]
) -> None:
    """List tasks that will be tried again, for their messages; without entries check at least that the queue exists."""
    name = str(queue)
    if not entries:
        with contextlib.suppress(PermissionDeniedError):
            connection.call("GetQueue", name=name)
    elif any(entry.retry_time for entry in entries):
        # The queue may be deleted, and some may read its log only.
        with contextlib.suppress(QueueNotFoundError, PermissionDeniedError):
            at = connection.clock.micros()
            call = connection.transport.call("ListTasks", parent=name, page_size=_LISTED, resource_name=name)
            tasks = _loop.run(call).tasks
            see(connection, outbox, task_columns(tasks, now=connection.clock.micros()), at)


def see(connection: Connection, outbox: Callable[[], Outbox], columns: Mapping[str, Sequence[Any]], at: int) -> None:
    """Keep the error messages of tasks that were in a queue at a time; those of batches also in the outbox."""
    connection.remember(columns)
    batches = defaultdict[str, dict[str, Pending]](dict)
    names = ("state", "attempts", "schedule_time", "last_status", "last_message")
    for row, (task, status) in enumerate(zip(columns["task"], columns["last_status"], strict=True)):
        if status and (batch := batch_of(task)):
            batches[batch][task] = Pending(**{name: columns[name][row] for name in names})
    for batch, pending in batches.items():
        with contextlib.suppress(BatchNotFoundError):  # it was made elsewhere
            _record(outbox(), batch, pending, at)


def pending_tasks(connection: Connection, queue: QueueName, outbox: Outbox, rows: Scope) -> dict[str, Pending]:
    """Ask the queue for the tasks of rows that are not final; nothing where it does not answer."""
    pages = outbox.rows.pages(rows, states={State.SENT})
    waiting = [task for page in pages for task in page.tasks if task is not None]
    if len(waiting) > _MOST_PENDING:
        return {}
    at = connection.clock.micros()
    witness = Queue(connection.watcher, queue, rows.batch)

    async def read() -> dict[str, Pending]:
        return {task: one async for page in witness.pending(waiting) for task, one in page.items()}

    try:
        found = _loop.run(read())
    except CloudTasksError:
        return {}
    _record(outbox, rows.batch, found, at)
    return found


def _record(outbox: Outbox, batch: str, pending: Mapping[str, Pending], at: int) -> None:
    """Record what the queue tells, at a time, of the last attempts of rows that are in it."""
    tried = [(task, one) for task, one in pending.items() if one.last_status]
    outbox.outcomes.record(batch, [pending_evidence(task, one, at) for task, one in tried])


def _stored_messages(
    store: Store, outbox: Callable[[], Outbox], entries: Sequence[Entry]
) -> dict[tuple[str, int], str]:
    """Return what is stored of failed attempts by task and number: in the outbox, else what the handler stored."""
    batches: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in entries:  # newest first
        batch = batch_of(entry.task)
        if batch is not None and entry.status != "OK":
            batches[batch].setdefault(entry.task, entry.attempt)
    found: dict[tuple[str, int], str] = {}
    for batch, newest in batches.items():
        with contextlib.suppress(BatchNotFoundError):  # it was made elsewhere
            rows = outbox().rows
            for page in rows.pages_of(batch, set(rows.locate(batch, newest).values())):
                for task, attempts, message in zip(page.tasks, page.attempts, page.last_message, strict=True):
                    if task is not None and attempts is not None and message is not None:
                        found[task, attempts] = message
        unknown = [(task, attempt) for task, attempt in newest.items() if (task, attempt) not in found]
        with contextlib.suppress(StoreError, BatchNotFoundError):  # the messages are an addition
            for task, error in stored_errors(StoredResults(outbox(), store, batch), unknown):
                found[task, newest[task]] = exception_line(error)
    return found
