"""Telling somebody that a batch is done: one task a round, created through a queue like any other."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._connection import Connection
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, CloudTasksError, InvalidInputError, QuotaError, UnavailableError
from cloudtasks_nb.fanout.outbox._outbox import Outbox
from cloudtasks_nb.fanout.outbox._records import BatchRecord, Completion, State
from cloudtasks_nb.fanout.plan._identity import completion_id
from cloudtasks_nb.fanout.plan._plan import compile_recipe, plan_one

__all__ = ["Teller", "check_route", "check_url"]

_SOON = 1.0  # seconds between two looks whether somebody is still to be told
_LATE = 60.0  # the same, once the service has refused a few times
_PATIENCE = 75.0  # seconds after which nobody waits any more for a notification that is not created
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


class Teller:
    """Tells of the end of one batch, in the background. Lives on the background loop.

    Parameters
    ----------
    connection : Connection
    outbox : Outbox
    batch : str
    heard : callable
        Called after each attempt, with what went wrong.
    """

    def __init__(
        self, connection: Connection, outbox: Outbox, batch: str, heard: Callable[[CloudTasksError | None], None]
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._batch = batch
        self._heard = heard
        self._telling: asyncio.Task[None] | None = None
        self._known = asyncio.Event()  # everybody has been told, or why not will not change soon

    def begin(self) -> None:
        """Begin to tell everybody who has not been told of the present round, unless that is under way."""
        if self._telling is None or self._telling.done():
            self._known.clear()
            self._telling = _loop.spawn(self._tell())

    async def told(self) -> None:
        """Wait until everybody is told, or cannot be; another process may have it in hand, and be killed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._known.wait()

    async def close(self) -> None:
        """Tell nobody any more."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling

    async def _tell(self) -> None:
        """Go on while others are about to tell, as they may be killed, and while the service does not take the task."""
        pause = _SOON
        try:
            while await self._waiting():
                error = await _attempt(self._connection, self._outbox, self._batch)
                self._heard(error)
                if error is not None and not isinstance(error, (QuotaError, UnavailableError)):
                    self._known.set()
                if await self._waiting():
                    await asyncio.sleep(pause)
                pause = _SOON if error is None else min(2 * pause, _LATE)
        except CloudTasksError as error:
            self._heard(error)
        finally:
            self._known.set()

    async def _waiting(self) -> bool:
        return await self._outbox.run(self._outbox.untold, self._batch)


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
