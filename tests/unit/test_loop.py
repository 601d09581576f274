"""The background event loop."""

import asyncio
import gc
import signal
import sys
import threading
import weakref
from concurrent.futures import CancelledError
from contextlib import nullcontext
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import OutboxError, ServiceError
from tests.interrupts import interrupt, interrupted_everywhere, interruptible
from tests.processes import run
from tests.raising import raises

PATIENCE = 240.0

FORKS = """
import os
from cloudtasks_nb import _loop

async def say(word):
    print(word, end=" ", flush=True)

_loop.run(say("parent"))
if os.fork() == 0:
    _loop.run(say("child"))
    os._exit(0)
assert os.wait()[1] == 0
_loop.run(say("parent"))
"""

ENDS = """
import asyncio, threading
from cloudtasks_nb import _loop

began, ended = threading.Event(), threading.Event()

async def work():
    try:
        while True:
            await asyncio.to_thread(began.set)
    finally:
        ended.set()

async def start(supervisor):
    supervisor.start("packing", work)

def stay():
    ended.wait()
    _loop.run(asyncio.sleep(0))

_loop.run(start(_loop.Supervisor("a batch", lambda: None)))
began.wait()
threading.Thread(target=stay).start()
"""


async def thread_name() -> str:
    """Return the thread on which it runs."""
    return threading.current_thread().name


def test_one_loop_a_process() -> None:
    """Everything that waits runs on one thread, which is not the caller's."""
    assert {_loop.run(thread_name()) for _ in range(3)} == {"cloudtasks-nb"}
    assert _loop.loop() is _loop.loop()


class Endless:
    """Work that ends only when it is cancelled."""

    def __init__(self) -> None:
        self.started, self.cancelled = threading.Event(), threading.Event()

    async def run(self) -> None:
        """Wait for ever."""
        self.started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.cancelled.set()


def test_a_timeout_cancels() -> None:
    """After the timeout the work does not go on in the background."""
    work = Endless()
    with pytest.raises(TimeoutError):
        _loop.run(work.run(), timeout=0.01, meanwhile=work.started.wait)  # not before the work has begun
    assert work.cancelled.wait(PATIENCE)


def test_an_interrupt_cancels() -> None:
    """Ctrl-C (a kernel's interrupt) stops the waiting and the work."""
    work = Endless()

    async def interrupted() -> None:
        _loop.call_soon(interrupt)
        await work.run()

    with interruptible(), pytest.raises(KeyboardInterrupt):
        _loop.run(interrupted())
    assert work.cancelled.wait(PATIENCE)


@pytest.mark.filterwarnings("ignore:coroutine 'thread_name' was never awaited")
def test_an_interrupt_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes, also while the loop is started, it is raised, and the next call gets its answer."""

    def first_run() -> None:
        _loop._loops.clear()
        _loop.run(thread_name())

    monkeypatch.setattr(_loop, "_loops", {})
    before = set(threading.enumerate())
    for place in interrupted_everywhere(first_run):
        assert _loop.run(thread_name(), timeout=PATIENCE) == "cloudtasks-nb", place
        started = _loop.loop()
        started.call_soon_threadsafe(started.stop)
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE)
        started.close()


def test_an_interrupt_ends_what_keeps_it_from_being_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is held is raised at the end of the block; if that does not come, another one is raised at once."""
    monkeypatch.setattr(_loop, "_PATIENCE", 0.0)
    reached = []

    def work() -> None:
        with _loop.hold_interrupts():
            for at in range(3):
                reached.append(at)
                signal.raise_signal(signal.SIGINT)

    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert reached == [0, 1]


def test_what_does_not_answer_is_left_behind() -> None:
    """After so many seconds, or an interrupt; else its answer comes, or its exception."""
    never, begun = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        never.wait()

    def interrupt_it() -> None:
        begun.wait(PATIENCE)
        interrupt()

    assert _loop.in_time(PATIENCE, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        _loop.in_time(PATIENCE, divmod, 7, 0)
    with pytest.raises(TimeoutError, match=r"^no answer in 0.01 s$"):
        _loop.in_time(0.01, wait)
    begun.clear()
    threading.Thread(target=interrupt_it).start()
    with interruptible(), pytest.raises(KeyboardInterrupt):
        _loop.in_time(PATIENCE, wait)
    never.set()


LEAVES = """
import asyncio, contextlib, threading
from cloudtasks_nb import _loop

async def leave():
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await _loop.to_thread(threading.Event().wait)

_loop.run(leave())
"""


def test_what_is_left_behind_does_not_keep_the_process_alive() -> None:
    """A call of a library that never returns ends with the process."""
    assert run(sys.executable, "-c", LEAVES).returncode == 0


def test_a_handler_of_the_users_own_stays() -> None:
    """Who handles interrupts is called when one comes, and the work goes on."""
    came = []

    async def interrupted() -> str:
        interrupt()
        return "done"

    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        assert _loop.run(interrupted()) == "done"
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == [1]


def test_cancelling_the_future_cancels_the_work() -> None:
    """The future of `submit` stops the work too."""
    work = Endless()
    future = _loop.submit(work.run())
    assert work.started.wait(PATIENCE)
    future.cancel()
    assert work.cancelled.wait(PATIENCE)
    with pytest.raises(CancelledError):
        future.result()


async def blocks() -> str:
    """Make a blocking call on the thread of a loop."""
    return _loop.run(thread_name())


def test_who_may_wait() -> None:
    """A notebook's own running loop may wait; on the loop's own thread a blocking call is refused: it would hang."""
    assert asyncio.run(blocks()) == "cloudtasks-nb"
    with pytest.raises(RuntimeError, match="background loop itself"):
        _loop.run(blocks())


def test_supervised_work_is_held_until_done() -> None:
    """A task without another reference is not collected."""
    done = threading.Event()
    supervisor = _loop.Supervisor("it", lambda: None)

    async def work() -> None:
        # Nothing but the task refers to this future, so without a reference to the task both are garbage.
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(_collect_and_finish, weakref.ref(future))
        await future
        done.set()

    _loop.call_soon(supervisor.start, "work", work)
    assert done.wait(PATIENCE)


class Failing:
    """Work that raises at its first runs, and the supervisor that runs it without pauses."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error = times, error
        self.changes = 0
        self.pauses: list[float] = []
        self.supervisor = _loop.Supervisor("it", self._changed, sleep=self._sleep)

    def run(self, **options: Any) -> None:
        """Start it, and wait for its end."""

        async def start_and_join() -> None:
            self.supervisor.start("work", self._work, **options)
            await self.supervisor.join("work")

        _loop.run(start_and_join(), PATIENCE)

    async def _work(self) -> None:
        if self.left:
            self.left -= 1
            raise self.error

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if self.left:
            assert [error.message for error in self.supervisor.errors]

    def _changed(self) -> None:
        self.changes += 1


def test_work_that_fails_runs_again() -> None:
    """After each failure the pause doubles up to half a minute; when the work succeeds, its failure is forgotten."""
    work = Failing(8, OutboxError("locked"))
    work.run()
    assert work.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert (work.left, work.supervisor.errors, work.changes) == (0, [], 9)


def test_work_that_is_not_run_again_keeps_its_error(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of any kind is logged, kept and raised by `check`, as an error of this package with its cause."""
    work = Failing(1, KeyError("x"))
    work.run(again=False)
    with raises(ServiceError, "work it failed with KeyError: 'x'", __cause__=work.error):
        work.supervisor.check()
    assert "KeyError: 'x'" in caplog.text
    work.run(again=False)
    work.supervisor.check()


def test_only_a_lasting_failure_is_raised() -> None:
    """The first two failures are shown and not raised; the third is raised."""
    work = Failing(3, OutboxError("locked"))

    async def sleep(_: float) -> None:
        with pytest.raises(OutboxError) if work.left == 0 else nullcontext():
            work.supervisor.check()
        work.pauses.append(0)

    work.supervisor = _loop.Supervisor("it", work._changed, sleep=sleep)
    work.run()
    assert len(work.pauses) == 3


def test_work_that_pauses_is_woken() -> None:
    """A verb or a wait runs it at once, without the error of before; it counts its failures anew."""
    work, paused = Failing(3, OutboxError("full")), asyncio.Event()

    async def sleep(_: float) -> None:
        if not work.left:
            paused.set()
            await asyncio.Event().wait()

    work.supervisor = _loop.Supervisor("it", work._changed, sleep=sleep)

    async def wake() -> None:
        work.supervisor.start("work", work._work)
        await paused.wait()
        with pytest.raises(OutboxError):
            work.supervisor.check()
        work.supervisor.wake()
        work.supervisor.check()
        await work.supervisor.join("work")

    _loop.run(wake(), PATIENCE)
    assert work.supervisor.errors == []


def test_a_closed_supervisor_raises_nothing() -> None:
    """Closing cancels the work, raises no error that it had before, and no work begins afterwards."""
    work, endless = Failing(1, KeyError("x")), Endless()
    work.run(again=False)

    async def close() -> None:
        work.supervisor.start("endless", endless.run)
        await asyncio.sleep(0)
        await work.supervisor.close()
        work.supervisor.start("late", endless.run)
        assert not work.supervisor.running("late")

    _loop.run(close(), PATIENCE)
    assert endless.cancelled.is_set()


def test_work_that_fails_as_it_is_cancelled_ends_with_its_supervisor() -> None:
    """A group of tasks raises the error of one of them in place of the cancellation: the work is not run again."""
    work = Failing(0, KeyError("x"))

    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("x")

    async def close() -> None:
        work.supervisor.start("fails", fail, again=True)
        await asyncio.sleep(0)
        await work.supervisor.close()

    _loop.run(close(), PATIENCE)


@pytest.mark.parametrize("cancels", [0, 1])
def test_a_cancellation_is_raised_before_an_error(cancels: int) -> None:
    """It is not lost if it comes while other coroutines end because one has failed."""
    ending, go_on = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        raise KeyError("x")

    async def end_slowly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go_on.wait()

    async def outcome() -> object:
        task = asyncio.ensure_future(_loop.gather([end_slowly(), fail()]))
        await ending.wait()
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        go_on.set()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        return found

    assert type(_loop.run(outcome(), PATIENCE)) is (asyncio.CancelledError if cancels else KeyError)


def _collect_and_finish(weak: weakref.ref[asyncio.Future[None]]) -> None:
    gc.collect()
    if (future := weak()) is not None:
        future.set_result(None)


def test_a_forked_process_gets_its_own() -> None:
    """After a fork the parent's loop does not run in the child: it starts one of its own."""
    done = run(sys.executable, "-c", FORKS)
    assert (done.returncode, done.stdout) == (0, "parent child parent ")


def test_work_says_nothing_when_its_process_ends() -> None:
    """Threads take no more work then."""
    done = run(sys.executable, "-c", ENDS)
    assert (done.returncode, done.stderr) == (0, "")
