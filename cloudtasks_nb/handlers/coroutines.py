"""A place for the user's coroutines: an event loop of their own, so that one that blocks stops nobody else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Coroutines"]

T = TypeVar("T")


class Coroutines:
    """An event loop in a daemon thread, started when the first coroutine comes.

    Parameters
    ----------
    name : str
        Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result; blocks the calling thread, which is a worker's."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running()).result()

    def close(self, timeout: float) -> None:
        """Cancel what runs and end the thread, waiting for it at most `timeout` seconds."""
        with self._lock:
            loop, thread, stop = self._loop, self._thread, self._stop
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(stop.set)
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._stop = asyncio.Event()
                self._thread = threading.Thread(
                    target=asyncio.run, args=(self._main(started, self._stop),), name=self._name, daemon=True
                )
                self._thread.start()
                self._loop = started.result()
            return self._loop

    @staticmethod
    async def _main(
        started: concurrent.futures.Future[asyncio.AbstractEventLoop],
        stop: asyncio.Event,
    ) -> None:
        started.set_result(asyncio.get_running_loop())
        await stop.wait()
