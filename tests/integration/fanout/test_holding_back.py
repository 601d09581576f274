"""`canary` and `pause_at` against the emulator and a function: which rows are called, and when the others are."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError
from tests.cases import cases
from tests.integration.fanout.conftest import PATIENCE, reached

ROWS = pd.DataFrame({"number": range(100)})


class Work:
    """A function that is called for each row, and fails for those in a set."""

    def __init__(self, *bad: int, held: bool = False) -> None:
        self.called: set[int] = set()
        self.bad = {*bad}
        self.may_end = threading.Event()
        if not held:
            self.may_end.set()
        self.handler = ct.serve(self.work, name="work")

    def work(self, number: int) -> int:
        """Do the work of one row."""
        self.called.add(number)
        self.may_end.wait()
        if number in self.bad:
            raise KeyError(number)
        return number


@pytest.fixture
def work() -> Iterator[Work]:
    """Serve the function."""
    made = Work()
    yield made
    made.handler.close()


def test_a_canary_that_fails_and_is_mended(once: ct.Queue, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows alone are called, the error names the cause, the same cell sends nothing, and a retry sends the rest."""
    work.bad = {2}
    batch = once.fan_out(ROWS, url=work.handler, canary=5)
    with pytest.raises(PreconditionError) as raised:
        batch.wait(PATIENCE)
    text = "canary: 1 of 5 rows failed (KeyError: 2): the other 95 rows are not sent"
    assert raised.value.message == text
    assert f"{text} → batch.resume()" in repr(batch)
    assert work.called == set(range(5))
    capsys.readouterr()
    again = once.fan_out(ROWS, url=work.handler, canary=5)
    assert "95 of those that it has are still unsent: they are held back: batch.resume()" in capsys.readouterr().out
    with pytest.raises(PreconditionError, match="1 of 5 rows failed"):
        again.wait(PATIENCE)
    work.bad.clear()
    assert batch.retry_failed().wait(PATIENCE).succeeded == 100
    assert work.called == set(range(100))


def test_sending_pauses_and_goes_on(once: ct.Queue, work: Work) -> None:
    """Rows that are in the queue run to their end; `resume` sends the others, and a retry those that failed."""
    rows = pd.DataFrame({"number": range(1000)})  # at this rate, enough for a minute
    work.bad = set(range(1000))
    batch = once.fan_out(rows, url=work.handler, pause_at="5%", send_rate=20)
    with pytest.raises(PreconditionError, match=r"^paused: \d+ of \d+ rows failed \(KeyError.*\), more than 5 %"):
        batch.wait(PATIENCE)
    paused = reached(batch, lambda progress: progress.done + progress.unsent == 1000)
    assert (paused.failed, paused.cancelled) == (len(work.called), 0)
    assert 20 <= paused.failed < 1000
    work.bad.clear()
    again = once.fan_out(rows, url=work.handler, pause_at="5%")  # as fast as possible, but held back all the same
    assert again.progress().unsent == paused.unsent
    assert again.resume().wait(PATIENCE).succeeded == paused.unsent
    assert batch.retry_failed().wait(PATIENCE).succeeded == 1000


def test_a_backfill_has_a_canary_too(once: ct.Queue) -> None:
    """The first periods are those that are created first."""
    called: list[str] = []
    handler = ct.serve(lambda partition, **_: called.append(partition), name="day")
    words: dict[str, Any] = {"freq": "D", "newest_first": True, "canary": "10%", "pause_at": 0.5}
    batch = once.backfill("2026-01-01", "2026-01-10", url=handler, **words)
    assert batch.wait(PATIENCE).succeeded == 10
    assert called[0] == "2026-01-10"
    handler.close()


#: A kernel that begins a batch with a canary and waits to be killed.
KERNEL = """
import sys, threading
import pandas as pd
import cloudtasks_nb as ct

def work(number):
    print("called", flush=True)
    threading.Event().wait()

queue = ct.local(sys.argv[1]).queue("canary", create=True, max_attempts=2, min_backoff="100ms")
batch = queue.fan_out(pd.DataFrame({"number": range(100)}), url=ct.serve(work), canary=5, progress=False)
batch.wait()
"""


@cases(
    lambda tasks, work: tasks.queue("canary").fan_out(ROWS, url=work.handler, canary=5),
    lambda tasks, _: tasks.batch().resume(),
    ids=["the same cell", "resume"],
)
def test_a_kernel_that_is_killed(tmp_path: Path, take_up: Callable[[ct.Client, Work], ct.Batch]) -> None:
    """The next one goes on with the canary: nothing else is sent before it has ended."""
    command = [sys.executable, "-c", KERNEL, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kernel:
        assert kernel.stdout is not None
        assert any(line.startswith("called") for line in kernel.stdout)
        kernel.kill()
    # Held from the start, as the tasks of the killed kernel come as soon as it listens: the canary may not have failed
    # when `resume` is called, which would then send the other rows.
    work = Work(3, held=True)
    with ct.local(tmp_path) as tasks, closing(work.handler):
        batch = take_up(tasks, work)
        work.may_end.set()
        with pytest.raises(PreconditionError, match="canary: 1 of 5 rows failed"):
            batch.wait(PATIENCE)
        assert work.called <= set(range(5))
        assert batch.resume().wait(PATIENCE).succeeded == 99
