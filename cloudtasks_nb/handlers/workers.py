"""The threads in which functions are called."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["Workers"]

_Job = tuple[Future[Any], Callable[[], Any]]


class Workers:
    """A fixed number of daemon threads and one line of jobs before them.

    Not a `ThreadPoolExecutor`: the interpreter waits for its threads when it ends, so that a function which hangs
    would keep a kernel from restarting.

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
        self._busy: set[threading.Thread] = set()  # each adds and takes out itself alone
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Put a job into the line and return the future of its result."""
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        return future

    def close(self, timeout: float) -> int:
        """Let the threads end after the jobs in the line; return how many jobs still run after `timeout` seconds."""
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
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits, and the thread lives on
                future.set_exception(error)
            finally:
                self._busy.discard(threading.current_thread())
            # A worker that waits must not keep the last request and its result alive.
            del item, future, job
