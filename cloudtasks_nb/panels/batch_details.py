"""One batch in a panel: its bar, what failed and why, its calendar, its rows, and what can be done about it."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections import Counter
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.live import BatchView
from cloudtasks_nb.fanout.batch.progress import FINAL
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.panels.batch_actions import BatchActions
from cloudtasks_nb.panels.batch_rows import BatchRows
from cloudtasks_nb.panels.cards.batch_card import batch_html
from cloudtasks_nb.panels.cards.task_card import read_card
from cloudtasks_nb.panels.context import quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.calendar import CalendarView
from cloudtasks_nb.panels.widgets.cells import counted
from cloudtasks_nb.panels.widgets.charts import calendar
from cloudtasks_nb.panels.widgets.squares import Squares

__all__ = ["BatchDetails"]

_TICK = 0.25  # seconds between two updates
_RELAX = 20  # what was drawn or read is shown so many times longer than that took
_MOST = 10_000  # failed rows that are read
_LISTED = 1_000  # ids that are written out in a line of Python


class BatchDetails(widgets.VBox):
    """A batch, kept up to date while somebody sees it. Its methods may be called from any thread but the loop.

    Parameters
    ----------
    panel : Panel
        What it is part of: it has `wake` call `soon`, `refresh` call `draw`, and `close` call `leave`.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.batch: Batch | None = None
        self.sending = False
        self._view: BatchView | None = None
        self._leave: Any = None
        self._drawing = threading.Lock()
        self._scheduled = False
        self._squares: Squares | None = None
        self._known: tuple[Any, ...] | None = None  # of what the rows are that are shown
        self._until = 0.0
        self._took = 0.0
        self._inspected = ""
        self._bar = widgets.HTML()
        self._range = widgets.HTML()
        self.calendar = CalendarView(lambda: panel.guarded(self._picked))
        self.rows = BatchRows(panel, self._selected)
        self._detail = widgets.HTML()
        self.actions = BatchActions(panel, self, self.draw)
        self._periods = widgets.VBox([self._range, self.calendar]).add_class("ctn-periods")
        tools = [] if panel.context.read_only else [panel.row(*self.actions.buttons)]
        super().__init__([self._bar, *tools, self._periods, self.rows, self._detail])
        self.show(None)

    def show(self, batch: Batch | None) -> None:
        """Be about a batch, or none; reads what is kept of it, and makes no call."""
        self.leave()
        with self._drawing:
            self.batch, self._view = batch, None if batch is None else batch_view(batch)
            self._known, self._until, self._squares = None, 0.0, None
            self.calendar.pick([])
            self._inspected = self._detail.value = ""
            self.rows.hide()
        self.layout.display = "none" if batch is None else None
        if self._view is not None:
            self._leave = self._view.listen(self._changed)
            self.draw()

    def leave(self) -> None:
        """Hear of no changes any more."""
        if self._leave is not None:
            self._leave()
            self._leave = None

    def soon(self) -> None:
        """Show what is new before long."""
        _loop.call_soon(self._changed)

    def draw(self) -> float:
        """Show the batch as it is now; return after how many seconds there is more to show, 0 for never."""
        with self._drawing:
            if self._view is None:
                return 0.0
            began = time.monotonic()
            report = self._view.report()
            self._bar.value = batch_html(report)
            self._draw_calendar(self._view)
            self._took = time.monotonic() - began
            left = self._draw_rows(self._view, report)
            self.sending = report.sending
            self.actions.show()
        if report.progress.at is not None:
            self._panel.footer.at = report.progress.at.timestamp()
        return left

    def static(self) -> str:
        """Return the batch as HTML; nothing if there is none."""
        if self.batch is None:
            return ""
        periods = "" if self._squares is None else self._range.value + self._squares.picture()
        return self._bar.value + periods + self.rows.html()

    # What the actions are about.

    @property
    def again(self) -> int:
        """How many of the selected rows can be sent again: those that are done."""
        return self._count(FINAL)

    @property
    def again_well(self) -> int:
        """How many of the selected rows succeeded."""
        return self._count(("succeeded",))

    def again_rows(self) -> tuple[pd.DataFrame, str]:
        """Read the selected rows that are done; with them the line that sends them again."""
        found = self.rows.selected
        if found.empty and self._view is not None and self._squares is not None:
            found = self._squares.rows(self._view.rows(None, None), self.calendar.picked)
        found = found[found["state"].isin(FINAL)]
        ids = found["task"].dropna().tolist()
        batch = f"tasks.batch({quoted(self.batch.id if self.batch is not None else '')})"
        if len(ids) > _LISTED:
            return found, f"{batch}.resend(rows)  # {counted(len(ids), 'rows')} of batch.tasks()"
        return found, f"(batch := {batch}).resend(batch.tasks().query({quoted(f'task in {ids}')}))"

    def _count(self, states: Any) -> int:
        selected = self.rows.selected
        if len(selected):
            return int(selected["state"].isin(states).sum())
        return self._squares.count(self.calendar.picked, states) if self._squares is not None else 0

    # How it is kept up to date.

    def _changed(self) -> None:
        """Draw soon, on the background loop; many changes at once are one drawing."""
        if not self._scheduled and self._panel.live:
            self._scheduled = True
            _loop.loop().call_later(max(_TICK, _RELAX * self._took), lambda: self._panel.spawn(self._update()))

    async def _update(self) -> None:
        self._scheduled = False
        left = await asyncio.to_thread(self.draw)
        if left:
            _loop.loop().call_later(left, self._changed)

    def _draw_calendar(self, view: BatchView) -> None:
        periods = view.periods()
        if periods is not None:
            self._squares = Squares(periods)
            self._range.value = f'<span class="ctn-quiet">{html.escape(periods.line)}</span>'
            self.calendar.html = calendar(self._squares.all(), label="backfill", unit="rows")
        self._periods.layout.display = "none" if self._squares is None else None

    def _draw_rows(self, view: BatchView, report: Report) -> float:
        """Read the rows anew if they may have changed, but not too often where that takes long."""
        picked = tuple(self.calendar.picked) if self._squares is not None else ()
        wanted = (picked, tuple(report.progress.counts().values()) if picked else report.progress.failed)
        if wanted == self._known:
            return 0.0
        began = time.monotonic()
        if self._known is not None and self._known[0] == picked and began < self._until:
            return self._until - began
        self._known = wanted
        if picked and self._squares is not None:
            found = self._squares.labelled(self._squares.rows(view.rows(None, None), picked))
            counts = Counter(found["state"].tolist()).most_common()
            words = ", ".join(f"{count:,} {state}" for state, count in counts)
            self.rows.load(found, _title(f"{counted(len(found), 'rows')} of {self._squares.words(picked)}: {words}"))
        elif report.progress.failed:
            found = view.rows({State.FAILED}, _MOST)
            part = f", here the first {_MOST:,}" if report.progress.failed > _MOST else ""
            found = found if self._squares is None else self._squares.labelled(found)
            self.rows.load(found, _title(f"{counted(report.progress.failed, 'failed rows')}{part}"))
        else:
            self.rows.hide()
        now = time.monotonic()
        self._until = now + _RELAX * (now - began)
        return 0.0

    def _picked(self) -> None:
        self.rows.clear()
        self.actions.show()
        self._panel.spawn(asyncio.to_thread(self.draw))

    def _selected(self, keys: list[str]) -> None:
        self.actions.show()
        task = self.rows.task(keys[0]) if len(keys) == 1 else None
        if task and task != self._inspected and self.batch is not None:
            self._inspected = task
            self._panel.spawn(self._inspect(self.batch.queue, task))
        elif not keys:
            self._inspected = self._detail.value = ""

    async def _inspect(self, queue: str, task: str) -> None:
        card = await read_card(self._panel.context.connection, self._panel.context.name(queue), task)
        if self._inspected == task:  # and no other was opened meanwhile
            self._detail.value = card


def _title(text: str) -> str:
    return f'<h5 class="ctn-title">{html.escape(text)}</h5>'
