"""One batch inside a panel: its bar, calendar and rows, and the buttons that retry, resend, resume and cancel."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb.display.calendar import Calendar
from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.fanout.batch.batch import Batch, BatchView, batch_view
from cloudtasks_nb.fanout.batch.progress import FINAL
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.panels.cards.task import last_errors, read_card
from cloudtasks_nb.panels.forms.notebook import quoted
from cloudtasks_nb.panels.panel import Panel, close_all
from cloudtasks_nb.panels.widgets.calendar_view import CalendarView
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.prompt import Question
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["BatchActions", "BatchDetails", "BatchRows"]

_MIN_DELAY = 0.25  # seconds from a change to the update that shows it
_PAUSE_FACTOR = 20  # the pause between updates is at least the duration of the last one times this
_MAX_FAILED_ROWS = 10_000  # more failed rows are not read
_MAX_LISTED_IDS = 1_000  # for more rows the line of Python does not list the ids of their tasks
_ASK_ABOVE = 10  # rows; a verb on more of them is confirmed in a prompt first

_STATE_COLUMNS = (
    Column("state", kind="state", width="8.5em"),
    Column("last_status", "Last answer", kind="state", width="12em"),
    Column("attempts", kind="count", width="7.5em"),
    Column("last_attempt_time", "Last attempt", kind="time", width="10em"),
    Column("last_message", "Message"),
)
_WIDTHS = {"row": "5em", "partition": "9em"}
_KEY = "_key"
_INPUT_COLUMNS = 5  # columns of the input that are shown


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
        self.sending = False  #: whether this process sends it
        self._view: BatchView | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._drawing = threading.Lock()
        self._scheduled = False
        self._calendar_data: Calendar | None = None  # what the widget `calendar` shows
        self._rows_version: tuple[Any, ...] | None = None  # of the rows that are shown
        self._rows_fresh_until = 0.0  # the rows are not read again before this time
        self._draw_seconds = 0.0
        self._inspected = ""
        self.bar = widgets.HTML()
        self._range = widgets.HTML()
        self.calendar = CalendarView(lambda: panel.guarded(self._periods_selected))
        self.rows = BatchRows(panel, self._rows_selected)
        self.detail = widgets.HTML()
        self.actions = BatchActions(panel, self)
        self._calendar_box = widgets.VBox([self._range, self.calendar]).add_class("ctn-periods")
        tools = [] if panel.context.read_only else [panel.row(*self.actions.buttons)]
        panel.at_close(self._stop_listening)
        super().__init__([self.bar, *tools, self._calendar_box, self.rows, self.detail])
        self.show(None)

    def show(self, batch: Batch | None) -> None:
        """Show a batch, or none. Reads only from this machine: it calls no service."""
        self._stop_listening()
        with self._drawing:
            self.batch, self._view = batch, None if batch is None else batch_view(batch)
            self._rows_version, self._rows_fresh_until, self._calendar_data = None, 0.0, None
            self.calendar.pick([])
            self._inspected = self.detail.value = ""
            self.rows.hide()
        self.layout.display = "none" if batch is None else None
        if self._view is not None:
            self._unsubscribe = self._view.listen(self._changed)
            self.draw()

    def schedule_draw(self) -> None:
        """Draw soon."""
        _loop.call_soon(self._changed)

    def draw(self) -> float:
        """Show the batch as it is now; return the seconds after which there is more to show, 0 for none."""
        with self._drawing:
            if self._view is None:
                return 0.0
            began = time.monotonic()
            report = self._view.report()
            self.bar.value = report.html(methods=False)
            self._draw_calendar(self._view)
            self._draw_seconds = time.monotonic() - began
            more_after = self._draw_rows(self._view, report)
            self.sending = report.sending
            self.actions.show()
        if report.progress.at is not None:
            self._panel.footer.at = report.progress.at.timestamp()
        return more_after

    def static_html(self) -> str:
        """Return the batch as HTML; empty if no batch is shown."""
        if self.batch is None:
            return ""
        periods = "" if self._calendar_data is None else self._range.value + self._calendar_data.html()
        return self.bar.value + periods + self.rows.html()

    @property
    def resendable(self) -> int:
        """How many of the selected rows can be sent again: those that are done."""
        return self._count(FINAL)

    @property
    def resendable_succeeded(self) -> int:
        """How many of the selected rows succeeded."""
        return self._count(("succeeded",))

    def resendable_rows(self) -> tuple[pd.DataFrame, str]:
        """Return the selected rows that are done, and the line of Python that sends them again."""
        found = self.rows.selected
        if found.empty and self._view is not None and self._calendar_data is not None:
            found = self._calendar_data.rows(self._view.rows(None, None), self.calendar.picked)
        found = found[found["state"].isin(FINAL)]
        ids = found["task"].dropna().tolist()
        batch = f"tasks.batch({quoted(self.batch.id if self.batch is not None else '')})"
        if len(ids) > _MAX_LISTED_IDS:
            return found, f"{batch}.resend(rows)  # {counted(len(ids), 'rows')} of batch.tasks()"
        return found, f"(batch := {batch}).resend(batch.tasks().query({quoted(f'task in {ids}')}))"

    def _stop_listening(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _count(self, states: Any) -> int:
        selected = self.rows.selected
        if len(selected):
            return int(selected["state"].isin(states).sum())
        return self._calendar_data.count(self.calendar.picked, states) if self._calendar_data is not None else 0

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

    def _draw_calendar(self, view: BatchView) -> None:
        periods = view.periods()
        if periods is not None:
            self._calendar_data = Calendar(periods)
            self._range.value = f'<span class="ctn-quiet">{html.escape(periods.line)}</span>'
            self.calendar.html = self._calendar_data.html(buttons=True)
        self._calendar_box.layout.display = "none" if self._calendar_data is None else None

    def _draw_rows(self, view: BatchView, report: Report) -> float:
        """Read the rows again if they may have changed and the last read is not too recent; return as `draw` does."""
        picked = tuple(self.calendar.picked) if self._calendar_data is not None else ()
        version = (picked, tuple(report.progress.counts().values()) if picked else report.progress.failed)
        if version == self._rows_version:
            return 0.0
        began = time.monotonic()
        if self._rows_version is not None and self._rows_version[0] == picked and began < self._rows_fresh_until:
            return self._rows_fresh_until - began
        self._rows_version = version
        if picked and self._calendar_data is not None:
            found = self._calendar_data.labelled(self._calendar_data.rows(view.rows(None, None), picked))
            counts = Counter(found["state"].tolist()).most_common()
            words = ", ".join(f"{count:,} {state}" for state, count in counts)
            self.rows.load(found, f"{counted(len(found), 'rows')} of {self._calendar_data.words(picked)}: {words}")
        elif report.progress.failed:
            found = view.rows({State.FAILED}, _MAX_FAILED_ROWS)
            part = f", here the first {_MAX_FAILED_ROWS:,}" if report.progress.failed > _MAX_FAILED_ROWS else ""
            found = found if self._calendar_data is None else self._calendar_data.labelled(found)
            self.rows.load(found, f"{counted(report.progress.failed, 'failed rows')}{part}")
        else:
            self.rows.hide()
        now = time.monotonic()
        self._rows_fresh_until = now + _PAUSE_FACTOR * (now - began)
        return 0.0

    def _periods_selected(self) -> None:
        self.rows.clear()
        self.actions.show()
        self._panel.spawn(asyncio.to_thread(self.draw))

    def _rows_selected(self, keys: list[str]) -> None:
        self.actions.show()
        task = self.rows.task(keys[0]) if len(keys) == 1 else None
        if task and task != self._inspected and self.batch is not None:
            self._inspected = task
            self._panel.spawn(self._inspect(self.batch.queue, task))
        elif not keys:
            self._inspected = self.detail.value = ""

    async def _inspect(self, queue: str, task: str) -> None:
        card = await read_card(self._panel.context.connection, self._panel.context.name(queue), task)
        if self._inspected == task:  # the user has not opened another one meanwhile
            self.detail.value = card


class BatchActions:
    """Buttons that retry, resend, resume or cancel rows of a batch, and ask first where many rows are concerned.

    Parameters
    ----------
    panel : Panel
    details : BatchDetails
        The batch, and which of its rows are selected.
    """

    def __init__(self, panel: Panel, details: BatchDetails) -> None:
        self._panel, self._details = panel, details
        self._showing = threading.RLock()
        self.retry = self._button("Retry failed", self._ask_retry, "A new task for each row that failed")
        self.resend = self._button("Send again", self._ask_resend, "A new task for each selected row that is done")
        self.resume = self._button("Resume", self._ask_resume, "Send the unsent rows")
        self.cancel = self._button(
            "Cancel rest", self._ask_cancel, "Stop sending, and delete the tasks that are not done", style="danger"
        )
        self.show()

    @property
    def buttons(self) -> tuple[widgets.Button, ...]:
        """The buttons, for a row."""
        return self.retry, self.resend, self.resume, self.cancel

    def show(self) -> None:
        """Show on each button how many rows it would change."""
        with self._showing:  # the last caller has the newest numbers
            batch = self._details.batch
            progress = None if batch is None else batch.progress()
            unsent = progress.unsent if progress is not None and not self._details.sending else 0
            counts = {
                self.retry: ("Retry failed", progress.failed if progress else 0),
                self.resend: ("Send again", self._details.resendable),
                self.resume: ("Resume", unsent),
                self.cancel: ("Cancel rest", progress.total - progress.done if progress else 0),
            }
            for button, (verb, count) in counts.items():
                text = f"{verb} ({count:,})" if count else verb
                if button.description != text:
                    button.description = text
                self._panel.enable(button, bool(count))

    def _button(self, text: str, ask: Callable[[], None], tip: str, style: str = "") -> widgets.Button:
        return self._panel.button(text, ask, changes=True, quick=True, tip=tip, style=style)

    def _batch(self) -> tuple[Batch, str]:
        """Return the batch, and the Python expression that returns it."""
        batch = self._details.batch
        if batch is None:  # the buttons are disabled then
            raise LookupError("no batch is shown")
        return batch, f"tasks.batch({quoted(batch.id)})"

    def _ask_retry(self) -> None:
        batch, code = self._batch()
        progress = batch.progress()
        rows = counted(progress.failed, "rows")
        self._start(
            batch.retry_failed,
            f"{rows} of batch {batch.id} will be tried again",
            Question(
                title=f"Retry {rows} of batch {batch.id}?",
                scope=f"All {rows} that failed, of {progress.total:,}: each gets a new task in {batch.queue}.",
                verb=f"Retry {rows}",
                line=f"{code}.retry_failed()",
                danger=False,
            ),
            ask=progress.failed > _ASK_ABOVE,
        )

    def _ask_resend(self) -> None:
        batch, _ = self._batch()
        count, succeeded = self._details.resendable, self._details.resendable_succeeded
        rows = counted(count, "rows")
        again = f" {counted(succeeded, 'rows')} of them succeeded: what they do is done once more." if succeeded else ""
        question = Question(
            title=f"Send {rows} of batch {batch.id} again?",
            scope=f"The {rows} selected of {batch.progress().total:,}: each gets a new task in {batch.queue}.{again}",
            verb=f"Send {rows} again",
            danger=False,
        )

        def resend() -> None:
            found, line = self._details.resendable_rows()
            batch.resend(found)
            self._panel.notify(f"{counted(len(found), 'rows')} of batch {batch.id} will be sent again", line=line)

        self._start(resend, "", question, ask=count > _ASK_ABOVE or succeeded > 0)

    def _ask_resume(self) -> None:
        batch, code = self._batch()
        progress = batch.progress()
        rows = counted(progress.unsent, "rows")
        question = Question(
            title=f"Send the remaining rows of batch {batch.id}?",
            scope=f"Creates {counted(progress.unsent, 'tasks')} in {batch.queue}, of {progress.total:,} rows.",
            verb=f"Send {rows}",
            line=f"{code}.resume()",
            danger=False,
        )
        self._start(batch.resume, f"sending {rows} of batch {batch.id}", question, ask=progress.unsent > _ASK_ABOVE)

    def _ask_cancel(self) -> None:
        batch, code = self._batch()
        progress = batch.progress()
        left = progress.total - progress.done
        rows = counted(left, "rows")
        question = Question(
            title=f"Cancel the rest of batch {batch.id}?",
            scope=f"{rows} of {progress.total:,} are not done: {progress.unsent:,} will not be sent, "
            f"{counted(progress.pending, 'tasks')} in {batch.queue} will be deleted. Running attempts continue.",
            verb=f"Cancel {rows}",
            line=f"{code}.cancel()",
            typed=batch.id if left > _ASK_ABOVE else None,
        )
        self._start(batch.cancel, f"cancelling {rows} of batch {batch.id}", question, ask=True)

    def _start(self, work: Callable[[], object], status: str, question: Question, *, ask: bool) -> None:
        """Start `work`, after the user confirmed the question if `ask`; then show the status, if there is one."""

        def run() -> None:
            work()
            if status:
                self._panel.notify(status, line=question.line)
            self._details.draw()

        if ask:
            self._panel.ask(question, run)
        else:
            self._panel.start(run, changes=True)


class BatchRows(widgets.VBox):
    """A heading and a table of rows of a batch: those that failed, or those of the selected periods.

    Parameters
    ----------
    panel : Panel
        Shows exceptions.
    selected : callable
        Called with the keys of the selected rows when they have changed.
    """

    def __init__(self, panel: Panel, selected: Callable[[list[str]], object]) -> None:
        self._panel = panel
        self._selected = selected
        self._heading = widgets.HTML()
        self.table: Table | None = None
        super().__init__([self._heading])

    def load(self, frame: pd.DataFrame, heading: str) -> None:
        """Show rows of `batch.tasks()`, with or without a column `partition`."""
        inputs = frame.columns[: list(frame.columns).index("url")]
        hidden = ("start", "end") if "partition" in inputs else ()
        names = [str(name) for name in inputs if name not in hidden][:_INPUT_COLUMNS]
        wanted = names if "partition" in names else ["row", *names]
        if self.table is None or [column.name for column in self._columns[: -len(_STATE_COLUMNS)]] != wanted:
            self._make([*(Column(name, width=_WIDTHS.get(name)) for name in wanted), *_STATE_COLUMNS])
        assert self.table is not None  # noqa: S101 - it was just made
        self._heading.value = section_html(heading, "")
        self.table.load(_keyed(_with_messages(frame)))
        self.layout.display = None

    def hide(self) -> None:
        """Show no rows."""
        self.layout.display = "none"
        self.clear()

    def clear(self) -> None:
        """Clear the selection."""
        if self.table is not None:
            self.table.select([])

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows; none while it is hidden."""
        if self.table is None or self.layout.display == "none":
            return pd.DataFrame()
        return self.table.selected_frame

    def task(self, key: str) -> str | None:
        """Return the task of a row; None if there never was one."""
        return None if key.startswith("row ") else key

    def html(self) -> str:
        """Return the current page of the table."""
        return "" if self.table is None or self.layout.display == "none" else self._heading.value + self.table.html()

    def _make(self, columns: list[Column]) -> None:
        old = self.table
        self._columns = columns
        self.table = self._panel.attach(Table(columns, key=_KEY, page_size=20, label="rows", empty="No rows"))
        self.table.on_select = lambda keys: self._panel.guarded(self._selected, keys)
        self.children = [self._heading, self.table]
        if old is not None:
            close_all(old)


def _with_messages(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in the exceptions of handlers in this kernel: the log entry of a last attempt has no message."""
    silent = frame[(frame["state"] == "failed") & frame["last_message"].isna() & frame["task"].notna()]
    known = last_errors(silent["url"].dropna()) if len(silent) else {}
    if not known:
        return frame
    return frame.assign(last_message=frame["last_message"].fillna(silent["task"].map(known)))


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column with each row's key: its newest task, or its position if it never had a task."""
    made = frame.reset_index().rename(columns=str)
    places: Any = [f"row {place}" for place in range(len(made))]
    return made.assign(**{_KEY: made["task"].where(made["task"].notna(), pd.Series(places, index=made.index))})
