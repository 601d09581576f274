"""A drop-down list of the queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

__all__ = ["QueueChoice"]


class QueueChoice(widgets.Dropdown):
    """A drop-down list of queues; `changed` is called when the user has chosen one."""

    options: Any

    def __init__(self, changed: Callable[[], object]) -> None:
        self._updating = False  # changed under the lock: another thread must not take an update for a choice
        self._choosing = threading.RLock()
        super().__init__(options=[], description="Queue", layout={"width": "auto", "max_width": "22em"})
        self.tooltip = "The queue that all tabs show"
        self.observe(lambda _: self._updating or changed(), "value")

    def show(self, names: Sequence[str], chosen: str | None) -> None:
        """Offer these queues, and show which one is chosen; `changed` is not called."""
        with self._choosing:
            self._updating = True
            try:
                if self.options != tuple(names):
                    self.options = tuple(names)  # this chooses the first one
                self.value = chosen if chosen in names else None
            finally:
                self._updating = False
