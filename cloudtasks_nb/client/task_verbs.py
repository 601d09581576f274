"""Run or delete many tasks of a queue, and report the result of each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ACTION_RESULTS, ATTEMPTS, frame
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import InvalidInputError, PermissionDeniedError
from cloudtasks_nb.service.bulk import delete, for_each
from cloudtasks_nb.service.connection import Connection

__all__ = ["delete_tasks", "row_ids", "run_tasks", "task_ids"]

_RUNS_PER_SECOND = 1.0  # Google allows 60 RunTask calls a minute (https://cloud.google.com/tasks/docs/quotas)


def task_ids(tasks: Any, queue: QueueName) -> list[str]:
    """Return the short ids in a frame, a series, an index, a list or one name, without duplicates.

    Raises
    ------
    InvalidInputError
        If it has no ids, or has tasks of another queue.
    """
    return list(dict.fromkeys(task for task in row_ids(tasks, queue) if task is not None))


def row_ids(tasks: Any, queue: QueueName) -> list[str | None]:
    """Return what `task_ids` does for each row, None for one without a task. A frame of attempts repeats its tasks."""
    if isinstance(tasks, pd.DataFrame):
        found = _names_in_frame(tasks, queue)
    elif isinstance(tasks, str):
        found = [tasks]
    elif isinstance(tasks, (list, tuple, set)) or (hasattr(tasks, "__array__") and np.ndim(tasks) == 1):
        found = [*tasks]
    else:
        raise InvalidInputError(
            f"{type(tasks).__name__} does not name tasks", hint="give a frame of queue.tasks() or a list of task ids"
        )
    return [None if pd.isna(one) else _short_id(one, queue) for one in found]


def _names_in_frame(tasks: pd.DataFrame, queue: QueueName) -> list[Any]:
    if "name" in tasks.columns:
        return tasks["name"].tolist()
    indexed = tasks.index.name == "task"
    if not indexed and "task" not in tasks.columns:
        raise InvalidInputError(
            "the frame has no column or index `task`", hint="give a frame of queue.tasks(), batch.tasks() or attempts()"
        )
    names = list((tasks.index if indexed else tasks["task"]).tolist())
    if "queue" in tasks.columns and (indexed or set(ATTEMPTS) <= set(tasks.columns)):  # else it is a column of the user
        return [f"{queue.parent}/queues/{own}/tasks/{name}" for own, name in zip(tasks["queue"], names, strict=True)]
    return names


def _short_id(task: Any, queue: QueueName) -> str:
    text = str(task)
    name = TaskName.parse(text if "/" in text else f"{queue}/tasks/{text}")
    if name.queue != queue:
        its = name.queue.queue if name.queue.parent == queue.parent else str(name.queue)
        raise InvalidInputError(
            f"task {name.task} is of {name.queue}, not of {queue}",
            resource=text,
            hint=f'tasks.queue("{its}") has the verbs for it',
        )
    return name.task


def run_tasks(connection: Connection, queue: QueueName, tasks: Any) -> pd.DataFrame:
    """Dispatch tasks now, and return a row for each: `task, ok, error`."""
    pause = 0.0 if connection.endpoint.local else 1 / _RUNS_PER_SECOND

    async def run(task: str) -> None:
        await connection.transport.call("RunTask", name=str(TaskName(queue=queue, task=task)))

    ids = task_ids(tasks, queue)
    return _report(connection, queue, ids, "running tasks", lambda bar: for_each(ids, run, bar.add, pause=pause))


def delete_tasks(connection: Connection, queue: QueueName, tasks: Any) -> pd.DataFrame:
    """Delete tasks, and return a row for each: `task, ok, error`."""
    ids = task_ids(tasks, queue)
    return _report(connection, queue, ids, "deleting tasks", lambda bar: delete(connection, queue, ids, bar.add))


def _report(
    connection: Connection,
    queue: QueueName,
    ids: Sequence[str],
    title: str,
    work: Callable[[Bar], Coroutine[Any, Any, list[str | None]]],
) -> pd.DataFrame:
    with Bar(title, len(ids), unit="tasks") as bar:
        errors = _loop.run(work(bar)) if ids else []
    connection.watcher.refresh(queue)
    if errors and None not in errors:
        with suppress(PermissionDeniedError):  # who may not read queues has the errors of the tasks
            connection.call("GetQueue", name=str(queue))  # raises if the queue itself does not exist
    return frame(ACTION_RESULTS, {"task": ids, "ok": [error is None for error in errors], "error": errors})
