"""A button that uploads a file in parts: Jupyter's server ends a connection on which a message of over 10 MiB comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["Upload"]


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
