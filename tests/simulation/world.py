"""Several processes in one thread, on a simulated clock: what happens follows from the calls alone.

Each process has an event loop, a home folder, clocks, and the state that modules keep for a process. Loops turn one
after the other. When all wait, the time goes on to the next timer, so a simulated hour costs what happens in it. What
the toolkit gives to a thread is a job, which runs between two turns. A process can be stopped (nothing of it runs while
the time goes on), put to sleep (so that its monotonic clock stands too), and killed between any two turns.

What is not simulated: memory that threads share, signals, and power losses.
"""

import asyncio
import concurrent.futures
import heapq
import os
import random
import time
from asyncio.base_events import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet, WeakValueDictionary

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.fanout.batch import catalog, tracker
from cloudtasks_nb.fanout.outbox import database
from cloudtasks_nb.service import clock, open_clients

T = TypeVar("T")

#: Seconds since 1970 at which a world begins.
START = 1_800_000_000.0
#: Simulated seconds after which a verb hangs.
_PATIENCE = 900.0
#: Turns at one moment after which the time goes on by itself: a wait can be shorter than the clock can tell.
_AT_ONCE = 1_000
#: Turns without a wait after which something goes round in circles.
_TOO_MANY = 100_000
#: What modules keep for a process.
_STATE: dict[Any, dict[str, Callable[[], Any]]] = {
    tracker: {"_trackers": WeakValueDictionary, "_busy": set},
    clock: {"_known": dict},
    catalog: {"_catalogs": WeakSet},
    database: {"_locks": WeakSet},
    open_clients: {"_open": list, "_held": list},
}
_REAL = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "clock_gettime")}


class Process:
    """One process of a world.

    Parameters
    ----------
    home : Path
        The folder of its toolkit.
    ahead : float
        Seconds by which the clock of its machine is wrong.
    """

    def __init__(self, world: "World", home: Path, ahead: float = 0.0) -> None:
        self.world, self.home, self.ahead = world, home, ahead
        self.stopped = self.dead = False
        self.slept = 0.0  # seconds
        self.loop = _Loop(self)
        self.state = {(module, name): make() for module, of in _STATE.items() for name, make in of.items()}
        world.processes.append(self)

    def ticks(self) -> float:
        """Return the seconds of its monotonic clock."""
        return self.world.elapsed - self.slept

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Have the world go on until a coroutine of this process has ended, and return its result."""
        task = self.loop.create_task(coroutine)
        limit = self.world.elapsed + (_PATIENCE if timeout is None else timeout)
        while not task.done():
            if self.world.step(limit):
                continue
            task.cancel()
            assert timeout is not None, f"it hangs: {task!r}"
            raise TimeoutError
        return task.result()

    def kill(self) -> None:
        """End it as SIGKILL does: nothing of it runs any more, and its locks are free."""
        self.dead = True
        for lock in list(self.state[database, "_locks"]):
            if (descriptor := lock._context.lock_file_fd) is not None:
                lock._context.lock_file_fd = None
                os.close(descriptor)


class _Loop(BaseEventLoop):
    """The event loop of a process; it never waits."""

    _ready: Any  # these four are those of the base class, which does not tell of them
    _scheduled: Any
    _timer_cancelled_count: int
    _run_once: Any

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process, self._selector = process, self

    def select(self, _timeout: float | None) -> list[Any]:
        """Find nothing: there are no files."""
        return []

    def _process_events(self, _events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def time(self) -> float:
        return self._process.ticks()

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]  # noqa: ARG002 - there are no threads
        return asyncio.wrap_future(self._process.world.begin(func, *args), loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remember what nobody handles."""
        self._process.world.unhandled.append(context)

    def due(self) -> float | None:
        """Return at which of its ticks it has to turn; None: only another process can wake it."""
        if self._ready:
            return 0.0
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        return self._scheduled[0].when() if self._scheduled else None

    def turn(self) -> None:
        """Run what is due."""
        asyncio._set_running_loop(self)
        try:
            self._run_once()
        finally:
            asyncio._set_running_loop(None)


class _Job(concurrent.futures.Future[Any]):
    """What a thread returns."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def result(self, timeout: float | None = None) -> Any:
        """Have the world go on until it is there."""
        limit = self._process.world.elapsed + (_PATIENCE if timeout is None else timeout)
        while not self.done():
            assert self._process.world.step(limit), "it hangs"
        return super().result(0)


class World:
    """Processes, and their time."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.processes: list[Process] = []
        self.current: Process | None = None
        self._entered: Process | None = None  # whose state the modules keep
        self.unhandled: list[dict[str, Any]] = []  # what loops report of exceptions
        self._jobs: deque[tuple[Process, Callable[[], None]]] = deque()
        self._turns = 0  # without a wait
        self._random = random.Random(0)

    def now_ns(self) -> int:
        """Return the true time in nanoseconds since 1970."""
        return round((START + self.elapsed) * 1e9)

    def begin(self, function: Callable[..., T], *args: Any, **words: Any) -> "concurrent.futures.Future[T]":
        """Have a thread of the current process run a function; it runs between two turns."""
        assert self.current is not None
        done = _Job(self.current)
        done.set_running_or_notify_cancel()  # a thread cannot be cancelled

        def job() -> None:
            try:
                done.set_result(function(*args, **words))
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
                done.set_exception(error)

        self._jobs.append((self.current, job))
        return done

    def step(self, limit: float) -> bool:
        """Let what is due happen, else let the time go on to the next timer; False: not before the limit."""
        for index, (process, job) in enumerate(self._jobs):
            if not process.stopped:
                del self._jobs[index]
                if not process.dead:
                    with self.within(process):
                        job()
                return True
        due = [(at + one.slept, one) for one in self._awake() if (at := one.loop.due()) is not None]
        first = min((at for at, _ in due), default=limit + 1)
        if first > max(self.elapsed, limit):
            self.elapsed = max(self.elapsed, limit)
            return False
        self._turns = self._turns + 1 if first <= self.elapsed else 0
        assert self._turns < _TOO_MANY, f"nothing waits in {[one.home.name for _, one in due]}"
        self.elapsed = max(self.elapsed + 1e-6 * (self._turns > _AT_ONCE), first)
        for at, process in due:
            if at <= self.elapsed and not process.dead:
                with self.within(process):
                    process.loop.turn()
        return True

    def go_on(self, seconds: float) -> None:
        """Let some time go by."""
        limit = self.elapsed + seconds
        while self.step(limit):
            pass

    def wait(self, seconds: float) -> None:
        """Have a thread of the current process sleep."""
        process, self.current = self.current, None
        self.go_on(seconds)
        self.current = process
        if process is not None:
            self._enter(process)

    @contextmanager
    def stopped(self, *processes: Process, asleep: bool = False) -> Iterator[None]:
        """Stop processes inside the block, as SIGSTOP does or, `asleep`, as a machine that is suspended."""
        began = self.elapsed
        for process in processes:
            process.stopped = True
        yield
        for process in processes:
            process.stopped = False
            process.slept += asleep * (self.elapsed - began)

    @contextmanager
    def within(self, process: Process) -> Iterator[None]:
        """Run code of a process."""
        before, self.current = self.current, process
        self._enter(process)
        try:
            yield
        finally:
            self.current = before
            if before is not None:
                self._enter(before)

    def _enter(self, process: Process) -> None:
        """Have the modules keep the state of a process."""
        if process is not self._entered:
            self._entered = process
            os.environ["CLOUDTASKS_NB_HOME"] = str(process.home)
            for (module, name), value in process.state.items():
                setattr(module, name, value)

    def _awake(self) -> list[Process]:
        return [one for one in self.processes if not (one.stopped or one.dead)]

    def _wall(self) -> float:
        return _REAL["time"]() if self.current is None else START + self.elapsed + self.current.ahead

    def _ticks(self) -> float:
        return _REAL["monotonic"]() if self.current is None else self.current.ticks()

    def _clock(self, kind: int) -> float:
        return _REAL["clock_gettime"](kind) if self.current is None else self.elapsed

    def in_time(self, _seconds: float, function: Callable[..., T], *args: Any, **words: Any) -> T:
        """Call a function of a library."""
        return function(*args, **words)

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Have the toolkit run in this world inside the block."""

        def process() -> Process:
            assert self.current is not None
            return self.current

        def run(coroutine: Any, timeout: float | None = None, meanwhile: object = None) -> Any:
            return process().run(coroutine, timeout)

        with pytest.MonkeyPatch.context() as patch:
            for module, of in _STATE.items():  # what the test's own process has comes back afterwards
                for name in of:
                    patch.setattr(module, name, getattr(module, name))
            for name, read in {"time": self._wall, "monotonic": self._ticks}.items():
                patch.setattr(time, name, read)
                patch.setattr(time, f"{name}_ns", lambda read=read: round(read() * 1e9))
            patch.setattr(time, "clock_gettime", self._clock)
            patch.setattr(time, "sleep", self.wait)
            patch.setattr(os, "urandom", self._random.randbytes)
            patch.setattr(random, "_urandom", self._random.randbytes)
            for name, value in {
                "loop": lambda *_: process().loop,
                "check_blocking": lambda *_: None,
                "run": run,
                "in_thread": self.begin,
                "in_time": self.in_time,
            }.items():
                patch.setattr(_loop, name, value)
            try:
                yield
            finally:
                self._close()

    def _close(self) -> None:
        """Cancel what waits in any process, also of those that were killed: it changes nothing any more."""
        for process in self.processes:
            process.dead = process.stopped = False
        while tasks := [task for one in self.processes for task in asyncio.all_tasks(one.loop)]:
            for task in tasks:
                task.get_loop().call_soon(task.cancel)
            while self.step(self.elapsed):
                pass
        for process in self.processes:
            process.loop.close()
