"""Fields that ipywidgets lacks: a list whose choices change, checkboxes, an upload in parts, and buttons that copy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["CopyButtons", "Dropdown", "Picker", "Upload"]


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


class Upload(anywidget.AnyWidget):
    """A button that uploads one file. Nothing of the file is kept on the page.

    Parameters
    ----------
    label, tip : str
        Text of the button, and its tooltip.
    accept : str
        The ending of the files that are offered.

    Attributes
    ----------
    on_file : callable
        Called with the name and the content of each file, in the thread of the messages.
    """

    _esm = source("browser.js", "upload.js")

    label = traitlets.Unicode().tag(sync=True)
    tip = traitlets.Unicode().tag(sync=True)
    accept = traitlets.Unicode().tag(sync=True)

    def __init__(self, label: str, *, tip: str, accept: str) -> None:
        self.on_file: Callable[[str, bytes], object] = lambda _name, _content: None
        self._content = bytearray()
        super().__init__(label=label, tip=tip, accept=accept)
        self.on_msg(self._on_message)

    def _on_message(self, _widget: Any, content: dict[str, Any], buffers: list[Any]) -> None:
        """Add a part; ask for the next one, which the page sends only then, or report the whole file."""
        if content["start"] == 0:
            self._content = bytearray()
        self._content += buffers[0]
        self.send({"received": len(self._content)})
        if len(self._content) >= content["size"]:
            whole, self._content = bytes(self._content), bytearray()
            self.on_file(content["name"], whole)


class CopyButtons(anywidget.AnyWidget):
    """A button for each text.

    Attributes
    ----------
    texts : dict
        What each button copies, by its label.
    """

    _esm = source("browser.js", "copy_buttons.js")

    texts = traitlets.Dict().tag(sync=True)
