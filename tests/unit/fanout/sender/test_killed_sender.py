"""Processes that send are killed, or meet: afterwards each row has one task, and none is missing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.outbox.records import State
from cloudtasks_nb.fanout.sender.sender import send
from tests.unit.fanout.conftest import FakeObserver, Service, all_rows, chunks, spool

ROOT = Path(__file__).parents[4]
ROWS = 3_000

#: Sends, and writes what was created to a file before it answers, as a service outside of this process would keep it.
#: Says when so many calls have come, before or after their effect, and then waits to be killed.
SENDER = """
    import asyncio, os, sys
    from cloudtasks_nb.fanout.outbox.outbox import Outbox
    from cloudtasks_nb.fanout.sender.sender import send
    from tests.unit.fanout.conftest import FakeObserver, Service

    path, batch, log, when, stop = *sys.argv[1:5], int(sys.argv[5])

    class Kept(Service):
        def create(self, name):
            failed = super().create(name)
            if failed is None:
                file.write(name.rpartition("/")[2] + "\\n")
            return failed

        def _answer(self, rpc, request):
            answer = super()._answer(rpc, request)
            file.flush()
            os.fsync(file.fileno())
            return answer

    def pause(rpc, number):
        if number == stop:
            print("now", flush=True)
            sys.stdin.read()

    service = Kept(**{when: pause})
    with open(log, "a+") as file, Outbox(path) as outbox:
        file.seek(0)
        service.created.update(file.read().split())
        print("begun", flush=True)
        asyncio.run(send(outbox, batch, service, FakeObserver()))
    print("done", flush=True)
"""


def _start(path: Path, batch: str, log: Path, when: str = "before", stop: int = -1) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SENDER), str(path), batch, str(log), when, str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def _wait_for(child: subprocess.Popen[bytes], line: bytes) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == line


@pytest.mark.parametrize(
    ("when", "stop"), [("before", 1), ("after", 1), ("before", 7), ("after", 12), ("after", 22), ("after", 30)]
)
def test_a_killed_sender_is_taken_over(path: Path, tmp_path: Path, when: str, stop: int) -> None:
    """SIGKILL while requests are in flight: the next sender completes the batch, and each row has one task."""
    log = tmp_path / "created"
    with Outbox(path) as outbox:
        batch = spool(outbox, chunks(range(ROWS))).batch
        with _start(path, batch, log, when, stop) as child:
            _wait_for(child, b"begun\n")
            _wait_for(child, b"now\n")
            os.kill(child.pid, signal.SIGKILL)
        assert outbox.batches.counts(batch)[State.UNSENT] > 0
        service = Service()
        service.created.update(log.read_text().split())
        report = asyncio.run(send(outbox, batch, service, FakeObserver()))
        assert service.created == Counter(all_rows(outbox, batch, "tasks"))
        assert report.already_there == 0
        assert outbox.batches.counts(batch)[State.SENT] == ROWS


def test_two_processes_on_one_batch_send_it_once(path: Path, tmp_path: Path) -> None:
    """One sends and the other waits; when the first is killed the other goes on by itself."""
    log = tmp_path / "created"
    with Outbox(path) as outbox:
        batch = spool(outbox, chunks(range(ROWS))).batch
        with _start(path, batch, log, "after", 12) as first:
            _wait_for(first, b"begun\n")
            _wait_for(first, b"now\n")
            with _start(path, batch, log) as second:
                _wait_for(second, b"begun\n")
                os.kill(first.pid, signal.SIGKILL)
                _wait_for(second, b"done\n")
                second.wait()
        assert Counter(log.read_text().split()) == Counter(all_rows(outbox, batch, "tasks"))
        assert outbox.batches.counts(batch)[State.SENT] == ROWS
