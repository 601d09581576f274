"""One batch as a panel of its own: what `batch.panel()` returns."""

from __future__ import annotations

from typing import Self

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.fanout.batch.batch import Batch
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.panels.batch_view import BatchView
from cloudtasks_nb.panels.context import Scene, quoted
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.service.connection import Connection

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

    @classmethod
    def of(cls, connection: Connection, batch: Batch, *, read_only: bool = False) -> Self:
        """Return the panel of a batch of a connection."""
        name = QueueName.parse(f"{connection.where.parent()}/queues/{batch.queue}")
        # A catalog of its own, of which nothing is asked: the batch is here.
        return cls(Scene.of_queue(connection, Catalog(connection), name, read_only=read_only), batch)

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
