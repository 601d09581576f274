"""Buttons that copy texts to the clipboard."""

from __future__ import annotations

import anywidget
import traitlets

from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["CopyButtons"]


class CopyButtons(anywidget.AnyWidget):
    """A button for each text.

    Attributes
    ----------
    texts : dict
        What each button copies, by its label.
    """

    _esm = source("browser.js", "copy_buttons.js")

    texts = traitlets.Dict().tag(sync=True)
