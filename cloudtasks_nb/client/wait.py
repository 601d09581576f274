"""Wait for tasks that were created one by one, and return what became of each."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import OUTCOMES, TASKS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb._settings import parse_duration
from cloudtasks_nb.client.task_verbs import row_ids
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import Bar
from cloudtasks_nb.errors import BatchTimeoutError
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.fanout.batch.search import SingleTasks
from cloudtasks_nb.fanout.causes import message_of
from cloudtasks_nb.fanout.evidence import status_name
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.store.types import restore

__all__ = ["wait_for_tasks"]

#: What else the frame of a task tells of its attempts; how many were answered is told by nobody once it has left.
_ATTEMPT = {name: TASKS[name] for name in ("responses", "last_message", "last_attempt_time")}


def wait_for_tasks(
    connection: Connection, catalog: Catalog, queue: QueueName, tasks: Any, timeout: Any
) -> pd.DataFrame:
    """Wait until tasks are final, with a bar; return the frame with what became of them.

    Raises
    ------
    BatchTimeoutError
        If it takes longer than the timeout.
    """
    seconds = None if timeout is None else parse_duration(timeout, "timeout").total_seconds()
    ids = row_ids(tasks, queue)
    created = _create_times(tasks, len(ids))
    found = SingleTasks(
        connection, lambda: catalog.outbox, queue, {task: at for task, at in zip(ids, created, strict=True) if task}
    )
    total = len(found.rows)
    with Bar("waiting", total, unit="tasks") as bar:
        try:
            _loop.run(found.wait(), seconds, lambda: bar.to(total - len(found.open), note=found.note))
        except TimeoutError:
            span = duration_text(timeout) if isinstance(timeout, (int, float)) else timeout
            left = len(found.open)
            raise BatchTimeoutError(
                f"{left:,} of {counted(total, 'tasks')} of queue {queue.queue} {'is' if left == 1 else 'are'} not done "
                f"after {span}" + (f": {found.note}" if found.note else ""),
                resource=str(queue),
                hint="the tasks stay in the queue: queue.wait(…) waits longer, queue.tasks() lists them",
            ) from None
    told = [dict[str, Any]() if task is None else _told(found, task) for task in ids]
    listed = isinstance(tasks, pd.DataFrame) and {*TASKS} - {"task"} <= {*tasks.columns}
    names = {**OUTCOMES, **(_ATTEMPT if listed else {})}
    outcomes = frame(names, {name: [one.get(name) for one in told] for name in names})
    if not isinstance(tasks, pd.DataFrame):
        return outcomes.set_axis(pd.Index(ids, dtype="string", name="task"))
    return tasks.assign(**{str(name): values.array for name, values in outcomes.items()})


def _told(found: SingleTasks, task: str) -> dict[str, Any]:
    """Return the values of the columns for a task."""
    row, result = found.rows[task], found.results.get(task)
    error = row.reason
    if row.state == State.FAILED:
        error = row.message
        if result is not None and not result.ok:
            error = message_of(result.error, result.gave_up)
    return {
        "state": State(row.state).word,
        "attempts": row.attempts,
        "last_status": status_name(row.status, row.http),
        "result": None if result is None or row.state != State.SUCCEEDED else restore(result.result, result.types),
        "error": error,
        "last_message": error,
        "last_attempt_time": row.began,
    }


def _create_times(tasks: Any, count: int) -> list[int | None]:
    """Return when the tasks of a frame were created, in microseconds since 1970, as far as it says so."""
    times = tasks.get("create_time") if isinstance(tasks, pd.DataFrame) else None
    if times is None or not isinstance(times.dtype, pd.DatetimeTZDtype):  # it is a column of the user
        return [None] * count
    return [None if pd.isna(one) else round(one.timestamp() * 1e6) for one in times]
