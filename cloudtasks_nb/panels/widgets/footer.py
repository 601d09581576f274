"""The foot of a panel: what was done, what went wrong, the same as Python, and how old is what one sees."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb.errors import CloudTasksError

__all__ = ["Footer"]


class Footer(anywidget.AnyWidget):
    """What a panel says. Its traits may be set from any thread.

    In the browser it also does for the panel around it what ipywidgets cannot: it tells whether anybody sees the
    panel, keeps keys from JupyterLab's shortcuts, and puts the focus where it was when a button wakes again.

    Attributes
    ----------
    status : str
        The last thing that was done, or goes on; read out politely.
    trouble : str
        What keeps the panel from being up to date.
    alert : dict
        What went wrong: ``text``, and perhaps ``hint`` and ``trace``; empty for nothing.
    line : str
        Python for what was done last, with a button that copies it.
    at : float
        When what is shown was seen, seconds since 1970; 0: not yet.
    rest : str
        Why nothing is being refreshed; empty when it is.
    busy : bool
        Whether an action goes on.
    asking : str
        What the prompt above asks; empty when there is none.
    visible : bool
        Whether anybody sees the panel now. Not a trait: a message tells it.
    heard : bool
        Whether a browser has told so yet.
    on_visible : callable, optional
        Called when that has changed.
    """

    _esm = Path(__file__).with_name("footer.js")
    _css = Path(__file__).with_name("panel.css")

    status = traitlets.Unicode().tag(sync=True)
    trouble = traitlets.Unicode().tag(sync=True)
    alert = traitlets.Dict().tag(sync=True)
    line = traitlets.Unicode().tag(sync=True)
    at = traitlets.Float().tag(sync=True)
    rest = traitlets.Unicode().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    asking = traitlets.Unicode().tag(sync=True)

    def __init__(self) -> None:
        self.visible = self.heard = False
        self.on_visible: Callable[[], object] | None = None
        super().__init__()
        self.on_msg(self._heard)

    def fail(self, error: BaseException) -> None:
        """Show an error: ours in their own words, others with the way they came."""
        if isinstance(error, CloudTasksError):
            self.alert = {"text": error.message, "hint": error.hint or ""}
            return
        trace = "".join(traceback.format_exception(error))
        self.alert = {"text": f"{type(error).__name__}: {error}".removesuffix(": "), "trace": trace}

    def see(self, *, visible: bool) -> None:
        """Take it that somebody sees the panel, or nobody."""
        if visible != self.visible:
            self.visible = visible
            if self.on_visible is not None:
                self.on_visible()

    def _heard(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content["do"] == "dismiss":
            self.alert = {}
        elif content["do"] == "see":
            self.heard = True
            self.see(visible=content["visible"])
