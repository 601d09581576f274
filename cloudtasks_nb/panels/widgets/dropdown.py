"""A drop-down list of choices that change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

__all__ = ["Dropdown"]


class Dropdown(widgets.Dropdown):
    """A drop-down list; `changed` is called when the user has chosen, and not by `offer`."""

    options: Any

    def __init__(self, *, changed: Callable[[], object], **settings: Any) -> None:
        self._offering = False  # changed under the lock: another thread must not take an offer for a choice
        self._choosing = threading.RLock()
        super().__init__(**settings)
        self.observe(lambda _: self._offering or changed(), "value")

    def offer(self, options: Sequence[Any], chosen: Any) -> None:
        """Offer other choices, and show the value of the one that is chosen; None for none."""
        with self._choosing:
            self._offering = True
            try:
                if self.options != tuple(options):
                    self.options = tuple(options)  # this chooses the first one
                self.value = chosen
            finally:
                self._offering = False
