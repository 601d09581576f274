"""A widget that chooses one of many queues, with a search field when there are more than a few."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import ipywidgets as widgets

__all__ = ["MANY", "QueueChoice"]

#: Queues above which a field to search them is shown.
MANY = 8


class QueueChoice(widgets.HBox):
    """A drop-down list of queues, and a field that shortens it; `changed` is called when the user has chosen one."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._names: tuple[str, ...] = ()
        self._updating = False  # changed under the lock: another thread must not take an update for a choice
        self._lock = threading.RLock()
        self._changed = changed
        self.find = widgets.Text(placeholder="Find a queue", layout={"width": "9em", "display": "none"})
        self.find.tooltip = "Show only queues with this in their name"
        self.menu = widgets.Dropdown(options=[], description="Queue", layout={"width": "auto", "max_width": "22em"})
        self.menu.tooltip = "The queue that all tabs show"
        self.find.observe(lambda _: self._find(), "value")
        self.menu.observe(lambda _: self._updating or self._changed(), "value")
        super().__init__([self.find, self.menu])
        self.add_class("ctn-row")

    @property
    def names(self) -> tuple[str, ...]:
        """The queues to choose from, also those that the search field hides."""
        return self._names

    @property
    def value(self) -> str | None:
        """The chosen queue; None if there is none."""
        value: str | None = self.menu.value
        return value

    def show(self, names: Sequence[str], chosen: str | None) -> None:
        """Offer these queues, and show which one is chosen; `changed` is not called."""
        with self._lock:
            self._names = tuple(names)
            self.find.layout.display = None if len(names) > MANY else "none"
            self._update(chosen)

    def _find(self) -> None:
        with self._lock:
            self._update(self.menu.value)

    def _update(self, chosen: str | None) -> None:
        """Show the names that match; the chosen one always, for it is what the tabs show."""
        text = self.find.value.strip().lower() if len(self._names) > MANY else ""
        options = tuple(name for name in self._names if text in name.lower() or name == chosen)
        self._updating = True
        try:
            if self.menu.options != options:
                self.menu.options = options  # this chooses the first one
            self.menu.value = chosen if chosen in options else None
        finally:
            self._updating = False
