"""The calendar of a backfill: its periods as squares that can be selected by mouse and keyboard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets

from cloudtasks_nb.fanout.batch.calendar import Periods, grid
from cloudtasks_nb.panels.widgets.assets import source
from cloudtasks_nb.panels.widgets.charts import Square

__all__ = ["CalendarView", "Squares"]

_MOST = 800  # squares: each is a button of the page
_WIDTHS = ("", "D", "M", "Y")  # of a square: one period, or all periods of a day, month or year


class CalendarView(anywidget.AnyWidget):
    """Shows the HTML of `charts.calendar`. Its methods may be called from any thread.

    Parameters
    ----------
    changed : callable
        Called when other periods are selected.

    Attributes
    ----------
    picked : list of str
        Keys of the selected squares.
    """

    _esm = source("calendar.js")
    _css = source("batch.css")

    html = traitlets.Unicode().tag(sync=True)
    # The browser sends the selection as a numbered message, and gets it back with that number: the answer to an earlier
    # click must not undo a later one.
    _picked: Any = traitlets.Any({"n": 0, "keys": []}).tag(sync=True)

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        super().__init__()
        self.on_msg(self._on_message)

    @property
    def picked(self) -> list[str]:
        """Keys of the selected squares."""
        return list(self._picked["keys"])

    def pick(self, keys: Iterable[str]) -> None:
        """Select these squares and no others."""
        wanted = list(keys)
        if wanted != self.picked:
            self._take(self._picked["n"] + 1, wanted)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        self._take(content["n"], content["keys"])

    def _take(self, number: int, keys: list[str]) -> None:
        with self._lock:
            if number <= self._picked["n"]:
                return
            self._picked = {"n": number, "keys": keys}
        self._changed()


class Squares:
    """The periods of a backfill as squares, of the smallest width that gives at most 800 squares."""

    def __init__(self, periods: Periods) -> None:
        self._periods = periods
        for self._width in _WIDTHS:
            floors = _floors(periods.starts, self._width)
            self._heads = pd.DatetimeIndex(floors.unique())
            if len(self._heads) <= _MOST:
                break
        self._keys = [moment.isoformat() for moment in self._heads]
        self._codes = self._heads.get_indexer(floors)  # in which square each period is; ascends

    def all(self) -> list[Square]:
        """Return the squares, oldest first."""
        firsts = np.searchsorted(self._codes, np.arange(len(self._heads)))
        sums = {name: np.add.reduceat(counts, firsts).tolist() for name, counts in self._periods.by_state.items()}
        return [
            Square(key=key, start=start, counts={name: counts[at] for name, counts in sums.items() if counts[at]})
            for at, (key, start) in enumerate(zip(self._keys, self._starts(), strict=True))
        ]

    def picture(self) -> str:
        """Return all periods as a picture, for exports."""
        found = self._periods
        return grid(found.freq, found.starts, found.counts, found.line)

    def count(self, keys: Collection[str], states: Collection[str]) -> int:
        """Return how many rows of some squares are in some states."""
        inside = np.isin(self._codes, self._places(keys))
        return sum(int(counts[inside].sum()) for name, counts in self._periods.by_state.items() if name in states)

    def rows(self, frame: pd.DataFrame, keys: Collection[str]) -> pd.DataFrame:
        """Return the rows of `batch.tasks()` that are in some squares."""
        starts = pd.DatetimeIndex(frame["start"]).tz_convert(self._periods.starts.tz)
        codes = self._heads.get_indexer(_floors(starts, self._width))
        return frame[np.isin(codes, self._places(keys))]

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return rows of `batch.tasks()` with a first column `partition`, the label of the period."""
        starts = pd.DatetimeIndex(frame["start"]).tz_convert(self._periods.starts.tz)
        made = frame.copy()
        made.insert(0, "partition", self._periods.freq.labels(starts), allow_duplicates=True)
        return made

    def words(self, keys: Collection[str]) -> str:
        """Return a description of some squares."""
        chosen = [f"{start}" for key, start in zip(self._keys, self._starts(), strict=True) if key in keys]
        few = ", ".join(chosen[:3])
        return few if len(chosen) <= 3 else f"{few} and {len(chosen) - 3:,} more"  # noqa: PLR2004 - as many as are named

    def _places(self, keys: Collection[str]) -> list[int]:
        return [at for at, key in enumerate(self._keys) if key in keys]

    def _starts(self) -> list[Any]:
        moments = self._heads.to_pydatetime().tolist()
        return [moment.date() for moment in moments] if self._periods.freq.dated or self._width else moments


def _floors(starts: pd.DatetimeIndex, width: str) -> pd.DatetimeIndex:
    """Return for each period the start of its square; wide squares start at local midnight."""
    if not width:
        return starts
    return pd.DatetimeIndex(pd.DatetimeIndex(starts.tz_localize(None)).to_period(width).start_time)
