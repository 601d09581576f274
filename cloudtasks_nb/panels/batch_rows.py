"""Rows of a batch as a table: what failed, or what is in the periods that were selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import pandas as pd

from cloudtasks_nb.panels.acting import close_whole
from cloudtasks_nb.panels.cards.timeline import last_errors
from cloudtasks_nb.panels.panel import Panel
from cloudtasks_nb.panels.widgets.cells import Column
from cloudtasks_nb.panels.widgets.table import Table

__all__ = ["BatchRows"]

_OURS = (
    Column("state", kind="state", width="8.5em"),
    Column("last_status", "Last answer", kind="state", width="12em"),
    Column("attempts", kind="count", width="7.5em"),
    Column("last_attempt_time", "Last attempt", kind="time", width="10em"),
    Column("last_message", "Message"),
)
_WIDTHS = {"row": "5em", "partition": "9em"}
_KEY = "_key"
_MOST = 5  # columns of the input that are shown


class BatchRows(widgets.VBox):
    """A heading and a table, whose columns are those of the batch that it is about.

    Parameters
    ----------
    panel : Panel
        Shows what goes wrong.
    selected : callable
        Called when other rows are selected.
    """

    def __init__(self, panel: Panel, selected: Callable[[list[str]], object]) -> None:
        self._panel = panel
        self._selected = selected
        self._heading = widgets.HTML()
        self.table: Table | None = None
        super().__init__([self._heading])

    def load(self, frame: pd.DataFrame, heading: str) -> None:
        """Show these rows of `batch.tasks()`, with a column `partition` or not; the heading is HTML."""
        names = [str(name) for name in frame.columns[: list(frame.columns).index("url")] if name != "start"][:_MOST]
        wanted = names if "partition" in names else ["row", *names]
        if self.table is None or [column.name for column in self._columns[: -len(_OURS)]] != wanted:
            self._make([*(Column(name, width=_WIDTHS.get(name)) for name in wanted), *_OURS])
        assert self.table is not None  # noqa: S101 - it was just made
        self._heading.value = heading
        self.table.load(_keyed(_explained(frame)))
        self.layout.display = None

    def hide(self) -> None:
        """Show no rows."""
        self.layout.display = "none"
        self.clear()

    def clear(self) -> None:
        """Select nothing."""
        if self.table is not None:
            self.table.select([])

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows; none when nothing is shown."""
        if self.table is None or self.layout.display == "none":
            return pd.DataFrame()
        return self.table.selected_frame

    def task(self, key: str) -> str | None:
        """Return the task of a row; None if there never was one."""
        return None if key.startswith("row ") else key

    def html(self) -> str:
        """Return the page that is shown."""
        return "" if self.table is None or self.layout.display == "none" else self._heading.value + self.table.html()

    def _make(self, columns: list[Column]) -> None:
        old = self.table
        self._columns = columns
        self.table = self._panel.hold(Table(columns, key=_KEY, page_size=20, label="rows", empty="No rows"))
        self.table.on_select = lambda keys: self._panel.guarded(self._selected, keys)
        self.children = [self._heading, self.table]
        if old is not None:
            close_whole(old)


def _explained(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill in what handlers of this kernel raised: the log that tells how a task ended has no message."""
    silent = frame[(frame["state"] == "failed") & frame["last_message"].isna() & frame["task"].notna()]
    known = last_errors(silent["url"].dropna()) if len(silent) else {}
    if not known:
        return frame
    return frame.assign(last_message=frame["last_message"].fillna(silent["task"].map(known)))


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each row a key: its newest task, or its place where there never was one."""
    made = frame.reset_index().rename(columns=str)
    places: Any = [f"row {place}" for place in range(len(made))]
    return made.assign(**{_KEY: made["task"].where(made["task"].notna(), pd.Series(places, index=made.index))})
