"""Show a batch in the output of a cell: while a verb of the cell waits, or until the batch has ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, Self

from cloudtasks_nb import _loop
from cloudtasks_nb._frames import BY_END
from cloudtasks_nb.display.notify import current_output, in_notebook, notify
from cloudtasks_nb.display.progress_bar import Bar, Live
from cloudtasks_nb.errors import BatchNotFoundError, CloudTasksError
from cloudtasks_nb.fanout.batch.progress import Progress
from cloudtasks_nb.fanout.batch.report import Report
from cloudtasks_nb.fanout.batch.tracker import PATIENCE, Tracker
from cloudtasks_nb.fanout.outbox.records import RowFilter, Scope
from cloudtasks_nb.fanout.states import FINAL

__all__ = ["Card", "display", "end_displays", "ended_rows", "read_first", "show_in_tab", "show_progress", "wait"]

_TICK = 0.25  # seconds between two updates
_TAB_TICK = 1.0  # seconds between two updates of the title of the browser's tab
_LOOKING = 9  # a look for rows that have ended is followed by a pause of so many times its length
_LASTING = 2.0  # seconds for which something must block a batch before a line about it is printed
_BLOCKED = {"stopped", "held", "paused"}  # states of a batch that does not go on by itself


class _View(Protocol):
    """What is shown of a batch: a `BatchView`."""

    def progress(self) -> Progress:
        """Return how the rows are."""

    def report(self, *, drawn: bool = False) -> Report:
        """Return the state of the batch."""

    def show_in_tab(self) -> Callable[[], None]:
        """Show the progress in the title of the browser's tab; return a function that ends that."""


class Card:
    """A batch in an output of the running cell, while a verb waits; the thread of the cell draws it.

    So each drawing is a message of this cell, also for nbclient, which drops those of other cells. When the block ends
    by an error or an interrupt, the card is drawn a last time; a verb that returns draws it before. Nothing draws it
    later. Outside of a notebook there is no card.
    """

    def __init__(self, view: _View) -> None:
        self._view = view
        self._output: Live | None = None
        self._leave_tab: Callable[[], None] = lambda: None

    @property
    def visible(self) -> bool:
        """Whether there is a card."""
        return self._output is not None

    def __enter__(self) -> Self:
        if in_notebook():
            self._output = Live(self._view.report(drawn=True).bundle())
            self._leave_tab = self._view.show_in_tab()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with _loop.hold_interrupts():
            if error is not None:
                with suppress(CloudTasksError):  # the batch was deleted meanwhile
                    self.draw()
            self._leave_tab()

    def draw(self) -> Progress:
        """Show the batch as it is now, and return the progress that is shown."""
        if self._output is None:
            return self._view.progress()
        report = self._view.report(drawn=True)
        self._output.show(report.bundle())
        return report.progress


class _Display:
    """A batch in the output of a cell that displayed it, kept up to date until it has ended.

    Whoever begins new tries of its rows ends it, too, before: what later cells do is shown by these.
    """

    def __init__(self, tracker: Tracker, view: _View) -> None:
        self._tracker, self._view = tracker, view
        self._cell = contextvars.copy_context()  # its output gets messages of this cell only
        self._supervisor = _loop.Supervisor(f"batch {tracker.batch}", lambda: None)
        self._stale, self._lock = False, threading.Lock()
        report = view.report(drawn=True)
        self._output = Live(report.bundle())
        self._ended = report.progress.finished
        if not self._ended:
            self._leave_tab = view.show_in_tab()
            self._stop_listening = tracker.listen(self._changed)
            tracker.displays.add(self)
            _loop.call_soon(self._changed)

    def draw(self, *, last: bool = False) -> None:
        """Show the batch as it is now; afterwards never again if it has ended, or if this is the `last` time."""
        with self._lock:
            if self._ended:
                return
            with suppress(BatchNotFoundError):
                report = self._view.report(drawn=True)
                self._cell.run(self._output.show, report.bundle())
                self._ended = last or report.progress.finished
            if self._ended or self._tracker.deleted:
                self._ended = True
                self._stop_listening()
                self._leave_tab()
                self._tracker.displays.discard(self)

    def _changed(self) -> None:
        """Show the change after a moment; changes until then are shown with it."""
        self._stale = True
        self._supervisor.start("showing", self._follow)

    async def _follow(self) -> None:
        while self._stale and not self._ended:
            await asyncio.sleep(_TICK)
            self._stale = False
            await asyncio.to_thread(self.draw)


def display(tracker: Tracker, view: _View) -> None:
    """Show a batch in the current output until it has ended."""
    _Display(tracker, view)


def end_displays(tracker: Tracker) -> None:
    """Draw a batch a last time in the cells that display it, before new tries of its rows begin."""
    for shown in tuple(tracker.displays):
        shown.draw(last=True)


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


def wait(tracker: Tracker, card: Card, seconds: float | None, rows: Scope) -> Progress:
    """Wait until all `rows` of a batch are final, and show their progress: on the card in a notebook, else a bar.

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
    blockers = _LastingBlockers(tracker)
    with Bar(f"batch {tracker.batch}", card.draw().total, show=not card.visible) as bar:

        def show() -> None:
            show_progress(bar, card.draw())
            for line in () if card.visible else blockers.new():
                bar.notify(line)

        try:
            _loop.run(tracker.finished(rows), seconds, show)
        except TimeoutError:
            if not card.draw().finished or tracker.sending:
                raise  # else it is done, with timeout=0
    _notify_unread(tracker)
    ended = card.draw()
    if not card.visible and current_output() is None and not hasattr(sys, "ps1"):
        print(repr(ended), file=sys.stderr)  # noqa: T201 - a prompt shows what a cell returns, a script does not
    return ended


def ended_rows(tracker: Tracker, card: Card, rows: Scope) -> Iterator[list[int]]:
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
                card.draw()
                yield refs
            if not last:
                concurrent.futures.wait([finished], max(_TICK, _LOOKING * (time.monotonic() - began)))
                changed.wait()
        finished.result()
        card.draw()
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
