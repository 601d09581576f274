"""One batch as a panel of its own: what `batch.panel()` returns."""

from __future__ import annotations

from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.panels.batch_view import BatchView
from cloudtasks_nb.panels.context import Scene, quoted
from cloudtasks_nb.panels.panel import Panel

__all__ = ["BatchPanel"]


class BatchPanel(Panel):
    """A batch: its bar, what failed and why, its calendar if it is a backfill, and its verbs.

    Parameters
    ----------
    scene : Scene
    batch : Batch

    Attributes
    ----------
    view : BatchView
        ``view.rows.selected`` are the selected rows.
    """

    def __init__(self, scene: Scene, batch: Batch) -> None:
        super().__init__(scene, f"Batch {batch.id} on {batch.queue}", queue=batch.queue)
        self.view = BatchView(self)
        self.fill(self.prompt, self.view)
        self.tell("", line=f"batch = tasks.batch({quoted(batch.id)})")
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
