"""Create one task in a queue, once, also when the answer to the call is lost."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import TASKS, frame
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, InvalidInputError, PermissionDeniedError, TaskNotFoundError
from cloudtasks_nb.fanout.plan.render import literal_task
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns

__all__ = ["create_task"]


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
    connection: Connection, queue: QueueName, options: Mapping[str, Any], *, task_id: str | None
) -> pd.DataFrame:
    """Create a task with these `TaskOptions`, and return it as the queue has it: one row.

    Raises
    ------
    InvalidInputError
        Naming the argument that is wrong; nothing is sent then.
    AlreadyExistsError
        If a task with this id exists or existed lately.
    """
    immediate = options.get("at") is None and options.get("delay") is None
    message = literal_task(options, now=connection.clock.now() if immediate else connection.service_now())
    connection.check_target(queue, options["url"], options.get("service_account"))
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
            ) from None
        # The id is random, so the first call created the task and its answer was lost.
        try:
            made = connection.call("GetTask", name=message.name)
        except (TaskNotFoundError, PermissionDeniedError) as failure:  # it has left the queue, or cannot be read
            columns = task_columns([message], now=connection.clock.micros())
            state = State.GONE.word if isinstance(failure, TaskNotFoundError) else None
            return frame(TASKS, {**columns, "state": [state], "create_time": [None]}, index="task")
    return frame(TASKS, task_columns([made], now=connection.clock.micros()), index="task")
