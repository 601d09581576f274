"""ipywidgets panels over the public API, one file a panel; how to write one stands in `_panel`."""

from __future__ import annotations

from cloudtasks_nb.panels._attempts import AttemptsPanel
from cloudtasks_nb.panels._backfill import BackfillPanel
from cloudtasks_nb.panels._batch_panel import BatchPanel
from cloudtasks_nb.panels._batches import BatchesPanel
from cloudtasks_nb.panels._cells import Column
from cloudtasks_nb.panels._dashboard import Dashboard
from cloudtasks_nb.panels._fan_out import FanOutPanel
from cloudtasks_nb.panels._panel import Panel
from cloudtasks_nb.panels._queues import QueuesPanel
from cloudtasks_nb.panels._scene import Scene
from cloudtasks_nb.panels._table import Table
from cloudtasks_nb.panels._tasks import TasksPanel

__all__ = [
    "AttemptsPanel",
    "BackfillPanel",
    "BatchPanel",
    "BatchesPanel",
    "Column",
    "Dashboard",
    "FanOutPanel",
    "Panel",
    "QueuesPanel",
    "Scene",
    "Table",
    "TasksPanel",
]
