"""Fan out: a DataFrame of the notebook, or a CSV file, becomes a batch of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.fanout.plan.plan import ROW, Plan
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import Code
from cloudtasks_nb.panels.forms.request_form import RequestForm, field
from cloudtasks_nb.panels.forms.source import SourceField
from cloudtasks_nb.panels.sending import SendingPanel
from cloudtasks_nb.panels.widgets.picker import Picker

__all__ = ["FanOutPanel"]

_POSITION = "position of the row"


class FanOutPanel(SendingPanel):
    """A form for `queue.fan_out`.

    Parameters
    ----------
    context : PanelContext
    queue : str
    framed : bool
    """

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        title = f"Fan out to {queue}" if framed else "Fan out"
        super().__init__(context, title, queue=queue, framed=framed)
        self.source = SourceField(lambda: self.guarded(self._data_changed))
        self.control(self.source.upload, self.source.take)
        self.request = RequestForm(lambda: self.guarded(self.edited))
        self.key = Picker("Key", "none chosen: what is sent tells rows apart", lambda: self.guarded(self.edited))
        self.name = self.control(field(widgets.Text, "Name", "of the batch; may be left out"), self.edited)
        self.skip = self.control(
            field(widgets.Checkbox, "leave out bad rows and duplicates", indent=False), self.edited
        )
        names = widgets.HBox([self.request.signed, self.name]).add_class("ctn-pair")
        batch = widgets.VBox([names, self.key, self.skip]).add_class("ctn-fields")
        self.lay_out(widgets.VBox([self.source]).add_class("ctn-fields"), self.request, batch)
        self._data_changed()

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows, and the words of `fan_out`."""
        return self.source.data.head(count), self._words()

    def plan(self) -> Plan:
        """Make the plan."""
        found: Plan = self.context.queue(self.queue or "").fan_out(self.source.data, dry_run=True, **self._words())
        return found

    def code(self) -> str:
        """Return the line of Python that does the same."""
        words = self._of_batch()
        if words.get("key") is ROW:
            words["key"] = Code("ct.ROW")
        return self.context.line(self.queue or "", "fan_out", self.source.code, **self.request.code, **words)

    def offer(self) -> None:
        """Offer the DataFrames and handlers that there are now."""
        self.source.renew()
        self.request.renew(self.source.columns)

    def _words(self) -> dict[str, Any]:
        return {**self.request.words, **self._of_batch()}

    def _of_batch(self) -> dict[str, Any]:
        key = ROW if _POSITION in self.key.value else self.key.value
        given = {"key": key, "name": self.name.value.strip(), "errors": "skip" if self.skip.value else ""}
        return {word: value for word, value in given.items() if value}

    def _data_changed(self) -> None:
        self.request.renew(self.source.columns)
        self.key.offer([*self.source.columns, _POSITION])
        self.edited()
