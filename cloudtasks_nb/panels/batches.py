"""The batches that were sent from this machine as a list with the details of one, and one batch as a panel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import ipywidgets as widgets

from cloudtasks_nb._frames import BY_END
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import BatchNotFoundError
from cloudtasks_nb.fanout.batch.batch import Batch, batch_view
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.outbox.records import BatchRecord
from cloudtasks_nb.panels.batch_details import BatchDetails
from cloudtasks_nb.panels.batch_list import COLUMNS, VERBS, batches_frame, method_of, totals_html
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.code import quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.panels.work import Rerun
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["BatchPanel", "BatchesPanel"]

_NO_BATCH = "No batch was sent from here yet"


class BatchesPanel(Panel):
    """The list of all batches; those that need action come first.

    Parameters
    ----------
    context : PanelContext
    queue : str
        The queue whose snapshots refresh the list.
    framed : bool
    everywhere : bool
        List the batches of all queues until the user chooses, else those of this one.

    Attributes
    ----------
    table : Table
    view : BatchDetails
        The batch that was chosen.
    """

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True, everywhere: bool = True) -> None:
        super().__init__(context, "Batches", queue=queue, framed=framed)
        self._reread = Rerun(self.spawn, lambda: asyncio.to_thread(self.refresh))
        self._listed: dict[str, tuple[BatchRecord, Progress]] = {}
        self._wanted: str | None = None  # the batch that was chosen last
        self._opening, self._loading = threading.Lock(), threading.Lock()
        self.scope = self.control(widgets.Dropdown(options=[], layout={"width": "auto"}), self._filter)
        self.scope.tooltip = "Of which queues batches are listed"
        self.totals = widgets.HTML()
        table = Table(
            COLUMNS, key="batch", page_size=10, label="batches", selectable=False, empty=_NO_BATCH, searched=("queue",)
        )
        self.table = self.attach(table)
        self.table.on_show = lambda key: self.guarded(self._choose, key)
        self.table.on_press = lambda pressed: self.guarded(self._choose, *pressed)
        self.view = BatchDetails(self)
        self.view.on_change = self._reread.ask
        self.notify("", line="tasks.batches()")
        self.fill(self.row(self.scope, self.totals), self.table, self.view)
        self._offer_queue(0 if everywhere else 1)
        self.guarded(self.refresh)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queue: the list is read again with each of its snapshots."""
        return {self.context.name(self.queue): None} if self.queue else {}

    def apply(self, snapshot: Snapshot) -> None:  # noqa: ARG002 - any snapshot means that batches may have changed
        """Read the list again."""
        self._reread.ask()

    def became_visible(self) -> None:
        """Show what has changed while the panel was not visible."""
        self.view.schedule_draw()
        self._reread.ask()

    def queue_changed(self) -> None:
        """Offer the batches of another queue."""
        self._offer_queue(self.scope.index)

    def refresh(self) -> None:
        """Read the batches from this machine's files; no call of the service."""
        with self._loading:  # the last thread has read the newest
            listed = self.context.catalog.progress()
            self._listed = {record.id: (record, progress) for record, progress in listed}
            self.table.load(batches_frame(listed, read_only=self.context.read_only))
        self._show_totals()
        if self.view.batch is not None and self.view.batch.id not in self._listed:
            self.view.show(None)  # it was deleted
        self.view.draw()

    def fail(self, error: BaseException) -> None:
        """Show an error; if the chosen batch was deleted, read the list again instead."""
        if isinstance(error, BatchNotFoundError) and error.resource == self._wanted:
            self._reread.ask()
        else:
            super().fail(error)

    def static_html(self) -> str:
        """Return the list, and the chosen batch."""
        return self.totals.value + self.table.html() + self.view.static_html()

    def _offer_queue(self, kept: int) -> None:
        self.scope.options = ("of all queues", f"of {self.queue}")
        self.scope.index = kept
        self._filter()

    def _filter(self) -> None:
        self.table.filter(queue=self.queue if self.scope.index else None)
        self._show_totals()

    def _show_totals(self) -> None:
        every = not self.scope.index
        self.totals.value = totals_html(
            progress for record, progress in self._listed.values() if every or record.place.queue == self.queue
        )

    def _choose(self, batch: str, verb: str = "") -> None:
        self._wanted = batch
        self.spawn(asyncio.to_thread(self._open, batch, verb))

    def _open(self, batch: str, verb: str) -> None:
        """Show a batch, and do what its button says, as the button of the batch below does."""
        found = self.context.catalog.get(batch)
        with self._opening:  # one after the other, so that the one that was chosen last is also shown last
            if batch == self._wanted:
                self.view.show(found)
                self.notify("", line=f"batch = tasks.batch({quoted(batch)})")
                if verb and batch in self._listed:
                    self._do(*self._listed[batch], verb)

    def _do(self, record: BatchRecord, progress: Progress, verb: str) -> None:
        method, actions = method_of(progress), self.view.actions
        if VERBS.get(method) != verb:
            return  # the batch has changed since its row was drawn
        buttons = {"batch.resume": actions.resume, "batch.retry_failed": actions.retry, "batch.resend": actions.resend}
        if method in ("batch.resend", "batch.tasks"):
            self.view.show_rows(BY_END[progress.state or ""])
        if method == "queue.resume":
            self.start(lambda: actions.resume_queue(QueueName.parse(record.place.queue_name)), changes=True)
        elif method in buttons:
            buttons[method].click()


class BatchPanel(Panel):
    """A batch: its bar, what failed and why, its calendar if it is a backfill, and its verbs.

    Parameters
    ----------
    context : PanelContext
    batch : Batch

    Attributes
    ----------
    view : BatchDetails
        ``view.rows.selected`` are the selected rows.
    """

    def __init__(self, context: PanelContext, batch: Batch) -> None:
        part = batch_view(batch).part
        super().__init__(context, f"{part or f'Batch {batch.id}'} on {batch.queue}", queue=batch.queue)
        self.view = BatchDetails(self)
        self.view.bar.observe(lambda _: self.guarded(self._check_ended), "value")
        self.fill(self.view)
        self.notify("", line=None if part else f"batch = tasks.batch({quoted(batch.id)})")
        self.view.show(batch)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queue, until the batch has ended: its snapshots date the content."""
        ended = self.view.batch is None or self.view.batch.progress().finished
        return {} if ended else {self.context.name(self.queue or ""): None}

    def became_visible(self) -> None:
        """Show what has changed while the panel was not visible."""
        self.view.schedule_draw()

    def read_at(self) -> float:
        """Return when the newest state of the batch was read."""
        at = None if self.view.batch is None else self.view.batch.progress().at
        return at.timestamp() if at else 0.0

    def refresh(self) -> None:
        """Show the batch as it is now."""
        self.view.draw()

    def static_html(self) -> str:
        """Return the batch."""
        return self.view.static_html()

    def _check_ended(self) -> None:
        """Show no age of a batch that has ended: nothing is to be seen of it any more. One may also begin anew."""
        self.resubscribe()
        if not self.watched_queues():
            self.footer.at = 0.0
