"""Run the function of a handler in processes, so that calls which compute do not wait for each other.

A process of this module gets the function once, as a copy, and then one body after the other; it answers what `call`
answers. It ends when its input ends: when the pool closes, and at every end of the kernel.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.answer import Answer, refuse
from cloudtasks_nb.handlers.convert import display_name
from cloudtasks_nb.handlers.failures import Kinds

__all__ = ["ProcessPool"]

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from cloudtasks_nb.handlers.process_child import main; main()"
)


class ProcessPool:
    """Calls a function in other processes, each of which runs one call at a time and is started when it is needed.

    It is not a `ProcessPoolExecutor`, which fails all its calls when one process dies, and makes the interpreter wait
    for a function that hangs.

    Parameters
    ----------
    fn : callable
        It is copied now: global names that it uses keep their values of this moment.
    count : int
        The most processes.
    give_up_on : tuple of type
        As for `call`; they are copied, too.

    Raises
    ------
    HandlerError
        If the function, or something that it uses, cannot be copied.
    """

    def __init__(self, fn: Callable[..., Any], count: int, give_up_on: Kinds = ()) -> None:
        self._lock = threading.Lock()
        self._closed = self._killed = False
        copy = _copy(fn, give_up_on)
        self._workers = [_Worker(display_name(fn), copy) for _ in range(count)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def call(self, body: bytes, types: str | None = None) -> Answer:
        """Call the function with the arguments in a body, as soon as a process is idle; never raises. Blocks."""
        worker = self._idle.get()
        with self._lock:
            worker.busy = not self._killed
        try:
            return worker.call(body, types) if worker.busy else refuse(500, "the handler was closed")
        finally:
            with self._lock:
                worker.busy = False
                if self._closed:
                    worker.close()
            self._idle.put(worker)

    def close(self, *, kill: bool) -> int:
        """End the processes, those with a running call after it or, with `kill`, at once; return how many ran."""
        with self._lock:
            self._closed, self._killed = True, self._killed or kill
            busy = [worker for worker in self._workers if worker.busy]
            for worker in self._workers:
                if worker not in busy:
                    worker.close()
                elif kill:
                    worker.kill()
        return len(busy)


class _Worker:
    """One process, which is started for the first call and again when it has ended."""

    def __init__(self, name: str, copy: bytes) -> None:
        self._name = name
        self._copy = copy
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self.busy = False

    def call(self, body: bytes, types: str | None) -> Answer:
        """Send a body to the process and wait for the answer."""
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = _start()
                if self._killed:  # while it was started
                    self._process.kill()
                _send(self._process, self._copy)
            _send(self._process, (body, types))
            answer: Answer = pickle.load(self._process.stdout or io.BytesIO())  # noqa: S301 - of our own process
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            return refuse(500, f"the process that called {self._name} ended: {self.close() or error}")
        return answer

    def kill(self) -> None:
        """End the process, whose call is answered with an error; it is not started again."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> str:
        """End the process, while it has no call; return how it has ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()  # it may have closed only its output
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent cannot be sent any more
                    pipe.close()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"killed by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"


def _start() -> subprocess.Popen[bytes]:
    # Its own session (process group on Windows): Jupyter's interrupt signals the whole group of the kernel.
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", _CODE, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def _send(process: subprocess.Popen[bytes], data: Any) -> None:
    if process.stdin is not None:
        pickle.dump(data, process.stdin)
        process.stdin.flush()


def _copy(fn: Callable[..., Any], give_up_on: Kinds) -> bytes:
    """Return a function as bytes, and the exceptions: what is of the notebook with all that it uses, else by name."""
    import cloudpickle  # noqa: PLC0415 - only needed with processes

    class Pickler(cloudpickle.Pickler):
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({type(functools.cache(_copy)): _reduce_cached})

    try:
        Pickler(copy := io.BytesIO()).dump((fn, give_up_on))  # together: their classes are the same ones
    except Exception as error:
        name = display_name(fn)
        raise HandlerError(
            f"{name} cannot be copied into a process: {error}",
            resource=name,
            hint="make what cannot be copied (a connection, a lock, an open file) inside the function, "
            "or leave processes= out",
        ) from error
    return copy.getvalue()


def _reduce_cached(cached: Any) -> Any:
    """Return how a function with `lru_cache` is copied: cloudpickle leaves it to its name, which only modules have."""
    name: str = cached.__qualname__
    if cached.__module__ != "__main__" and getattr(sys.modules.get(cached.__module__), name, None) is cached:
        return name
    return _cached, (cached.__wrapped__, cached.cache_parameters())


def _cached(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fn)
