"""One task in detail: its card, buttons that copy its request, and a form that sends the request as a new task."""

from __future__ import annotations

import threading
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.display.card import section_html
from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.plan.render import read_message
from cloudtasks_nb.panels.cards.task import read_card
from cloudtasks_nb.panels.forms.task_form import TaskForm, TaskRequest
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.fields import CopyButtons

__all__ = ["TaskDetails"]


class TaskDetails(widgets.VBox):
    """The card of a task of a panel, and what can be done with its request.

    Parameters
    ----------
    panel : Panel
        Runs the work, and shows messages and errors.

    Attributes
    ----------
    queue, task : str
        Short ids of the queue and the task that are shown; empty for none.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self.queue = self.task = ""
        self._request: TaskRequest | None = None
        self._showing = threading.RLock()  # held while another task is chosen, or a card is shown
        self._target = ""  # the queue that the form sends to
        self._line_before = ""  # Python that was shown before the form was opened
        self.card = widgets.HTML()
        self._tools: widgets.HBox | None = None  # `copies` and `edit`, made when they are first shown
        self._editor: widgets.VBox | None = None  # with `form`, made when it is first opened
        super().__init__([self.card])
        self.add_class("ctn-follow")
        self.hide()

    def _make_tools(self) -> widgets.HBox:
        self.copies = CopyButtons()
        tip = "Send its request as a new task"
        self.edit = self._panel.change_button("Edit and send again", self._open_form, tip)
        return self._panel.row(self.copies, self.edit)

    def _make_editor(self) -> widgets.VBox:
        panel = self._panel
        self.form = TaskForm(lambda: panel.guarded(self._preview))
        self.send = panel.change_button("Send new task", self._submit, style="primary")
        self.cancel = panel.change_button("Cancel", self._cancel)
        self._title = widgets.HTML()
        return widgets.VBox([self._title, self.form, panel.row(self.send, self.cancel)]).add_class("ctn-editor")

    def show(self, queue: str, task: str) -> None:
        """Read a task and show it."""
        with self._showing:
            if (queue, task) != (self.queue, self.task):
                self.hide()
            self.queue, self.task = queue, task
        self._panel.spawn(self._read(queue, task))

    def hide(self) -> None:
        """Show no task."""
        with self._showing:
            self.queue = self.task = self.card.value = ""
            self._show_request(None)
            self._close_form()

    async def _read(self, queue: str, task: str) -> None:
        context = self._panel.context
        name, zone = context.name(queue), self._panel.footer.tzinfo
        card, values = await read_card(context.connection, name, task, self._stored, zone)
        with self._showing:
            if (queue, task) == (self.queue, self.task):  # and no other was chosen meanwhile
                self.card.value = card
                self._show_request(TaskRequest(**values) if values else None)

    def _stored(self, task: str) -> Any:
        """Return the task of a batch's row as a raw message; None if this machine does not have it."""
        wire = self._panel.context.catalog.outbox.rows.wire(task)
        return read_message(wire, "") if wire else None

    def _show_request(self, request: TaskRequest | None) -> None:
        self._request = request
        if request is not None:
            if self._tools is None:
                with self._panel.owner.making():
                    self._tools = self._make_tools()
                self.children = [self.card, self._tools]
            arguments, options = request.code()
            line = self._panel.context.line(self.queue, "enqueue", *arguments, **options)
            self.copies.texts = {
                "Copy as curl": request.curl(),
                "Copy as JSON": request.json(),
                "Copy as Python": line,
            }
        if self._tools is not None:
            self._tools.layout.display = "none" if request is None else None

    def _open_form(self) -> None:
        if self._request is None:
            return
        if self._editor is None:
            with self._panel.owner.making():
                self._editor = self._make_editor()
        if not self._target:
            self._line_before = self._panel.footer.line
        self.form.fill(self._request)
        self._target = self.queue
        self._title.value = section_html(f"A new task in {self._target}, like {self.task}", "")
        self.children = [self.card, self._tools, self._editor]
        self._preview()

    def _cancel(self) -> None:
        self._close_form()
        self._panel.notify("", line=self._line_before)

    def _close_form(self) -> None:
        self._target = ""
        if self._editor is not None:
            self.form.clear()
            self.children = [self.card, self._tools]

    def _preview(self) -> None:
        """Show the line of Python for the form while it is edited."""
        if not self._target:
            return
        why = line = ""
        try:
            line = self._line()
        except CloudTasksError as error:
            why = error.message
        self._panel.notify(why, line=line)
        self._panel.enable(self.send, bool(line))

    def _line(self) -> str:
        arguments = self.form.code
        given = [arguments.pop("url"), *([arguments.pop("body")] if "body" in arguments else [])]
        return self._panel.context.line(self._target, "enqueue", *given, **arguments)

    def _submit(self) -> None:
        queue, line, arguments = self._target, self._line(), self.form.arguments
        self._panel.start(lambda: self._enqueue(queue, line, arguments), changes=True)

    def _enqueue(self, queue: str, line: str, arguments: dict[str, object]) -> None:
        made = self._panel.context.queue(queue).enqueue(**arguments)
        self._close_form()
        self._panel.notify(f"created task {made.index[0]} in {queue}", line=line)
        self._panel.poll_now()
