"""One batch as a panel of its own: what `batch.panel()` returns."""

from __future__ import annotations

from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.panels.batch_details import BatchDetails
from cloudtasks_nb.panels.context import PanelContext, quoted
from cloudtasks_nb.panels.panel import Panel

__all__ = ["BatchPanel"]


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

    def wake(self) -> None:
        """Show what has changed while nobody looked."""
        self.view.soon()

    def refresh(self) -> None:
        """Show the batch as it is now."""
        self.view.draw()

    def static(self) -> str:
        """Return the batch."""
        return self.view.static()

    def close(self) -> None:
        """End it; the batch goes on."""
        view = getattr(self, "view", None)
        if view is not None:
            view.leave()
        super().close()
