"""The tasks of a queue as they are loaded into a panel: page by page, and further on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from cloudtasks_nb._frames import TASKS, column, frame
from cloudtasks_nb._names import QueueName, TaskName
from cloudtasks_nb.errors import PermissionDeniedError
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import task_columns
from cloudtasks_nb.service.watch import Pending, now_micros

__all__ = ["Listing", "pending_frame", "read_task"]

_PAGE = 1_000  # tasks a ListTasks call gives at most
_STEP = 10  # pages between two looks at the screen
_BASIC, _FULL = 1, 2  # google.cloud.tasks.v2.Task.View


class Listing:
    """A list of a queue's tasks that is read further with each call.

    Parameters
    ----------
    connection : Connection
    queue : QueueName
    """

    def __init__(self, connection: Connection, queue: QueueName) -> None:
        self.queue = queue
        self.complete = False  #: there are no more
        self.at: int | None = None  #: when the first page was read, microseconds since 1970
        self._connection = connection
        self._token = ""

    def more(self, limit: int | None) -> Iterator[pd.DataFrame]:
        """Read up to `limit` more tasks, all for None, and give them out in frames as they come.

        The first frame is one page, for a quick sight of something; further ones are of ten.
        """
        left, step = limit, 1
        while not self.complete and left != 0:
            columns: dict[str, list[Any]] = {name: [] for name in TASKS}
            for _ in range(step):
                page = self._page(_PAGE if left is None else min(_PAGE, left))
                for name, values in page.items():
                    columns[name] += values
                left = left and max(0, left - len(page["task"]))
                if self.complete or left == 0:
                    break
            step = _STEP
            self._connection.remember(columns)
            yield frame(TASKS, columns, index="task")

    def _page(self, size: int) -> dict[str, list[Any]]:
        now = now_micros()
        answer = self._connection.call(
            "ListTasks", parent=str(self.queue), page_size=size, page_token=self._token, resource_name=str(self.queue)
        )
        self.at = self.at or now
        self._token = answer.next_page_token
        self.complete = not self._token
        return task_columns(answer.tasks, now=now)


async def read_task(connection: Connection, queue: QueueName, task: str) -> dict[str, Any]:
    """Return one task as plain values, with its body where that may be read.

    Raises
    ------
    TaskNotFoundError
        If it is not in the queue, or no longer.
    """
    name = str(TaskName(queue=queue, task=task))
    try:
        found = await connection.transport.call("GetTask", name=name, response_view=_FULL)
    except PermissionDeniedError:
        found = await connection.transport.call("GetTask", name=name, response_view=_BASIC)
    columns = task_columns([found], now=now_micros(), body=True)
    connection.remember(columns)
    return {name: values[0] for name, values in columns.items()}


def pending_frame(tasks: dict[str, Pending]) -> pd.DataFrame:
    """Return what was looked up of tasks as the columns of a Tasks frame that may have changed."""
    found = list(tasks.values())
    columns: dict[str, list[Any]] = {
        "state": [one.state for one in found],
        "schedule_time": [one.schedule_time for one in found],
        "attempts": [one.attempts for one in found],
        "last_status": [one.last_status for one in found],
        "last_message": [one.last_message for one in found],
    }
    made = {name: column(values, TASKS[name]) for name, values in columns.items()}
    return pd.DataFrame(made, index=pd.Index(list(tasks), name="task"))
