"""One task: from literal arguments to a row of the queue."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb._settings import check_headers
from cloudtasks_nb.errors import AlreadyExistsError, InvalidInputError, TaskNotFoundError
from cloudtasks_nb.fanout.plan.body import BODILESS
from cloudtasks_nb.fanout.plan.encode import to_json
from cloudtasks_nb.fanout.plan.plan import Recipe, compile_recipe, plan_one
from cloudtasks_nb.fanout.plan.render import LARGEST
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.watch import now_micros

__all__ = ["create_task", "literal_recipe"]

_BRACES = str.maketrans({"{": "{{", "}": "}}"})


def literal_recipe(*, url: Any, body: Any, headers: Any, **words: Any) -> Recipe:
    """Return the recipe of one task, in whose arguments braces are braces.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong.
    """
    return compile_recipe(
        url=url.translate(_BRACES) if isinstance(url, str) else url,
        body=_literal_body(body, words.get("method")),
        headers={name: value.translate(_BRACES) for name, value in check_headers(headers).items()},
        **words,
    )


def _literal_body(body: Any, method: str | None) -> Any:
    if body is None:
        return None if method is not None and str(method).upper() in BODILESS else ""
    if isinstance(body, bytes):
        _check_size(body)
        return " "  # its place; the bytes themselves need not be text
    if isinstance(body, str):
        _check_size(body.encode(errors="replace"))
        return body.translate(_BRACES)
    _check_size(to_json(body))
    return lambda _row: body


def _check_size(body: bytes) -> None:
    if len(body) > LARGEST:
        raise InvalidInputError(
            f"body: {len(body):,} bytes are too many for a task; the service takes up to 1 MiB",
            resource="body",
            hint="put the data where the target can read it, and send where the data lies: "
            '{"file": "gs://bucket/day.parquet"}',
        )


def _task_name(queue: QueueName, task_id: str | None) -> TaskName:
    """Return the name of a new task; without an id a random one, so that a call can be repeated."""
    if task_id is None:
        return TaskName(queue=queue, task=secrets.token_hex(16))
    try:
        return TaskName.parse(f"{queue}/tasks/{task_id}")
    except InvalidInputError:
        raise InvalidInputError(
            f"task_id={task_id!r} is not the id of a task",
            resource="task_id",
            hint="use 1 to 500 letters, digits, hyphens or underscores, or leave it out",
        ) from None


def create_task(
    connection: Connection, queue: QueueName, recipe: Recipe, *, body: Any, task_id: str | None
) -> pd.DataFrame:
    """Create the task and return it as the queue has it: one row."""
    message = plan_one(recipe, now=dt.datetime.now(dt.UTC))
    if isinstance(body, bytes):
        message.http_request.body = body
    message.name = str(_task_name(queue, task_id))
    try:
        made = connection.call("CreateTask", parent=str(queue), task=message, resource_name=str(queue))
    except AlreadyExistsError as error:
        if task_id is not None:
            raise AlreadyExistsError(
                f'there is, or was lately, a task "{task_id}" in queue {queue.queue}: {error.message}',
                resource=message.name,
                code=error.code,
                hint="use another task_id, or none; an id is free again 24 hours after its task left the queue",
            ) from error
        # The id is random: it was us, and the answer to the first call was lost.
        try:
            made = connection.call("GetTask", name=message.name)
        except TaskNotFoundError:  # it has left the queue meanwhile
            columns = task_columns([message], now=now_micros())
            return frame(TASKS, {**columns, "state": ["gone"], "create_time": [None]}, index="task")
    return frame(TASKS, task_columns([made], now=now_micros()), index="task")
