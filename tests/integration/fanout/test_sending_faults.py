"""Nothing is lost and nothing sent twice, whatever happens between the outbox and the service."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import PreconditionError, QueueNotFoundError
from tests.integration.conftest import Emulator
from tests.integration.fanout.conftest import fault, reached, rows_in, sent
from tests.proxy import Proxy

TARGET = "http://127.0.0.1:9/run"
MANY = pd.DataFrame({"row": range(2000)})
_names = itertools.count()


def all_sent(tracker: Any, progress: Any) -> bool:
    """Return whether every row has been acknowledged, and the sending has ended."""
    return not progress.unsent and not tracker.sending


def at_most(unsent: int, progress: Any) -> bool:
    """Return whether at most so many rows are unsent."""
    return bool(progress.unsent <= unsent)


ANSWERS: dict[str, dict[str, Any]] = {
    "unavailable": {"code": "UNAVAILABLE", "count": 5},
    "too many calls": {"code": "RESOURCE_EXHAUSTED", "count": 5},
    "out of time": {"code": "DEADLINE_EXCEEDED", "count": 5},
    "aborted": {"code": "ABORTED", "count": 5},
    "carried out, the answer lost": {"code": "UNAVAILABLE", "count": 5, "after": True},
    "operations that do not finish at once": {"unfinished": True, "count": 2},
    "no batch call": {"code": "UNIMPLEMENTED", "count": None},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_every_row_arrives_once(paused: ct.Queue, emulator: Emulator, answer: dict[str, Any]) -> None:
    """Answers that fail, get lost or come late change nothing of what is in the queue at the end."""
    emulator.request("POST", "/admin/faults", {"method": "BatchCreateTasks", **answer})
    batch = paused.fan_out(MANY, url=TARGET)
    if answer.get("unfinished"):
        reached(batch, lambda progress: progress.unsent <= 200)
        emulator.request("DELETE", "/admin/faults")
    sent(batch)
    assert rows_in(paused) == list(range(2000))


def through(proxy: Proxy, queue: ct.Queue) -> ct.Client:
    """Connect to the queue's emulator through the proxy."""
    return ct.connect("demo", "us-central1", endpoint=proxy.address)


def cut(proxy: Proxy, batch: ct.Batch) -> None:
    """Reset the connections in the middle of the sending, which the next ones make good."""
    for left in (1800, 1200, 600):
        reached(batch, partial(at_most, left))
        proxy.reset()
    sent(batch)
    assert proxy.connections > 1


def stall(proxy: Proxy, batch: ct.Batch) -> None:
    """Let the network hang: what hangs is waited for."""
    reached(batch, partial(at_most, 1500))
    proxy.stall()
    proxy.go()


def slow(proxy: Proxy, batch: ct.Batch) -> None:
    """Be far away from now on."""
    proxy.delay = 0.05


@pytest.mark.parametrize("trouble", [cut, stall, slow])
def test_a_bad_network(paused: ct.Queue, proxy: Proxy, trouble: Callable[[Proxy, ct.Batch], None]) -> None:
    """Whatever happens to the connections, each row arrives once."""
    with through(proxy, paused) as tasks:
        batch = tasks.queue(paused.id).fan_out(MANY, url=TARGET, send_rate=4000)
        trouble(proxy, batch)
        sent(batch)
    assert rows_in(paused) == list(range(2000))


def test_a_deleted_queue_stops_the_sending(queue: ct.Queue, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows stay unsent, the repr says why, and waiting raises instead of waiting for ever."""
    with through(proxy, queue) as tasks:
        batch = tasks.queue(queue.id).fan_out(MANY, url=TARGET, send_rate=2000)
        queue.delete()
        with pytest.raises(QueueNotFoundError, match=queue.id):
            batch.wait("30s")
        assert f'there is no queue "{queue.id}"' in repr(batch)


KERNEL = """
import os
import sys
import pandas as pd
import cloudtasks_nb as ct
from cloudtasks_nb import connect

def tell(number):
    # One write, because two threads tell numbers: print would let one thread's line end in the other's.
    os.write(1, b"%d\\n" % number)

def send(queue):
    batch = queue.fan_out(pd.DataFrame({"row": range(2000)}), url="http://127.0.0.1:9/run", progress=False)
    batch._tracker.listen(lambda: tell(batch.progress().unsent))
    tell(batch.progress().unsent)

ended, hold = os.pipe()  # ends with this process, for the kernels to see
for line in sys.stdin:  # each line is a new kernel's work; the imports are done once
    endpoint, name = line.split()
    kernel = os.fork()
    if kernel == 0:
        os.close(hold)
        send(connect("demo", "us-central1", endpoint=endpoint).queue(name))
        os.read(ended, 1)
        os._exit(0)
    print("kernel", kernel, flush=True)
    os.waitpid(kernel, 0)
    print("\\nended", kernel, flush=True)  # the kernel may have begun a line
"""


class Kernels:
    """A process that forks kernels; they work in the same home."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, emulator: Emulator, queue: ct.Queue) -> int:
        """Let a new kernel send rows to a queue; returns its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{emulator.ready['grpc']} {queue.id}\n")
        self._process.stdin.flush()
        return next(number for word, number in self._lines() if word == "kernel")

    def kill_when(self, kernel: int, reason: Callable[[int], bool]) -> None:
        """End a kernel with SIGKILL as soon as a number that it prints fulfils a condition; it is gone afterwards."""
        for word, number in self._lines():
            assert word != "ended", "the kernel ended by itself"
            if word == "" and reason(number):
                break
        os.kill(kernel, signal.SIGKILL)
        assert kernel in (number for word, number in self._lines() if word == "ended")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _lines(self) -> Iterator[tuple[str, int]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.split()
            if words and words[-1].isdigit():
                yield words[0] if words[0] in ("kernel", "ended") else "", int(words[-1])
        raise AssertionError("the process of the kernels ended by itself")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """Give what starts kernels to be killed."""
    made = Kernels()
    yield made
    made.close()


def test_a_killed_sender(tasks: ct.Client, emulator: Emulator, kernels: Kernels) -> None:
    """Ended at twenty moments of the sending, then resumed: exactly one task a row, none missing."""
    moments = random.Random(7).sample(range(1, 2000), 20)
    for moment in moments:
        queue = tasks.queue(f"killed-{next(_names)}", create=True).pause()
        kernel = kernels.start(emulator, queue)
        kernels.kill_when(kernel, moment.__ge__)
        batch = tasks.batch()
        assert batch.queue == queue.id
        tracker = batch.resume()._tracker
        # The rows of the killed sender's requests count as sent before they are.
        reached(batch, partial(all_sent, tracker))
        assert rows_in(queue) == list(range(2000))


def test_two_kernels_on_one_batch(paused: ct.Queue, tasks: ct.Client, emulator: Emulator) -> None:
    """Both run the same cell at the same time: one batch, one task a row."""
    both = [Kernels(), Kernels()]
    try:
        running = [(kernels, kernels.start(emulator, paused)) for kernels in both]
        for kernels, kernel in running:
            kernels.kill_when(kernel, (0).__eq__)
    finally:
        for kernels in both:
            kernels.close()
    assert rows_in(paused) == list(range(2000))
    assert len(tasks.batches()) == 1


def test_nobody_sends(paused: ct.Queue, tasks: ct.Client, emulator: Emulator, kernels: Kernels) -> None:
    """A batch found again sends nothing, and says what would; waiting for it says so too."""
    with fault(emulator, "BatchCreateTasks", "UNAVAILABLE"):
        kernels.kill_when(kernels.start(emulator, paused), (2000).__eq__)
    batch = tasks.batch()
    assert "2,000 unsent, and no process sends them → batch.resume()" in repr(batch)
    with pytest.raises(PreconditionError, match="no process sends them"):
        batch.wait("10s")
    sent(batch.resume())
    assert rows_in(paused) == list(range(2000))


def kill(folder: Path) -> None:
    """End the emulator of a folder as a crash would."""
    os.kill(json.loads((folder / "endpoint.json").read_text())["pid"], signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name the folder of the emulator."""
    return tmp_path / "data"


@pytest.fixture
def broken(folder: Path) -> Iterator[ct.Batch]:
    """Give a batch whose emulator was killed while it was sent; its connection stays open."""
    with ct.local(folder) as tasks:
        queue = tasks.queue("killed", create=True).pause()
        batch = queue.fan_out(MANY, url=TARGET, send_rate=1000)
        reached(batch, lambda progress: progress.unsent <= 1500)
        kill(folder)
        yield batch


def by_resume(tasks: ct.Client) -> ct.Batch:
    """Take the newest batch up."""
    return tasks.batch().resume()


def by_the_same_cell(tasks: ct.Client) -> ct.Batch:
    """Run the cell again."""
    return tasks.queue("killed").fan_out(MANY, url=TARGET, send_rate=1000)


@pytest.mark.parametrize("again", [by_resume, by_the_same_cell])
def test_the_next_connection_sends_the_rest(
    broken: ct.Batch, folder: Path, again: Callable[[ct.Client], ct.Batch]
) -> None:
    """The connection that has lost its emulator keeps nobody from sending, and each row's task is there once."""
    with ct.local(folder) as tasks:
        sent(again(tasks))
        assert rows_in(tasks.queue("killed")) == list(range(2000))
        sent(broken)


def test_the_old_connection_lives_again(broken: ct.Batch, folder: Path) -> None:
    """It says that nothing answers and what starts the emulator again; then it finds it, and sends the rest."""
    reached(broken, lambda progress: progress.state == "stopped")
    (line,) = [line for line in repr(broken).splitlines() if "nothing answers at 127.0.0.1" in line]
    assert " unsent rows in the outbox" in line
    assert f"ct.local({str(folder)!r}) starts the emulator again, and the batch continues by itself" in line
    assert "batch.resume" not in repr(broken)
    with ct.local(folder) as tasks:
        sent(broken)
        assert rows_in(tasks.queue("killed")) == list(range(2000))
        assert broken.tasks()["state"].eq("ready").all()


def test_a_temporary_emulator() -> None:
    """Its tasks are lost, which the repr says with the way out; the same cells send every row again to a new one."""

    def cells() -> tuple[ct.Client, ct.Batch]:
        tasks = ct.local()
        return tasks, tasks.queue("killed", create=True).pause().fan_out(MANY, url=TARGET)

    lost, batch = cells()
    sent(batch)
    assert lost._lease is not None
    os.kill(lost._lease.pid, signal.SIGKILL)
    reached(batch, lambda progress: progress.state == "stopped")
    (line,) = [line for line in repr(batch).splitlines() if "nothing answers at 127.0.0.1" in line]
    assert "its tasks are lost; run the cells again from ct.local() on: they send all rows to a new one" in line
    lost.close()
    found, batch = cells()
    sent(batch)
    assert rows_in(found.queue("killed")) == list(range(2000))
    found.close()
