"""The work of a panel: one thread at a time for what a click starts, and coroutines on the background loop."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cloudtasks_nb import _loop
from cloudtasks_nb.display.notify import Output, redirect

__all__ = ["Rerun", "Work"]


class Rerun:
    """Does work on the background loop, once at a time: what is asked for meanwhile is done once more afterwards.

    Parameters
    ----------
    spawn : callable
        Runs a coroutine on the background loop.
    work : callable
        Returns the coroutine that does the work.
    """

    def __init__(self, spawn: Callable[[Coroutine[Any, Any, Any]], object], work: Callable[[], Awaitable[Any]]) -> None:
        self._spawn, self._work = spawn, work
        self._asked = self._running = False

    def ask(self) -> None:
        """Do the work soon."""
        self._asked = True
        if not self._running:
            self._running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._asked:
                self._asked = False
                await self._work()
        finally:
            self._running = False


class Work:
    """Runs the work of one panel.

    Parameters
    ----------
    name : str
        Of the panel.
    output : Output
        Where notes and progress of the client's methods are shown.
    set_busy : callable
        Called with whether work runs, when that changes.
    failed : callable
        Called with the exception of a thread.
    spawned_failed : callable
        Called with the exception of a coroutine.

    Attributes
    ----------
    stopping : threading.Event
        Set when the present work should stop.
    """

    def __init__(
        self,
        name: str,
        output: Output,
        *,
        set_busy: Callable[[bool], object],
        failed: Callable[[BaseException], object],
        spawned_failed: Callable[[BaseException], object],
    ) -> None:
        self._name, self._output = name, output
        self._set_busy, self._failed, self._spawned_failed = set_busy, failed, spawned_failed
        self.stopping = threading.Event()
        self._running = threading.Lock()
        self._next: list[Callable[[], object]] = []  # work that waits until the present work has ended
        self._pending: set[concurrent.futures.Future[Any]] = set()
        self._closed = False

    def start(self, work: Callable[[], object]) -> bool:
        """Run `work` in a thread of its own; return False, and do nothing, if other work runs."""
        free = self._running.acquire(blocking=False)
        if free:
            self._begin(work)
        return free

    def start_next(self, work: Callable[[], object]) -> None:
        """Run `work` as soon as no other work runs; it replaces other work that waits."""
        self._next[:] = [work]
        self._begin_next()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the background loop."""
        future = _loop.submit(work)
        self._pending.add(future)
        future.add_done_callback(self._spawned)

    def settle(self, timeout: float) -> None:
        """Wait until all work has ended.

        Raises
        ------
        TimeoutError
            If that takes longer than so many seconds.
        """
        deadline = time.monotonic() + timeout
        while self._pending:
            concurrent.futures.wait(list(self._pending), timeout=max(0.0, deadline - time.monotonic()))
            if self._pending and time.monotonic() > deadline:
                raise TimeoutError(f"work of {self._name} has not ended after {timeout:g} s")

    def close(self) -> None:
        """Begin nothing more, and cancel coroutines; a thread cannot be cancelled."""
        self._closed = True
        for future in list(self._pending):
            future.cancel()

    def _begin_next(self) -> None:
        while self._next and not self._closed and self._running.acquire(blocking=False):
            if self._next:  # another thread has not taken it meanwhile
                self._begin(self._next.pop())
                return
            self._running.release()

    def _begin(self, work: Callable[[], object]) -> None:
        """Run `work` in a thread; the caller holds `_running`, which is released when the work has ended."""
        self.stopping.clear()
        self._set_busy(True)
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._pending.add(done)
        done.set_running_or_notify_cancel()  # a thread cannot be cancelled
        name = f"cloudtasks-nb {self._name}"
        try:
            threading.Thread(target=self._run, args=(work, done), name=name, daemon=True).start()
        except RuntimeError as error:  # the system starts no more threads
            self._failed(error)
            self._end(done)

    def _run(self, work: Callable[[], object], done: concurrent.futures.Future[Any]) -> None:
        try:
            with redirect(self._output):
                work()
        except BaseException as error:  # noqa: BLE001 - an exception in a thread would be lost
            self._failed(error)
        finally:
            self._end(done)

    def _end(self, done: concurrent.futures.Future[Any]) -> None:
        self._set_busy(False)
        self._running.release()
        self._begin_next()
        self._pending.discard(done)
        done.set_result(None)

    def _spawned(self, future: concurrent.futures.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._spawned_failed(error)
        self._pending.discard(future)
