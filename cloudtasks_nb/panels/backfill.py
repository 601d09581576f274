"""Backfill: a form that makes a task for each period of a range of dates, and the calendar of the queue's backfills."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.calendar import Calendar, Periods
from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.display.charts import counts_text
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError
from cloudtasks_nb.fanout.batch.backfill import Backfill
from cloudtasks_nb.fanout.batch.view import upcoming
from cloudtasks_nb.fanout.periods.partitions import COLUMNS, Partitions, combinations, partition, period_rows
from cloudtasks_nb.fanout.plan.plan import Plan
from cloudtasks_nb.panels.cards.plan import error_html
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.fan_out import SendPanel
from cloudtasks_nb.panels.forms.notebook import IncompleteError
from cloudtasks_nb.panels.forms.range_form import RangeForm
from cloudtasks_nb.panels.forms.request_form import field
from cloudtasks_nb.panels.widgets.dropdown import Dropdown

__all__ = ["BackfillPanel"]

_NO_BATCH = ("none yet", "")
_MOST_DRAWN = 100_000  # rows; a calendar of more is not drawn before they are sent


class BackfillPanel(SendPanel):
    """A form for `queue.backfill`, and the backfills of the queue."""

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        title = f"Backfill on {queue}" if framed else "Backfill"
        super().__init__(context, title, queue=queue, framed=framed, unit="series")
        self.range = RangeForm(lambda: self.guarded(self._range_changed))
        self.series = field(Dropdown, "Backfill", changed=lambda: self.guarded(self._choose), options=[_NO_BATCH])
        self.series.tooltip = "A backfill of this queue"
        self._drawn_batch = ""  # the batch whose rows are among the periods to come
        self.view.periods.calendar.observe(lambda _: self._states_changed(), "html")
        self._chosen = widgets.VBox([self.series]).add_class("ctn-fields")
        self.lay_out(self.range, self.limits, below=(self._chosen,))
        self._range_changed()
        self.guarded(self._read_series)

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows, and the arguments of `backfill`."""
        across, newest_first = self.range.arguments.get("across"), self.range.newest_first.value
        return period_rows(self._periods(), across, newest_first=newest_first, count=count), self.request.arguments

    def plan(self) -> Plan:
        """Make the plan."""
        arguments = {**self.range.arguments, **self.request.arguments, **self.of_batch()}
        found: Plan = self.context.queue(self.queue or "").backfill(*self.range.range, dry_run=True, **arguments)
        return found

    def source_text(self) -> str:
        """Return the range of the periods."""
        return " to ".join(map(str, self.range.range))

    def code(self) -> str:
        """Return the line of Python that does the same."""
        arguments = {**self.range.code, **self.request.code, **self.of_batch()}
        return self.context.line(self.queue or "", "backfill", *self.range.range, **arguments)

    def submitted(self) -> None:
        """Offer the new backfill among the others; its periods are no longer new."""
        self._read_series()
        self._draw_again()

    def became_visible(self) -> None:
        """Offer the backfills that there are now."""
        self.spawn(asyncio.to_thread(self._read_series))
        self._draw_again()
        super().became_visible()

    def refresh(self) -> None:
        """Show the batch, and which periods exist already, as they are now."""
        super().refresh()
        self._draw_again()

    def queue_changed(self) -> None:
        """Show the backfills of another queue."""
        super().queue_changed()
        self.spawn(asyncio.to_thread(self._read_series))

    def _periods(self) -> Partitions:
        arguments = self.range.arguments
        return partition(*self.range.range, freq=arguments["freq"], tz=arguments.get("tz", "UTC"))

    def _draw_again(self) -> None:
        """Show the periods to come with the states that the batch has now."""
        self.spawn(self._show_first(self._edits))

    def _states_changed(self) -> None:
        if self._drawn_batch and self.view.batch is not None and self.view.batch.id == self._drawn_batch:
            self._draw_again()

    def _render_first(self) -> str:
        return self._render_periods() + super()._render_first()

    def _render_periods(self) -> str:
        """Return the calendar of the periods to come; empty while the first tasks say what is not filled in yet."""
        try:
            partitions, across = self._periods(), self.range.arguments.get("across")
            rows = combinations(across)
        except CloudTasksError:
            return ""
        count = len(partitions) * (1 if rows is None else len(rows))
        if count > _MOST_DRAWN:
            return section_html(f"{partitions}: {count:,} rows, too many to draw before they are planned", "")
        try:
            return _periods_html(self._upcoming(partitions, across), known=True)
        except IncompleteError:  # without a URL it is not known which batch this is
            return _periods_html(upcoming(partitions, rows, None), known=False)
        except InvalidInputError:  # the first tasks say so too
            return ""
        except CloudTasksError as error:
            return error_html(error, quiet=False)

    def _upcoming(self, partitions: Partitions, across: Any) -> Periods:
        queue = self.context.name(self.queue or "")
        options = {**self.request.arguments, "across": across, "name": self.name.value.strip() or None}
        backfill = Backfill(self.context.catalog, queue, partitions, options)
        record = backfill.known()
        self._drawn_batch = "" if record is None else record.id
        return backfill.upcoming(record)

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
        self.series.offer(options, shown if shown in dict(options).values() else options[0][1])
        self._chosen.layout.display = None if found else "none"
        if self.view.batch is None and self.series.value:
            self._open(self.series.value)

    def _choose(self) -> None:
        if self.series.value:
            self.spawn(asyncio.to_thread(self._open, self.series.value))

    def _open(self, batch: str) -> None:
        self.view.show(self.context.catalog.get(batch))


def _periods_html(periods: Periods, *, known: bool) -> str:
    """Return the calendar of periods to come, under what is new and what exists; `known` if that has been looked up."""
    old = {str(state): int(counts.sum()) for state, counts in periods.counts.items() if state != "new"}
    new, exist = int(periods.counts["new"].sum()), sum(old.values())
    title = f"{periods.line}: {new:,} new" if known else f"{periods.line}: {counted(new, 'rows')}"
    if exist:
        states = counts_text(old, "rows").partition(": ")[2]
        title += f", {exist:,} exist{'s' if exist == 1 else ''} already ({states}) and will not be sent again"
    return section_html(title, Calendar(periods).html())
