"""Telling somebody that a batch is done: one task a round, created through a queue like any other."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

from cloudtasks_nb._connection import Connection
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, CloudTasksError, InvalidInputError
from cloudtasks_nb.fanout._identity import completion_id
from cloudtasks_nb.fanout._outbox import Outbox
from cloudtasks_nb.fanout._plan import compile_recipe, plan_one
from cloudtasks_nb.fanout._records import BatchRecord, Completion, State

__all__ = ["check_route", "check_url", "tell"]

_SOON = 1.0  # seconds between two looks whether somebody is still to be told
_LATE = 60.0  # the same, once the service has refused a few times
_TOLD = (State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.GONE)

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


def check_url(url: str, *, service_account: str | None = None, audience: str | None = None) -> None:
    """Refuse what is no http(s) URL, and a token that makes no sense.

    Raises
    ------
    InvalidInputError
        Naming it.
    """
    compile_recipe(url=url.translate(_BRACES), body="", service_account=service_account, audience=audience)


async def tell(
    connection: Connection, outbox: Outbox, batch: str, heard: Callable[[CloudTasksError | None], None]
) -> None:
    """Have everybody told of the present round; ends when all are, or when the batch goes on.

    Goes on while others are about to tell, as they may be killed before they do, and while the service does not take
    the task. `heard` is called after each attempt, with what went wrong.

    Raises
    ------
    OutboxError, BatchNotFoundError
        If the outbox does not answer.
    """
    pause = _SOON
    while await outbox.run(outbox.untold, batch):
        error = await _attempt(connection, outbox, batch)
        heard(error)
        if await outbox.run(outbox.untold, batch):
            await asyncio.sleep(pause)
        pause = _SOON if error is None else min(2 * pause, _LATE)


async def _attempt(connection: Connection, outbox: Outbox, batch: str) -> CloudTasksError | None:
    """Create the notifications of this round that nobody else is about to create; return what went wrong last."""
    wrong = None
    for completion in await outbox.run(outbox.claim_completions, batch):
        record = await outbox.run(outbox.batch, batch)
        try:
            await _create(connection, record, completion, _summary(record, completion))
        except CloudTasksError as error:
            wrong = error
            await outbox.run(outbox.release_completion, batch, completion)
        else:
            await outbox.run(outbox.confirm_completion, batch, completion)
    return wrong


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


def _summary(record: BatchRecord, completion: Completion) -> dict[str, Any]:
    return {
        "batch": record.id,
        "name": record.name,
        "queue": record.place.queue_name,
        "round": completion.round,
        "total": sum(completion.counts.values()),
        **{state.name.lower(): completion.counts[state] for state in _TOLD},
        "created": record.created.isoformat(),
        "completed": dt.datetime.now(dt.UTC).isoformat(),
    }
