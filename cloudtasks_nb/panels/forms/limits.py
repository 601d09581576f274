"""The form for a queue's limits: the changed fields become the arguments of `queue.update`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._settings import QUEUE_SETTINGS, UNLIMITED
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.panels.forms.request_form import field

__all__ = ["LimitsForm"]

#: Title, hint and type of each field; a duration is a text, which `update` parses.
_FIELDS: dict[str, tuple[str, str, type[float | str]]] = {
    "rate": ("Dispatches a second", "at most 500", float),
    "max_concurrent": ("Running at once", "at most 5,000", int),
    "max_attempts": ("Attempts a task", "unlimited", int),
    "max_retry_duration": ("Retry for at most", "unlimited", str),
    "min_backoff": ("Shortest wait", "0.1s", str),
    "max_backoff": ("Longest wait", "1h", str),
    "max_doublings": ("Doublings of the wait", "16", int),
    "log_sampling_ratio": ("Share that is logged", "1 logs all, 0 logs nothing", float),
}
_NO_LIMIT = "unlimited"
_NO_LIMIT_WORDS = ("", _NO_LIMIT, "no limit", "none")


class LimitsForm(widgets.VBox):
    """Fields for the settings of one queue.

    Parameters
    ----------
    changed : callable
        Called when the text of a field changes.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._before: dict[str, str] = {}
        self.fields = {setting: _field(setting) for setting in QUEUE_SETTINGS}
        for part in self.fields.values():
            part.observe(lambda _: changed(), "value")
        super().__init__([widgets.HBox(list(self.fields.values())).add_class("ctn-form")])

    def show(self, values: Mapping[str, Any]) -> None:
        """Fill the fields with a row of `tasks.queues()`."""
        self._before = {setting: _text(setting, values[setting]) for setting in QUEUE_SETTINGS}
        for setting, text in self._before.items():
            self.fields[setting].value = text

    @property
    def changes(self) -> dict[str, Any]:
        """The fields whose text was changed, as arguments of `queue.update`.

        Raises
        ------
        InvalidInputError
            If the text of a field is not a number.
        """
        return {setting: _value(setting, text) for setting, text in self._changed_texts()}

    @property
    def words(self) -> str:
        """The changes as words: ``max_attempts 5 → unlimited``."""
        return ", ".join(f"{setting} {self._before[setting]} \u2192 {text}" for setting, text in self._changed_texts())

    def _changed_texts(self) -> list[tuple[str, str]]:
        texts = ((setting, _normal(setting, part.value.strip())) for setting, part in self.fields.items())
        return [(setting, text) for setting, text in texts if text != self._before.get(setting)]


def _field(setting: str) -> widgets.Text:
    title, tip, _ = _FIELDS[setting]
    made: widgets.Text = field(widgets.Text, title, tip, tip=f"{setting}: {tip}")
    return made


def _text(setting: str, value: Any) -> str:
    text = f"{value.total_seconds():g}s" if _FIELDS[setting][2] is str else f"{value:g}"
    return _normal(setting, text)


def _normal(setting: str, text: str) -> str:
    """Return one text for all that mean that there is no limit; other texts as they are."""
    if setting not in UNLIMITED:
        return text
    number = f"{UNLIMITED[setting]}"
    return _NO_LIMIT if text.lower() in (*_NO_LIMIT_WORDS, number, f"{number}s") else text


def _value(setting: str, text: str) -> Any:
    title, _, kind = _FIELDS[setting]
    if text == _NO_LIMIT and setting in UNLIMITED:
        return f"{UNLIMITED[setting]}s" if kind is str else UNLIMITED[setting]
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidInputError(f'{title}: "{text}" is not {wanted}', resource=setting) from None
