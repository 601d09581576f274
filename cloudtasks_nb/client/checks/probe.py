"""Create a task for a check, look at it, and delete it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.client.checks.context import CheckContext, Finding
from cloudtasks_nb.errors import AlreadyExistsError, CloudTasksError, NotFoundError
from cloudtasks_nb.fanout.plan.recipe import TaskOptions
from cloudtasks_nb.fanout.plan.render import literal_task

__all__ = ["can_probe", "with_probe"]

_RUNNING = 1


def can_probe(queue: Any) -> bool:
    """Return whether a queue (raw message) calls the URL of a task now."""
    return queue.state == _RUNNING and not queue.HasField("http_target")


async def with_probe(
    context: CheckContext, queue: QueueName, options: TaskOptions, look: Callable[[TaskName], Awaitable[Finding]]
) -> Finding:
    """Create a task, return what `look` finds about it, and delete it.

    Raises
    ------
    CloudTasksError
        If the task cannot be created.
    """
    name = TaskName(queue=queue, task=f"doctor-{secrets.token_hex(8)}")
    message = literal_task(options, now=context.connection.clock.now())
    message.name = str(name)
    with suppress(AlreadyExistsError):  # the answer to the first call was lost
        await context.call("CreateTask", parent=str(queue), task=message, resource_name=str(queue))
    left = ""
    try:
        finding = await look(name)
    except CloudTasksError as error:
        finding = Finding(ok=False, detail=error.message, fix=error.hint)
    finally:
        try:
            await context.call("DeleteTask", name=str(name))
        except NotFoundError:
            pass
        except CloudTasksError as error:
            left = f"; the probe, task {name.task}, is still in queue {queue.queue}: {error.message}"
    return replace(finding, detail=finding.detail + left)
