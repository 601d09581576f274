"""An interrupt while the outbox is written leaves no transaction open, which would lock the file for every process."""

import _thread
import gc
import itertools
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from cloudtasks_nb.errors import BatchExistsError
from cloudtasks_nb.fanout.outbox.database import hold
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import whole
from cloudtasks_nb.fanout.states import State
from tests import interrupts
from tests.unit.fanout.conftest import chunks, put, put_facts, refs, spool


def interrupted_everywhere(action: Callable[[], object]) -> Iterator[KeyboardInterrupt]:
    """Do something again and again, interrupted at its first, second, ... bytecode, until it is done without one."""
    ours = (f"{Path('fanout', 'outbox')}", "contextlib.py")
    # Python 3.12 sends opcode events only if a frame had asked for them before the tracing began.
    sys._getframe().f_trace_opcodes = True
    done = False
    at = 0
    while not done:
        at, left = at + 1, at

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            frame.f_trace_opcodes = any(part in frame.f_code.co_filename for part in ours)
            if event == "opcode":
                if left == 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
                left -= 1
            return trace

        before = sys.gettrace()
        try:
            sys.settrace(trace)
            action()
            done = True
        except KeyboardInterrupt as interrupt:
            yield interrupt  # kept alive, as a notebook keeps the last error with all its frames
        finally:
            sys.settrace(before)


def assert_unlocked(path: Path) -> None:
    """Assert that another process may write."""
    with closing(sqlite3.connect(path, timeout=0.0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")


ACTIONS: dict[str, Callable[[Outbox, str], object]] = {
    "fact": lambda outbox, batch: put_facts(outbox, batch, corrected=1),
    "new_try": lambda outbox, batch: outbox.outcomes.new_try(whole(batch)),
    "cancel": lambda outbox, batch: sum(outbox.requests.cancel(whole(batch))),
}


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")  # of a connection that was not stored yet
@pytest.mark.parametrize("name", ACTIONS)
def test_no_interrupt_leaves_a_transaction_open(outbox: Outbox, name: str) -> None:
    """Wherever an interrupt comes, others may write afterwards, and so may this process."""
    batch = spool(outbox, chunks(range(3))).batch
    put(outbox, batch, refs(outbox, batch), State.FAILED)
    interrupts = interrupted_everywhere(lambda: ACTIONS[name](outbox, batch))
    assert next(interrupts)
    for kept in interrupts:
        assert_unlocked(outbox.path)
        put_facts(outbox, batch, existing=2)
        del kept
    gc.collect()  # here, where the warnings are expected


def test_an_error_in_a_transaction_rolls_it_back(outbox: Outbox) -> None:
    """What fails half way leaves neither its changes nor the lock."""
    spool(outbox, chunks(range(3)), name="days")
    with pytest.raises(BatchExistsError):
        spool(outbox, chunks(range(2, 5)))
    assert_unlocked(outbox.path)
    assert outbox.batches.find()[0].total == 3


def test_an_interrupt_while_another_process_writes_releases_the_outbox(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who presses stop while the file is locked by another does not get and keep the lock afterwards."""
    batch = spool(outbox, chunks(range(3))).batch
    waiting = threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores SIGINT

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            waiting.set()
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))
    with Outbox(outbox.path) as interrupted, closing(sqlite3.connect(outbox.path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting.clear()

        def interrupt() -> None:
            waiting.wait()
            _thread.interrupt_main(signal.SIGINT)
            other.rollback()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            put_facts(interrupted, batch, corrected=1)
        thread.join()
        signal.signal(signal.SIGINT, before)
        assert_unlocked(outbox.path)


def test_an_interrupt_leaves_the_locks_of_other_threads_alone(tmp_path: Path) -> None:
    """Wherever it comes while a lock is taken or released, it is raised, and other threads can take locks."""

    def take(name: str) -> None:
        taken = hold(tmp_path / "outbox.sqlite", name)
        if taken is not None:
            taken.release()

    for place in interrupts.interrupted_everywhere(lambda: take("a")):
        other = threading.Thread(target=take, args=["b"], daemon=True)
        other.start()
        other.join(240)
        assert not other.is_alive(), place


def test_an_interrupt_of_a_spool_does_not_stop_its_thread(outbox: Outbox) -> None:
    """Wherever it comes while rows are handed to the thread that compresses them, it is raised."""
    numbers = itertools.count()
    for _place in interrupts.interrupted_everywhere(
        lambda: spool(outbox, chunks([next(numbers)])), "threading.py", "futures"
    ):
        assert_unlocked(outbox.path)
