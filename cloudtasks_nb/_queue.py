"""The verbs on one queue."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pandas as pd

from cloudtasks_nb import _loop, _oplog, _show
from cloudtasks_nb._bar import Bar
from cloudtasks_nb._connection import Connection, say
from cloudtasks_nb._deeds import delete_tasks, run_tasks
from cloudtasks_nb._frames import ATTEMPTS, TASKS, frame
from cloudtasks_nb._messages import http_target, queue_message, queue_values, task_columns
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import QUEUE_SETTINGS, check_words, parse_duration, parse_time
from cloudtasks_nb._watch import now_micros
from cloudtasks_nb.errors import (
    AlreadyExistsError,
    CloudTasksError,
    InvalidInputError,
    PermissionDeniedError,
    PreconditionError,
    QueueNotFoundError,
)

__all__ = ["Queue", "ensure"]

# What a queue that we make gets unless it is told otherwise: without a log no outcomes, with 100 attempts days of them.
_NEW_QUEUE = {"log_sampling_ratio": 1.0, "max_attempts": 5}
_GOOGLES = {"log_sampling_ratio": 0.0, "max_attempts": 100}
_FULL, _BASIC = 2, 1  # google.cloud.tasks.v2.Task.View


def ensure(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    """Make a queue if it is not there, bring the named settings to their values if it is, and say what was done.

    Raises
    ------
    InvalidInputError
        For an unknown setting or a bad value; nothing is made then.
    PreconditionError
        If the name was freed too recently: a deleted queue's name is blocked for days.
    """
    check_words(settings, QUEUE_SETTINGS, "queue setting")
    queue_message(str(name), settings)
    try:
        found = _loop.run(connection.transport.call("GetQueue", name=str(name)))
    except QueueNotFoundError:
        if _create(connection, name, settings):
            return
        found = connection.call("GetQueue", name=str(name))
    there = queue_values(found)
    differing = {word: value for word, value in settings.items() if not _same(there[word], value)}
    if differing:
        _update(connection, name, differing)
        say(f"queue {name.queue}: " + ", ".join(f"{word} {there[word]} → {value}" for word, value in differing.items()))


def _create(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> bool:
    """Make a queue and say so; False if it is there already, made by another or not yet known everywhere."""
    message, _ = queue_message(str(name), {**_NEW_QUEUE, **settings})
    try:
        connection.call("CreateQueue", parent=name.parent, queue=message, about=str(name))
    except AlreadyExistsError:
        connection.transport.note_fresh(str(name))
        return False
    except PreconditionError as error:
        raise PreconditionError(
            f'the queue "{name.queue}" cannot be made: {error.message}',
            resource=str(name),
            code=error.code,
            hint="the name of a deleted queue is blocked for up to 3 days; use another name",
        ) from error
    connection.transport.note_fresh(str(name))
    ours = [word for word in _NEW_QUEUE if word not in settings]
    told = ", ".join(f"{word}={_NEW_QUEUE[word]} (Cloud Tasks' own default: {_GOOGLES[word]})" for word in ours)
    say(f"made queue {name.queue}" + (f" with {told}" if told else ""))
    return True


def _update(connection: Connection, name: QueueName, settings: Mapping[str, Any]) -> None:
    message, mask = queue_message(str(name), settings)
    connection.call("UpdateQueue", queue=message, update_mask={"paths": mask}, about=str(name))


def _same(there: Any, wanted: Any) -> bool:
    if isinstance(wanted, (str, dt.timedelta)):
        wanted = parse_duration(wanted, "duration").total_seconds()
    return bool(abs(float(there) - float(wanted)) < 1e-9)  # noqa: PLR2004 - floats off the wire


class Queue:
    """One queue of Cloud Tasks. Made by `tasks.queue(name)`; makes no call until a verb is used.

    Every verb raises `QueueNotFoundError` when the queue does not exist, and another
    `cloudtasks_nb.errors.CloudTasksError` when the service refuses.
    """

    def __init__(self, connection: Connection, name: QueueName) -> None:
        self._connection = connection
        self._name = name

    @property
    def id(self) -> str:
        """The short name."""
        return self._name.queue

    @property
    def name(self) -> str:
        """The resource name, what `queue_path` of Google's client builds: ``projects/P/locations/L/queues/Q``."""
        return str(self._name)

    def tasks(self, limit: int | None = 1000, *, body: bool = False, secrets: bool = False) -> pd.DataFrame:
        """List the tasks that are in the queue.

        Finished tasks are not: Cloud Tasks deletes a task when it succeeds and when it gives up; `attempts()` shows
        both.

        Parameters
        ----------
        limit : int or None
            How many at most; None is all. A thousand need one call.
        body : bool
            Add the decoded body of each (JSON, else text, else bytes); needs ``cloudtasks.tasks.fullView``.
        secrets : bool
            Show the values of secret headers (``Authorization``, ``*-Key``, …), which are dots otherwise.

        Returns
        -------
        pandas.DataFrame
            One row a task, index `task`. ``attrs["fetched_at"]`` says when, ``attrs["truncated"]`` whether there are
            more.
        """
        _check_limit(limit)
        columns, truncated = self._connection.wait_for(lambda: self._list(limit, body=body, secrets=secrets))
        self._connection.remember(columns)
        made = frame(TASKS, columns, index="task")
        made.attrs.update(fetched_at=pd.Timestamp.now("UTC"), truncated=truncated)
        if truncated:
            say(f"the first {len(made):,} tasks; there are more: queue.tasks(limit=None)")
        return made

    async def _list(self, limit: int | None, *, body: bool, secrets: bool) -> tuple[dict[str, list[Any]], bool]:
        now = now_micros()
        wanted = None if limit is None else limit + 1
        columns = task_columns((), now=now)
        with Bar("listing", limit, unit="tasks") as bar:
            async for page in self._connection.transport.pages(
                "ListTasks",
                "tasks",
                limit=wanted,
                page_size=1000,
                parent=self.name,
                response_view=_FULL if body else _BASIC,
                about=self.name,
            ):
                for name, values in task_columns(page, now=now, body=body, secrets=secrets).items():
                    columns[name] += values
                bar.to(len(columns["task"]))
        truncated = limit is not None and len(columns["task"]) > limit
        return {name: values[:limit] for name, values in columns.items()}, truncated

    def attempts(self, since: Any = "1h", limit: int | None = 1000) -> pd.DataFrame:
        """Read the newest attempts from the operations log.

        Parameters
        ----------
        since : duration or time
            ``"1h"`` back from now, or a point in time.
        limit : int or None
            How many at most, newest first; None is all. A thousand are one read of the 60 a minute.

        Returns
        -------
        pandas.DataFrame
            One row an attempt. The log has no messages: `message` is what was last seen on a task still in the queue.
        """
        _check_limit(limit)
        start = _since(since)
        entries = _loop.run(_oplog.read(self._connection.transport, self._name, since=start, limit=limit))
        self._look_for_messages(entries)
        columns: dict[str, Sequence[Any]] = {
            "time": [entry.time for entry in entries],
            "task": [entry.task for entry in entries],
            "queue": [entry.queue for entry in entries],
            "attempt": [entry.attempt for entry in entries],
            "status": [entry.status for entry in entries],
            "message": [self._connection.message(entry.queue, entry.task, entry.attempt) for entry in entries],
            "duration": [entry.duration for entry in entries],
            "retry_time": [entry.retry_time for entry in entries],
            "url": [entry.url for entry in entries],
        }
        return frame(ATTEMPTS, columns)

    def _look_for_messages(self, entries: Sequence[_oplog.Entry]) -> None:
        """Read the messages of tasks that are to be tried again; a queue without entries must at least exist."""
        if not entries:
            with contextlib.suppress(PermissionDeniedError):
                self._connection.call("GetQueue", name=self.name)
        elif any(entry.retry_time for entry in entries):
            with contextlib.suppress(QueueNotFoundError):  # it was deleted since, and its log stays readable
                columns, _ = _loop.run(self._list(1000, body=False, secrets=False))
                self._connection.remember(columns)

    def pause(self) -> Self:
        """Stop dispatching; tasks are still accepted, and what runs goes on."""
        return self._do("PauseQueue")

    def resume(self) -> Self:
        """Dispatch again."""
        return self._do("ResumeQueue")

    def purge(self) -> Self:
        """Delete every task that is in the queue now; it cannot be undone, and may take the service a minute."""
        return self._do("PurgeQueue")

    def delete(self) -> Self:
        """Delete the queue with all its tasks; its name is blocked for up to 3 days."""
        return self._do("DeleteQueue")

    def update(self, **settings: Any) -> Self:
        """Change settings of the queue: `rate`, `max_concurrent`, `max_attempts`, `min_backoff` and the others.

        Raises
        ------
        InvalidInputError
            For an unknown word or a bad value.
        """
        check_words(settings, QUEUE_SETTINGS, "queue setting")
        if settings:
            self._connection.call("GetQueue", name=self.name)  # UpdateQueue would make a queue that is not there
            _update(self._connection, self._name, settings)
        return self

    def route(self, url: str | None = None, *, service_account: str | None = None, audience: str | None = None) -> Self:
        """Send every task of this queue, waiting or new, to `url`, signed as `service_account`.

        The queue-level ``http_target`` (https://cloud.google.com/tasks/docs/configuring-queues). Parts that the URL
        leaves out stay each task's own. Without arguments the routing is taken away.
        """
        target = http_target(url, service_account, audience)
        self._connection.call("GetQueue", name=self.name)
        self._connection.call(
            "UpdateQueue",
            queue={"name": self.name, "http_target": target} if url or service_account else {"name": self.name},
            update_mask={"paths": ["http_target"]},
            about=self.name,
        )
        return self

    def run(self, tasks: Any) -> pd.DataFrame:
        """Dispatch tasks now, over the queue's limits and even when it is paused.

        Parameters
        ----------
        tasks : DataFrame, Series, Index, list or str
            A frame that a verb returned, or task ids. Google allows 60 a minute.

        Returns
        -------
        pandas.DataFrame
            A row a task: `task, ok, error`; one that fails does not stop the others.
        """
        return run_tasks(self._connection, self._name, tasks)

    def delete_tasks(self, tasks: Any) -> pd.DataFrame:
        """Delete tasks that have not finished.

        Parameters
        ----------
        tasks : DataFrame, Series, Index, list or str
            A frame that a verb returned, or task ids.

        Returns
        -------
        pandas.DataFrame
            A row a task: `task, ok, error`; one that fails does not stop the others.
        """
        return delete_tasks(self._connection, self._name, tasks)

    def _do(self, rpc: str) -> Self:
        self._connection.call(rpc, name=self.name)
        return self

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        badge = "LOCAL" if self._connection.where.local else self._name.project
        title = f"Queue {self.id}"
        try:
            found = _loop.run(self._connection.watcher.glance(self._name), timeout=10)
            attempts = self.attempts(limit=5)
        except (CloudTasksError, TimeoutError) as error:
            return _show.card(title, badge=badge, notes=[str(error) or "the service did not answer in time"])
        facts = {
            "state": found["state"],
            "tasks": found.get("tasks"),
            "running": found.get("running"),
            "rate": f"{found['rate']:g}/s",
            "max_concurrent": found["max_concurrent"],
            "max_attempts": found["max_attempts"],
            "target": found["target"],
        }
        notes = ["finished tasks leave the queue: queue.attempts()"]
        if not found["log_sampling_ratio"]:
            notes.append("this queue writes no log, so outcomes cannot be known: queue.update(log_sampling_ratio=1.0)")
        shown = attempts[["time", "task", "attempt", "status", "duration", "url"]]
        return _show.card(title, badge=badge, facts=facts, frame=shown, notes=notes)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit={limit!r} is less than 1", resource="limit", hint="limit=None is all")


def _since(since: Any) -> int:
    if isinstance(since, dt.datetime) or (isinstance(since, str) and since[:4].isdigit() and "-" in since):
        return int(parse_time(since, "since").timestamp() * 1_000_000)
    return now_micros() - round(parse_duration(since, "since").total_seconds() * 1_000_000)
