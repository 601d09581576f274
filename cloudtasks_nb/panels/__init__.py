"""ipywidgets panels over the public API, one file a panel; `panel.py` explains how to write one."""

from __future__ import annotations

from cloudtasks_nb.panels.attempts import AttemptsPanel
from cloudtasks_nb.panels.backfill import BackfillPanel
from cloudtasks_nb.panels.batches import BatchesPanel, BatchPanel
from cloudtasks_nb.panels.context import PanelContext
from cloudtasks_nb.panels.dashboard import Dashboard
from cloudtasks_nb.panels.fan_out import FanOutPanel
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.queues import QueuesPanel
from cloudtasks_nb.panels.tasks import TasksPanel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.table import Table

__all__ = [
    "AttemptsPanel",
    "BackfillPanel",
    "BatchPanel",
    "BatchesPanel",
    "Column",
    "Dashboard",
    "FanOutPanel",
    "Panel",
    "PanelContext",
    "QueuesPanel",
    "Table",
    "TasksPanel",
]
