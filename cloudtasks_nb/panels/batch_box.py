"""The base class of the boxes of a batch: each shows a part of the batch, and all are drawn after a change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, tzinfo

import ipywidgets as widgets

from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.row_query import Keep
from cloudtasks_nb.fanout.batch.view import BatchView

__all__ = ["BatchBox", "BatchNow", "Pacing", "SelectedPeriods"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedPeriods:
    """The part of a backfill that is selected in its calendar."""

    keys: tuple[str, ...]  #: of the selected squares
    words: str  #: which periods these are
    keep: Keep  #: returns those rows of a frame that are in the part


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNow:
    """A batch at the moment at which its boxes are drawn."""

    view: BatchView
    progress: Progress
    part: SelectedPeriods | None = None  #: None: all rows
    zone: tzinfo = UTC  #: of times in charts
    searching: bool = False  #: the panel shows the progress of a search for rows


class BatchBox(widgets.VBox):
    """One box of a batch."""

    def show(self, view: BatchView | None) -> None:
        """Show another batch, or none: forget what was shown. The next `draw` reads the batch."""
        raise NotImplementedError

    def draw(self, now: BatchNow) -> float:
        """Show the batch as it is now; return the seconds after which there is more to show, 0 for none."""
        raise NotImplementedError

    def html(self) -> str:
        """Return what is shown as static HTML; empty if that is nothing."""
        raise NotImplementedError


class Pacing:
    """Limits how often something is done: the pause is in proportion to how long it took the last time."""

    def __init__(self) -> None:
        self._until = 0.0

    @property
    def wait(self) -> float:
        """Seconds until it may be done again; 0: now."""
        return max(0.0, self._until - time.monotonic())

    @contextmanager
    def measured(self, factor: float) -> Iterator[None]:
        """Do it inside; the pause is so many times as long as that takes."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._until = ended + factor * (ended - began)
