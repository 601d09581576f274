"""Run or delete many tasks of a queue, and report the result of each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import ACTION_RESULTS, ATTEMPTS, frame
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, TaskNotFoundError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import delete_failures

__all__ = ["delete", "delete_tasks", "run_tasks", "task_ids"]

_DELETES = 1000  # names in one BatchDeleteTasks call
_IN_FLIGHT = 16
_POLL_INTERVAL = 0.5  # seconds
_RUNS_PER_SECOND = 1.0  # Google allows 60 RunTask calls a minute (https://cloud.google.com/tasks/docs/quotas)


def task_ids(tasks: Any, queue: QueueName) -> list[str]:
    """Return the short ids in a frame, a series, an index, a list or one name, without duplicates.

    Raises
    ------
    InvalidInputError
        If it has no ids, or has tasks of another queue.
    """
    if isinstance(tasks, pd.DataFrame):
        found = _names_in_frame(tasks, queue)
    elif isinstance(tasks, str):
        found = [tasks]
    elif isinstance(tasks, (pd.Series, pd.Index, list, tuple, set)):
        found = [*tasks]
    else:
        raise InvalidInputError(
            f"{type(tasks).__name__} does not name tasks", hint="give a frame of queue.tasks() or a list of task ids"
        )
    # A frame of attempts has a task in many rows.
    return list(dict.fromkeys(_short_id(one, queue) for one in found if not pd.isna(one)))


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
    return _report(connection, queue, ids, "running tasks", lambda bar: _for_each(ids, run, bar.add, pause=pause))


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
        connection.call("GetQueue", name=str(queue))  # raises if the queue itself does not exist
    return frame(ACTION_RESULTS, {"task": ids, "ok": [error is None for error in errors], "error": errors})


async def delete(
    connection: Connection,
    queue: QueueName,
    ids: Sequence[str],
    on_progress: Callable[[int], None],
    on_error: Callable[[CloudTasksError, int], None] = lambda _error, _count: None,
    *,
    request_id: str = "",
) -> list[str | None]:
    """Delete tasks by short id, and return the error message of each, None for those that were deleted.

    `on_error` is called with an error that is not "no such task", and the number of tasks that it left undeleted. A
    call with the `request_id` of an earlier one, and the same tasks (at most 1,000), has the result of that one.
    """
    errors: list[str | None] = []
    for start in range(0, len(ids), _DELETES):
        part = ids[start : start + _DELETES]
        try:
            errors += await _delete_batch(connection, queue, part, request_id)
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                errors += [error.message] * len(part)
                on_error(error, len(part))
            else:
                errors += await _delete_singly(connection, queue, part, on_error)
        on_progress(len(part))
    return errors


async def _delete_batch(
    connection: Connection, queue: QueueName, ids: Sequence[str], request_id: str
) -> list[str | None]:
    parent = str(queue)
    names = [f"{parent}/tasks/{task}" for task in ids]
    call = connection.transport.call
    operation = await call("BatchDeleteTasks", parent=parent, names=names, request_id=request_id or str(uuid.uuid4()))
    while not operation.done:
        await asyncio.sleep(_POLL_INTERVAL)
        operation = await call("GetOperation", name=operation.name)
    failed = delete_failures(operation)
    # An operation that failed as a whole has one error for all tasks.
    whole = operation.error.message or None if operation.HasField("error") and not failed else None
    return [failed.get(index, whole) for index in range(len(ids))]


async def _delete_singly(
    connection: Connection, queue: QueueName, ids: Sequence[str], on_error: Callable[[CloudTasksError, int], None]
) -> list[str | None]:
    async def delete_one(task: str) -> None:
        try:
            await connection.transport.call("DeleteTask", name=str(TaskName(queue=queue, task=task)))
        except CloudTasksError as error:
            if not isinstance(error, TaskNotFoundError):
                on_error(error, 1)
            raise

    return await _for_each(ids, delete_one)


async def _for_each(
    ids: Sequence[str],
    action: Callable[[str], Coroutine[Any, Any, None]],
    done: Callable[[], object] = lambda: None,
    *,
    pause: float = 0.0,
) -> list[str | None]:
    """Run the action for each task, several at a time, and return the error messages in order.

    The actions are started `pause` seconds apart. `done` is called after each.
    """
    errors: list[str | None] = [None] * len(ids)
    left = iter(enumerate(ids))  # all workers take from it
    turn = asyncio.Lock()

    async def work() -> None:
        for index, task in left:
            if index:
                async with turn:
                    await asyncio.sleep(pause)
            try:
                await action(task)
            except CloudTasksError as error:
                errors[index] = error.message
            done()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_IN_FLIGHT, len(ids))):
            group.create_task(work())
    return errors
