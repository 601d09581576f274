"""The tasks of one queue: list them on demand, keep the visible ones up to date, run and delete selected ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb._frames import IN_QUEUE, TASKS, column, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.handlers import served_at
from cloudtasks_nb.panels.cards.task import last_errors
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import Code
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.row_columns import BATCH, MESSAGE, ROW, SEARCHED, TARGET, find_field, row_columns
from cloudtasks_nb.panels.task_details import TaskDetails
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.footer import Question
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.convert import TaskPage, task_columns
from cloudtasks_nb.service.watch import Pending, Snapshot

__all__ = ["Listing", "TaskActions", "TasksPanel"]

_COLUMNS = (
    Column("state", kind="state"),
    ROW,
    MESSAGE,
    Column("last_status", "Last answer", kind="state"),
    BATCH,
    Column("due", kind="due", tip="When it is to be dispatched, and how late that is"),
    Column("attempts", kind="count"),
    TARGET,
)
_STATES = ("any state", *IN_QUEUE)
_PORTION = 10_000  # tasks that are loaded at once


class TasksPanel(Panel):
    """Tasks of a queue. Those of a batch are shown by the columns of its rows.

    The list is read on demand, because the service allows few list calls. Afterwards each snapshot of the watcher
    removes the tasks that are done according to the log, and the tasks on the screen are looked up.

    Attributes
    ----------
    table : Table
        ``table.selected`` are the ids of the selected tasks.
    """

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        super().__init__(context, f"Tasks of {queue}" if framed else "Tasks", queue=queue, framed=framed)
        # Of the rows in the table: what is done with rows is done in its queue. None if there is no queue.
        self._listing: Listing | None = Listing(context.connection, context.name(queue))
        self._listed: Listing | None = None  # the list whose tasks are in the table
        self._since = context.connection.clock.micros()
        self._depth: int | None = None
        self._errors: dict[str, str] = {}  # by task, the last exception of a handler in this kernel
        self._urls: set[str] = set()  # of handlers in this kernel, which have these exceptions
        self._failed = False  # the log has attempts that failed since the exceptions were read
        self._lookup_running = False
        self._seen_last: Pending | None = None  # state of the inspected task
        self.table = self.attach(Table(_COLUMNS, key="task", label="tasks", searched=SEARCHED))
        self.table.on_show = lambda task: self.guarded(self._inspect, task)
        self.actions = TaskActions(self)
        self.table.on_select = lambda keys: self.guarded(self.actions.selected, len(keys))
        self.detail = TaskDetails(self)
        self._make_controls()
        self.notify("", line=context.line(queue, "tasks", _PORTION))
        tools = [self.state, self.find, *self.actions.buttons]
        load = self.row(self.loaded, self.load_more, self.load_all, self.stop_button())
        self.fill(self.row(*tools), self.table, load, self.detail)

    def _make_controls(self) -> None:
        self.state = self.control(widgets.Dropdown(options=_STATES, layout={"width": "9em"}), self._filter)
        self.state.tooltip = "Show only tasks in this state"
        self.find = self.control(find_field(), self._filter)
        self.loaded = widgets.HTML()
        more = f"Load {_PORTION:,} more tasks"
        self.load_more = self.button("Load more", lambda: self._load(self._listing, _PORTION), changes=False, tip=more)
        self.load_all = self.button("Load all", self._load_all, changes=False, tip="Load all tasks; may take a while")

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queue, with its log since the panel became visible."""
        return {self.context.name(self.queue): self._since} if self.queue else {}

    def became_visible(self) -> None:
        """Load the tasks of a queue when they are seen for the first time."""
        self._since = self.context.connection.clock.micros()
        self.start_next(self._load_first)

    def queue_changed(self) -> None:
        """Empty the table, and load the tasks of the other queue if the panel is visible."""
        with self._lock:
            self._listing = Listing(self.context.connection, self.context.name(self.queue)) if self.queue else None
            self._listed = None
            self._depth = None
            self._errors.clear()
            self.table.clear()
            self.loaded.value = ""
        self.detail.hide()
        self.footer.line = self.context.line(self.queue or "", "tasks", _PORTION)
        if self.footer.visible:
            self.start_next(self._load_first)

    def refresh(self) -> None:
        """List the tasks again, as many as were loaded and at least ten thousand."""
        with self._lock:
            if self.queue is None:
                return
            wanted = max(_PORTION, -(-self.table.total // _PORTION) * _PORTION)
            listing = self._listing = Listing(self.context.connection, self.context.name(self.queue))
        self._load(listing, wanted)
        self.resubscribe()
        self.poll_now()

    def _load_first(self) -> None:
        if self._listing is not None and self._listing.at is None:
            self.refresh()

    def apply(self, snapshot: Snapshot) -> None:
        """Remove the tasks that are done, and look up the tasks on the screen."""
        with self._lock:
            listing = self._listing
            if listing is None or snapshot.queue != listing.queue:
                return  # another queue was chosen meanwhile
            self._depth = (snapshot.values or {}).get("tasks", self._depth)  # noqa: PD011 - a mapping, no frame
        self.remove(entry.task for entry in snapshot.entries if entry.deleted or entry.status == "OK")
        self._show_loaded()
        self._failed |= any(entry.status != "OK" and not entry.deleted for entry in snapshot.entries)
        if not self._lookup_running:
            self._lookup_running = True
            self.spawn(self._look_up())

    def apply_lookup(self, found: Mapping[str, Pending | None]) -> None:
        """Show the result of a look-up: tasks as they are now, None for those that have left the queue."""
        self.remove(task for task, pending in found.items() if pending is None)
        with self._lock:
            known = self.table.known(found)
            there = {task: pending for task, pending in found.items() if pending is not None and task in known}
            if there:
                made = _pending_frame(there)
                self.table.patch(made.assign(message=self._messages(made), due=_due(made)))
        inspected = found.get(self.detail.task)
        if inspected is not None and inspected != self._seen_last:
            self._seen_last = inspected
            self._inspect(self.detail.task)

    def remove(self, tasks: Iterable[str], queue: str | None = None) -> None:
        """Remove tasks from the table, if it still shows this queue (any for None)."""
        with self._lock:
            if queue is not None and queue != self.meant()[0]:
                return
            gone = self.table.known(tasks)
            if gone:
                self.table.drop(gone)
                for task in gone:
                    self._errors.pop(task, None)
        if gone:
            self._show_loaded()
        if self.detail.task in gone:
            self._inspect(self.detail.task)

    def static_html(self) -> str:
        """Return the current page of the table."""
        return self.table.html()

    async def _look_up(self) -> None:
        """Find out why attempts failed in this kernel, and look up the tasks on the screen."""
        again = True
        try:
            while again and (listing := self._listing) is not None:
                if self._failed:
                    self._failed = False
                    await self._read_errors(listing)
                found = await self.context.connection.watcher.lookup(listing.queue, self.table.page_keys)
                if any(one and one.last_message and task not in self._errors for task, one in found.items()):
                    await self._read_errors(listing)  # the log is behind the tasks
                if listing is self._listing:
                    self.apply_lookup(found)
                again = self._failed  # a snapshot had more meanwhile
        finally:
            self._lookup_running = False

    async def _read_errors(self, listing: Listing) -> None:
        """Show exceptions of tasks, also of those that are not on the screen: they can be searched."""
        errors = await asyncio.to_thread(last_errors, self._urls)
        with self._lock:
            known = self.table.known(errors) if listing is self._listing else ()
            there = [task for task in known if errors[task] != self._errors.get(task)]
            self._errors |= {task: errors[task] for task in there}
            if there:
                values = column([errors[task] for task in there], "text")
                self.table.patch(pd.DataFrame({"message": values}, index=pd.Index(there, name="task")))

    def meant(self) -> tuple[str, list[str]]:
        """Return the queue of the rows in the table, and the selected tasks."""
        with self._lock:
            return ("", []) if self._listing is None else (self._listing.queue.queue, self.table.selected)

    def _messages(self, tasks: pd.DataFrame) -> Any:
        """Return why each task failed last: the exception in this kernel if it is known, else the service's message."""
        pairs = zip(tasks.index.tolist(), tasks["last_message"].tolist(), strict=True)
        return column([self._errors.get(task, message) for task, message in pairs], "text")

    def _described(self, part: pd.DataFrame) -> pd.DataFrame:
        """Add the columns of the rows of batches, and the messages."""
        tasks = part.index.tolist()
        addresses = {url.partition("?")[0] for url in part["url"].dropna()}
        self._urls |= {url for url in addresses if served_at(url)}
        errors = last_errors(self._urls)
        self._errors |= {task: errors[task] for task in tasks if task in errors}
        rows = row_columns(self.context.catalog, tasks, part["url"].tolist())
        return part.assign(message=self._messages(part), due=_due(part), **rows)

    def _load_all(self) -> None:
        self._load(self._listing, None)

    def _load(self, listing: Listing | None, limit: int | None) -> None:
        if listing is None:
            return
        show = self.table.load if listing.at is None else self.table.patch
        self.footer.status = f"loading tasks of {listing.queue.queue}"
        for part in map(self._described, listing.more(limit)):
            with self._lock:
                if listing is not self._listing:
                    return  # another queue was chosen meanwhile
                show(part)
                show = self.table.patch
                self._listed = listing
                self.watching.record_answer((listing.at or 0) / 1e6, listing.queue)
                self.read_until(max(self.footer.at, (listing.at or 0) / 1e6))
            self._show_loaded()
            self.footer.status = f"loading: {counted(self.table.total, 'tasks')}"
            if self.stopping.is_set():
                break
        self.notify(f"loaded {counted(self.table.total, 'tasks')}")

    def _show_loaded(self) -> None:
        """Show how much of the queue is loaded, and how old the list is."""
        with self._lock:  # so that no other queue is chosen meanwhile
            listing, there = self._listed, self.table.total
            if listing is None:
                return
            depth, table = self._depth, self.table
            of = f" of about {depth:,}" if depth is not None and depth > there else ""
            more = "" if listing.complete or of else "; there are more"
            found = f"{there:,}{of} loaded"
            if table.filtering:
                found = f"{table.matching:,} match of the {there:,} loaded{of}"
            new = "; new ones come with Refresh" if listing.complete and of else ""
            listed = f"listed {time_html(from_micros(listing.at))}"
            self.loaded.value = f'<span class="ctn-quiet">{found}, {listed}{more}{new}</span>'
            all_seen = listing.complete and not of
            self.table.empty = "No tasks in the queue" if all_seen else "No loaded task is left; press Refresh"
            for button in (self.load_more, self.load_all):
                button.layout.display = "none" if listing.complete else None

    def _filter(self) -> None:
        self.footer.alert = {}  # the last error was about a text that was still being typed
        self.table.filter(self.find.value, state=None if self.state.value == _STATES[0] else self.state.value)
        self._show_loaded()

    def _inspect(self, task: str) -> None:
        queue, _ = self.meant()
        if queue:
            self.detail.show(queue, task)


_FEW = 10  # tasks for which a click is enough
_LISTED = 1_000  # ids that are written out in a line of Python
_RUNS_A_MINUTE = 60  # that Google allows (https://cloud.google.com/tasks/docs/quotas)


class TaskActions:
    """Buttons that run or delete the selected tasks of a panel.

    Parameters
    ----------
    panel : TasksPanel
    """

    def __init__(self, panel: TasksPanel) -> None:
        self._panel = panel
        self.run = panel.change_button("Run now", self._ask_run, "Dispatch the selected tasks now")
        self.delete = panel.change_button("Delete", self._ask_delete, "Delete the selected tasks", style="danger")
        self.buttons = (self.run, self.delete)
        self.selected(0)

    def selected(self, count: int) -> None:
        """Show on the buttons how many tasks are selected."""
        for button, verb in ((self.run, "Run now"), (self.delete, "Delete")):
            button.description = f"{verb} ({count:,})" if count else verb
            self._panel.enable(button, bool(count))

    def _ask_run(self) -> None:
        queue, tasks = self._panel.meant()
        if len(tasks) <= _FEW:
            self._panel.start(lambda: self._run(queue, tasks), changes=True)
            return
        google = f" Google allows {_RUNS_A_MINUTE} a minute: this takes {counted(-(-len(tasks) // 60), 'minutes')}."
        pace = "" if self._panel.context.local else google
        question = Question(
            title=f"Run {counted(len(tasks), 'tasks')} of {queue} now?",
            scope=f"{self._scope(queue, len(tasks))} They are dispatched whatever the queue's limits are, even "
            f"while it is paused.{pace}",
            verb=f"Run {counted(len(tasks), 'tasks')}",
            line=self._line(queue, "run", tasks),
            danger=False,
        )
        self._panel.ask(question, lambda: self._run(queue, tasks))

    def _ask_delete(self) -> None:
        queue, tasks = self._panel.meant()
        question = Question(
            title=f"Delete {counted(len(tasks), 'tasks')} of {queue}?",
            scope=f"{self._scope(queue, len(tasks))} They will not be dispatched any more. It cannot be undone.",
            verb=f"Delete {counted(len(tasks), 'tasks')}",
            line=self._line(queue, "delete_tasks", tasks),
            typed=queue if len(tasks) > _FEW else None,
        )
        self._panel.ask(question, lambda: self._delete(queue, tasks))

    def _scope(self, queue: str, count: int) -> str:
        """Return which tasks are meant, and that others are not."""
        if count < self._panel.table.total:
            return f"The {counted(count, 'tasks')} selected of {self._panel.table.total:,} loaded from {queue}."
        return f"All {counted(count, 'tasks')} loaded from {queue}; those that are not loaded are left alone."

    def _line(self, queue: str, verb: str, tasks: list[str]) -> str:
        panel = self._panel.expression if len(tasks) > _LISTED else None
        return self._panel.context.line(queue, verb, Code(f"{panel}.table.selected") if panel else tasks)

    def _run(self, queue: str, tasks: list[str]) -> None:
        step = 500 if self._panel.context.local else 20  # tasks between two checks of the Stop button
        self._each(queue, tasks, "run", "ran", step)

    def _delete(self, queue: str, tasks: list[str]) -> None:
        self._panel.remove(self._each(queue, tasks, "delete_tasks", "deleted", _LISTED), queue)

    def _each(self, queue: str, tasks: list[str], verb: str, done: str, step: int) -> list[str]:
        """Call a verb for all tasks in parts, show the result, and return the tasks for which it succeeded."""
        well: list[str] = []
        causes: Counter[str] = Counter()
        for start in range(0, len(tasks), step):
            if self._panel.stopping.is_set():
                break
            verdicts = getattr(self._panel.context.queue(queue), verb)(tasks[start : start + step])
            well += verdicts.loc[verdicts["ok"], "task"].tolist()
            causes.update(verdicts.loc[~verdicts["ok"], "error"].tolist())
        words = [f"{done} {counted(len(well), 'tasks')} of {queue}"]
        words += [f"{counted(count, 'tasks')} not: {cause}" for cause, count in causes.most_common(3)]
        left = len(tasks) - len(well) - causes.total()
        words += [f"stopped with {counted(left, 'tasks')} left"] if left else []
        self._panel.notify("; ".join(words), line=self._line(queue, verb, tasks))
        self._panel.poll_now()
        return well


_PAGE = 1_000  # tasks that one ListTasks call returns at most
_FIRST = 200  # tasks that the first ListTasks call of a list returns at most
_STEP = 10  # pages between two updates of the table


class Listing:
    """A list of a queue's tasks, of which each call of `more` reads a part."""

    def __init__(self, connection: Connection, queue: QueueName) -> None:
        self.queue = queue
        self.complete = False  #: there are no more
        self.at: int | None = None  #: when the first page was read, microseconds since 1970
        self._connection = connection
        self._token = ""

    def more(self, limit: int | None) -> Iterator[pd.DataFrame]:
        """Read up to `limit` more tasks, all for None, and yield them in frames.

        The first frame of a list is one short page, so that something is shown soon; the others have ten pages.
        """
        left = limit
        while not self.complete and left != 0:
            step, size = (1, _FIRST) if self.at is None else (_STEP, _PAGE)
            columns: dict[str, list[Any]] = {name: [] for name in TASKS}
            for _ in range(step):
                page = self._page(size if left is None else min(size, left))
                for name, values in page.items():
                    columns[name] += values
                left = left and max(0, left - len(page["task"]))
                if self.complete or left == 0:
                    break
            self._connection.remember(columns)
            yield frame(TASKS, columns, index="task")

    def _page(self, size: int) -> dict[str, list[Any]]:
        now = self._connection.clock.micros()
        name, fields = str(self.queue), {"page_size": size, "page_token": self._token}
        answer = self._connection.call("ListTasks", read=TaskPage, parent=name, resource_name=name, **fields)
        self.at = self.at or now
        self._token = answer.next_page_token
        self.complete = not self._token
        return task_columns(answer.tasks, now=self._connection.clock.micros())


def _due(tasks: pd.DataFrame) -> pd.Series:
    """Return when tasks that do not run are due."""
    return tasks["schedule_time"].where(tasks["state"] != "running")


def _pending_frame(tasks: dict[str, Pending]) -> pd.DataFrame:
    """Return tasks that were looked up, with the columns of a Tasks frame that may have changed."""
    names = ("state", "schedule_time", "attempts", "last_status", "last_message")
    made = {name: column([getattr(one, name) for one in tasks.values()], TASKS[name]) for name in names}
    return pd.DataFrame(made, index=pd.Index(list(tasks), name="task"))
