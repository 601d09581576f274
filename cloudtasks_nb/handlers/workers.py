"""Run the functions of handlers: plain functions in a pool of threads, coroutines on an event loop of their own."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["CoroutineRunner", "Workers", "WorkersClosedError"]

T = TypeVar("T")

_Job = tuple[Future[Any], Callable[[], Any]]


class WorkersClosedError(Exception):
    """The threads end and take no more jobs."""


class Workers:
    """A fixed number of daemon threads and one queue of jobs for them.

    It is not a `ThreadPoolExecutor`, because the interpreter waits for its threads before it exits, and a function that
    hangs would keep a kernel from restarting.

    Parameters
    ----------
    count : int
        Number of jobs that run at a time.
    name : str
        The threads' names begin with it.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._busy: set[threading.Thread] = set()  # each thread adds and removes only itself
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Put a job into the queue and return the future of its result.

        Raises
        ------
        WorkersClosedError
            If no thread would take it.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise WorkersClosedError
            self._jobs.put((future, job))
        return future

    def close(self, timeout: float) -> int:
        """End the threads after the queued jobs; return the number of jobs that still run after `timeout` seconds."""
        with self._lock:
            self._closed = True
            for _ in self._threads:
                self._jobs.put(None)
        until = time.monotonic() + timeout
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(max(0.0, until - time.monotonic()))
        return len(self._busy.intersection(others))

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            self._busy.add(threading.current_thread())
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - the future reports it, and the thread goes on
                future.set_exception(error)
            finally:
                self._busy.discard(threading.current_thread())
            # Otherwise an idle worker would keep the last request and its result in memory.
            del item, future, job


class CoroutineRunner:
    """Runs the user's coroutines on an event loop in a daemon thread, which the first coroutine starts.

    Parameters
    ----------
    name : str
        The name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result. Blocks the calling thread, so call it on a worker only."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started_loop()).result()

    def close(self, timeout: float) -> None:
        """Cancel the coroutines that run and end the thread, waiting for it at most `timeout` seconds."""
        with self._lock:
            loop, thread, stop = self._loop, self._thread, self._stop
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(stop.set)
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                started: Future[asyncio.AbstractEventLoop] = Future()
                self._stop = asyncio.Event()
                self._thread = threading.Thread(
                    target=asyncio.run, args=(_run_until(self._stop, started),), name=self._name, daemon=True
                )
                self._thread.start()
                self._loop = started.result()
            return self._loop


async def _run_until(stop: asyncio.Event, started: Future[asyncio.AbstractEventLoop]) -> None:
    started.set_result(asyncio.get_running_loop())
    await stop.wait()
