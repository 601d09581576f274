"""A widget that chooses some of several names by checkboxes: the columns of a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["Picker"]


class Picker(anywidget.AnyWidget):
    """Chooses some of several names.

    Parameters
    ----------
    label, nothing : str
        Label of the field, and the text to show while no column is chosen.
    changed : callable
        Called when the choice has changed.

    Attributes
    ----------
    options : list of str
        The names, in their order.
    value : list of str
        Those that are chosen, in the order of `options`.
    """

    _esm = source("browser.js", "picker.js")
    _css = source("form.css")

    label = traitlets.Unicode().tag(sync=True)
    nothing = traitlets.Unicode().tag(sync=True)
    options = traitlets.List(traitlets.Unicode()).tag(sync=True)
    value = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, label: str, nothing: str, changed: Callable[[], object]) -> None:
        super().__init__(label=label, nothing=nothing)
        self.observe(lambda _: changed(), "value")

    def offer(self, options: Sequence[str]) -> None:
        """Offer other names; chosen names that are still there stay chosen."""
        names = list(dict.fromkeys(options))
        if names != self.options:
            self.options = names
            self.value = [name for name in names if name in self.value]

    @traitlets.validate("value")
    def _in_order(self, proposal: Any) -> list[str]:
        return [name for name in self.options if name in proposal["value"]]
