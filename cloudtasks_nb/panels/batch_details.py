"""One batch inside a panel: its bar, its calendar, why rows failed, its run, its rows, and the row that is open."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.display.card import facts_html, section_html, state_html, table_html
from cloudtasks_nb.display.charts import counts_text
from cloudtasks_nb.display.duration import duration_text
from cloudtasks_nb.display.plural import count_text
from cloudtasks_nb.display.run_chart import durations_chart, throughput_chart
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import from_micros, time_html
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.row_query import RowQuery
from cloudtasks_nb.fanout.batch.view import BatchView, SlowRow, Summary
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels.batch_actions import BatchActions
from cloudtasks_nb.panels.batch_box import BatchBox, BatchNow, SelectedPeriods
from cloudtasks_nb.panels.batch_failures import BatchFailures
from cloudtasks_nb.panels.batch_rows import BatchRows
from cloudtasks_nb.panels.cards.task import row_card
from cloudtasks_nb.panels.owner import unowned
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.task_details import TaskDetails
from cloudtasks_nb.panels.widgets.assets import source

__all__ = ["BatchCalendar", "BatchDetails", "CalendarView", "RunSummary"]

_MIN_DELAY = 0.25  # seconds from a change to the update that shows it
_MAX_STATIC_ROWS = 200_000  # for more rows the HTML of a panel that was just opened has no summary of the run
_PAUSE_FACTOR = 20  # the pause between updates is at least the duration of the last one times this


class BatchCalendar(BatchBox):
    """The calendar of a backfill, in which periods are selected; hidden for other batches.

    Parameters
    ----------
    panel : Panel
    selected : callable
        Called when other periods are selected.
    """

    def __init__(self, panel: Panel, selected: Callable[[], object]) -> None:
        self._range = widgets.HTML()
        self.calendar = CalendarView(lambda: panel.guarded(selected))
        super().__init__([self._range, self.calendar])
        self.add_class("ctn-periods")

    @property
    def part(self) -> SelectedPeriods | None:
        """What is selected; None for all rows."""
        calendar, picked = self.calendar.shown, self.calendar.picked
        if calendar is None or not picked:
            return None
        return SelectedPeriods(
            keys=tuple(picked), words=calendar.words(picked), keep=lambda frame: calendar.rows(frame, picked)
        )

    def show(self, view: BatchView | None) -> None:  # noqa: ARG002 - `draw` gets it
        """Select nothing."""
        self.calendar.reset()

    def draw(self, now: BatchNow) -> float:
        """Show the states of the periods; return as `BatchBox`."""
        periods = now.view.periods([self.calendar.choice] if self.calendar.choice else [])
        if periods is not None:
            self._range.value = f'<span class="ctn-quiet">{html.escape(periods.line)}</span>'
            self.calendar.load(Calendar(periods))
        self.layout.display = "none" if self.calendar.shown is None else None
        return 0.0

    def html(self) -> str:
        """Return the calendar; empty if the batch is no backfill."""
        return "" if self.calendar.shown is None else self._range.value + self.calendar.shown.html()


class BatchDetails(widgets.VBox):
    """A batch, kept up to date while its panel is visible. Its methods may be called from any thread but the loop.

    Parameters
    ----------
    panel : Panel
        The panel around it: its `became_visible` calls `schedule_draw`, and its `refresh` calls `draw`.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.batch: Batch | None = None
        self.view: BatchView | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._leave_tab: Callable[[], None] = lambda: None  #: ends the progress in the title of the browser's tab
        self._drawing = threading.Lock()
        self._scheduled = False
        self._draw_seconds = 0.0
        self.on_change: Callable[[], object] = lambda: None  #: called when a verb of the panel has changed the batch
        self.actions = BatchActions(panel, self)
        self.bar = widgets.HTML()
        self.failures = BatchFailures(panel, self._cause_picked, self.actions.ask_retry_cause)
        self.periods = BatchCalendar(panel, self._periods_selected)
        self.run = RunSummary()
        self.rows = BatchRows(panel, self._rows_chosen, self.actions.show, self._row_shown, self.actions.resend)
        self.story = widgets.HTML()  #: why the open row failed, or what it returned
        self.detail = TaskDetails(panel)  #: the task of the open row, its request and its attempts
        self._boxes: tuple[BatchBox, ...] = (self.periods, self.failures, self.run, self.rows)
        tools = [] if panel.context.read_only else [panel.row(*self.actions.buttons)]
        panel.owner.at_close(self._end)
        panel.footer.observe(lambda _: self.schedule_draw(), "zone")
        super().__init__([self.bar, *tools, *self._boxes, self.story, self.detail])
        self.show(None)

    def show(self, batch: Batch | None) -> None:
        """Show a batch, or none. Reads only from this machine: it calls no service."""
        self._stop_listening()
        self.rows.choose(RowQuery())  # this ends a search, for which the next line would wait
        with self._drawing:
            self.batch, self.view = batch, None if batch is None else batch_view(batch)
            self._close_row()
            for box in self._boxes:
                box.show(self.view)
        self.layout.display = "none" if batch is None else None
        self._panel.footer.batch = ""
        self.actions.show()
        if self.view is not None:
            self._unsubscribe = self.view.listen(self._changed)
            with unowned():
                self._leave_tab = self.view.show_in_tab()
            self.draw(summary=False)
            self.schedule_draw()

    def show_rows(self, state: str) -> None:
        """Show the rows in a state."""
        self.rows.choose(RowQuery(state=state))
        self.draw(summary=False)

    def follow(self, refs: Sequence[int]) -> None:
        """Show rows that were sent again, whatever their states become."""
        self._close_row()
        self.failures.pick(None)
        self.rows.follow(refs)

    def changed(self) -> None:
        """Show the batch and the list of batches after a verb has changed the batch."""
        self.draw()
        self.on_change()

    def schedule_draw(self) -> None:
        """Draw soon."""
        _loop.call_soon(self._changed)

    def draw(self, *, progress: bool = False, summary: bool = True) -> float:
        """Show the batch as it is now; return the seconds after which there is more to show, 0 for none.

        With `progress`, the panel shows how far a search for rows is. Without `summary`, that of the run stays as it
        is; a new one takes a second for a million rows.
        """
        with self._drawing:
            if self.view is None:
                return 0.0
            began = time.monotonic()
            report, footer = self.view.report(), self._panel.footer
            self.bar.value = report.html(methods=False)
            part, zone = self.periods.part, footer.tzinfo
            now = BatchNow(view=self.view, progress=report.progress, part=part, zone=zone, searching=progress)
            after = [self.periods.draw(now), self.failures.draw(now)]
            self._draw_seconds = time.monotonic() - began
            after += [box.draw(now) for box in ((self.run, self.rows) if summary else (self.rows,))]
            footer.batch = "" if report.progress.finished else report.batch
            self.actions.show()
        return min(filter(None, after), default=0.0)

    def static_html(self) -> str:
        """Return the batch as HTML; empty if no batch is shown."""
        if self.batch is None:
            return ""
        if self.run.summary is None and self.batch.progress().total <= _MAX_STATIC_ROWS:
            self.draw()
        return self.bar.value + "".join(box.html() for box in self._boxes)

    def _end(self) -> None:
        """Draw nothing more: a widget that is made now would stay open, and the batch with it."""
        with self._drawing:
            self.view = None
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._leave_tab()
            self._unsubscribe = None

    def _changed(self) -> None:
        """Schedule an update on the background loop, unless one is scheduled already."""
        if not self._scheduled and self._panel.live:
            self._scheduled = True
            delay = max(_MIN_DELAY, _PAUSE_FACTOR * self._draw_seconds)
            _loop.loop().call_later(delay, lambda: self._panel.spawn(self._update()))

    async def _update(self) -> None:
        self._scheduled = False
        more_after = await asyncio.to_thread(self.draw)
        if more_after:
            _loop.loop().call_later(more_after, self._changed)

    def _periods_selected(self) -> None:
        self.rows.release()
        self.actions.show()
        self._panel.spawn(asyncio.to_thread(self.draw))

    def _cause_picked(self, cause: str | None) -> None:
        self.rows.choose(RowQuery(cause=cause or ""))
        self._rows_chosen()

    def _rows_chosen(self) -> None:
        """Show the rows that were chosen; a search in all rows shows its progress and can be stopped."""
        self._close_row()
        self.failures.pick(self.rows.query.cause or None)
        if self.rows.slow:
            self._panel.start(lambda: self.draw(progress=True), changes=False)
        else:
            self._panel.spawn(asyncio.to_thread(self.draw))

    def _row_shown(self, ref: int) -> None:
        self._close_row()
        task = None if self.view is None else self.view.reader.task(ref)
        if self.batch is not None and task:
            self.detail.show(self.batch.queue, task)
            self._panel.spawn(self._show_story(task))

    def _close_row(self) -> None:
        self.story.value = ""
        self.detail.hide()

    async def _show_story(self, task: str) -> None:
        """Show what this machine and the store have of a row."""
        story = await asyncio.to_thread(self._read_story, task)
        if self.detail.task == task:  # the user has not opened another one meanwhile
            self.story.value = story

    def _read_story(self, task: str) -> str:
        if self.view is None:
            return ""
        try:
            row = self.view.reader.stored(task)
        except StoreError as error:
            self._panel.notify(error.message)
            return ""
        return "" if row is None else row_card(row, task)


_SECOND = 1_000_000
_BOX = "display:flex;flex-wrap:wrap;gap:12px 24px;margin-top:8px"


class RunSummary(BatchBox):
    """Figures that change all the time, and below them charts that are drawn anew only with a new summary."""

    def __init__(self) -> None:
        self.summary: Summary | None = None  #: that is shown
        self._figures, self._charts = widgets.HTML(), widgets.HTML()
        self._slowest = widgets.HTML()  # alone, so that it stays open while the charts change
        super().__init__([self._figures, self._charts, self._slowest])
        self.show(None)

    def show(self, view: BatchView | None) -> None:  # noqa: ARG002 - `draw` gets it
        """Show nothing, until a row of the batch is done."""
        self.summary, self._figures.value, self._charts.value, self._slowest.value = None, "", "", ""
        self.layout.display = "none"

    def draw(self, now: BatchNow) -> float:
        """Show the run of the batch, if a row is done; return as `BatchBox`."""
        view = now.view
        summary, newer_after = view.summary()
        if summary is None:
            self.show(None)
            return newer_after
        self._figures.value = section_html("Run", facts_html(_facts(summary, now.progress, now=view.now())))
        self.summary = replace(summary, throughput=replace(summary.throughput, limit=view.limit()))
        self._charts.value = _charts(self.summary, now.zone)
        self._slowest.value = _slowest(summary.slowest)
        self.layout.display = None
        return newer_after

    def html(self) -> str:
        """Return what is shown, with times in UTC."""
        charts = "" if self.summary is None else _charts(self.summary, UTC)
        return self._figures.value + charts + self._slowest.value


def _facts(summary: Summary, progress: Progress, *, now: int) -> dict[str, Any]:
    """Return the figures; all times are of the clock of the service, by which it is `now`."""
    until, took = summary.ended if progress.finished else now, summary.durations
    return {
        "started": from_micros(summary.started),
        "last row done": from_micros(summary.ended),
        "expected end": None if progress.finished else progress.eta,
        "elapsed": duration_text((until - summary.started) / _SECOND),
        "fastest": f"{count_text(summary.throughput.most)} attempts/s",
        "half took at most": took and duration_text(took.p50),
        "95 % took at most": took and duration_text(took.p95),
        "the longest took": took and duration_text(took.longest),
    }


def _charts(summary: Summary, zone: tzinfo) -> str:
    throughput = throughput_chart(summary.throughput, zone)
    boxes = [f'<div style="flex:3 1 460px;min-width:0;max-width:620px">{throughput}</div>']
    if summary.durations is not None:
        durations = durations_chart(summary.durations)
        boxes.append(f'<div style="flex:2 1 320px;min-width:0;max-width:430px">{durations}</div>')
    return f'<div style="{_BOX}">{"".join(boxes)}</div>'


def _slowest(rows: Sequence[SlowRow]) -> str:
    if not rows:
        return ""
    cells = [
        (
            duration_text(row.seconds),
            state_html((State.FAILED if row.failed else State.SUCCEEDED).word),
            time_html(from_micros(row.ended)),
            f'<bdi style="overflow-wrap:anywhere">{html.escape(mask_text(row.name))}</bdi>',
        )
        for row in rows
    ]
    table = table_html(("Took", "State", "Done at", "Row"), cells)
    return f"<details><summary>Slowest rows</summary>{table}</details>"


class CalendarView(anywidget.AnyWidget):
    """Shows a `Calendar` whose squares are buttons. Its methods may be called from any thread.

    Parameters
    ----------
    changed : callable
        Called when the selection has changed, or another value of `across` was chosen.

    Attributes
    ----------
    html : str
        What is shown: `Calendar.html(buttons=True)`.
    words : str
        Which squares are selected, and the states of their rows.
    choices : list of str
        Values of `across` that can be shown alone, where there are too many for a band each.
    choice : str
        The one that is shown; empty for all together.
    picked : list of str
        Keys of the selected squares.
    shown : Calendar or None
    """

    _esm = source("browser.js", "calendar.js")
    _css = source("batch.css")

    html = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode().tag(sync=True)
    choices: Any = traitlets.List().tag(sync=True)
    choice = traitlets.Unicode().tag(sync=True)
    # The browser sends the selection as a numbered message, and gets it back with that number: the answer to an earlier
    # click must not undo a later one.
    _picked: Any = traitlets.Any({"n": 0, "keys": []}).tag(sync=True)

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self.shown: Calendar | None = None
        self._lock = threading.Lock()
        super().__init__()
        self.on_msg(self._on_message)

    @property
    def picked(self) -> list[str]:
        """Keys of the selected squares."""
        return list(self._picked["keys"])

    def load(self, calendar: Calendar) -> None:
        """Show a calendar; what is selected stays selected."""
        self.shown = calendar
        with self.hold_sync():
            self.choices = list(calendar.choices)
            self.html = calendar.html(buttons=True)
            self._describe()

    def pick(self, keys: Iterable[str]) -> None:
        """Select these squares and no others."""
        wanted = list(keys)
        if wanted != self.picked:
            self._apply(self._picked["n"] + 1, wanted)

    def reset(self) -> None:
        """Select nothing, and show all values together, once there is another calendar."""
        self.shown, self.choice = None, ""
        self.pick([])

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if "choice" in content:
            self.choice = content["choice"]
        self._apply(content["n"], content["keys"])

    def _apply(self, number: int, keys: list[str]) -> None:
        with self._lock:
            if number <= self._picked["n"]:
                return
            self._picked = {"n": number, "keys": keys}
        self._describe()
        self._changed()

    def _describe(self) -> None:
        found, picked = self.shown, self.picked
        words = "" if found is None else found.words(picked)
        self.words = f"{words}: {counts_text(found.counts(picked), 'rows')}" if found is not None and words else ""
