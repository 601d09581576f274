"""Fan out: a form for a DataFrame or a CSV file; and the base class of forms that become a batch.

While a form is filled in, its first tasks are shown; Plan counts and checks all tasks, Send creates the batch.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.display.card import lines_html
from cloudtasks_nb.display.notify import Output, redirect
from cloudtasks_nb.display.plural import counted
from cloudtasks_nb.display.progress_bar import bar_html
from cloudtasks_nb.display.secrets import mask_text
from cloudtasks_nb.display.times import time_html
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.plan.plan import Plan
from cloudtasks_nb.fanout.plan.recipe import ROW, compile_recipe
from cloudtasks_nb.fanout.plan.render import plan_row
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.panels.batch_details import BatchDetails
from cloudtasks_nb.panels.cards.plan import blocked, error_html, plan_html, tasks_html, trial_html
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import Code, IncompleteError
from cloudtasks_nb.panels.forms.notebook import on_cell_end
from cloudtasks_nb.panels.forms.request_form import RequestForm, SendLimits, field, recent_urls
from cloudtasks_nb.panels.forms.source import SourceField
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.fields import Picker
from cloudtasks_nb.panels.widgets.footer import Question
from cloudtasks_nb.panels.work import Rerun

__all__ = ["FanOutPanel", "SendPanel"]

_PAUSE = 0.15  # seconds without a change before the first tasks are rendered
_FIRST = 3  # tasks that are shown
_FEW = 100  # tasks that are sent without a question
_WHOLE = 100_000  # rows up to which a plan keeps each task
_MANY = 10_000  # tasks on Google for which the queue's name is typed
_POSITION = "position of the row"  # as a key

T = TypeVar("T")


class _StopError(Exception):
    """The user has pressed Stop."""


class SendPanel(Panel):
    """A panel with a form that becomes a batch.

    A derived panel lays its form out with `lay_out`, calls `edited` after each change, and implements `sample`, `plan`,
    `code` and `offer`.

    Parameters
    ----------
    unit : str
        What has the name that can be given.

    Attributes
    ----------
    view : BatchDetails
        The batch that was sent.
    request : RequestForm
        The fields of the request.
    """

    def __init__(self, context: PanelContext, title: str, *, queue: str, framed: bool, unit: str) -> None:
        super().__init__(context, title, queue=queue, framed=framed)
        self._plan: Plan | None = None
        self._line = ""  # Python for the plan
        self._edits = 0
        self._rendering = Rerun(self.spawn, self._render)  # so that an older result never replaces a newer one
        self._filled = False  # the first tasks can be shown
        self._rows: int | None = None  # of the input that is planned or stored, if known
        self.preview = widgets.HTML()
        self.plan_card = widgets.HTML()
        self.trial = widgets.HTML()  # the answer to one row
        tip = "Call the target with the first row; no task is created"
        self._whole_form: tuple[widgets.Widget, ...] = ()
        self._form = widgets.VBox().add_class("ctn-sections")
        self._sent = widgets.HTML()  # one line instead of the form
        edit = self.change_button("Edit", self.edit, "Show the form, as it was filled in")
        self._folded = self.row(self._sent, edit)
        self.try_one = self.button("Try one row", self._try_one, changes=True, tip=tip)
        self.make_plan = self.button(
            "Plan", self._make_plan, changes=False, tip="Count, measure and check; send nothing"
        )
        self.send = self.change_button("Send", self._ask_send, style="primary")
        self.enable(self.send, False)
        self.meter = widgets.HTML()
        self.stop_button().on_click(lambda _: self.notify("stopping"))
        self._work_row = self.row(self.stop_button(), self.meter)
        self._work_row.layout.display = "none"
        self.request = RequestForm(lambda: self.guarded(self.edited), local=context.local)
        self.name = self.control(field(widgets.Text, "Name", f"of the {unit}; may be left out"), self.edited)
        self.limits = SendLimits(lambda: self.guarded(self.edited))
        hint = "of an attempt: 2s; the plan then says when it would end"
        # not with each key: what is typed then reaches the kernel before the click that follows
        duration = field(widgets.Text, "Duration", hint, continuous_update=False)
        self.duration = self.control(duration, self.edited)
        self.view = BatchDetails(self)
        self.owner.at_close(on_cell_end(lambda: self.guarded(self.offer)))

    # What a derived panel implements.

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows as a frame, and the arguments of the verb; may raise an error of the form."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """Make the plan; may wait."""
        raise NotImplementedError

    def code(self) -> str:
        """Return the line of Python that does the same."""
        raise NotImplementedError

    def offer(self) -> None:
        """Offer the variables that the notebook has now; called when a cell has ended."""

    def source_text(self) -> str:
        """Return what the rows are made of, for the line that replaces the form after it was sent."""
        raise NotImplementedError

    def submitted(self) -> None:
        """React to a batch that was sent."""

    def of_batch(self) -> dict[str, Any]:
        """Return the arguments of the verb that are not about the request of each task."""
        name = self.name.value.strip()
        return ({"name": name} if name else {}) | self.limits.arguments

    # What a derived panel calls.

    def lay_out(self, source: widgets.Widget, *more: widgets.Widget, below: tuple[widgets.Widget, ...] = ()) -> None:
        """Put the form above its plan, its first tasks and its batch.

        The form begins with `source`; `more` are options that are seldom needed; `below` stands above the batch.
        Once it is sent, one line replaces it, and the batch is on top. Plan and Send are directly below the
        form. The first tasks appear a moment after the last key, when the user may be clicking: above the buttons they
        would move them, and the click would be lost.
        """
        names = widgets.HBox([self.request.signed, self.name]).add_class("ctn-pair")
        self.request.add_more(names, *more, given=self.of_batch)
        if self.context.read_only:
            self.fill(self.plan_card, *below, self.view)
            return
        buttons = self.row(self.try_one, self.make_plan, self.send, self._work_row)
        duration = widgets.VBox([self.duration]).add_class("ctn-fields")
        self._whole_form = (source, self.request, duration, buttons)
        self.unfold()
        self.fill(self._folded, self._form, self.trial, self.plan_card, self.preview, *below, self.view)

    def unfold(self) -> None:
        """Show the form, and not the line in its place."""
        self._form.children = self._whole_form
        self._folded.layout.display = "none"
        self.preview.layout.display = None

    def edit(self) -> None:
        """Show the form; the browser puts the focus into it."""
        self._form.add_class("ctn-reopened")  # its first field gets the focus
        self.unfold()

    def _fold(self, plan: Plan) -> None:
        """Put one line in place of the form."""
        url = mask_text(str(self.request.url.value))
        what = f"<bdi>{html.escape(self.source_text())}</bdi> → <bdi>{html.escape(url)}</bdi>"
        at = time_html(self.context.connection.clock.now())
        self._sent.value = f"{what}, {counted(plan.sendable, 'tasks')}, sent {at}"
        self._folded.layout.display, self.preview.layout.display = None, "none"
        self.trial.value = ""
        self._form.children = ()
        self._form.remove_class("ctn-reopened")

    def edited(self) -> None:
        """Forget the plan, and show the line and the first tasks of the form as it is now."""
        self._edits += 1
        self._drop_plan()
        self.trial.value = ""
        self.footer.alert = {}
        try:
            self.footer.line = self.code()
        except CloudTasksError:
            self.footer.line = ""  # the error is shown instead of the first tasks
        self.spawn(self._show_first(self._edits))

    def became_visible(self) -> None:
        """Show what has changed while the panel was not visible."""
        self.offer()
        self.spawn(asyncio.to_thread(self._read_recent))
        self.view.schedule_draw()

    def queue_changed(self) -> None:
        """Forget plan and batch, which belong to the old queue."""
        self.view.show(None)
        self.unfold()
        self.edited()

    def refresh(self) -> None:
        """Show the batch as it is now."""
        self.view.draw()

    def static_html(self) -> str:
        """Return the plan, the first tasks and the batch."""
        first = self.preview.value if self._filled and self.preview.layout.display is None else ""
        return self.trial.value + self.plan_card.value + first + self.view.static_html()

    def _drop_plan(self) -> None:
        self._plan = None
        self.plan_card.value = ""
        self.send.description = "Send"
        self.enable(self.send, False)

    async def _show_first(self, edits: int) -> None:
        await asyncio.sleep(_PAUSE)
        if edits == self._edits:
            self._rendering.ask()

    async def _render(self) -> None:
        edits = self._edits
        shown = await asyncio.to_thread(self._render_first)
        if edits == self._edits:
            self.preview.value = shown

    def _render_first(self) -> str:
        try:
            with redirect(Output(message=self.notify, progress=self._show_progress)):  # of a function that is served
                rows, arguments = self.sample(_FIRST)
            recipe, now = compile_recipe(arguments), self.context.connection.clock.now()
            found = tasks_html([plan_row(rows, recipe, row, now=now) for row in range(len(rows))])
        except CloudTasksError as error:
            self._filled = False
            return error_html(error, quiet=isinstance(error, IncompleteError))
        self._filled = True
        return found

    def _read_recent(self) -> None:
        """Offer the URLs of the newest batches of this service."""
        catalog = self.context.catalog
        endpoint = catalog.place(self.context.name(self.queue or "")).endpoint
        self.request.offer_recent(recent_urls(catalog.outbox.batches.find(endpoint=endpoint)))

    def _run(self, work: Callable[[], T]) -> T:
        """Do work that reports its rows, with a bar; raise _StopError at its next report after Stop was pressed."""
        self._work_row.layout.display = None
        try:
            with redirect(Output(message=self.notify, progress=self._advance)):
                return work()
        finally:
            self._work_row.layout.display = "none"
            self.meter.value = ""

    def _advance(self, what: str, count: int, total: int | None) -> None:
        if self.stopping.is_set():
            raise _StopError
        total = total or self._rows
        text = f"{what}: {count:,}" + (f" of {counted(total, 'rows')}" if total else " rows")
        self.meter.value = bar_html(count / total if total else None, text, label=what)

    def _try_one(self) -> None:
        edits, line = self._edits, self.code()
        rows, arguments = self.sample(1)
        self.notify("the first row is tried …")
        found = self.context.queue(self.queue or "").fan_out(rows, dry_run=True, **arguments).try_one()
        if edits == self._edits:
            self.trial.value = trial_html(found)
        done = (State.SUCCEEDED if found.ok else State.FAILED).word
        self.notify(f"the first row {done}; no task was created", line=f"{line[:-1]}, dry_run=True).try_one()")

    def _make_plan(self) -> None:
        self._rows = None
        while True:
            edits = self._edits
            self._drop_plan()
            line = self.code()
            try:
                found = self._run(self.plan)
            except _StopError:
                found = None
            if found is None or self.stopping.is_set():
                self.notify("stopped: there is no plan, and nothing was stored or sent")
                return
            if edits == self._edits:  # else the form was changed meanwhile, and is planned again
                break
        duration = self.duration.value.strip()  # of an attempt; without one the end is not known
        self.plan_card.value = plan_html(found) + lines_html([repr(found.simulate(duration))] if duration else [])
        self._plan, self._line = found, line
        why = blocked(found)
        self.send.description = f"Send {counted(found.sendable, 'tasks')}" if found.sendable else "Send"
        self.enable(self.send, not why)
        self.notify(f"planned {counted(found.sendable, 'tasks')}" + (f"; {why}" if why else ""), line=line)

    def _ask_send(self) -> None:
        plan = self._plan
        if plan is None:
            return  # the form was changed while the click was on its way
        if plan.sendable <= _FEW:
            self.start(lambda: self._submit(plan), changes=True)
            return
        count, cost = counted(plan.sendable, "tasks"), f" It costs {plan.cost}." if plan.cost else ""
        question = Question(
            title=f"Send {count} to {plan.queue}?",
            scope=f"Creates {count} in {self.context.name(plan.queue)}; each calls its URL.{cost}",
            verb=f"Send {count}",
            line=self._line,
            typed=plan.queue if plan.sendable > _MANY and not self.context.local else None,
            danger=False,
        )
        self.ask(question, lambda: self._submit(plan))

    def _submit(self, plan: Plan) -> None:
        self.plan_card.value = plan_html(plan, status="its tasks are being stored, and are sent once all are stored")
        try:
            batch = self._run(plan.submit)
        except BaseException as error:
            if plan is self._plan:  # the form was not changed meanwhile
                self.plan_card.value = plan_html(plan)
            if not isinstance(error, _StopError):
                raise
            self.notify("stopped: nothing was stored or sent")
            return
        self._drop_plan()
        note = self.footer.status  # for an existing batch: what was added to it
        late = "; Stop came after its rows were stored: Cancel rest ends it" if self.stopping.is_set() else ""
        self.notify((note if batch.id in note else f"started batch {batch.id}") + late, line=self._line)
        self._read_recent()
        self.view.show(batch)
        self._fold(plan)
        self.submitted()


class FanOutPanel(SendPanel):
    """A form for `queue.fan_out`."""

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        title = f"Fan out to {queue}" if framed else "Fan out"
        super().__init__(context, title, queue=queue, framed=framed, unit="batch")
        self.source = SourceField(lambda: self.guarded(self._data_changed))
        self.source.upload.on_file = lambda *file: self.spawn(asyncio.to_thread(self._read_file, *file))
        self.key = Picker("Key", "none chosen: the whole request identifies a row", lambda: self.guarded(self.edited))
        self.skip = self.control(
            field(widgets.Checkbox, "leave out bad rows and duplicates", indent=False), self.edited
        )
        self.lay_out(widgets.VBox([self.source]).add_class("ctn-fields"), self.key, self.limits, self.skip)
        self._data_changed()

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows, and the arguments of `fan_out`."""
        return self.source.data.head(count), self._arguments()

    def plan(self) -> Plan:
        """Make the plan."""
        verb, data, arguments = self.context.queue(self.queue or "").fan_out, self.source.data, self._arguments()
        self._rows = len(data)
        if not isinstance(data, pd.DataFrame) or len(data) <= _WHOLE:
            found: Plan = verb(data, dry_run=True, **arguments)
            return found
        # A plan of frames keeps the first tasks only, so that its memory is bounded.
        return replace(verb([data], dry_run=True, **arguments), action=lambda: verb(data, **arguments))

    def source_text(self) -> str:
        """Return the name of the data."""
        return self.source.name

    def code(self) -> str:
        """Return the line of Python that does the same."""
        arguments = self.of_batch()
        if arguments.get("key") is ROW:
            arguments["key"] = Code("ct.ROW")
        return self.context.line(self.queue or "", "fan_out", self.source.code, **self.request.code, **arguments)

    def offer(self) -> None:
        """Offer the DataFrames and handlers that there are now."""
        self.source.update_choices()
        self.request.update_choices(self.source.columns)

    def _read_file(self, name: str, content: bytes) -> None:
        self.notify(f"reading {name}")
        self.source.take(name, content)
        self.notify(f"read {name}")

    def _arguments(self) -> dict[str, Any]:
        return {**self.request.arguments, **self.of_batch()}

    def of_batch(self) -> dict[str, Any]:
        """Return the arguments that are not about the request of each task."""
        key = ROW if _POSITION in self.key.value else self.key.value
        given = {"key": key, "name": self.name.value.strip(), "errors": "skip" if self.skip.value else ""}
        return {word: value for word, value in given.items() if value} | self.limits.arguments

    def _data_changed(self) -> None:
        self.request.update_choices(self.source.columns)
        self.key.offer([*self.source.columns, _POSITION])
        self.edited()
