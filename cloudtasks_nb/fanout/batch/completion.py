"""Telling somebody that a batch is done: one task a round, created through a queue like any other."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, CloudTasksError, InvalidInputError, QuotaError, UnavailableError
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchRecord, Completion, State
from cloudtasks_nb.fanout.plan.identity import completion_id
from cloudtasks_nb.fanout.plan.literal import literal_task
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.service.connection import Connection

__all__ = ["CompletionNotifier", "check_route", "check_url", "completion_queue", "registered"]

_SOON = 1.0  # seconds between two looks whether somebody is still to be told
_LATE = 60.0  # the same, once the service has refused a few times
_PATIENCE = 75.0  # seconds after which nobody waits any more for a notification that is not created
_TOLD = (State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.GONE)


def completion_queue(queue: Any, own: QueueName) -> QueueName:
    """Return the queue that carries a notification: a Queue, a short or full name, None for the batch's own.

    Raises
    ------
    InvalidInputError
        If it is no queue, or one of another project or location.
    """
    name = getattr(queue, "name", queue)
    if name is None:
        return own
    if not isinstance(name, str):
        raise InvalidInputError(
            f"queue={queue!r} is no queue", resource="queue", hint='queue="notices", or tasks.queue("notices")'
        )
    target_queue = QueueName.parse(name if "/" in name else f"{own.parent}/queues/{name}")
    if target_queue.parent != own.parent:
        raise InvalidInputError(
            f"queue {target_queue} is not in {own.parent}, where the batch is",
            resource=str(target_queue),
            hint="name a queue of the batch's own project and location",
        )
    return target_queue


def check_route(
    connection: Connection, queue: QueueName, *, service_account: str | None = None, audience: str | None = None
) -> None:
    """Refuse a queue that would send the notification to another URL than the one it is for, or with another token.

    Raises
    ------
    InvalidInputError
        With the way out.
    """
    target = connection.call("GetQueue", name=str(queue)).http_target
    token = target.oidc_token
    other = target.HasField("oauth_token") or (
        target.HasField("oidc_token")
        and (token.service_account_email, token.audience or audience) != (service_account, audience)
    )
    if target.HasField("uri_override"):
        does = "sends all its tasks to a URL of its own"
    elif service_account is not None and other:
        does = "signs all its tasks as an account, or for an audience, of its own"
    else:
        return
    raise InvalidInputError(
        f"queue {queue.queue} {does}, the notification too",
        resource=str(queue),
        hint='name another queue: batch.on_complete(url, queue="notices")',
    )


def registered(outbox: Outbox, batch: str, url: str) -> str:
    """Say when a URL that was registered is told, and who else is."""
    record, known = outbox.batches.get(batch), outbox.completions.registered(batch)
    told = any(one.round >= record.round for one in known if one.url == url)
    others = [one.url for one in known if one.url != url]
    if record.done:
        when = f"the batch is done: {url} {'was told already' if told else 'is told now'}"
    else:
        when = (
            f"{url} will be told when the batch is done, by this kernel, or by what watches it then: "
            f"cloudtasks-nb watch {batch}"
        )
    return when + (f"; so {'is' if len(others) == 1 else 'are'} {', '.join(others)}" if others else "")


def check_url(url: Any, *, service_account: str | None = None, audience: str | None = None) -> None:
    """Refuse what is no http(s) URL, and a token that makes no sense.

    Raises
    ------
    InvalidInputError
        Naming it.
    """
    if not isinstance(url, str):
        raise InvalidInputError(
            f"{url!r} is neither an http(s) URL nor a handler", resource="url", hint='batch.on_complete("https://…")'
        )
    literal_task(TaskOptions(url=url, service_account=service_account, audience=audience), now=dt.datetime.now(dt.UTC))


class CompletionNotifier:
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
        return await self._outbox.run(self._outbox.completions.due, self._batch)


async def _attempt(connection: Connection, outbox: Outbox, batch: str) -> CloudTasksError | None:
    """Create the notifications of this round that nobody else is about to create; return what went wrong last."""
    wrong = None
    for completion in await outbox.run(outbox.completions.claim, batch):
        record = await outbox.run(outbox.batches.get, batch)
        try:
            await _create(connection, record, completion, _summary(record, completion))
        except CloudTasksError as error:
            wrong = error
            await outbox.run(outbox.completions.release, batch, completion)
        else:
            await outbox.run(outbox.completions.confirm, batch, completion)
    return wrong


async def _create(connection: Connection, record: BatchRecord, completion: Completion, summary: Any) -> None:
    place = record.place
    queue = QueueName(project=place.project, location=place.location, queue=completion.queue or place.queue)
    options = TaskOptions(
        url=completion.url, body=summary, service_account=completion.service_account, audience=completion.audience
    )
    task = literal_task(options, now=dt.datetime.now(dt.UTC))
    task.name = str(TaskName(queue=queue, task=completion_id(record.id, completion.id, completion.round)))
    try:
        await connection.transport.call("CreateTask", parent=str(queue), task=task, resource_name=str(queue))
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
