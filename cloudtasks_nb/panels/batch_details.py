"""One batch inside a panel: its bar, why rows failed, its calendar and its rows, and all about the row that is open."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.errors import StoreError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.row_query import RowQuery
from cloudtasks_nb.fanout.batch.view import BatchView
from cloudtasks_nb.panels.batch_actions import BatchActions
from cloudtasks_nb.panels.batch_box import BatchBox, BatchNow, SelectedPeriods
from cloudtasks_nb.panels.batch_failures import BatchFailures
from cloudtasks_nb.panels.batch_rows import BatchRows
from cloudtasks_nb.panels.cards.row import row_card
from cloudtasks_nb.panels.owner import unowned
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.run_summary import RunSummary
from cloudtasks_nb.panels.task_details import TaskDetails
from cloudtasks_nb.panels.widgets.calendar_view import CalendarView

__all__ = ["BatchDetails"]

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
        """Keep rows in sight that were sent again, whatever their state is then."""
        self._close_row()
        self.failures.pick(None)
        self.rows.follow(refs)

    def changed(self) -> None:
        """Show the batch, and the list that it stands in, as a verb has left it."""
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
            self._panel.spawn(self._tell(task))

    def _close_row(self) -> None:
        self.story.value = ""
        self.detail.hide()

    async def _tell(self, task: str) -> None:
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
