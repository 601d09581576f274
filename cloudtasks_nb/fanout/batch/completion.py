"""Notify URLs that a batch is finished: for each URL and round, one task is created in a queue.

What becomes of that task is found out afterwards. One that failed is created again, under another name, when its URL is
registered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._names import CODES, QueueName, TaskName
from cloudtasks_nb.errors import AlreadyExistsError, CloudTasksError, InvalidInputError, QuotaError, UnavailableError
from cloudtasks_nb.fanout.batch.search import SingleTasks
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import BatchFacts, BatchRecord
from cloudtasks_nb.fanout.plan.identity import completion_id
from cloudtasks_nb.fanout.plan.recipe import TaskOptions, token_options
from cloudtasks_nb.fanout.plan.render import literal_task
from cloudtasks_nb.fanout.states import FINAL, State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import default_audience
from cloudtasks_nb.service.oplog import RETENTION, Wanted

__all__ = ["CompletionNotifier", "failed_notification", "register", "registered", "store_registration"]

_NEW = {"told": 0, "again": 0, "known": 0, "error": None}

_RETRY = 1.0  # seconds before another try
_RETRY_LONGEST = 60.0  # longest pause after repeated refusals
_WORK = "notifying of the end of"
_FINISH_TIMEOUT = 75.0  # most seconds that `finish` waits for the notifications


def register(connection: Connection, outbox: Outbox, record: BatchRecord, task: TaskOptions, queue: Any) -> str:
    """Have a URL notified of the end of a batch; return a text: when that will be, and which others are notified.

    Parameters
    ----------
    task : TaskOptions
        The URL, or what stands for it, and the options of its token.
    queue : object
        A Queue or a short or full name; None: the batch's own queue.

    Raises
    ------
    InvalidInputError
        For a bad argument, or a queue that would send the notification to another URL or with another token.
    """
    account, audience = token_options(task["url"], task.get("service_account"), task.get("audience"))
    url = getattr(task["url"], "url", task["url"])
    if not isinstance(url, str):
        raise InvalidInputError(
            f"{url!r} is neither an http(s) URL nor a handler", resource="url", hint='batch.on_complete("https://…")'
        )
    literal_task(TaskOptions(url=url, service_account=account, audience=audience), now=connection.clock.now())
    target_queue = _target_queue(queue, QueueName.parse(record.place.queue_name))
    connection.check_target(target_queue, url, account)
    found = connection.read_queue(target_queue, "it is not known whether it sends the notification to another URL")
    does = None if found is None else _rerouting(found.http_target, (account, audience or default_audience(url)))
    if does is not None:
        raise InvalidInputError(
            f"queue {target_queue.queue} {does}, including the notification",
            resource=str(target_queue),
            hint='name another queue: batch.on_complete(url, queue="notices")',
        )
    store_registration(outbox, record.id, url, service_account=account, audience=audience, queue=target_queue.queue)
    return _when(outbox, record.id, url)


def _target_queue(queue: Any, own: QueueName) -> QueueName:
    name = getattr(queue, "name", queue)
    if name is None:
        return own
    if not isinstance(name, str):
        raise InvalidInputError(
            f"queue={queue!r} is not a queue", resource="queue", hint='queue="notices", or tasks.queue("notices")'
        )
    target_queue = QueueName.parse(name if "/" in name else f"{own.parent}/queues/{name}")
    if target_queue.parent != own.parent:
        raise InvalidInputError(
            f"queue {target_queue} is not in {own.parent}, where the batch is",
            resource=str(target_queue),
            hint="name a queue of the batch's own project and location",
        )
    return target_queue


def _rerouting(target: Any, own: tuple[str | None, str]) -> str | None:
    """Return what a queue with this target does to a task with a token of its own account and audience, if anything."""
    token = target.oidc_token
    other = target.HasField("oidc_token") and (token.service_account_email, token.audience or own[1]) != own
    if target.HasField("uri_override"):
        return "sends all its tasks to another URL"
    if own[0] is not None and (other or target.HasField("oauth_token")):
        return "sends all its tasks with a token of another account or audience"
    return None


def registered(facts: BatchFacts) -> dict[str, dict[str, Any]]:
    """Return which URLs are notified of the end of a batch, how, and what became of that.

    ``told`` is the last round of which that was done, ``again`` how often it was done once more, ``known`` the last
    round of which it is known what became of it, and ``error`` why that one failed.
    """
    return {url: {**_NEW, **options} for url, options in facts.notifications.items()}


def failed_notification(record: BatchRecord) -> tuple[str, str] | None:
    """Return why a notification of the end of the present round failed, and the line that sends it again."""
    for url, options in registered(record.facts).items():
        if record.done and options["told"] == record.round and options["error"]:
            names = ("service_account", "audience", "queue")
            given = "".join(f", {name}={options[name]!r}" for name in names if options[name])
            return options["error"], f"batch.on_complete({url!r}{given})"
    return None


def store_registration(outbox: Outbox, batch: str, url: str, **values: Any) -> None:
    """Store how a URL is notified of the end of a batch, or what has become of that; the rest stays as it was.

    If a notification failed, and how is stored anew, it is sent again.
    """

    def change(facts: BatchFacts) -> BatchFacts:
        known = registered(facts)
        old = known.get(url, _NEW)
        if old["error"] and "queue" in values:
            old = {**_NEW, "again": old["again"] + 1}
        return replace(facts, notifications={**known, url: {**old, **values}})

    outbox.batches.change(batch, change)


def _when(outbox: Outbox, batch: str, url: str) -> str:
    record = outbox.batches.get(batch)
    known = registered(record.facts)
    others = [one for one in known if one != url]
    if record.done:
        notified = known[url]["told"] >= record.round
        when = f"the batch is done: {url} {'was notified already' if notified else 'is notified now'}"
    else:
        when = (
            f"{url} will be notified when the batch is done, by this kernel or by another process that watches "
            f"it: cloudtasks-nb watch {batch}"
        )
    return when + (f"; so {'is' if len(others) == 1 else 'are'} {', '.join(others)}" if others else "")


@dataclass(eq=False)
class CompletionNotifier:
    """Creates the notifications of one batch in the background. Runs on the background loop."""

    connection: Connection
    outbox: Outbox
    batch: str  #: its id
    supervisor: _loop.Supervisor
    changed: Callable[[], None]  #: called after each attempt, and when it is known what became of a notification

    def __post_init__(self) -> None:
        self.trouble: str | None = None  #: why the last attempt failed, as a sentence
        self._settled = asyncio.Event()  # set when all notifications are created, or the service refuses them

    def begin(self) -> None:
        """Begin to create the due notifications of the current round, unless that is running."""
        if not self.supervisor.running(_WORK):
            self._settled.clear()
            self.supervisor.start(_WORK, self._run)

    async def finish(self) -> None:
        """Wait until all due notifications are created or refused, or the connection is closed; at most 75 s."""
        self.begin()
        if not self.supervisor.running(_WORK):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_TIMEOUT):
                await self._settled.wait()

    async def _run(self) -> None:
        """Create the due notifications; retry while the service refuses.

        Several processes may create the same one: the name of its task is the same in all of them.
        """
        pause = _RETRY
        try:
            while due := await self.outbox.run(self._urls, told=False):
                error: CloudTasksError | None = None
                for record, url, options in due:
                    try:
                        await _create(self.connection, record, url, options)
                    except CloudTasksError as wrong:
                        error = wrong
                    else:
                        await self.outbox.run(store_registration, self.outbox, self.batch, url, told=record.round)
                sentence = "a notification of the batch's end was not created: "
                self.trouble = None if error is None else sentence + error.message
                self.changed()
                if error is not None:
                    if not isinstance(error, (QuotaError, UnavailableError)):
                        self._settled.set()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _RETRY_LONGEST)
            for one in await self.outbox.run(self._urls, told=True):
                self.supervisor.start(f"notifying {one[1]} of the end of", partial(self._find_out, *one))
        finally:
            self._settled.set()

    def _urls(self, *, told: bool) -> list[tuple[BatchRecord, str, Mapping[str, Any]]]:
        """Return the URLs that are to be notified of the end of the present round, or of which no outcome is known."""
        record = self.outbox.batches.get(self.batch)
        urls, now = registered(record.facts) if record.done else {}, record.round
        return [(record, url, one) for url, one in urls.items() if one["known"] < now and (one["told"] == now) is told]

    async def _find_out(self, record: BatchRecord, url: str, options: Mapping[str, Any]) -> None:
        """Store what became of a notification; nothing if that cannot be read."""
        queue, task = _named(record, url, options)
        created = {task: round(record.created.timestamp() * 1e6)}
        tasks = SingleTasks(self.connection, lambda: self.outbox, queue, created)
        with contextlib.suppress(CloudTasksError):
            await tasks.wait()
            row = tasks.rows[task]
            error = (row.message or CODES[row.status or 0]) if row.state == State.FAILED else None
            await self.outbox.run(store_registration, self.outbox, self.batch, url, known=record.round, error=error)
            self.changed()


async def _create(connection: Connection, record: BatchRecord, url: str, options: Mapping[str, Any]) -> None:
    queue, short = _named(record, url, options)
    account, audience = options["service_account"], options["audience"]
    now = connection.clock.now()
    made = TaskOptions(url=url, body=_summary(record, now), service_account=account, audience=audience)
    task = literal_task(made, now=now)
    task.name = str(TaskName(queue=queue, task=short))
    with contextlib.suppress(CloudTasksError):  # without a log only the name of the task tells that it was created
        named = Wanted(since=connection.clock.micros() - RETENTION, tasks=[short])
        if await connection.watcher.is_logged(queue, named):
            return  # by another home, maybe so long ago that the name is free again
    with contextlib.suppress(AlreadyExistsError):  # by another process, or an earlier call whose answer was lost
        await connection.transport.call("CreateTask", parent=str(queue), task=task, resource_name=str(queue))


def _named(record: BatchRecord, url: str, options: Mapping[str, Any]) -> tuple[QueueName, str]:
    """Return the queue and the id of the task that notifies a URL of the end of the present round."""
    place, again = record.place, options["again"]
    queue = QueueName(project=place.project, location=place.location, queue=options["queue"])
    return queue, completion_id(record.id, f"{url} {again}" if again else url, record.round)


def _summary(record: BatchRecord, now: dt.datetime) -> dict[str, Any]:
    return {
        "batch": record.id,
        "name": record.name,
        "queue": record.place.queue_name,
        "round": record.round,
        "total": record.total,
        **{state.word: record.counts[state] for state in FINAL},
        "created": record.created.isoformat(),
        "completed": now.isoformat(),
    }
