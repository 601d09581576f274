"""The fields that limit the sending of a batch: the rows that are sent first, and the failures at which it pauses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.panels.forms.request_form import field

__all__ = ["SendLimits"]


class SendLimits(widgets.HBox):
    """Fields for `canary` and `pause_at` of `queue.fan_out`; `changed` is called when one of them has changed."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self.canary = field(widgets.Text, "Canary", "rows first: 20 or 1%")
        self.canary.tooltip = "canary: the other rows are sent once these have succeeded"
        self.pause_at = field(widgets.Text, "Pause at", "failed rows: 10 or 5%")
        self.pause_at.tooltip = "pause_at: no more rows are sent when so many have failed, or more than this share"
        for part in (self.canary, self.pause_at):
            part.observe(lambda _: changed(), "value")
        super().__init__([self.canary, self.pause_at])
        self.add_class("ctn-pair")

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.fan_out` that these fields set; it checks them."""
        given = {"canary": self.canary.value.strip(), "pause_at": self.pause_at.value.strip()}
        return {word: _number(text) for word, text in given.items() if text}


def _number(text: str) -> int | float | str:
    """Return a number if the text is one; ``"5%"`` stays a text."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
