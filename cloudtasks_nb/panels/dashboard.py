"""All panels of a connection, or of one queue, as tabs of one widget."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.panels.attempts import AttemptsPanel
from cloudtasks_nb.panels.backfill import BackfillPanel
from cloudtasks_nb.panels.batches import BatchesPanel
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.fan_out import FanOutPanel
from cloudtasks_nb.panels.panel import Panel, close_all
from cloudtasks_nb.panels.queues import QueuesPanel
from cloudtasks_nb.panels.tasks import TasksPanel

__all__ = ["Dashboard"]

#: Tabs besides the queues: title, class of the panel, and whether it only changes things.
_TABS: tuple[tuple[str, Callable[..., Panel], bool], ...] = (
    ("Tasks", TasksPanel, False),
    ("Fan out", FanOutPanel, True),
    ("Backfill", BackfillPanel, True),
    ("Batches", BatchesPanel, False),
    ("Attempts", AttemptsPanel, False),
)

_WAITING = '<p class="ctn-quiet">This tab opens when the kernel is free.</p>'
_NO_QUEUE = '<p class="ctn-quiet">There is no queue yet.</p>'


class Dashboard(Panel):
    """The panels as tabs, each made when it is first opened.

    Parameters
    ----------
    context : PanelContext
    only : QueueName, optional
        Show this queue alone; all queues when left out.

    Attributes
    ----------
    parts : dict
        The panels that were opened, by title.
    """

    def __init__(self, context: PanelContext, *, only: QueueName | None = None) -> None:
        endpoint = context.connection.endpoint
        place = " / ".join(filter(None, (endpoint.project, endpoint.location)))
        title = f"Queue {only.queue}" if only else f"Cloud Tasks in {place}" if place else "Cloud Tasks"
        super().__init__(context, title, queue=only.queue if only else None)
        self.parts: dict[str, Panel] = {}
        self._making: set[str] = set()
        self._makers: dict[str, Callable[..., Panel]] = {"Queue" if only else "Queues": self._make_queues}
        self._makers |= {name: make for name, make, changes in _TABS if not (changes and context.read_only)}
        self._boxes = [widgets.VBox([widgets.HTML(_WAITING)]) for _ in self._makers]
        self.choice = widgets.Dropdown(options=[], description="Queue", layout={"width": "auto", "max_width": "22em"})
        self.choice.tooltip = "The queue that the other tabs show"
        self.control(self.choice, lambda: self._choose(self.choice.value))
        self.tabs = widgets.Tab(children=self._boxes, titles=list(self._makers))
        self.tabs.observe(lambda _: self.guarded(self._opened), "selected_index")
        self.fill(self.tabs, controls=() if only else (self.choice,))
        self.add_class("ctn-dashboard")
        self.tabs.selected_index = 0
        self._opened()

    @property
    def current(self) -> Panel | None:
        """The panel of the open tab; None when there is no queue for it."""
        return self.parts.get(self._name())

    def interval_changed(self) -> None:
        """Set the same interval for all tabs; each tab shows itself when refreshing is off."""
        self.footer.paused = ""
        for panel in self.parts.values():
            panel.every = self.every

    def turn_to(self, title: str) -> None:
        """Open a tab."""
        self.tabs.selected_index = list(self._makers).index(title)

    def assume_visible(self) -> None:
        """Take the open tab as visible until a browser reports."""
        super().assume_visible()
        if self.current is not None:
            self.current.assume_visible()

    def refresh(self) -> None:
        """Read again what the open tab shows."""
        if self.current is not None:
            self.current.refresh()

    def start_refresh(self) -> None:
        """Start to refresh the open tab, which shows the errors."""
        if self.current is not None:
            self.current.start_refresh()

    def settle(self, timeout: float = 60.0) -> None:
        """Wait until the work of all tabs has ended."""
        super().settle(timeout)
        for panel in self.parts.values():
            panel.settle(timeout)

    def static_html(self) -> str:
        """Return the content of the opened tabs."""
        return "".join(f"<h4>{html.escape(name)}</h4>{panel.static_html()}" for name, panel in self.parts.items())

    def queue_changed(self) -> None:
        """Show the queue in all tabs."""
        for panel in self.parts.values():
            if panel.queue is not None:
                panel.set_queue(self.queue)
        self._opened()

    def _name(self) -> str:
        return list(self._makers)[self.tabs.selected_index or 0]

    def _opened(self) -> None:
        """Make the panel of the open tab, if there is a queue for it."""
        name = self._name()
        if name in self.parts or name in self._making:
            return
        box, make = self._boxes[self.tabs.selected_index or 0], self._makers[name]
        if make != self._make_queues and self.queue is None:
            box.children[0].value = _NO_QUEUE
            return
        self._making.add(name)  # its list of queues calls back while it is made
        try:
            panel = make() if make == self._make_queues else make(self.context, queue=self.queue, framed=False)
        finally:
            self._making.discard(name)
        panel.every = self._every
        self.parts[name] = panel
        close_all(box.children[0])
        box.children = [panel]

    def _make_queues(self) -> Panel:
        return QueuesPanel(
            self.context, framed=False, on_open=self._open_queue, on_pick=self._choose, on_queues=self.offer
        )

    def _open_queue(self, queue: str) -> None:
        self._choose(queue)
        self.turn_to("Tasks")

    def offer(self, queues: Sequence[str]) -> None:
        """Offer these queues."""
        if tuple(queues) != self.choice.options:
            kept = self.queue if self.queue in queues else next(iter(queues), None)
            self.choice.options = tuple(queues)
            self.choice.value = kept
            self.set_queue(kept)

    def _choose(self, queue: Any) -> None:
        if queue is not None and self.choice.options:
            self.choice.value = queue
        self.set_queue(queue)
