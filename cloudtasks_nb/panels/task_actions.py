"""What can be done to the selected tasks: run and delete, each asked about by how much it touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import ipywidgets as widgets

from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.prompt import Question, counted
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["TaskActions"]

_FEW = 10  # tasks for which a click is enough
_LISTED = 1_000  # ids that are written out in a line of Python
_RUNS_A_MINUTE = 60  # that Google allows (https://cloud.google.com/tasks/docs/quotas)


class TaskActions:
    """Buttons that run or delete the selected tasks of a panel.

    Parameters
    ----------
    panel : Panel
        About one queue.
    table : Table
        Its tasks, by id.
    gone : callable
        Called with the ids of tasks that are no longer in the queue.
    """

    def __init__(self, panel: Panel, table: Table, gone: Callable[[Iterable[str]], object]) -> None:
        self._panel = panel
        self._table = table
        self._gone = gone
        self.run = panel.button(
            "Run now", self._ask_run, changes=True, quick=True, tip="Dispatch the selected tasks now"
        )
        self.delete = panel.button(
            "Delete", self._ask_delete, changes=True, quick=True, look="danger", tip="Delete the selected tasks"
        )
        self.selected(0)

    @property
    def buttons(self) -> tuple[widgets.Button, ...]:
        """The buttons, for a row."""
        return self.run, self.delete

    def selected(self, count: int) -> None:
        """Show how many tasks would be touched."""
        for button, verb in ((self.run, "Run now"), (self.delete, "Delete")):
            button.description = f"{verb} ({count:,})" if count else verb
            self._panel.able(button, bool(count))

    def _ask_run(self) -> None:
        queue, tasks = self._meant()
        if len(tasks) <= _FEW:
            self._panel.start(lambda: self._run(queue, tasks), changes=True)
            return
        pace = ""
        if not self._panel.context.local:
            pace = f" Google allows {_RUNS_A_MINUTE} a minute: this takes {counted(-(-len(tasks) // 60), 'minute')}."
        question = Question(
            title=f"Run {counted(len(tasks), 'task')} of {queue} now?",
            scope=f"{self._scope(queue, len(tasks))} They are dispatched whatever the queue's limits are, even "
            f"while it is paused.{pace}",
            verb=f"Run {counted(len(tasks), 'task')}",
            line=self._line(queue, "run", tasks),
            danger=False,
        )
        self._panel.ask(question, lambda: self._run(queue, tasks))

    def _ask_delete(self) -> None:
        queue, tasks = self._meant()
        question = Question(
            title=f"Delete {counted(len(tasks), 'task')} of {queue}?",
            scope=f"{self._scope(queue, len(tasks))} They will not be dispatched any more. It cannot be undone.",
            verb=f"Delete {counted(len(tasks), 'task')}",
            line=self._line(queue, "delete_tasks", tasks),
            typed=queue if len(tasks) > _FEW else None,
        )
        self._panel.ask(question, lambda: self._delete(queue, tasks))

    def _meant(self) -> tuple[str, list[str]]:
        return self._panel.queue or "", self._table.selected

    def _scope(self, queue: str, count: int) -> str:
        """Say which tasks are meant, so that those which are not are not believed to be."""
        if count < self._table.total:
            return f"The {counted(count, 'task')} selected of {self._table.total:,} loaded from {queue}."
        return f"All {counted(count, 'task')} loaded from {queue}; those that are not loaded are left alone."

    def _line(self, queue: str, verb: str, tasks: list[str]) -> str:
        if len(tasks) <= _LISTED:
            return self._panel.context.line(queue, verb, tasks)
        return f"{self._panel.context.line(queue, verb)[:-1]}panel.table.selected)"

    def _run(self, queue: str, tasks: list[str]) -> None:
        step = 500 if self._panel.context.local else 20  # tasks between two looks at the Stop button
        self._each(queue, tasks, "run", "ran", step)
        self._panel.look()

    def _delete(self, queue: str, tasks: list[str]) -> None:
        self._gone(self._each(queue, tasks, "delete_tasks", "deleted", _LISTED))
        self._panel.look()

    def _each(self, queue: str, tasks: list[str], verb: str, done: str, step: int) -> list[str]:
        """Do it to all, a part at a time, and say how it went; return those it was done to."""
        well: list[str] = []
        causes: Counter[str] = Counter()
        for start in range(0, len(tasks), step):
            if self._panel.stopping.is_set():
                break
            verdicts = getattr(self._panel.context.queue(queue), verb)(tasks[start : start + step])
            well += verdicts.loc[verdicts["ok"], "task"].tolist()
            causes.update(verdicts.loc[~verdicts["ok"], "error"].tolist())
        words = [f"{done} {counted(len(well), 'task')} of {queue}"]
        words += [f"{counted(count, 'task')} not: {cause}" for cause, count in causes.most_common(3)]
        left = len(tasks) - len(well) - causes.total()
        words += [f"stopped with {counted(left, 'task')} left"] if left else []
        self._panel.notify("; ".join(words), line=self._line(queue, verb, tasks))
        return well
