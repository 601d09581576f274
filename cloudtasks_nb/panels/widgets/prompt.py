"""The question before work that cannot be undone or concerns many: how many, which, and perhaps a name to type."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ipywidgets as widgets

from cloudtasks_nb.display.secrets import mask_text

__all__ = ["Prompt", "Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that the user confirms or cancels."""

    title: str  #: "Purge the queue reports?"
    scope: str  #: what exactly will be changed, with the count
    verb: str  #: text of the button: "Purge 2,000 tasks"
    facts: Sequence[str] = ()  #: what the user should know before, a line each, shown as it is
    line: str = ""  #: the same as Python
    typed: str | None = None  #: the name that has to be typed; None: a click is enough
    danger: bool = True  #: it destroys something


class Prompt(widgets.VBox):
    """Asks one question at a time; hidden otherwise.

    Attributes
    ----------
    text, typed, yes, no : HTML, Text, Button, Button
        The question, the field for the name, and the answers; made with the first question, as most panels ask none.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._question: Question | None = None
        self._done: Callable[[], object] = lambda: None
        self.on_change: Callable[[str], object] = lambda _: (
            None
        )  #: called with the title of the question; empty when the question is closed
        super().__init__()
        self.add_class("ctn-prompt")
        self.hide()

    def _make(self) -> None:
        self.text = widgets.HTML()
        self.typed = widgets.Text(continuous_update=True, layout={"width": "26em"}, style={"description_width": "auto"})
        self.yes = widgets.Button()
        self.no = widgets.Button(description="Cancel").add_class("ctn-cancel")
        self.yes.on_click(lambda _: self._confirm())
        self.no.on_click(lambda _: self.hide())
        self.typed.observe(self._check, "value")
        self.children = [self.text, self.typed, widgets.HBox([self.yes, self.no]).add_class("ctn-row")]

    @property
    def question(self) -> Question | None:
        """The question that is asked now."""
        return self._question

    def show(self, question: Question, done: Callable[[], object]) -> None:
        """Ask; `done` is called once it is confirmed, in the thread of the click."""
        with self._making:
            if not self.children:
                self._make()
        self._question, self._done = question, done
        self.text.value = _question_html(question)
        self.typed.value = ""
        self.typed.description = f"Type {question.typed} to confirm"
        self.typed.layout.display = None if question.typed else "none"
        self.yes.description = question.verb
        self.yes.button_style = "danger" if question.danger else "primary"
        self._check()
        self.layout.display = None
        self.on_change(question.title)

    def hide(self) -> None:
        """Ask nothing any more."""
        self._question = None
        self.layout.display = "none"
        self.on_change("")

    def _matches(self) -> bool:
        question = self._question
        return question is not None and (question.typed is None or self.typed.value.strip() == question.typed)

    def _check(self, _change: object = None) -> None:
        self.yes.disabled = not self._matches()

    def _confirm(self) -> None:
        if self._matches():  # the name may have been changed after the click
            done = self._done
            self.hide()
            done()


def _question_html(question: Question) -> str:
    title, scope, code = (html.escape(mask_text(text)) for text in (question.title, question.scope, question.line))
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in question.facts)
    more = f"<ul>{facts}</ul>" if facts else ""
    return f"<strong>{title}</strong><p>{scope}</p>{more}{f'<code>{code}</code>' if code else ''}"
