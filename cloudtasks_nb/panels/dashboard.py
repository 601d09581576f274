"""All panels of a connection, or of one queue, as tabs of one widget."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.panels.attempts import AttemptsPanel
from cloudtasks_nb.panels.backfill import BackfillPanel
from cloudtasks_nb.panels.batches import BatchesPanel
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.fan_out import FanOutPanel, SendPanel
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.queues import QueuesPanel
from cloudtasks_nb.panels.tasks import TasksPanel
from cloudtasks_nb.panels.widgets.fields import Dropdown

__all__ = ["Dashboard"]

#: The tabs after the first: title, class of the panel, and whether a read-only dashboard leaves it out.
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
    """Panels as tabs; each panel is made when its tab is first opened.

    Parameters
    ----------
    context : PanelContext
    only : QueueName, optional
        Show only this queue; all queues when left out.

    Attributes
    ----------
    parts : dict
        The panels that were opened, by title.
    choice : Dropdown
        Shows which queue all tabs are about; `use` chooses another one.
    """

    def __init__(self, context: PanelContext, *, only: QueueName | None = None) -> None:
        endpoint = context.connection.endpoint
        place = " / ".join(filter(None, (endpoint.project, endpoint.location)))
        title = f"Queue {only.queue}" if only else f"Cloud Tasks in {place}" if place else "Cloud Tasks"
        super().__init__(context, title, queue=only.queue if only else None)
        self.parts: dict[str, Panel] = {}
        # Held while a queue is chosen and handed to the tabs, so that all of them and the header agree in the end.
        self._choosing = threading.RLock()
        self._making: set[str] = set()
        self._makers: dict[str, Callable[..., Panel]] = {"Queue" if only else "Queues": self._make_queues}
        self._makers |= {name: make for name, make, changes in _TABS if not (changes and context.read_only)}
        if only:
            self._makers["Batches"] = partial(BatchesPanel, everywhere=False)
        self._boxes = [widgets.VBox([widgets.HTML(_WAITING)]) for _ in self._makers]
        #: In each tab that there is no queue for.
        self._first = self.row(self.change_button("Create a queue", self._create_first))
        self._back = ""  # the tab from which that button led away
        self.choice = Dropdown(
            changed=lambda: self.guarded(self.use, self.choice.value),
            options=[],
            description="Queue",
            layout={"width": "auto", "max_width": "22em"},
        )
        self.choice.tooltip = "The queue that all tabs show"
        self.tabs = widgets.Tab(children=self._boxes)
        for number, name in enumerate(self._makers):
            self.tabs.set_title(number, name)
        self.tabs.observe(lambda _: self.guarded(self._tab_opened), "selected_index")
        self.fill(self.tabs, controls=() if only else (self.choice,))
        self.add_class("ctn-dashboard")
        self.tabs.selected_index = 0
        self._make_open_panel()

    @property
    def current(self) -> Panel | None:
        """The panel of the open tab; None if it was not made, because there is no queue yet."""
        return self.parts.get(self._open_title())

    def interval_changed(self) -> None:
        """Set the same interval for all tabs; each tab shows in its own footer that refreshing is off."""
        self.footer.paused = ""
        for panel in self._opened():
            panel.every = self.every

    def turn_to(self, title: str) -> None:
        """Open a tab."""
        self.tabs.selected_index = list(self._makers).index(title)

    def assume_visible(self, *, visible: bool = True) -> None:
        """Assume that the open tab is visible until the browser reports."""
        super().assume_visible(visible=visible)
        for title, panel in list(self.parts.items()):
            panel.assume_visible(visible=visible and title == self._open_title())

    def refresh(self) -> None:
        """Reload the open tab."""
        if self.current is not None:
            self.current.refresh()

    def poll_now(self) -> None:
        """Make the watcher read the queues of the open tab as soon as possible."""
        if self.current is not None:
            self.current.poll_now()

    def start_refresh(self) -> None:
        """Start to refresh the open tab; its own footer shows errors."""
        if self.current is not None:
            self.current.start_refresh()

    def settle(self, timeout: float = 240.0) -> None:
        """Wait until the work of all tabs has ended."""
        super().settle(timeout)
        for panel in self._opened():
            panel.settle(timeout)

    def static_html(self) -> str:
        """Return the content of the opened tabs."""
        return "".join(f"<h4>{html.escape(name)}</h4>{panel.static_html()}" for name, panel in list(self.parts.items()))

    def use(self, queue: str | None) -> None:
        """Show another queue in the header and in all tabs."""
        with self._choosing:
            self.choice.offer(self.choice.options, queue if queue in self.choice.options else None)
            super().use(queue)

    def read_at(self) -> float:
        """Return when the oldest content of the opened tabs was read."""
        return min((at for panel in self._opened() if (at := panel.read_at())), default=0.0)

    def queue_changed(self) -> None:
        """Show the queue in all tabs."""
        for panel in self._opened():
            panel.use(self.queue)
        self._make_open_panel()

    def _opened(self) -> list[Panel]:
        return list(self.parts.values())  # a copy: another thread may open a tab meanwhile

    def _open_title(self) -> str:
        return list(self._makers)[self.tabs.selected_index or 0]

    def _tab_opened(self) -> None:
        self._make_open_panel()
        self.assume_visible(visible=self.footer.visible)  # it loads while the browser draws it

    def _make_open_panel(self) -> None:
        """Make the panel of the open tab, unless it exists or there is no queue for it."""
        number = self.tabs.selected_index or 0
        name = list(self._makers)[number]
        box, make = self._boxes[number], self._makers[name]
        with self._choosing:
            if name in self.parts or name in self._making:
                return
            queue = self.queue
            if make != self._make_queues and queue is None:
                box.children[0].value = _NO_QUEUE
                box.children = [box.children[0], self._first]
                return
            self._making.add(name)
        try:
            panel = make() if make == self._make_queues else make(self.context, queue=queue, framed=False)
            self.owner.at_close(panel.close)
            panel.board = self
            panel.every = self._every
            panel.footer.observe(lambda _: self.copy.follow(), "at")
            with self._choosing:  # the queue may be another one by now
                self.parts[name] = panel
                panel.use(self.queue)
        finally:
            self._making.discard(name)
        box.children = [panel]

    def _make_queues(self) -> Panel:
        return QueuesPanel(
            self.context,
            framed=False,
            on_open=self._open_queue,
            on_pick=self.use,
            on_queues=self.offer,
            on_made=self._made,
        )

    def _create_first(self) -> None:
        self._back = self._open_title()
        self.turn_to("Queues")

    def _made(self, words: str) -> None:
        """Go back to the tab for which a queue was made, and say there what was made."""
        if not self._back:
            return
        self.turn_to(self._back)
        self._back = ""
        if self.current is not None:
            self.current.notify(words)
        if isinstance(self.current, SendPanel):
            self.current.edit()

    def _open_queue(self, queue: str) -> None:
        self.use(queue)
        self.turn_to("Tasks")

    def offer(self, queues: Sequence[str]) -> None:
        """Let the user choose from these queues; keep the chosen one if it is among them."""
        with self._choosing:
            kept = self.queue if self.queue in queues else next(iter(queues), None)
            self.choice.offer(queues, kept)
            self.use(kept)
