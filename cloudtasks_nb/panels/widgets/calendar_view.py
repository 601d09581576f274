"""A calendar whose squares can be selected by mouse and keyboard, one by one and in ranges."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.display.charts import counts_text
from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["CalendarView"]


class CalendarView(anywidget.AnyWidget):
    """Shows a `Calendar` whose squares are buttons. Its methods may be called from any thread.

    Parameters
    ----------
    changed : callable
        Called when the selection has changed, or another value of `across` was chosen.

    Attributes
    ----------
    html : str
        What is shown: `Calendar.html(buttons=True)`.
    words : str
        Which squares are selected, and the states of their rows.
    choices : list of str
        Values of `across` that can be shown alone, where there are too many for a band each.
    choice : str
        The one that is shown; empty for all together.
    picked : list of str
        Keys of the selected squares.
    shown : Calendar or None
    """

    _esm = source("browser.js", "calendar.js")
    _css = source("batch.css")

    html = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)
    choices: Any = traitlets.List().tag(sync=True)
    choice = traitlets.Unicode().tag(sync=True)
    # The browser sends the selection as a numbered message, and gets it back with that number: the answer to an earlier
    # click must not undo a later one.
    _picked: Any = traitlets.Any({"n": 0, "keys": []}).tag(sync=True)

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self.shown: Calendar | None = None
        self._lock = threading.Lock()
        super().__init__()
        self.on_msg(self._on_message)

    @property
    def picked(self) -> list[str]:
        """Keys of the selected squares."""
        return list(self._picked["keys"])

    def load(self, calendar: Calendar) -> None:
        """Show a calendar; what is selected stays selected."""
        self.shown = calendar
        with self.hold_sync():
            self.choices = list(calendar.choices)
            self.html = calendar.html(buttons=True)
            self._describe()

    def pick(self, keys: Iterable[str]) -> None:
        """Select these squares and no others."""
        wanted = list(keys)
        if wanted != self.picked:
            self._apply(self._picked["n"] + 1, wanted)

    def reset(self) -> None:
        """Select nothing, and show all values together, once there is another calendar."""
        self.shown, self.choice = None, ""
        self.pick([])

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if "choice" in content:
            self.choice = content["choice"]
        self._apply(content["n"], content["keys"])

    def _apply(self, number: int, keys: list[str]) -> None:
        with self._lock:
            if number <= self._picked["n"]:
                return
            self._picked = {"n": number, "keys": keys}
        self._describe()
        self._changed()

    def _describe(self) -> None:
        found, picked = self.shown, self.picked
        words = "" if found is None else found.words(picked)
        self.words = f"{words}: {counts_text(found.counts(picked), 'rows')}" if found is not None and words else ""
