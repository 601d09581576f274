"""Telling somebody that a batch is done: one task a round, created through a queue like any other."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cloudtasks_nb._connection import Connection
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, InvalidInputError
from cloudtasks_nb.fanout._identity import completion_id
from cloudtasks_nb.fanout._outbox import Outbox
from cloudtasks_nb.fanout._plan import compile_recipe, plan_one
from cloudtasks_nb.fanout._progress import Progress
from cloudtasks_nb.fanout._records import BatchRecord, Completion

__all__ = ["check_route", "check_url", "notify"]

_BRACES = str.maketrans({"{": "{{", "}": "}}"})


def check_route(connection: Connection, queue: QueueName) -> None:
    """Refuse a queue that would send the notification to another URL than the one it is for.

    Raises
    ------
    InvalidInputError
        With the way out.
    """
    found = connection.call("GetQueue", name=str(queue))
    if found.http_target.HasField("uri_override"):
        raise InvalidInputError(
            f"queue {queue.queue} sends all its tasks to a URL of its own, the notification too",
            resource=str(queue),
            hint='name another queue: batch.on_complete(url, queue="notices")',
        )


def check_url(url: str) -> None:
    """Refuse what is no http(s) URL.

    Raises
    ------
    InvalidInputError
        Naming it.
    """
    compile_recipe(url=url.translate(_BRACES), body="")


async def notify(connection: Connection, outbox: Outbox, record: BatchRecord, progress: Progress) -> None:
    """Create the notifications of this round that nobody has created yet.

    Raises
    ------
    CloudTasksError
        If the service does not take one; the next look tries again.
    """
    for completion in await outbox.run(outbox.claim_completions, record.id):
        await _create(connection, record, completion, _summary(record, completion, progress))
        await outbox.run(outbox.confirm_completion, record.id, completion)


async def _create(connection: Connection, record: BatchRecord, completion: Completion, summary: Any) -> None:
    place = record.place
    queue = QueueName(project=place.project, location=place.location, queue=completion.queue or place.queue)
    recipe = compile_recipe(
        url=completion.url.translate(_BRACES),
        body=lambda _row: summary,
        service_account=completion.service_account,
        audience=completion.audience,
    )
    task = plan_one(recipe, now=dt.datetime.now(dt.UTC))
    task.name = str(TaskName(queue=queue, task=completion_id(record.id, completion.id, completion.round)))
    try:
        await connection.transport.call("CreateTask", parent=str(queue), task=task, about=str(queue))
    except AlreadyExistsError:
        return  # another watcher of this round was quicker, or our first call's answer was lost


def _summary(record: BatchRecord, completion: Completion, progress: Progress) -> dict[str, Any]:
    return {
        "batch": record.id,
        "name": record.name,
        "queue": record.place.queue_name,
        "round": completion.round,
        "total": progress.total,
        **{state: progress.counts()[state] for state in ("succeeded", "failed", "rejected", "cancelled", "gone")},
        "created": record.created.isoformat(),
        "completed": dt.datetime.now(dt.UTC).isoformat(),
    }
