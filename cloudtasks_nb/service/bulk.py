"""What is done to many tasks of a queue, one verdict a task: run and delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
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

_DELETES = 1000  # names a BatchDeleteTasks call takes
_IN_FLIGHT = 16
_RUNS_PER_SECOND = 1.0  # Google allows 60 RunTask calls a minute (https://cloud.google.com/tasks/docs/quotas)


def task_ids(tasks: Any, queue: QueueName) -> list[str]:
    """Return the short ids that a frame, a series, an index, a list or one name means.

    Each of them once.

    Raises
    ------
    InvalidInputError
        If there are no ids in it, or tasks of another queue.
    """
    if isinstance(tasks, pd.DataFrame):
        found = _of_frame(tasks, queue)
    elif isinstance(tasks, str):
        found = [tasks]
    elif isinstance(tasks, (pd.Series, pd.Index, list, tuple, set)):
        found = [*tasks]
    else:
        raise InvalidInputError(
            f"{type(tasks).__name__} names no tasks", hint="give a frame of queue.tasks() or a list of task ids"
        )
    # A frame of attempts has a task in many rows.
    return list(dict.fromkeys(_short(one, queue) for one in found if not pd.isna(one)))


def _of_frame(tasks: pd.DataFrame, queue: QueueName) -> list[Any]:
    if "name" in tasks.columns:
        return tasks["name"].tolist()
    ours = tasks.index.name == "task" or set(ATTEMPTS) <= set(tasks.columns)
    if ours and "queue" in tasks.columns:
        tasks = tasks.reset_index() if tasks.index.name == "task" else tasks
        pairs = zip(tasks["queue"], tasks["task"], strict=True)
        return [f"{queue.parent}/queues/{there}/tasks/{task}" for there, task in pairs]
    if "task" in tasks.columns:
        return tasks["task"].tolist()
    if ours:
        return tasks.index.tolist()
    raise InvalidInputError(
        "the frame has no column or index `task`", hint="give a frame of queue.tasks(), batch.tasks() or attempts()"
    )


def _short(task: Any, queue: QueueName) -> str:
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
    """Dispatch tasks now; a row a task: `task, ok, error`."""
    pace = 0.0 if connection.endpoint.local else 1 / _RUNS_PER_SECOND

    async def one(task: str) -> None:
        await connection.transport.call("RunTask", name=str(TaskName(queue=queue, task=task)))

    ids = task_ids(tasks, queue)
    return _each(connection, queue, ids, "running tasks", lambda bar: _one_by_one(ids, one, bar, pace=pace))


def delete_tasks(connection: Connection, queue: QueueName, tasks: Any) -> pd.DataFrame:
    """Delete tasks; a row a task: `task, ok, error`."""
    ids = task_ids(tasks, queue)
    return _each(connection, queue, ids, "deleting tasks", lambda bar: delete(connection, queue, ids, bar.add))


def _each(
    connection: Connection,
    queue: QueueName,
    ids: Sequence[str],
    what: str,
    work: Callable[[Bar], Coroutine[Any, Any, list[str | None]]],
) -> pd.DataFrame:
    with Bar(what, len(ids), unit="tasks") as bar:
        errors = _loop.run(work(bar)) if ids else []
    connection.watcher.refresh(queue)
    if errors and None not in errors:
        connection.call("GetQueue", name=str(queue))  # raises if the queue, rather than each task, is not there
    return frame(ACTION_RESULTS, {"task": ids, "ok": [error is None for error in errors], "error": errors})


async def delete(
    connection: Connection,
    queue: QueueName,
    ids: Sequence[str],
    count: Callable[[int], None],
    refused: Callable[[CloudTasksError, int], None] = lambda _error, _count: None,
) -> list[str | None]:
    """Delete tasks by short id and return what went wrong with each, None where nothing did.

    `refused` hears what was wrong with more than a task that is not there, and how many tasks that kept from deletion.
    """
    errors: list[str | None] = []
    for start in range(0, len(ids), _DELETES):
        part = ids[start : start + _DELETES]
        try:
            errors += await _delete_batch(connection, queue, part)
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                errors += [error.message] * len(part)
                refused(error, len(part))
            else:
                errors += await _delete_singly(connection, queue, part, refused)
        count(len(part))
    return errors


async def _delete_batch(connection: Connection, queue: QueueName, ids: Sequence[str]) -> list[str | None]:
    names = [str(TaskName(queue=queue, task=task)) for task in ids]
    parent = str(queue)
    operation = await connection.transport.call("BatchDeleteTasks", parent=parent, names=names, resource_name=parent)
    while not operation.done:
        await asyncio.sleep(0.5)
        operation = await connection.transport.call("GetOperation", name=operation.name)
    failed = delete_failures(operation)
    # An operation that failed as a whole tells of no single task.
    whole = operation.error.message or None if operation.HasField("error") and not failed else None
    return [failed.get(index, whole) for index in range(len(ids))]


async def _delete_singly(
    connection: Connection, queue: QueueName, ids: Sequence[str], refused: Callable[[CloudTasksError, int], None]
) -> list[str | None]:
    async def one(task: str) -> None:
        try:
            await connection.transport.call("DeleteTask", name=str(TaskName(queue=queue, task=task)))
        except TaskNotFoundError:
            raise
        except CloudTasksError as error:
            refused(error, 1)
            raise

    with Bar("deleting tasks", len(ids), show=False) as bar:
        return await _one_by_one(ids, one, bar)


async def _one_by_one(
    ids: Iterable[str], deed: Callable[[str], Coroutine[Any, Any, None]], bar: Bar, *, pace: float = 0.0
) -> list[str | None]:
    """Do it to each, several at a time, `pace` seconds apart; return what went wrong with each."""
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def guarded(task: str) -> str | None:
        async with gate:
            try:
                await deed(task)
            except CloudTasksError as error:
                return error.message
            finally:
                bar.add()
            return None

    jobs = []
    try:
        for task in ids:
            jobs.append(asyncio.create_task(guarded(task)))
            await asyncio.sleep(pace)
        return list(await asyncio.gather(*jobs))
    finally:
        for job in jobs:
            job.cancel()
