"""From a form to a batch: the first tasks while it is filled in, then the plan, then what was sent."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb.errors import CloudTasksError
from cloudtasks_nb.fanout.plan.options import TaskOptions
from cloudtasks_nb.fanout.plan.plan import Plan, compile_recipe, plan_few
from cloudtasks_nb.panels.batch_details import BatchDetails
from cloudtasks_nb.panels.cards.plan_card import blocked, plan_html, send_question
from cloudtasks_nb.panels.cards.preview import error_html, tasks_html
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.variables import on_cell_end
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.cells import counted

__all__ = ["SendingPanel"]

_PAUSE = 0.15  # seconds without a change before the first tasks are rendered
_FIRST = 3  # tasks that are shown
#: The words of the verbs that say what a task is; the others are about the batch.
_TASK_WORDS = ("url", "body", "headers", "service_account")


class SendingPanel(Panel):
    """A panel with a form that becomes a batch.

    What derives from it lays its form out with `lay_out`, calls `edited` after each change, and says with `offer`,
    `sample`, `plan` and `code` what the form means.

    Attributes
    ----------
    view : BatchDetails
        The batch that was sent.
    """

    def __init__(self, context: PanelContext, title: str, *, queue: str, framed: bool) -> None:
        super().__init__(context, title, queue=queue, framed=framed)
        self._plan: Plan | None = None
        self._line = ""  # that does what was planned
        self._edits = 0
        self._filled = False  # the first tasks can be shown
        self._first = widgets.HTML()
        self._card = widgets.HTML()
        self.make_plan = self.button(
            "Plan", self._make_plan, changes=False, tip="Count, measure and check; send nothing"
        )
        self.send = self.button("Send", self._ask_send, changes=True, quick=True, look="primary")
        self.able(self.send, False)
        self.view = BatchDetails(self)
        self._ends = [on_cell_end(lambda: self.guarded(self.offer)), self.view.leave]

    # What a form says of itself.

    def sample(self, count: int) -> tuple[Any, Mapping[str, Any]]:
        """Return the first rows as a frame, and the words of the verb; may raise what is wrong with the form."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """Make the plan; may wait."""
        raise NotImplementedError

    def code(self) -> str:
        """Return the line of Python that does the same."""
        raise NotImplementedError

    def offer(self) -> None:
        """Offer the variables that the notebook has now; called when a cell has ended."""

    def submitted(self) -> None:
        """Do what is to be done when a batch was sent."""

    # What forms use.

    def lay_out(self, *form: widgets.Widget, below: tuple[widgets.Widget, ...] = ()) -> None:
        """Put the form above its first tasks, its plan and its batch; `below` stands between plan and batch."""
        shown = [] if self.context.read_only else [*form, self._first, self.row(self.make_plan, self.send)]
        self.fill(*shown, self.prompt, self._card, *below, self.view)

    def edited(self) -> None:
        """Forget the plan, and show the line and the first tasks of the form as it is now."""
        self._edits += 1
        self._drop_plan()
        self.footer.alert = {}
        try:
            self.footer.line = self.code()
        except CloudTasksError:
            self.footer.line = ""  # the first tasks say what is wrong
        self.spawn(self._show_first(self._edits))

    # How it works.

    def wake(self) -> None:
        """Show what has changed while nobody looked."""
        self.offer()
        self.view.soon()

    def switched(self) -> None:
        """Be about another queue: what was planned and sent is of the old one."""
        self.view.show(None)
        self.edited()

    def refresh(self) -> None:
        """Show the batch as it is now."""
        self.view.draw()

    def static(self) -> str:
        """Return the first tasks, the plan and the batch."""
        first = self._first.value if self._filled else ""
        return first + self._card.value + self.view.static()

    def close(self) -> None:
        """End it; the batch goes on."""
        for end in getattr(self, "_ends", ()):
            end()
        self._ends = []
        super().close()

    def _drop_plan(self) -> None:
        self._plan = None
        self._card.value = ""
        self.send.description = "Send"
        self.able(self.send, False)

    async def _show_first(self, edits: int) -> None:
        await asyncio.sleep(_PAUSE)
        if edits == self._edits:
            shown = await asyncio.to_thread(self._render_first)
            if edits == self._edits:
                self._first.value = shown

    def _render_first(self) -> str:
        try:
            rows, words = self.sample(_FIRST)
            recipe = compile_recipe(TaskOptions(**{word: words[word] for word in _TASK_WORDS if word in words}))
            found = tasks_html(plan_few(rows, recipe, now=dt.datetime.now(dt.UTC)))
        except CloudTasksError as error:
            self._filled = False
            return error_html(error)
        self._filled = True
        return found

    def _make_plan(self) -> None:
        edits = self._edits
        self._drop_plan()
        line = self.code()
        found = self.plan()
        if edits != self._edits:
            self.notify("the form was changed meanwhile: plan again")
            return
        self._plan, self._line = found, line
        self._card.value = plan_html(found)
        why = blocked(found)
        self.send.description = f"Send {counted(found.sendable, 'tasks')}" if found.sendable else "Send"
        self.able(self.send, not why)
        self.notify(f"planned {counted(found.sendable, 'tasks')}" + (f"; {why}" if why else ""), line=line)

    def _ask_send(self) -> None:
        plan = self._plan
        if plan is None:
            return  # the form was changed while the click was on its way
        question = send_question(plan, self.context, self._line)
        if question is None:
            self.start(lambda: self._submit(plan), changes=True)
        else:
            self.ask(question, lambda: self._submit(plan))

    def _submit(self, plan: Plan) -> None:
        batch = plan.submit()
        self._drop_plan()
        said = self.footer.status  # of a batch that was there before: what was added
        self.notify(said if batch.id in said else f"started batch {batch.id}", line=self._line)
        self.view.show(batch)
        self.submitted()
