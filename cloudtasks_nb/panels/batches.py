"""The batches that were sent from this machine as a list with the details of one, and one batch as a panel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import ipywidgets as widgets

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.progress import FINAL
from cloudtasks_nb.panels.batch_details import BatchDetails
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.forms.notebook import quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.table import Table
from cloudtasks_nb.service.watch import Snapshot

__all__ = ["BatchPanel", "BatchesPanel"]

_COLUMNS = (
    Column("state", kind="state", width="8.5em"),
    Column("batch", width="7em"),
    Column("name"),
    Column("queue", width="8em"),
    Column("created", kind="time", width="11em"),
    Column("total", "Rows", kind="count", width="5.5em"),
    Column("done", "Done", kind="count", width="5.5em"),
    Column("failed", kind="count", width="5.5em"),
)
_OF_ALL = "all queues"
_NO_BATCH = "No batch was sent from here yet"


class BatchesPanel(Panel):
    """Batches, newest first.

    Attributes
    ----------
    table : Table
    view : BatchDetails
        The batch that was chosen.
    """

    def __init__(self, context: PanelContext, *, queue: str, framed: bool = True) -> None:
        super().__init__(context, "Batches", queue=queue, framed=framed)
        self._reading = False
        self._stale = False  # the list may have changed since the present reading began
        self._wanted: str | None = None  # the batch that was chosen last
        self._opening = threading.Lock()
        self.scope = self.control(widgets.Dropdown(options=[], layout={"width": "auto"}), self._filter)
        self.scope.tooltip = "Of which queues batches are listed"
        table = Table(_COLUMNS, key="batch", page_size=10, label="batches", selectable=False, empty=_NO_BATCH)
        self.table = self.attach(table)
        self.table.on_show = lambda key: self.guarded(self._choose, key)
        self.view = BatchDetails(self)
        self.notify("", line="tasks.batches()")
        self.fill(self.row(self.scope), self.table, self.prompt, self.view)
        self._offer_queue()
        self.guarded(self.refresh)

    def watched_queues(self) -> Mapping[QueueName, int | None]:
        """Return the queue: the list is read again with each of its snapshots."""
        return {self.context.name(self.queue): None} if self.queue else {}

    def apply(self, snapshot: Snapshot) -> None:  # noqa: ARG002 - any snapshot means that batches may have changed
        """Read the list again."""
        self._stale = True
        if not self._reading:
            self._reading = True
            self.spawn(self._reread())

    def became_visible(self) -> None:
        """Show what has changed while the panel was not visible."""
        self.view.schedule_draw()
        self.apply(None)  # type: ignore[arg-type]  # only the moment counts

    def queue_changed(self) -> None:
        """List the batches of another queue."""
        self._offer_queue()

    def refresh(self) -> None:
        """Read the batches from this machine's files; no call of the service."""
        frame = self.context.catalog.frame(sizes=False)
        self.table.load(frame.assign(done=frame[list(FINAL)].sum(axis=1).astype("Int64")))
        self.view.draw()

    def static_html(self) -> str:
        """Return the list, and the chosen batch."""
        return self.table.html() + self.view.static_html()

    async def _reread(self) -> None:
        try:
            while self._stale:
                self._stale = False
                await asyncio.to_thread(self.refresh)
        finally:
            self._reading = False

    def _offer_queue(self) -> None:
        kept = self.scope.index or 0
        self.scope.options = (f"of {self.queue}", f"of {_OF_ALL}")
        self.scope.index = kept
        self._filter()

    def _filter(self) -> None:
        self.table.filter(queue=None if self.scope.index else self.queue)

    def _choose(self, batch: str) -> None:
        self._wanted = batch
        self.spawn(asyncio.to_thread(self._open, batch))

    def _open(self, batch: str) -> None:
        found = self.context.catalog.get(batch)
        with self._opening:  # one after the other, so that the one that was chosen last is also shown last
            if batch == self._wanted:
                self.view.show(found)
                self.notify("", line=f"batch = tasks.batch({quoted(batch)})")


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
        super().__init__(context, f"Batch {batch.id} on {batch.queue}", queue=batch.queue)
        self.view = BatchDetails(self)
        self.fill(self.prompt, self.view)
        self.notify("", line=f"batch = tasks.batch({quoted(batch.id)})")
        self.view.show(batch)

    def became_visible(self) -> None:
        """Show what has changed while the panel was not visible."""
        self.view.schedule_draw()

    def refresh(self) -> None:
        """Show the batch as it is now."""
        self.view.draw()

    def static_html(self) -> str:
        """Return the batch."""
        return self.view.static_html()
