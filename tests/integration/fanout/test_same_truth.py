"""A batch tells the same on every machine: it reads what others did before it answers."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import _loop
from cloudtasks_nb.fanout.batch import live
from tests.integration.conftest import Emulator
from tests.integration.fanout.conftest import Connect, Serve, reached, sent

ROWS = pd.DataFrame({"day": range(20)}, index=range(100, 120))
SHOWN = {"succeeded": 15, "failed": 5}


class Doubling:
    """A function that counts its calls, and fails for some days."""

    def __init__(self) -> None:
        self.broken, self.calls = set(range(5)), list[int]()

    def __call__(self, day: int) -> int:
        """Double a number."""
        self.calls.append(day)
        if day in self.broken:
            raise LookupError(day)
        return 2 * day


@pytest.fixture
def double() -> Doubling:
    """Give the function."""
    return Doubling()


@pytest.fixture
def handler(serve: Serve, tmp_path: Path, double: Doubling) -> ct.Handler:
    """Serve it."""
    return serve(double, name="double", store=tmp_path / "store")


def cell(tasks: ct.Client, url: Any, rows: pd.DataFrame = ROWS, **words: Any) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    batch: ct.Batch = queue.fan_out(rows, url=url, body=["day"], **{"name": "march", "progress": False, **words})
    return batch


def states(frame: pd.DataFrame) -> dict[str, int]:
    """Count the states in a frame."""
    return {str(state): int(n) for state, n in frame["state"].value_counts().items()}


FIRST: dict[str, Callable[[ct.Batch], Any]] = {
    "tasks": lambda batch: states(batch.tasks()) == SHOWN,
    "results": lambda batch: states(batch.results()) == SHOWN,
    "failed": lambda batch: len(batch.failed()) == 5,
    "errors": lambda batch: batch.errors()["rows"].sum() == 5,
    "attempts": lambda batch: batch.attempts()["row"].notna().sum() == 20,
    "wait": lambda batch: batch.wait("60s").failed == 5,
    "retry_failed": lambda batch: (batch.retry_failed().tasks()["try"] == 2).sum() == 5,
}


@pytest.mark.parametrize("home", ["bob", "ada"])
@pytest.mark.parametrize("verb", FIRST)
def test_the_first_answer_is_right(
    connect: Connect, emulator: Emulator, handler: ct.Handler, home: str, verb: str
) -> None:
    """Whatever is asked first, in another home and in a kernel that was restarted."""
    ada = connect("ada")
    queue = ada.queue("reports", create=True, max_attempts=1).pause()
    sent(cell(ada, handler))
    ada.close()
    tasks = connect(home)
    tasks.queue("reports").resume()
    emulator.drained(queue.name)
    assert FIRST[verb](tasks.batch("march"))


@pytest.mark.parametrize("home", ["bob", "ada"])
def test_results_without_a_log(connect: Connect, emulator: Emulator, handler: ct.Handler, home: str) -> None:
    """They tell what became of rows that have left the queue."""
    ada = connect("ada")
    queue = ada.queue("reports", create=True, max_attempts=1, log_sampling_ratio=0).pause()
    sent(cell(ada, handler))
    ada.close()
    tasks = connect(home)
    tasks.queue("reports").resume()
    emulator.drained(queue.name)
    assert states(tasks.batch("march").results()) == SHOWN


LATER: dict[str, Callable[[ct.Client, ct.Batch, ct.Handler], Any]] = {
    "wait": lambda _tasks, batch, _: batch.wait("60s").succeeded,
    "tasks": lambda _tasks, batch, _: states(batch.tasks())["succeeded"],
    "results": lambda _tasks, batch, _: states(batch.results())["succeeded"],
    "failed": lambda _tasks, batch, _: 20 - len(batch.failed()),
    "the same cell": lambda tasks, _, handler: states(cell(tasks, handler).tasks())["succeeded"],
    "tasks.batch": lambda tasks, _, __: states(tasks.batch("march").tasks())["succeeded"],
}


@pytest.mark.parametrize("log", [1.0, 0.0])
@pytest.mark.parametrize("seen", LATER)
def test_a_later_try_of_another_home_is_seen(
    connect: Connect, handler: ct.Handler, double: Doubling, seen: str, log: float
) -> None:
    """Also by a batch that was waited for to its end."""
    ada = connect("ada")
    ada.queue("reports", create=True, max_attempts=1, log_sampling_ratio=log)
    mine = cell(ada, handler)
    assert mine.wait("60s").failed == 5
    double.broken.clear()
    theirs = connect("bob").batch("march").retry_failed()
    assert theirs.wait("60s").succeeded == 20
    assert LATER[seen](ada, mine, handler) == 20
    assert mine.retry_failed().wait("60s").succeeded == 20
    assert len(double.calls) == 25


def test_the_same_cell_tells_what_is_true_now(
    connect: Connect, handler: ct.Handler, double: Doubling, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says nothing of failed rows that have succeeded elsewhere."""
    ada = connect("ada")
    cell(ada, handler).wait("60s")
    double.broken.clear()
    connect("bob").batch("march").retry_failed().wait("60s")
    capsys.readouterr()
    cell(ada, handler)
    assert "failed" not in capsys.readouterr().out


def test_a_batch_that_was_not_read_says_so_at_once(
    connect: Connect, handler: ct.Handler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its progress has no numbers; frames answer after a time, and say what was not read."""
    cell(connect("ada"), handler).wait("60s")
    bob, release = connect("bob"), asyncio.Event()

    async def held(*_: object, **__: object) -> bool:
        return await release.wait()

    monkeypatch.setattr(bob._connection.watcher, "is_logged", held)
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    theirs = bob.batch("march")
    progress = theirs.progress()
    assert (progress.state, progress.reason, progress.total) == (None, "not read yet", 20)
    assert set(progress.counts().values()) == {None}
    assert "not read yet" in repr(theirs)
    assert repr(progress) == "20 rows; not read yet"
    capsys.readouterr()
    theirs.tasks()
    assert capsys.readouterr().out == f"batch {theirs.id} is not read yet: reading what was sent from elsewhere\n"
    _loop.run(_set(release))
    assert states(theirs.tasks()) == SHOWN


def test_a_cancel_is_known_everywhere(
    connect: Connect, emulator: Emulator, handler: ct.Handler, double: Doubling, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stops a home that sends, is shown there, and by one that opens the batch later; each row is cancelled."""
    ada, bob = connect("ada"), connect("bob")
    queue = ada.queue("reports", create=True, max_attempts=1).pause()
    mine = sent(cell(ada, handler, ROWS.head(15)))
    theirs = cell(bob, handler, canary=15)
    reached(theirs, lambda progress: progress.pending == 15)
    mine.cancel().wait("60s")
    assert reached(theirs, lambda progress: progress.finished).cancelled == 20
    assert states(theirs.tasks()) == {"cancelled": 20}
    assert f"batch {theirs.id} was cancelled by " in capsys.readouterr().out
    late = connect("cleo").batch("march")
    assert states(late.tasks()) == {"cancelled": 20}
    assert states(cell(connect("dora"), handler).tasks()) == {"cancelled": 20}
    ada.queue("reports").resume()
    emulator.drained(queue.name)
    assert double.calls == []


def test_what_is_sent_after_a_cancel_is_not_cancelled(connect: Connect, handler: ct.Handler) -> None:
    """A cancel is taken up once."""
    ada, bob = connect("ada"), connect("bob")
    ada.queue("reports", create=True, max_attempts=1).pause()
    mine = sent(cell(ada, handler))
    theirs = bob.batch("march")
    mine.cancel().wait("60s")
    assert states(theirs.tasks()) == {"cancelled": 20}
    ada.queue("reports").resume()
    theirs.resend(theirs.tasks().tail(5)).wait("60s")
    assert states(theirs.tasks()) == states(mine.tasks()) == {"cancelled": 15, "succeeded": 5}


async def _set(event: asyncio.Event) -> None:
    event.set()
