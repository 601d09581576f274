"""Columns that show which row of a batch a task belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from cloudtasks_nb._frames import column
from cloudtasks_nb.fanout.batch.catalog import Catalog
from cloudtasks_nb.panels.panel import WIDE
from cloudtasks_nb.panels.widgets.cells import Column

__all__ = ["BATCH", "MESSAGE", "ROW", "SEARCHED", "TARGET", "find_field", "row_columns"]

ROW = Column("row", "Task", kind="name", width="min(18em, 30cqw)", tip="The row of a batch, else the id of the task")
BATCH = Column("batch", kind="name", width="8em", hidden_if="same")
MESSAGE = Column("message", hidden_if="empty")
TARGET = Column("target", "URL", kind="name", hidden_if="empty")

_FIND_TIP = (
    "Part of an id, a URL, an answer or a message, as it is read: spaces, not %20. A column and its value find rows "
    "of batches: order_id:4711"
)

#: Columns of the data that are searched but not shown.
SEARCHED = ("task", "url", "body")


def find_field() -> widgets.Text:
    """Return a field for the text by which such a table is filtered."""
    made = widgets.Text(placeholder="Find in rows, or day:2026-01-01", layout=WIDE)
    made.tooltip = _FIND_TIP
    return made


def row_columns(catalog: Catalog, tasks: Sequence[str], urls: Sequence[str]) -> dict[str, Any]:
    """Return the values of ROW, BATCH and TARGET; reads from this machine only, but may take a second.

    The URL of a batch's row is left out: the columns that it was made of are in ROW.
    """
    names = catalog.row_names(tasks)
    found = [names.get(task) for task in tasks]
    return {
        "row": column([task if one is None else one.text for task, one in zip(tasks, found, strict=True)], "text"),
        "batch": column([None if one is None else one.batch for one in found], "text"),
        "target": column([url if one is None else None for url, one in zip(urls, found, strict=True)], "text"),
    }
