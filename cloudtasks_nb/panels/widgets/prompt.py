"""The question before work that cannot be undone or concerns many: how many, which, and perhaps a name to type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cloudtasks_nb.display.secrets import mask_text

__all__ = ["Prompt", "Question"]


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
        Called with what a page shows of a question, without secrets; with an empty mapping when it is over.
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
