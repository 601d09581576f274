"""Read the tasks of a queue, and its attempts from the log, into DataFrames."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import check_limit, check_text, parse_duration, parse_time
from cloudtasks_nb.client.task_verbs import task_ids
from cloudtasks_nb.display.notify import notify
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import InvalidInputError, NaiveTimeError
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.errors import attempts_frame, codes_of, see
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import TaskPage, task_columns
from cloudtasks_nb.service.oplog import RETENTION, Wanted

__all__ = ["newest_attempts", "queue_attempts", "tasks_frame"]

_FULL, _BASIC = 2, 1  # google.cloud.tasks.v2.Task.View


def tasks_frame(
    connection: Connection,
    catalog: Catalog,
    queue: QueueName,
    limit: int | None,
    *,
    body: bool,
    secrets: bool,
) -> pd.DataFrame:
    """List the tasks of a queue; print a note if there are more than `limit`."""
    limit = check_limit(limit)
    at = connection.clock.micros()
    columns, truncated = connection.wait_for(lambda: _list(connection, queue, limit, body=body, secrets=secrets))
    see(connection, lambda: catalog.outbox, columns, at)
    made = frame(TASKS, columns, index="task")
    made.attrs.update(fetched_at=connection.clock.now().isoformat(), truncated=truncated)
    if truncated:
        notify(f"the first {len(made):,} tasks; there are more: queue.tasks(limit=None)")
    return made


async def _list(
    connection: Connection, queue: QueueName, limit: int | None, *, body: bool, secrets: bool
) -> tuple[dict[str, list[Any]], bool]:
    wanted = None if limit is None else limit + 1
    columns = task_columns((), now=0)
    with Bar("listing", limit, unit="tasks") as bar:
        async for page in connection.transport.pages(
            "ListTasks",
            "tasks",
            limit=wanted,
            page_size=1000,
            read=TaskPage,
            parent=str(queue),
            response_view=_FULL if body else _BASIC,
            resource_name=str(queue),
        ):
            now = connection.clock.micros()
            for name, values in task_columns(page, now=now, body=body, secrets=secrets).items():
                columns[name] += values
            bar.to(len(columns["task"]))
    truncated = limit is not None and len(columns["task"]) > limit
    if truncated:
        columns = {name: values[:limit] for name, values in columns.items()}
    return columns, truncated


def queue_attempts(  # noqa: PLR0913 - the arguments of `Queue.attempts`
    connection: Connection,
    catalog: Catalog,
    queue: QueueName,
    since: Any,
    limit: int | None,
    batch: Any,
    task: Any,
    status: Any,
    *,
    secrets: bool,
) -> pd.DataFrame:
    """Read the attempts of a queue from the log, newest first; print a note if there are more than `limit`."""
    limit = check_limit(limit)
    tasks = None if task is None else task_ids(task, queue)
    found = None if batch is None else _batch_id(catalog, queue, batch)
    statuses = () if status is None else codes_of(status)
    if since is None:
        since = "1h" if batch is None and task is None else pd.Timedelta(RETENTION, "us")
    wanted = Wanted(since=_since(connection, since), batch=found, tasks=tasks, statuses=statuses)
    asked = (connection, queue, lambda: catalog.outbox, wanted, limit)
    return attempts_frame(*asked, method="queue.attempts", secrets=secrets)


def newest_attempts(connection: Connection, catalog: Catalog, queue: QueueName, limit: int) -> pd.DataFrame:
    """Read the newest attempts of the last hour, with one read of the log."""
    return attempts_frame(connection, queue, lambda: catalog.outbox, Wanted(since=_since(connection, "1h")), limit)


def _batch_id(catalog: Catalog, queue: QueueName, batch: Any) -> str:
    """Return the id of a batch of this queue, given by itself, its id or its name."""
    if not isinstance(batch, Batch):
        check_text(batch, "batch", 'the batch, its id or its name: queue.attempts(batch="a91f03c2")')
        batch = catalog.get(batch)
    if batch.queue != queue.queue:
        raise InvalidInputError(
            f"batch {batch.id} is of queue {batch.queue}, not of {queue.queue}",
            resource=batch.id,
            hint="batch.attempts() reads its attempts",
        )
    return str(batch.id)


def _since(connection: Connection, since: Any) -> int:
    if isinstance(since, dt.datetime) or (isinstance(since, str) and since[:4].isdigit() and "-" in since):
        return int(_moment(since).timestamp() * 1_000_000)
    now = round(connection.service_now().timestamp() * 1_000_000)
    return now - round(parse_duration(since, "since").total_seconds() * 1_000_000)


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
