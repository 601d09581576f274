"""Make calls for many tasks of a queue, several at a time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import CloudTasksError, TaskNotFoundError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import delete_failures

__all__ = ["delete", "for_each"]

_DELETES = 1000  # names in one BatchDeleteTasks call
_IN_FLIGHT = 16
_POLL_INTERVAL = 0.5  # seconds


async def delete(
    connection: Connection,
    queue: QueueName,
    ids: Sequence[str],
    on_progress: Callable[[int], None],
    on_error: Callable[[CloudTasksError], object] = lambda _: None,
    *,
    request_id: str = "",
) -> list[str | None]:
    """Delete tasks by short id, and return the error message of each, None for those that were deleted.

    `on_error` is called with an error that is not "no such task". A call with the `request_id` of an earlier one, and
    the same tasks (at most 1,000), has the result of that one.
    """
    errors: list[str | None] = []
    for start in range(0, len(ids), _DELETES):
        part = ids[start : start + _DELETES]
        try:
            errors += await _delete_batch(connection, queue, part, request_id)
        except CloudTasksError as error:
            if error.code != "UNIMPLEMENTED":
                errors += [error.message] * len(part)
                on_error(error)
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
    connection: Connection, queue: QueueName, ids: Sequence[str], on_error: Callable[[CloudTasksError], object]
) -> list[str | None]:
    async def delete_one(task: str) -> None:
        try:
            await connection.transport.call("DeleteTask", name=str(TaskName(queue=queue, task=task)))
        except CloudTasksError as error:
            if not isinstance(error, TaskNotFoundError):
                on_error(error)
            raise

    return await for_each(ids, delete_one)


async def for_each(
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

    await _loop.gather(work() for _ in range(min(_IN_FLIGHT, len(ids))))
    return errors
