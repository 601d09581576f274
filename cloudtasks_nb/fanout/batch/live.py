"""Show a batch in a notebook's output, always up to date, and show its progress while `wait` waits for its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import BY_END
from cloudtasks_nb.display.notify import current_output, in_notebook, notify
from cloudtasks_nb.display.progress_bar import Bar, Live
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.tracker import PATIENCE, Tracker
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.states import FINAL

__all__ = ["display_report", "ended_rows", "read_first", "show_in_tab", "show_progress", "wait"]

_TICK = 0.25  # seconds between two updates
_TAB_TICK = 1.0  # seconds between two updates of the title of the browser's tab
_LOOKING = 9  # a look for rows that have ended is followed by a pause of so many times its length
_OUTPUTS = 50  # of one batch that are kept up to date; most of the older ones were replaced, as their cells ran again
_LASTING = 2.0  # seconds for which something must block a batch before a line about it is printed
_BLOCKED = {"stopped", "held", "paused"}  # states of a batch that does not go on by itself
_Bundle = Callable[[], Mapping[str, str]]  # returns the current state of a batch as a MIME bundle


class _LiveReport:
    """A batch in all outputs of a notebook that show it, kept up to date while the kernel lives.

    A tracker has one for each input, which stays: rows may be tried again after the end. It does nothing until
    something has changed; then it renders the batch once, whatever the number of outputs. Of very many outputs only the
    newest are updated.

    Parameters
    ----------
    tracker : Tracker
        Calls back when something has changed.
    bundle : callable
        Returns the current state of the batch as a MIME bundle.
    """

    def __init__(self, tracker: Tracker, bundle: _Bundle) -> None:
        self._bundle = bundle
        self._outputs: deque[Live] = deque(maxlen=_OUTPUTS)
        self._supervisor = _loop.Supervisor(f"batch {tracker.batch}", lambda: None)
        self._stale = False
        self._lock = threading.Lock()
        tracker.listen(self._changed)

    def add_output(self) -> None:
        """Show the batch in one more output."""
        with self._lock:
            self._outputs.append(Live(self._bundle()))
        _loop.call_soon(self._changed)

    def show(self) -> None:
        """Show the current state."""
        with self._lock:  # so that what was read last is also shown last
            bundle = self._bundle()
            for output in self._outputs:
                output.show(bundle)

    def _changed(self) -> None:
        """Show the change after a moment; changes until then are shown with it."""
        self._stale = True
        self._supervisor.start("showing", self._follow)

    async def _follow(self) -> None:
        while self._stale:
            await asyncio.sleep(_TICK)
            self._stale = False
            await asyncio.to_thread(self.show)


def display_report(tracker: Tracker, bundle: _Bundle, rows: Scope) -> Callable[[], None]:
    """Show a batch in the current output and keep it up to date; return a function that shows the current state now.

    Parameters
    ----------
    tracker : Tracker
    bundle : callable
        Returns the current state of the batch as a MIME bundle.
    rows : Scope
        Those of its rows that it shows.
    """
    if not tracker.reports:
        show_in_tab(tracker)
    if rows.input not in tracker.reports:
        tracker.reports[rows.input] = _LiveReport(tracker, bundle)
    tracker.reports[rows.input].add_output()
    return tracker.reports[rows.input].show


class _TabProgress:
    """How far one batch is, in the title of the browser's tab."""

    def __init__(self, tracker: Tracker, tab: Any) -> None:
        self._tracker, self._tab = tracker, tab
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._lock = threading.Lock()
        tab.watch(tracker.batch)
        self._stop_listening = tracker.listen(self._changed)
        _loop.call_soon(self._show)

    def close(self) -> None:
        """Show the current state once more, and no later one."""
        self._stop_listening()
        self._show()
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._tab.unwatch(self._tracker.batch)

    def _changed(self) -> None:
        if self._timer is None:
            self._timer = _loop.loop().call_later(_TAB_TICK, self._show)

    def _show(self) -> None:
        self._timer = None
        with self._lock:
            if self._closed:
                return
            progress = self._tracker.progress
            state = progress.state or ""
            self._tab.show(
                self._tracker.batch,
                done=progress.done,
                total=progress.total,
                state=state,
                rows=progress.counts().get(BY_END.get(state, "")) or 0,
                detail=repr(progress),
            )


def show_in_tab(tracker: Tracker) -> Callable[[], None]:
    """Show in the title of the browser's tab how far a batch is; return a function that ends that."""
    if not in_notebook():
        return lambda: None
    from cloudtasks_nb.display.browser_tab import browser_tab  # noqa: PLC0415 - loads anywidget, for notebooks only

    return _TabProgress(tracker, browser_tab()).close


def wait(
    tracker: Tracker, bundle: _Bundle, seconds: float | None, rows: Scope, progress: Callable[[], Progress]
) -> Progress:
    """Wait until all `rows` of a batch are final, and show their progress: the batch in a notebook, else a bar.

    A reason that blocks the batch for two seconds is printed once, below the bar. A script, whose bar disappears, has
    the counts printed at the end.

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
    show_now = display_report(tracker, bundle, rows) if in_notebook() else None
    blockers = _LastingBlockers(tracker)
    with Bar(f"batch {tracker.batch}", progress().total, show=show_now is None) as bar:

        def show() -> None:
            show_progress(bar, progress())
            for line in blockers.new() if show_now is None else ():
                bar.notify(line)

        try:
            _loop.run(tracker.finished(rows), seconds, show)
        except TimeoutError:
            if not progress().finished or tracker.sending:
                raise  # else it is done, with timeout=0
        finally:
            if show_now is not None:
                show_now()
    ended = progress()
    if show_now is None and current_output() is None and not hasattr(sys, "ps1"):
        print(repr(ended), file=sys.stderr)  # noqa: T201 - a prompt shows what a cell returns, a script does not
    _notify_unread(tracker)
    return ended


def ended_rows(tracker: Tracker, rows: Scope) -> Iterator[list[int]]:
    """Yield the refs of the rows that have become final, each ref once, until all rows are final.

    Raises
    ------
    CloudTasksError
        As `Tracker.finished`, after the rows that have ended.
    RuntimeError
        If called on the background loop.
    """
    _loop.check_blocking()
    seen, changed = set[int](), threading.Event()
    stop_listening = tracker.listen(changed.set)
    finished = _loop.submit(tracker.finished(rows))
    finished.add_done_callback(lambda _: changed.set())
    try:
        last = False
        while not last:
            last = finished.done()
            changed.clear()
            began = time.monotonic()
            final = tracker.outbox.rows.matching(rows, RowFilter(states=frozenset(FINAL)))
            if refs := [ref for ref in final if ref not in seen]:
                seen.update(refs)
                yield refs
            if not last:
                concurrent.futures.wait([finished], max(_TICK, _LOOKING * (time.monotonic() - began)))
                changed.wait()
        finished.result()
    finally:
        stop_listening()
        finished.cancel()


def read_first(tracker: Tracker, *, whole: bool = False, results: bool = True) -> None:
    """Read what others did with a batch, for a time with a bar; say what is not read yet.

    Parameters
    ----------
    whole : bool
        Wait for the end of the reading.
    results : bool
        False: the results were just read.
    """
    with Bar(f"batch {tracker.batch}", tracker.progress.total) as bar:
        read = tracker.reading.wait(None if whole else PATIENCE, results=results)
        _loop.run(read, meanwhile=lambda: show_progress(bar, tracker.progress))
    _notify_unread(tracker)


def _notify_unread(tracker: Tracker) -> None:
    if unread := tracker.reading.unread:
        notify(f"batch {tracker.batch} is not read yet: {'; '.join(unread)}")


def show_progress(bar: Bar, progress: Progress) -> None:
    """Show in a bar how far a batch is."""
    bar.to(progress.done, total=progress.total, note=progress.state or "")


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
        progress, lines = self._tracker.progress, self._tracker.blockers()
        if progress.state in _BLOCKED:
            lines.append(f"{progress.reason} → {progress.action}" if progress.action else str(progress.reason))
        elif progress.settling:
            lines.append("rows have left the queue and are settling: their log entries are awaited")
        found = [line for line in lines if line in self._last and line not in self._returned]
        self._last = lines
        self._returned.update(found)
        return found
