"""A bad network, an emulator that dies, late rows, a log that loses entries: each row is sent once, as it is shown."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.fanout.sender.sender import Sender
from tests.integration.conftest import Emulator, Target, options
from tests.integration.fanout.conftest import reached, rows_in, sent
from tests.proxy import Proxy

TARGET = "http://127.0.0.1:9/run"
MANY = pd.DataFrame({"row": range(2000)})


def at_most(unsent: int, progress: Any) -> bool:
    """Return whether at most so many rows are unsent."""
    return bool(progress.unsent <= unsent)


def cut(proxy: Proxy, batch: ct.Batch) -> None:
    """Reset the connections in the middle of the sending, which the next ones make good."""
    for left in (1800, 1200, 600):
        reached(batch, partial(at_most, left))
        proxy.reset()
    sent(batch)
    assert proxy.connections > 1


def test_a_bad_network(paused: ct.Queue, proxy: Proxy) -> None:
    """Whatever happens to the connections, each row arrives once."""
    with ct.connect("demo", "us-central1", endpoint=proxy.address) as tasks:
        cut(proxy, tasks.queue(paused.id).fan_out(MANY, url=TARGET, send_rate=4000))
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


def test_the_old_connection_lives_again(broken: ct.Batch, folder: Path) -> None:
    """It says that nothing answers and what starts the emulator again; then it finds it, and sends the rest."""
    reached(broken, lambda progress: progress.state == "stopped")
    assert f"ct.local({str(folder)!r}) starts the emulator again, and the batch continues by itself" in repr(broken)
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
    assert "its tasks are lost; run the cells again from ct.local() on" in repr(batch)
    lost.close()
    found, batch = cells()
    sent(batch)
    assert rows_in(found.queue("killed")) == list(range(2000))
    found.close()


URL = "http://127.0.0.1:9/run"


def test_a_longer_cell_while_the_shorter_ends(paused: ct.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next cell adds its rows after the sender has found nothing left, and before it reports that."""
    longer = [pd.DataFrame({"row": range(150)})]

    run = Sender.run

    async def ending(self: Sender) -> int:
        already = await run(self)
        if longer:
            await asyncio.to_thread(paused.fan_out, longer.pop(), url=URL, name="series", progress=False)
        return already

    monkeypatch.setattr(Sender, "run", ending)
    batch = paused.fan_out(pd.DataFrame({"row": range(100)}), url=URL, name="series")
    reached(batch.whole, lambda progress: progress.total == 150 and not progress.unsent)
    assert len(paused.tasks()) == 150


ROWS = pd.DataFrame({"row": range(20)})


def states(batch: ct.Batch) -> dict[str, int]:
    """Return how many rows are in each state, zeros left out."""
    return {str(state): count for state, count in batch.tasks()["state"].value_counts().items() if count}


@options("--log-limit", "20")
def test_a_log_that_has_lost_entries(emulator: Emulator, target: Target) -> None:
    """Rows whose first attempt was seen to fail, and nothing else, may have succeeded: no line sends them again."""
    target.script(500, 500, 500)
    connect = partial(ct.connect, "demo", "us-central1", endpoint=emulator.ready["grpc"])
    with connect() as tasks:
        queue = tasks.queue("main", create=True, max_attempts=5, min_backoff="1h", max_backoff="1h")
        batch = queue.fan_out(ROWS.head(3), url=target.url)
        reached(batch, lambda progress: progress.retrying == 3)
    emulator.advance(3_700)
    target.wait(6)
    with connect() as tasks:
        noise = tasks.queue("noise", create=True).fan_out(pd.DataFrame({"n": range(40)}), url=target.url)
        assert noise.wait("240s").succeeded == 40
        emulator.until(lambda: tasks.queue("main").attempts().empty)
        batch = tasks.batch(batch.id)
        reached(batch, lambda progress: progress.gone == 3)
        assert (batch.status().state, states(batch)) == ("unknown", {"gone": 3})
        assert "they may have run" in str(batch.status().reason)
        assert not {"resend", "retry_failed"} & {*re.findall(r"\w+", repr(batch))}
