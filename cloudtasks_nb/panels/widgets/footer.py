"""The footer of a panel: status, errors, the equivalent Python code, the age of the content, and questions."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, tzinfo
from typing import Any

import anywidget
import traitlets

from cloudtasks_nb._settings import parse_zone
from cloudtasks_nb.display.secrets import mask_text, mask_value
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["Footer", "Prompt", "Question"]


class Footer(anywidget.AnyWidget):
    """Messages below a panel. Its traits may be set from any thread.

    In the browser it also does what ipywidgets cannot do for the panel around it: it reports whether the panel can be
    seen, keeps keys from JupyterLab's shortcuts, gives the focus back to a button that is enabled again, and shows when
    the kernel is gone.

    Attributes
    ----------
    status : str
        The last action, or the one that runs; screen readers read it.
    warning : str
        Why the panel is not up to date.
    alert : dict
        The last error: ``text``, and perhaps ``hint`` and ``trace``; empty for none.
    line : str
        Python for the last action, with a button that copies it.
    at : float
        When the data shown were read, seconds since 1970; 0: not yet.
    paused : str
        Why nothing is refreshed; empty while the panel is refreshed.
    busy : bool
        Whether an action runs.
    handled : int
        Number of the last click or key that the kernel has handled.
    question : dict
        What is asked, in a dialog: the fields of a `Question`; empty for nothing.
    panel : str
        The model id of the panel, by which the browser finds out whether its kernel is there.
    batch : str
        The id of the batch that is shown and is not done; the browser offers to notify when it ends. Empty for none.
    ahead : float
        Milliseconds by which the clock of the service is ahead of this machine's.
    tz : str
        The zone that the panel was given for its times; empty: that of the browser.
    zone : str
        The zone in which the browser shows times, by its last message: one of these, or UTC if the user wants that.
    visible : bool
        Whether the panel can be seen now. Not a trait: the browser sends a message.
    visibility_known : bool
        Whether a browser has sent such a message yet.
    on_visible : callable
        Called when `visible` has changed.
    on_answer : callable
        Called with the answer to the question: what was typed, or None if it was cancelled.
    """

    _esm = source("browser.js", "footer.js")
    _css = source("theme.css", "panel.css")

    status = traitlets.Unicode().tag(sync=True)
    warning = traitlets.Unicode().tag(sync=True)
    alert = traitlets.Dict().tag(sync=True)
    line = traitlets.Unicode().tag(sync=True)
    at = traitlets.Float().tag(sync=True)
    paused = traitlets.Unicode().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    handled = traitlets.Int(0).tag(sync=True)
    question = traitlets.Dict().tag(sync=True)
    panel = traitlets.Unicode().tag(sync=True)
    batch = traitlets.Unicode().tag(sync=True)
    ahead = traitlets.Float().tag(sync=True)
    tz = traitlets.Unicode().tag(sync=True)
    zone = traitlets.Unicode("UTC").tag(sync=True)

    def __init__(self, tz: str = "") -> None:
        self.visible = self.visibility_known = False
        self.on_visible: Callable[[], object] = lambda: None
        self.on_answer: Callable[[str | None], object] = lambda _: None
        super().__init__(tz=tz)
        self.on_msg(self._on_message)

    @traitlets.validate("status", "warning", "alert")
    def _mask(self, proposal: Any) -> Any:
        return mask_value(proposal["value"])

    @property
    def tzinfo(self) -> tzinfo:
        """The zone in which the browser shows times; UTC until it has sent one that Python knows."""
        try:
            return parse_zone(self.zone)
        except InvalidInputError:
            return UTC

    def fail(self, error: BaseException) -> None:
        """Show an error: message and hint of our own errors, the traceback of others."""
        if isinstance(error, CloudTasksError):
            self.alert = {"text": error.message, "hint": error.hint or ""}
            return
        trace = "".join(traceback.format_exception(error))
        self.alert = {"text": f"{type(error).__name__}: {error}".removesuffix(": "), "trace": trace}

    def set_visible(self, *, visible: bool) -> None:
        """Set whether the panel can be seen."""
        if visible != self.visible:
            self.visible = visible
            self.on_visible()

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content["do"] == "dismiss":
            self.alert = {}
        elif content["do"] == "act":
            self.handled = content["number"]
        elif content["do"] == "answer":
            self.on_answer(content["typed"])
        elif content["do"] == "visible":
            self.visibility_known = True
            self.set_visible(visible=content["visible"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that the user confirms or cancels."""

    title: str  #: "Purge the queue reports?"
    scope: str  #: what exactly will be changed, with the count
    verb: str  #: text of the button: "Purge 2,000 tasks"
    line: str = ""  #: the same as Python
    typed: str | None = None  #: the name that has to be typed; None: a click is enough
    danger: bool = True  #: it destroys something


class Prompt:
    """Asks one question at a time.

    Parameters
    ----------
    show : callable
        Called with what a page shows of a question, without secrets; with an empty mapping after the answer.
    """

    def __init__(self, show: Callable[[dict[str, Any]], object]) -> None:
        self._show = show
        self.question: Question | None = None  #: that is asked now
        self._done: Callable[[], object] = lambda: None

    def ask(self, question: Question, done: Callable[[], object]) -> None:
        """Ask; `done` is called once it is confirmed, in the thread of the click."""
        self.question, self._done = question, done
        texts = {name: mask_text(getattr(question, name)) for name in ("title", "scope", "line")}
        self._show(asdict(question) | texts)

    def hide(self) -> None:
        """Ask nothing any more."""
        self.question = None
        self._show({})

    def answer(self, typed: str | None) -> None:
        """Take an answer: the name that was typed, empty for none; or None if the question was cancelled."""
        question, done = self.question, self._done
        confirmed = question is not None and typed is not None and question.typed in (None, typed.strip())
        if confirmed or typed is None:
            self.hide()
        if confirmed:
            done()
