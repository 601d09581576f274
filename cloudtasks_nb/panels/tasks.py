"""The tasks of one queue: loaded on demand, what is seen kept up to date; run and delete what was selected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.panels.acting import WIDE
from cloudtasks_nb.panels.cards.task_card import read_card
from cloudtasks_nb.panels.cards.timeline import moment
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.listing import Listing, pending_frame
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.task_actions import TaskActions
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.prompt import counted
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.watch import Pending, Snapshot, now_micros

__all__ = ["TasksPanel"]

_COLUMNS = (
    Column("state", kind="state", width="8em"),
    Column("task", width="13em"),
    Column("schedule_time", "Due", kind="time", width="10em"),
    Column("attempts", kind="count", width="7em"),
    Column("last_status", "Last answer", kind="state", width="11em"),
    Column("url", "URL"),
)
_STATES = ("any state", "scheduled", "ready", "running", "retrying")
_PORTION = 10_000  # tasks that are loaded at once


class TasksPanel(Panel):
    """Tasks of a queue.

    The list is read on demand, since listing is what the service has least of; afterwards each look of the watcher
    takes out what the log says is done, and reads the tasks that are on the screen.

    Attributes
    ----------
    table : Table
        ``table.selected`` are the ids of the selected tasks.
    """

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        super().__init__(context, f"Tasks of {queue}" if framed else "Tasks", queue=queue, framed=framed)
        self._listing = Listing(context.connection, context.name(queue))
        self._ids: set[str] = set()  # what is loaded; changed under the lock
        self._since = now_micros()
        self._depth: int | None = None
        self._looking = False
        self._inspected = ""
        self._seen_last: Pending | None = None  # of the task that is inspected
        self.table = self.hold(Table(_COLUMNS, key="task", label="tasks", empty="No tasks in the queue"))
        self.table.on_select = lambda keys: self.guarded(self._selected, keys)
        self.table.on_open = lambda task: self.guarded(self._inspect, task)
        self.actions = TaskActions(self, self.table, self.take_out)
        self._detail = widgets.HTML()
        self._make_controls()
        self.notify("", line=context.line(queue, "tasks", _PORTION))
        tools = [self._state, self._find, *self.actions.buttons]
        load = self.row(self._loaded, self.load_more, self.load_all, self.stop_button())
        self.fill(self.row(*tools), self.prompt, self.table, load, self._detail)

    def _make_controls(self) -> None:
        self._state = self.control(
            widgets.Dropdown(options=_STATES, tooltip="Show only tasks in this state", layout={"width": "9em"}),
            self._filter,
        )
        self._find = self.control(
            widgets.Text(
                placeholder="Find in id, URL, answer", tooltip="Part of what can be read in a row", layout=WIDE
            ),
            self._filter,
        )
        self._loaded = widgets.HTML()
        self.load_more = self.button("Load more", self._load_more, changes=False, tip=f"Load {_PORTION:,} more tasks")
        self.load_all = self.button("Load all", self._load_all, changes=False, tip="Load all tasks; may take a while")

    # What is shown.

    def watched(self) -> Mapping[QueueName, int | None]:
        """Return the queue, with its log from when the panel came into sight."""
        return {self.context.name(self.queue): self._since} if self.queue else {}

    def wake(self) -> None:
        """Load the tasks when they are seen for the first time."""
        self._since = now_micros()
        if self._listing.at is None and not self.footer.busy:
            self.start(self.refresh, changes=False)

    def switched(self) -> None:
        """Show the tasks of another queue."""
        self._depth = None
        self._inspected = self._detail.value = ""
        self.table.select([])
        self.footer.line = self.context.line(self.queue or "", "tasks", _PORTION)
        if self.footer.busy:
            self.stopping.set()  # `refresh` goes on with the new queue
        elif self.live:
            self.start(self.refresh, changes=False)

    def refresh(self) -> None:
        """List the tasks anew, as many as were loaded and at least ten thousand."""
        wanted = max(_PORTION, -(-len(self._ids) // _PORTION) * _PORTION)
        while self.queue:
            queue = self.context.name(self.queue)
            listing = self._listing = Listing(self.context.connection, queue)
            self._load(listing, wanted, anew=True)
            if listing.queue.queue == self.queue:
                break
            self.stopping.clear()
            wanted = _PORTION
        self.rewatch()
        self.look()

    def apply(self, snapshot: Snapshot) -> None:
        """Take out what is done, and have the tasks on the screen looked up."""
        if snapshot.values is not None:
            self._depth = snapshot.values.get("tasks")
        self.take_out(entry.task for entry in snapshot.entries if entry.deleted or entry.status == "OK")
        self._say_loaded()
        if not self._looking:
            self._looking = True
            self.spawn(self._look_up(snapshot.queue))

    def apply_lookup(self, found: Mapping[str, Pending | None]) -> None:
        """Show what was looked up: tasks as they are now, None for those that have left the queue."""
        self.take_out(task for task, pending in found.items() if pending is None)
        with self._lock:
            there = {task: pending for task, pending in found.items() if pending is not None and task in self._ids}
            if there:
                self.table.patch(pending_frame(there))
        inspected = found.get(self._inspected)
        if inspected is not None and inspected != self._seen_last:
            self._seen_last = inspected
            self._inspect(self._inspected, again=True)

    def take_out(self, tasks: Any) -> None:
        """Take tasks out of what is shown."""
        with self._lock:
            gone = self._ids.intersection(tasks)
            if gone:
                self._ids -= gone
                self.table.drop(gone)
        if self._inspected in gone:
            self._inspect(self._inspected, again=True)

    def static(self) -> str:
        """Return the page that is shown."""
        return self.table.html()

    async def _look_up(self, queue: QueueName) -> None:
        try:
            found = await self.context.watcher.lookup(queue, self.table.page_keys)
            if queue.queue == self.queue:
                self.apply_lookup(found)
        finally:
            self._looking = False

    def _load_more(self) -> None:
        self._load(self._listing, _PORTION)

    def _load_all(self) -> None:
        self._load(self._listing, None)

    def _load(self, listing: Listing, limit: int | None, *, anew: bool = False) -> None:
        self.footer.status = f"loading tasks of {listing.queue.queue}"
        for part in listing.more(limit):
            with self._lock:
                if anew:
                    self._ids.clear()
                    self.table.load(part)
                else:
                    self.table.patch(part)
                anew = False
                self._ids.update(part.index)
            self._say_loaded()
            self.footer.status = f"loading: {counted(len(self._ids), 'task')}"
            if self.stopping.is_set():
                break
        self.footer.at = max(self.footer.at, (listing.at or 0) / 1e6)
        self.notify(f"loaded {counted(len(self._ids), 'task')}")

    def _say_loaded(self) -> None:
        """Say how much of the queue is shown, and how old the list is."""
        listing, there = self._listing, len(self._ids)
        if listing.at is None:
            return
        depth = self._depth
        of = f" of about {depth:,}" if depth is not None and depth > there else ""
        more = "" if listing.complete or of else "; there are more"
        new = "; new ones come with Refresh" if listing.complete and of else ""
        self._loaded.value = (
            f'<span class="ctn-quiet">{there:,}{of} loaded, listed {moment(listing.at)} UTC{more}{new}</span>'
        )
        for button in (self.load_more, self.load_all):
            button.layout.display = "none" if listing.complete else None

    def _filter(self) -> None:
        self.table.filter(self._find.value, state=None if self._state.value == _STATES[0] else self._state.value)

    def _selected(self, keys: list[str]) -> None:
        self.actions.selected(len(keys))
        if len(keys) == 1:
            self._inspect(keys[0])
        elif not keys and self._inspected in self._ids:  # of one that has gone it is worth to see how
            self._inspected = self._detail.value = ""

    def _inspect(self, task: str, *, again: bool = False) -> None:
        if self.queue and (again or task != self._inspected):
            self._inspected = task
            self.spawn(self._show_detail(self.context.name(self.queue), task))

    async def _show_detail(self, queue: QueueName, task: str) -> None:
        card = await read_card(self.context.connection, queue, task)
        if self._inspected == task:  # and no other was opened meanwhile
            self._detail.value = card
