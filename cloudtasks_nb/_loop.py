"""Run coroutines on one background event loop for each process, in a thread that is started when first needed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["call_soon", "loop", "run", "spawn", "submit"]

T = TypeVar("T")

_lock = threading.Lock()
_state: dict[str, Any] = {"loop": None, "pid": None}
# asyncio keeps only weak references to its tasks: without another reference a running task may be collected.
_held: set[asyncio.Task[Any]] = set()


def loop() -> asyncio.AbstractEventLoop:
    """Return the background loop of this process; start it if this process has none, as after a fork."""
    with _lock:
        if _state["pid"] != os.getpid():
            new = asyncio.new_event_loop()
            ready = threading.Event()
            new.call_soon(ready.set)
            threading.Thread(target=new.run_forever, name="cloudtasks-nb", daemon=True).start()
            ready.wait()
            _state.update(loop=new, pid=os.getpid())
        running: asyncio.AbstractEventLoop = _state["loop"]
        return running


def submit(coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Start a coroutine on the background loop, and return a future that any thread can wait for."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())


def run(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    """Run a coroutine on the background loop and wait for its result.

    An interrupt, or the timeout in seconds, cancels the coroutine and is raised here.

    Raises
    ------
    RuntimeError
        If called on the background loop itself: it would block the loop that has to run the coroutine.
    """
    if _state["pid"] == os.getpid() and _running() is _state["loop"]:
        coroutine.close()
        raise RuntimeError("blocking calls are not possible on the background loop itself")
    future = submit(coroutine)
    try:
        return future.result(timeout)
    except BaseException:
        future.cancel()
        raise


def spawn(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a coroutine as a task of the running loop, and keep a reference until it is done."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _held.add(task)
    task.add_done_callback(_held.discard)
    return task


def call_soon(function: Any, *args: Any) -> None:
    """Call a function on the background loop without waiting for it. May be called from any thread."""
    loop().call_soon_threadsafe(function, *args)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
