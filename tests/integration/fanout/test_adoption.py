"""A batch is known on every machine: what was sent from one home is not sent again from another."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import outcomes

ROWS = pd.DataFrame({"row": range(20)})
HOUR = 3_600
DAY = 24 * HOUR
Home = Callable[[str], ct.Queue]


@pytest.fixture
def home(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Give the same queue from homes of different names, each on a connection of its own."""
    with ExitStack() as stack:

        def make(folder: str) -> ct.Queue:
            monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / folder))
            tasks = stack.enter_context(ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]))
            tasks.batches()
            return tasks.queue("reports", create=True, max_attempts=1, log_sampling_ratio=1.0)

        yield make


def cell(queue: ct.Queue, target: Target, rows: pd.DataFrame = ROWS, **options: Any) -> ct.Batch:
    """Run the cell."""
    batch: ct.Batch = queue.fan_out(rows, url=target.url, progress=False, **options)
    return batch


@pytest.mark.parametrize("later", [60, 3600, DAY], ids=["a minute", "an hour", "a day"])
def test_the_same_cell_on_a_new_disk(home: Home, target: Target, emulator: Emulator, later: int) -> None:
    """Nothing is sent again, and each row has the outcome that it had."""
    target.script(*[500] * 5)
    assert outcomes(cell(home("old"), target)) == (15, 5, 0)
    emulator.advance(later)
    batch = cell(home("new"), target)
    assert outcomes(batch) == (15, 5, 0)
    assert len(target.received) == 20
    assert "rows were sent from elsewhere" in repr(batch)
    batch.retry_failed()
    assert outcomes(batch) == (20, 0, 0)
    assert len(target.received) == 25


def test_the_end_is_notified_once(home: Home, target: Target, emulator: Emulator) -> None:
    """A day later and from another home the same end is not notified again; that of a new round is."""
    done = target.url.replace("/job", "/done")

    def notified() -> int:
        return sum(request.path == "/done" for request in target.received)

    queue = home("old")
    batch = cell(queue, target)
    batch.on_complete(done).wait("240s")
    batch.resend(batch.tasks().head(1)).wait("240s")
    emulator.until(lambda: notified() == 2)
    emulator.drained(queue.name)
    emulator.advance(DAY)
    batch = cell(home("new"), target)
    batch.on_complete(done).wait("240s")
    assert queue.tasks().empty
    batch.resend(batch.tasks().head(1)).wait("240s")
    emulator.until(lambda: notified() == 3)
    emulator.drained(queue.name)
    assert notified() == 3


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("pause", [0, 2 * HOUR], ids=["at once", "later"])
def test_rows_that_a_cell_adds(
    home: Home,
    target: Target,
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pause: int,
    *,
    deleted: bool,
) -> None:
    """Rows that another home, or a deleted batch, has sent are not sent again when their names are free."""
    if deleted:
        monkeypatch.setenv("CLOUDTASKS_NB_STORE", str(tmp_path / "shared"))
    batch = cell(home("old"), target, name="all")
    assert outcomes(batch) == (20, 0, 0)
    if deleted:
        batch.delete()
    emulator.advance(2 * HOUR)
    queue = home("new")
    assert outcomes(cell(queue, target, ROWS[:8], name="all")) == (8, 0, 0)
    emulator.advance(pause)
    assert outcomes(cell(queue, target, ROWS[8:], name="all")) == (12, 0, 0)
    assert len(target.received) == 20


def test_rows_that_were_sent_between_two_cells(home: Home, target: Target, emulator: Emulator) -> None:
    """What another home has sent since the last cell is not sent again, also not by the cell after the next one."""
    queue, other = home("new"), home("old")
    assert outcomes(cell(queue, target, ROWS[:5], name="all")) == (5, 0, 0)
    emulator.advance(2 * HOUR)
    assert outcomes(cell(other, target, name="all")) == (20, 0, 0)
    for rows in (ROWS[5:10], ROWS[10:]):
        emulator.advance(2 * HOUR)
        batch = cell(queue, target, rows, name="all")
        assert outcomes(batch)[1:] == (0, 0)
    assert len(target.received) == 20
