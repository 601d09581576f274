"""The periods of a backfill as squares of a calendar; of very many, several share one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from cloudtasks_nb.fanout.batch.calendar import Periods, grid
from cloudtasks_nb.panels.widgets.charts import Square

__all__ = ["Squares"]

_MOST = 800  # squares: each is a button of the page
_WIDTHS = ("", "D", "M", "Y")  # of a square: a period each, else days, months or years


class Squares:
    """What is drawn of the periods of a backfill: squares of the smallest width that gives not too many.

    Parameters
    ----------
    periods : Periods
    """

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
        """Return all periods as a picture, for where nothing can be clicked."""
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
        """Return rows of `batch.tasks()` with the label of each one's period in front."""
        starts = pd.DatetimeIndex(frame["start"]).tz_convert(self._periods.starts.tz)
        made = frame.copy()
        made.insert(0, "partition", self._periods.freq.labels(starts), allow_duplicates=True)
        return made

    def words(self, keys: Collection[str]) -> str:
        """Say which squares these are."""
        chosen = [f"{start}" for key, start in zip(self._keys, self._starts(), strict=True) if key in keys]
        few = ", ".join(chosen[:3])
        return few if len(chosen) <= 3 else f"{few} and {len(chosen) - 3:,} more"  # noqa: PLR2004 - as many as are named

    def _places(self, keys: Collection[str]) -> list[int]:
        return [at for at, key in enumerate(self._keys) if key in keys]

    def _starts(self) -> list[Any]:
        moments = self._heads.to_pydatetime().tolist()
        return [moment.date() for moment in moments] if self._periods.freq.dated or self._width else moments


def _floors(starts: pd.DatetimeIndex, width: str) -> pd.DatetimeIndex:
    """Return where the squares begin in which periods are, on the wall's clock for wider ones."""
    if not width:
        return starts
    return pd.DatetimeIndex(pd.DatetimeIndex(starts.tz_localize(None)).to_period(width).start_time)
