"""One sentence above a panel while nothing answers at its endpoint, with the button that helps."""

from __future__ import annotations

import html
from datetime import UTC, datetime

import ipywidgets as widgets

from cloudtasks_nb.display.times import time_html
from cloudtasks_nb.service.endpoint import Endpoint

__all__ = ["Banner"]


class Banner(widgets.HBox):
    """Says since when nothing answers; hidden while the service answers.

    Parameters
    ----------
    endpoint : Endpoint
        What does not answer.
    again : Button, optional
        Starts the emulator again.
    """

    def __init__(self, endpoint: Endpoint, again: widgets.Button | None = None) -> None:
        self._endpoint = endpoint
        self.text = widgets.HTML()
        super().__init__([self.text, *([again] if again else [])])
        self.add_class("ctn-banner")
        self.hide()

    @property
    def shown(self) -> bool:
        """Whether it can be seen."""
        return self.layout.display is None

    def show(self, since: float) -> None:
        """Say that nothing has answered since a time, in seconds since 1970; 0: it is not known since when."""
        what = "The emulator" if self._endpoint.local else "Cloud Tasks"
        when = f" since {time_html(datetime.fromtimestamp(since, UTC))}" if since else ""
        then = "Figures are of then. " if since else ""
        rest = html.escape(then + self._consequence())
        self.text.value = f'<div role="alert"><b>{what} does not answer{when}.</b> {rest}</div>'
        self.layout.display = None

    def hide(self) -> None:
        """Say nothing."""
        self.layout.display, self.text.value = "none", ""

    def _consequence(self) -> str:
        if self._endpoint.folder is not None:
            return "Its tasks are safe in the folder."
        if self._endpoint.http is not None:
            return "It was temporary, so its tasks are lost: run the cells again from ct.local() on."
        if self._endpoint.local:
            return f"Start it again at {self._endpoint.target}."
        return "The tasks are safe there."
