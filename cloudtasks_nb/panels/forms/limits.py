"""The form for a queue's limits: the changed fields become the arguments of `queue.update`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._settings import QUEUE_SETTINGS
from cloudtasks_nb.errors import InvalidInputError

__all__ = ["LimitsForm"]

_TITLES = {
    "rate": ("Dispatches a second", "at most 500"),
    "max_concurrent": ("Running at once", "at most 5,000"),
    "max_attempts": ("Attempts a task", "-1 is unlimited"),
    "max_retry_duration": ("Retry for at most", "0s is unlimited"),
    "min_backoff": ("Shortest wait", "0.1s"),
    "max_backoff": ("Longest wait", "1h"),
    "max_doublings": ("Doublings of the wait", "16"),
    "log_sampling_ratio": ("Share that is logged", "1 logs all, 0 nothing"),
}
_WHOLE = ("max_concurrent", "max_attempts", "max_doublings")
_NUMBERS = ("rate", "log_sampling_ratio")


class LimitsForm(widgets.VBox):
    """Fields for the settings of one queue.

    Parameters
    ----------
    changed : callable
        Called when what the form would change has changed.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._before: dict[str, str] = {}
        self.fields = {word: _field(word) for word in QUEUE_SETTINGS}
        for field in self.fields.values():
            field.observe(lambda _: changed(), "value")
        super().__init__([widgets.HBox(list(self.fields.values())).add_class("ctn-form")])

    def show(self, values: Mapping[str, Any]) -> None:
        """Fill the fields with a row of `tasks.queues()`."""
        self._before = {word: _text(word, values[word]) for word in QUEUE_SETTINGS}
        for word, text in self._before.items():
            self.fields[word].value = text

    def begin(self) -> None:
        """Put the focus into the first field."""
        self.fields[QUEUE_SETTINGS[0]].focus()

    def before(self, word: str) -> str:
        """Return the text with which a field was filled."""
        return self._before[word]

    @property
    def changes(self) -> dict[str, Any]:
        """The changed fields, as arguments of `queue.update`.

        Raises
        ------
        InvalidInputError
            If a field is no number.
        """
        texts = {word: field.value.strip() for word, field in self.fields.items()}
        return {word: _value(word, text) for word, text in texts.items() if text != self._before.get(word)}


def _field(word: str) -> widgets.Text:
    title, tip = _TITLES[word]
    return widgets.Text(
        description=title,
        placeholder=tip,
        tooltip=f"{word}: {tip}",
        continuous_update=True,
        layout={"width": "auto"},
        style={"description_width": "auto"},
    )


def _text(word: str, value: Any) -> str:
    return f"{value:g}" if word in _WHOLE or word in _NUMBERS else f"{value.total_seconds():g}s"


def _value(word: str, text: str) -> Any:
    if word not in _WHOLE and word not in _NUMBERS:
        return text  # a duration, which `update` reads
    try:
        return int(text) if word in _WHOLE else float(text)
    except ValueError:
        kind = "a whole number" if word in _WHOLE else "a number"
        raise InvalidInputError(f'{_TITLES[word][0]}: "{text}" is not {kind}', resource=word) from None
