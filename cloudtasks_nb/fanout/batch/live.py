"""Show a batch in a notebook's output, always up to date, and show its progress while `wait` waits for its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from cloudtasks_nb import _loop
from cloudtasks_nb.display.progress_bar import Bar, Live, in_notebook
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.tracker import Tracker

__all__ = ["LiveReport", "wait"]

_TICK = 0.25  # seconds between two updates
_LASTING = 2.0  # seconds for which something must block a batch before a line about it is printed


class LiveReport:
    """A batch in a notebook's output, kept up to date while the kernel lives: rows may be tried again after the end.

    Parameters
    ----------
    tracker : Tracker
        Calls back when something has changed.
    bundle : callable
        Returns the current state of the batch as a MIME bundle.
    """

    def __init__(self, tracker: Tracker, bundle: Callable[[], Mapping[str, str]]) -> None:
        self._bundle = bundle
        self._live = Live(bundle())
        self._supervisor = _loop.Supervisor(f"batch {tracker.batch}", lambda: None)
        self._stale = False
        self._lock = threading.Lock()
        tracker.listen(self._changed)
        _loop.call_soon(self._changed)

    def show(self) -> None:
        """Show the current state."""
        with self._lock:  # so that what was read last is also shown last
            self._live.show(self._bundle())

    def _changed(self) -> None:
        """Show the change after a moment; changes until then are shown with it."""
        self._stale = True
        self._supervisor.start("showing", self._follow)

    async def _follow(self) -> None:
        while self._stale:
            await asyncio.sleep(_TICK)
            self._stale = False
            await asyncio.to_thread(self.show)


def wait(tracker: Tracker, bundle: Callable[[], Mapping[str, str]], seconds: float | None) -> Progress:
    """Wait until every row of a batch is final, and show its progress: the batch in a notebook, else a bar.

    A reason that blocks the batch for two seconds is printed once, below the bar.

    Raises
    ------
    TimeoutError
        If it takes longer than `seconds`.
    CloudTasksError
        The error that ended the sending early.
    RuntimeError
        If called on the background loop.
    """
    _loop.check_blocking()
    shown = LiveReport(tracker, bundle) if in_notebook() else None
    blockers = _LastingBlockers(tracker)
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
                            return tracker.progress  # with timeout=0: the batch is done
                        raise
                bar.to(tracker.progress.done, total=tracker.progress.total)
                for line in blockers.new() if shown is None else ():
                    bar.notify(line)
    finally:
        future.cancel()
        if shown is not None:
            shown.show()


class _LastingBlockers:
    """The reasons that block a batch for long, each returned once."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._next = time.monotonic() + _LASTING
        self._last: Sequence[str] = ()
        self._returned: set[str] = set()

    def new(self) -> list[str]:
        """Return the reasons that were there at the last check and still are, and were not returned before."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + _LASTING
        lines = self._tracker.blockers()
        if self._tracker.progress.settling:
            lines.append("rows have left the queue and are settling: their log entries are awaited")
        found = [line for line in lines if line in self._last and line not in self._returned]
        self._last = lines
        self._returned.update(found)
        return found
