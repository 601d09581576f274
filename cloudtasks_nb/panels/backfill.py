"""Backfill: a form that makes a task for each period of a range of dates, and the calendar of the queue's backfills."""

from __future__ import annotations

import asyncio
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ipywidgets as widgets
import orjson
import pandas as pd

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
from cloudtasks_nb.panels.forms.code import Code, IncompleteError, mapping_code
from cloudtasks_nb.panels.forms.notebook import variable
from cloudtasks_nb.panels.forms.request_form import field
from cloudtasks_nb.panels.widgets.fields import Dropdown

__all__ = ["BackfillPanel", "RangeForm"]

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
    """Return the calendar of periods to come, with counts of new and existing rows; `known` if these were looked up."""
    old = {str(state): int(counts.sum()) for state, counts in periods.counts.items() if state != "new"}
    new, exist = int(periods.counts["new"].sum()), sum(old.values())
    title = f"{periods.line}: {new:,} new" if known else f"{periods.line}: {counted(new, 'rows')}"
    if exist:
        states = counts_text(old, "rows").partition(": ")[2]
        title += f", {exist:,} exist{'s' if exist == 1 else ''} already ({states}) and will not be sent again"
    return section_html(title, Calendar(periods).html())


_FREQS = (
    ("day", "D"),
    ("hour", "h"),
    ("15 minutes", "15min"),
    ("week, from Monday", "W-MON"),
    ("week, from Sunday", "W"),
    ("month", "MS"),
    ("quarter", "QS"),
    ("year", "YS"),
)
_OF_A_DAY = {"h", "15min"}
_HINT = "shop: bern, basel; or the name of a DataFrame, or of a dict of lists, in this notebook"


class RangeForm(widgets.VBox):
    """Chooses periods, and values with which each period is crossed.

    Parameters
    ----------
    changed : callable
        Called when any of it has changed.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self.start = field(widgets.DatePicker, "From")
        self.end = field(widgets.DatePicker, "To, included")
        self.freq = field(widgets.Dropdown, "A task each", options=_FREQS)
        self.tz = field(widgets.Combobox, "Time zone", options=sorted(zoneinfo.available_timezones()), value="UTC")
        self.across = field(widgets.Text, "Across", "optional, for each of: shop: bern, basel", tip=_HINT)
        self.newest_first = field(widgets.Checkbox, "newest first", indent=False)
        for part in (self.start, self.end, self.freq, self.tz, self.across, self.newest_first):
            part.observe(lambda _: changed(), "value")
        pair = [widgets.HBox(parts).add_class("ctn-pair") for parts in ((self.start, self.end), (self.freq, self.tz))]
        super().__init__([*pair, widgets.HBox([self.across, self.newest_first]).add_class("ctn-pair")])
        self.add_class("ctn-fields")

    @property
    def range(self) -> tuple[str, str]:
        """First and last moment as text.

        Raises
        ------
        IncompleteError
            If one is not there yet.
        """
        for part, name in ((self.start, "first"), (self.end, "last")):
            if part.value is None:
                raise IncompleteError(f"the {name} day is not chosen yet", hint="choose From and To")
        # The last day includes all its hours.
        late = " 23:59" if self.freq.value in _OF_A_DAY else ""
        return self.start.value.isoformat(), f"{self.end.value.isoformat()}{late}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `queue.backfill` that these fields set.

        Raises
        ------
        InvalidInputError
            If `across` cannot be read.
        """
        arguments: dict[str, Any] = {"freq": self.freq.value}
        if self.tz.value.strip() not in ("", "UTC"):
            arguments["tz"] = self.tz.value.strip()
        if self.across.value.strip():
            arguments["across"] = _across(self.across.value.strip())
        if self.newest_first.value:
            arguments["newest_first"] = True
        return arguments

    @property
    def code(self) -> dict[str, Any]:
        """The same for `PanelContext.line`."""
        arguments = self.arguments
        if "across" in arguments:
            text = self.across.value.strip()
            arguments["across"] = Code(text) if text.isidentifier() else mapping_code(arguments["across"])
        return arguments


def _across(text: str) -> Any:
    """Read ``shop: bern, basel; size: 1, 2``, or the name of a variable."""
    if text.isidentifier():
        found = variable(text)
        if isinstance(found, dict | pd.DataFrame):
            return found
        raise InvalidInputError(f'across: "{text}" is neither a DataFrame nor a dict in this notebook', hint=_HINT)
    columns: dict[str, list[Any]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, values = part.partition(":")
        if not (name.strip() and colon and values.strip()):
            raise InvalidInputError(f'across: "{part}" has no values', hint=_HINT)
        columns[name.strip()] = [_value(value.strip()) for value in values.split(",") if value.strip()]
    return columns


def _value(text: str) -> Any:
    """Return a number if the text is one, else the text; a quoted number is text."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return found if isinstance(found, str | int | float) else text
