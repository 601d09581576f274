"""A calendar whose squares can be selected by mouse and keyboard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["CalendarView"]


class CalendarView(anywidget.AnyWidget):
    """Shows the HTML of a `Calendar` whose squares are buttons. Its methods may be called from any thread.

    Parameters
    ----------
    changed : callable
        Called when the selection has changed.

    Attributes
    ----------
    html : str
        What is shown: `Calendar.html(buttons=True)`.
    picked : list of str
        Keys of the selected squares.
    """

    _esm = source("calendar.js")
    _css = source("batch.css")

    html = traitlets.Unicode().tag(sync=True)
    # The browser sends the selection as a numbered message, and gets it back with that number: the answer to an earlier
    # click must not undo a later one.
    _picked: Any = traitlets.Any({"n": 0, "keys": []}).tag(sync=True)

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        super().__init__()
        self.on_msg(self._on_message)

    @property
    def picked(self) -> list[str]:
        """Keys of the selected squares."""
        return list(self._picked["keys"])

    def pick(self, keys: Iterable[str]) -> None:
        """Select these squares and no others."""
        wanted = list(keys)
        if wanted != self.picked:
            self._apply(self._picked["n"] + 1, wanted)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        self._apply(content["n"], content["keys"])

    def _apply(self, number: int, keys: list[str]) -> None:
        with self._lock:
            if number <= self._picked["n"]:
                return
            self._picked = {"n": number, "keys": keys}
        self._changed()
