"""Backfill: a form that makes a task for each period of a range of dates, and the calendar of the queue's backfills."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.fanout.periods.partitions import COLUMNS, cross, partition
from cloudtasks_nb.fanout.plan.plan import Plan
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.fan_out import SendPanel
from cloudtasks_nb.panels.forms.range_form import RangeForm
from cloudtasks_nb.panels.forms.request_form import RequestForm, field

__all__ = ["BackfillPanel"]

_NO_BATCH = ("none yet", "")


class BackfillPanel(SendPanel):
    """A form for `queue.backfill`, and the backfills of the queue."""

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        super().__init__(context, f"Backfill on {queue}" if framed else "Backfill", queue=queue, framed=framed)
        self.range = RangeForm(lambda: self.guarded(self._range_changed))
        self.request = RequestForm(lambda: self.guarded(self.edited))
        self.name = self.control(field(widgets.Text, "Name", "of the series; may be left out"), self.edited)
        self.series = field(widgets.Dropdown, "Backfill", options=[_NO_BATCH])
        self.series.tooltip = "A backfill of this queue"
        self.control(self.series, self._choose)
        self._offering = False
        names = widgets.HBox([self.request.signed, self.name]).add_class("ctn-pair")
        self._chosen = widgets.VBox([self.series]).add_class("ctn-fields")
        self.lay_out(self.range, self.request, widgets.VBox([names]).add_class("ctn-fields"), below=(self._chosen,))
        self._range_changed()
        self.guarded(self._read_series)

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows, and the arguments of `backfill`."""
        rows = self._partitions().iloc[:count]
        arguments = self.range.arguments
        return cross(rows, arguments.get("across")).head(count), self.request.arguments

    def plan(self) -> Plan:
        """Make the plan."""
        arguments = {**self.range.arguments, **self.request.arguments, **self._of_batch()}
        found: Plan = self.context.queue(self.queue or "").backfill(*self.range.range, dry_run=True, **arguments)
        return found

    def code(self) -> str:
        """Return the line of Python that does the same."""
        arguments = {**self.range.code, **self.request.code, **self._of_batch()}
        return self.context.line(self.queue or "", "backfill", *self.range.range, **arguments)

    def submitted(self) -> None:
        """Offer the new backfill among the others."""
        self._read_series()

    def became_visible(self) -> None:
        """Offer the backfills that there are now."""
        self.spawn(asyncio.to_thread(self._read_series))
        super().became_visible()

    def queue_changed(self) -> None:
        """Show the backfills of another queue."""
        super().queue_changed()
        self.spawn(asyncio.to_thread(self._read_series))

    def _partitions(self) -> Any:
        arguments = self.range.arguments
        found = partition(*self.range.range, freq=arguments["freq"], tz=arguments.get("tz", "UTC"))
        return found.frame(newest_first=self.range.newest_first.value)

    def _of_batch(self) -> dict[str, Any]:
        name = self.name.value.strip()
        return {"name": name} if name else {}

    def _range_changed(self) -> None:
        self.offer()
        self.edited()

    def offer(self) -> None:
        """Offer the columns that rows have, and the handlers that there are now."""
        try:
            across = self.range.arguments.get("across", {})
        except ValueError:
            across = {}  # not complete yet
        self.request.update_choices([*COLUMNS, *map(str, across)])

    def _read_series(self) -> None:
        """Offer the backfills of the queue, newest first; keep the selected one."""
        name = self.context.name(self.queue or "")
        records = self.context.catalog.outbox.batches.find(**asdict(self.context.catalog.place(name)))
        if name.queue != self.queue:
            return  # another queue was chosen meanwhile, and is read next
        found = [record for record in records if "backfill" in record.description]
        options = [(f"{record.name}, {record.total:,} rows", record.id) for record in found] or [_NO_BATCH]
        shown = self.view.batch.id if self.view.batch is not None else options[0][1]
        self._offering = True
        self.series.options = options
        self.series.value = shown if shown in dict(options).values() else options[0][1]
        self._offering = False
        self._chosen.layout.display = None if found else "none"
        if self.view.batch is None and self.series.value:
            self._open(self.series.value)

    def _choose(self) -> None:
        if not self._offering and self.series.value:
            self.spawn(asyncio.to_thread(self._open, self.series.value))

    def _open(self, batch: str) -> None:
        self.view.show(self.context.catalog.get(batch))
