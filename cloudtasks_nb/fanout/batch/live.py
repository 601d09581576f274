"""A batch on the screen: kept up to date in a notebook's output, and watched while one waits for its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from cloudtasks_nb import _loop
from cloudtasks_nb.display.progress_bar import Bar, Live, in_notebook
from cloudtasks_nb.fanout.batch.calendar import Periods
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.track import Tracker
from cloudtasks_nb.fanout.outbox.records import State

__all__ = ["BatchView", "Shown", "wait"]

_TICK = 0.25  # seconds between two updates of what is shown
_LASTING = 2.0  # seconds for which something has to keep a batch up before it is worth a line


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """What a panel shows of a batch. None of it calls the service."""

    report: Callable[[], Report]  #: how it is now, without the picture of its partitions
    periods: Callable[[], Periods | None]  #: its partitions as they are now; None if it is no backfill
    rows: Callable[[set[State] | None, int | None], pd.DataFrame]  #: as `tasks()`: in which states, how many at most
    listen: Callable[[Callable[[], None]], Callable[[], None]]  #: as of `Tracker`


class Shown:
    """A batch in a notebook's output, kept up to date until it is done.

    Parameters
    ----------
    tracker : Tracker
        Tells when something has changed.
    report : callable
        What to show then.
    """

    def __init__(self, tracker: Tracker, report: Callable[[], Report]) -> None:
        self._tracker = tracker
        self._report = report
        self._live = Live(report().bundle())
        self._scheduled = False
        self._closed = False
        self._lock = threading.Lock()
        self._end = tracker.listen(self._changed)
        _loop.call_soon(self._changed)

    def close(self) -> None:
        """Show the newest state and leave it at that."""
        self._end()
        with self._lock:
            self._closed = True
            self._live.show(self._report().bundle())

    def _changed(self) -> None:
        """Update soon, on the background loop; many changes at once are one update."""
        if not self._scheduled:
            self._scheduled = True
            _loop.loop().call_later(_TICK, lambda: _loop.spawn(self._update()))

    async def _update(self) -> None:
        self._scheduled = False
        bundle = await asyncio.to_thread(lambda: self._report().bundle())
        with self._lock:
            if not self._closed:  # an update that was under way then is older than what is shown
                self._live.show(bundle)
        if self._tracker.progress.finished and not self._tracker.watching:
            self._end()


def wait(
    tracker: Tracker,
    report: Callable[[], Report],
    seconds: float | None,
    blockers: Callable[[], Sequence[str]] = list,
) -> Progress:
    """Wait until every row of a batch is final, and show how far it is: itself in a notebook, a bar elsewhere.

    What keeps it up for long is said once, below the bar.

    Raises
    ------
    TimeoutError
        If it takes longer than `seconds`.
    CloudTasksError
        What ended the sending before its end.
    """
    shown = Shown(tracker, report) if in_notebook() else None
    watch = _Blockers(blockers)
    future = _loop.submit(tracker.finished())
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        with Bar(f"batch {tracker.batch}", tracker.progress.total, show=shown is None) as bar:
            while True:
                left = _TICK if deadline is None else min(_TICK, deadline - time.monotonic())
                try:
                    return future.result(max(left, 0))
                except TimeoutError:
                    if future.done():
                        raise
                    if left <= 0:
                        if tracker.progress.finished and not tracker.sending:
                            return tracker.progress  # wait(timeout=0) asks whether it is done
                        raise
                bar.to(tracker.progress.done, total=tracker.progress.total)
                for line in watch.fresh() if shown is None else ():
                    bar.notify(line)
    finally:
        future.cancel()
        if shown is not None:
            shown.close()


class _Blockers:
    """What keeps a batch up: each line once, when it has lasted."""

    def __init__(self, ask: Callable[[], Sequence[str]]) -> None:
        self._ask = ask
        self._next = time.monotonic() + _LASTING
        self._last: Sequence[str] = ()
        self._said: set[str] = set()

    def fresh(self) -> list[str]:
        """Return the lines that held at the last look and hold now, and were not returned before."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + _LASTING
        lines = self._ask()
        found = [line for line in lines if line in self._last and line not in self._said]
        self._last = lines
        self._said.update(found)
        return found
