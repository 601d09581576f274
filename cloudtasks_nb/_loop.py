"""Run coroutines on background event loops of this process, in threads that are started when first needed.

There is one for the toolkit's own work, and one for the requests to served functions: while the machine is busy,
hundreds of these wait, and the watching of batches would wait behind them.

A `Supervisor` owns the tasks that nobody awaits: their exceptions are kept and raised where a user waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import math
import os
import queue
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cloudtasks_nb.errors import CloudTasksError, ServiceError

__all__ = [
    "SERVING",
    "Supervisor",
    "as_toolkit_error",
    "call_soon",
    "check_blocking",
    "gather",
    "hold_interrupts",
    "in_thread",
    "in_time",
    "loop",
    "run",
    "submit",
    "to_thread",
    "until",
]

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)
_PERSISTENT = 3  # failures in a row after which `Supervisor.check` raises
_PAUSE = 0.5  # seconds before work is run again after its first failure
_LONGEST_PAUSE = 30.0
_TICK = 0.25  # seconds between two calls of what `run` does meanwhile
_PATIENCE = 1.0  # seconds for which an interrupt may be held

_lock = threading.Lock()
_loops: dict[tuple[int, str], asyncio.AbstractEventLoop] = {}  # by process and name

#: The name of the loop for the requests to served functions.
SERVING = "cloudtasks-nb-serve"
_OWN = "cloudtasks-nb"


def loop(name: str = _OWN) -> asyncio.AbstractEventLoop:
    """Return a background loop of this process; start it if this process has none, as after a fork."""
    with _lock:
        key = os.getpid(), name
        if key not in _loops:
            with hold_interrupts():
                new = asyncio.new_event_loop()
                ready = threading.Event()
                new.call_soon(ready.set)
                threading.Thread(target=new.run_forever, name=name, daemon=True).start()
                ready.wait()
                _loops[key] = new
        return _loops[key]


def check_blocking(name: str = _OWN) -> None:
    """Refuse to block a background loop.

    Raises
    ------
    RuntimeError
        If called on that loop itself: it would wait for work that only this loop can do.
    """
    if (current := _current_loop()) is not None and current is _loops.get((os.getpid(), name)):
        raise RuntimeError("blocking calls are not possible on the background loop itself; `await batch` is")


def submit(coroutine: Coroutine[Any, Any, T], name: str = _OWN) -> concurrent.futures.Future[T]:
    """Start a coroutine on a background loop, and return a future that any thread can wait for."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop(name))


@contextmanager
def hold_interrupts(wake: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Raise an interrupt that comes inside the block at its end, and one that comes a second later at once.

    Python raises KeyboardInterrupt between any two steps of the main thread. In the Python code of `threading` or of a
    library this leaves a lock that nobody releases, and in a finalizer or a callback of a weak reference it is dropped.

    Parameters
    ----------
    wake : callable
        Called when an interrupt comes: it ends what the block waits for.
    """
    default = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not default:
        yield  # no interrupt is raised here, or the block of a caller holds it
        return
    first = math.inf

    def hold(*_: object) -> None:
        nonlocal first
        now = time.monotonic()
        if now > first + _PATIENCE:
            raise KeyboardInterrupt
        first = min(first, now)
        wake()

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)
        if first < math.inf:
            raise KeyboardInterrupt from None


def run(
    coroutine: Coroutine[Any, Any, T],
    timeout: float | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    name: str = _OWN,
) -> T:
    """Run a coroutine on a background loop and wait for its result; call `meanwhile` four times a second.

    An interrupt, or the timeout in seconds, cancels the coroutine and is raised here.

    Raises
    ------
    RuntimeError
        If called on that loop itself: it would block the loop that has to run the coroutine.
    """
    try:
        check_blocking(name)
    except RuntimeError:
        coroutine.close()
        raise
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # is written in C: it has no lock that an interrupt leaves
    with hold_interrupts(lambda: woken.put(None)):
        return _result(submit(coroutine, name), woken, math.inf if timeout is None else timeout, meanwhile)


def in_time(seconds: float, function: Callable[..., T], *args: Any, **words: Any) -> T:
    """Return what a function returns that may never do so, as one of a library that waits for a network.

    It runs in a thread that does not keep the process alive. An interrupt, or the end of so many seconds, leaves it
    there, and nothing of it is used later.

    Raises
    ------
    TimeoutError
        If it takes longer.
    """
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()
    with hold_interrupts(lambda: woken.put(None)):
        try:
            return _result(in_thread(function, *args, **words), woken, seconds, lambda: None)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"no answer in {seconds:g} s") from error


async def to_thread(function: Callable[..., T], *args: Any, **words: Any) -> T:
    """Await a function that runs in a thread, as `asyncio.to_thread`; the thread does not keep the process alive."""
    return await asyncio.wrap_future(in_thread(function, *args, **words))


def in_thread(function: Callable[..., T], *args: Any, **words: Any) -> concurrent.futures.Future[T]:
    """Begin a function in a thread that does not keep the process alive."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()  # a thread cannot be cancelled

    def work() -> None:
        try:
            done.set_result(function(*args, **words))
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
            done.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    return done


def _result(
    future: concurrent.futures.Future[T],
    woken: queue.SimpleQueue[None],
    timeout: float,
    meanwhile: Callable[[], object],
) -> T:
    """Return the result of a future when it is done; cancel it if something else wakes this thread, or in time."""
    future.add_done_callback(lambda _: woken.put(None))
    deadline = time.monotonic() + timeout
    try:
        while True:
            left = deadline - time.monotonic()
            try:
                woken.get(timeout=max(min(left, _TICK), 0))
            except queue.Empty:
                if left <= 0:
                    raise TimeoutError from None
                meanwhile()
            else:
                return future.result(0)
    finally:
        future.cancel()


async def gather(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at the same time, and return their results in order.

    The first error of one cancels the others, and is raised when all have ended.

    A cancellation is raised, whatever the coroutines raise: before Python 3.13 an `asyncio.TaskGroup` loses one that
    comes while it ends for an error.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    return [task.result() for task in tasks]


async def until(
    listen: Callable[[Callable[[], None]], Callable[[], None]],
    ended: Callable[[], bool],
    check: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Wait until something is true, which is looked at after each change; first call `check` each time.

    Parameters
    ----------
    listen : callable
        Has a function called on this loop after each change; returns a function that ends that.
    """
    changed = asyncio.Event()
    end = listen(changed.set)
    try:
        while not ended():
            if check is not None:
                await check()
            if not ended():
                await changed.wait()
            changed.clear()
    finally:
        end()


def call_soon(function: Any, *args: Any) -> None:
    """Call a function on the background loop without waiting for it. May be called from any thread."""
    loop().call_soon_threadsafe(function, *args)


def as_toolkit_error(name: str, error: Exception) -> CloudTasksError:
    """Return an error of this package as it is, and any other exception as the cause of a `ServiceError`."""
    if isinstance(error, CloudTasksError):
        return error
    wrapped = ServiceError(f"{name} failed with {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


class Supervisor:
    """Owns background tasks, one for each name. Runs on the background loop.

    An exception of any kind is logged and kept until the work succeeds, and the work is run again after a pause, which
    doubles up to 30 s. Nothing ends silently: `errors` shows what fails, and `check` raises it if it lasts.

    Parameters
    ----------
    subject : str
        What the work is done for, as messages name it: "batch a91f03c2".
    changed : callable
        Called after each failure, and when work has ended.
    sleep : coroutine function
        For tests: the pause.
    """

    def __init__(
        self, subject: str, changed: Callable[[], None], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._subject = subject
        self._changed = changed
        self._sleep = sleep
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, tuple[CloudTasksError, int]] = {}  # the last error, and the failures in a row
        self._pauses: dict[str, asyncio.Future[None]] = {}  # of work that has failed
        self._closed = False

    @property
    def errors(self) -> list[CloudTasksError]:
        """The newest error of each work that fails at present."""
        return [error for error, _ in self._failures.values()]

    def running(self, name: str) -> bool:
        """Return whether the work of this name runs, or waits to run again."""
        return name in self._tasks and not self._tasks[name].done()

    @property
    def idle(self) -> bool:
        """Whether no work runs, or waits to run again."""
        return all(task.done() for task in self._tasks.values())

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, again: bool = True) -> None:
        """Run work in the background until it returns, unless work of this name runs already.

        Parameters
        ----------
        name : str
            What is done with the subject, as messages name it: "watching".
        work : coroutine function
            Called again after an exception.
        again : bool
            False: the work is run once, and its exception is kept until the next start.
        """
        if self._closed or self.running(name):
            return
        if not again:
            self._failures.pop(name, None)
        self._tasks[name] = asyncio.get_running_loop().create_task(self._run(name, work, again=again))

    def succeeded(self, name: str) -> None:
        """Forget the failures of some work, which goes on."""
        self._failures.pop(name, None)

    def wake(self) -> None:
        """Run work that pauses after a failure at once, and forget its failures: what was wrong may be mended."""
        for name, pause in self._pauses.items():
            self._failures.pop(name, None)
            pause.cancel()

    def check(self) -> None:
        """Raise an error that is unlikely to go away by itself.

        Raises
        ------
        CloudTasksError
            The error of work that has failed three times in a row, or that is not run again.
        """
        for error, count in self._failures.values():
            if count >= _PERSISTENT:
                raise error

    async def join(self, name: str) -> None:
        """Wait until the work of this name has ended."""
        if name in self._tasks:
            await asyncio.wait({self._tasks[name]})

    async def close(self) -> None:
        """Cancel all work, wait for its end, and start no other. Raises nothing."""
        self._closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, again: bool) -> None:
        what = f"{name} {self._subject}"
        while True:
            try:
                await work()
            except Exception as error:
                if self._closed:
                    return  # before Python 3.13 a `TaskGroup` raises its children's errors in place of a cancellation
                if isinstance(error, RuntimeError) and getattr(threading, "_SHUTTING_DOWN", False):
                    return  # the process ends, and threads take no more work
                _, count = self._failures.get(name, (None, 0))
                count = count + 1 if again else _PERSISTENT
                self._failures[name] = as_toolkit_error(what, error), count
                # Errors of this package are shown by whoever owns the work; others are defects.
                level = logging.INFO if isinstance(error, CloudTasksError) else logging.WARNING
                _LOGGER.log(level, "%s failed", what, exc_info=True)
            else:
                self._failures.pop(name, None)
                again = False
            self._report(what)
            if not again:
                return
            self._pauses[name] = pause = asyncio.ensure_future(
                self._sleep(min(_PAUSE * 2 ** (count - 1), _LONGEST_PAUSE))
            )
            try:
                await asyncio.wait({pause})
            finally:
                pause.cancel()
                del self._pauses[name]
            if not pause.cancelled():
                pause.result()

    def _report(self, what: str) -> None:
        try:
            self._changed()
        except Exception:
            _LOGGER.exception("a listener to %s failed", what)


def _current_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
