"""A batch tells the same on every machine: it reads what others did before it answers."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import _loop
from cloudtasks_nb.errors import EndpointError
from cloudtasks_nb.fanout.batch import live
from tests.cases import cases
from tests.integration.conftest import Emulator, Intercept, Target
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
    "wait": lambda batch: batch.wait("240s").failed == 5,
    "retry_failed": lambda batch: (batch.retry_failed().tasks()["try"] == 2).sum() == 5,
}


@pytest.mark.parametrize(
    ("home", "verb", "log"),
    [
        *((home, verb, 1.0) for home in ("bob", "ada") for verb in FIRST if (home, verb) != ("bob", "retry_failed")),
        *((home, "results", 0.0) for home in ("bob", "ada")),
    ],
)
def test_the_first_answer_is_right(
    connect: Connect, emulator: Emulator, handler: ct.Handler, home: str, verb: str, log: float
) -> None:
    """Whatever is asked first, in another home and in a restarted kernel; results tell of rows also without a log."""
    ada = connect("ada")
    queue = ada.queue("reports", create=True, max_attempts=1, log_sampling_ratio=log).pause()
    sent(cell(ada, handler))
    ada.close()
    tasks = connect(home)
    tasks.queue("reports").resume()
    emulator.drained(queue.name)
    assert FIRST[verb](tasks.batch("march"))


def test_a_batch_that_was_not_read_says_so_at_once(
    connect: Connect, handler: ct.Handler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its progress has no numbers; frames answer after a time, and say what was not read."""
    cell(connect("ada"), handler).wait("240s")
    bob, release = connect("bob"), asyncio.Event()

    async def held(*_: object, **__: object) -> bool:
        return await release.wait()

    monkeypatch.setattr(bob._connection.watcher, "is_logged", held)
    monkeypatch.setattr(live, "PATIENCE", 0.1)
    theirs = bob.batch("march")
    progress = theirs.progress()
    assert (progress.state, progress.reason, progress.total) == (None, "not read yet", 20)
    assert set(progress.counts().values()) == {None}
    shown = repr(theirs).splitlines()
    assert shown[1:-1] == ["20 rows; not read yet", "reading what was sent from elsewhere"]
    assert shown[-1].startswith("as of ")
    assert repr(progress) == "20 rows; not read yet"
    capsys.readouterr()
    theirs.tasks()
    assert capsys.readouterr().out == f"batch {theirs.id} is not read yet: reading what was sent from elsewhere\n"
    _loop.run(_set(release))
    assert states(theirs.tasks()) == SHOWN


def test_a_cancel_of_a_part_is_known_everywhere(
    connect: Connect, emulator: Emulator, handler: ct.Handler, double: Doubling, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its rows are cancelled, wherever they came from, and no others; what is sent of them later is not."""
    ada, bob = connect("ada"), connect("bob")
    queue = ada.queue("reports", create=True, max_attempts=1).pause()
    sent(cell(ada, handler, ROWS.head(15)))
    theirs = cell(bob, handler, canary=15)
    reached(theirs, lambda progress: progress.pending == 15)
    part = cell(ada, handler, ROWS.tail(8), canary="1%")
    reached(part.whole, lambda progress: progress.unsent == 5)
    assert part.cancel().wait("240s").cancelled == 8
    reached(theirs, lambda progress: progress.cancelled == 8)
    assert "has cancelled 8 rows of batch" in capsys.readouterr().out
    for batch in (theirs.resume(), connect("cleo").batch("march"), cell(connect("dora"), handler), part.whole):
        assert batch.tasks()["state"].eq("cancelled").tolist() == [False] * 12 + [True] * 8
    queue.resume()
    theirs.resend(theirs.tasks().tail(2)).wait("240s")
    emulator.drained(queue.name)
    assert states(part.tasks()) == {"cancelled": 6, "succeeded": 2}
    assert sorted(double.calls) == [*range(12), 18, 19]


def test_a_cancel_waits_for_an_answer_where_others_may_have_sent_rows(
    connect: Connect, emulator: Emulator, handler: ct.Handler, intercept: Intercept
) -> None:
    """Until then it is not known which rows were sent: they are not shown as cancelled."""
    cell(connect("ada"), handler).wait("240s")
    bob, silent, asked = connect("bob"), True, Counter[str]()

    async def call(rpc: Callable[[], Any], name: str, _: dict[str, Any]) -> Any:
        asked[name] += 1
        if silent:
            raise EndpointError("nothing answers")
        return await rpc()

    intercept(call)
    theirs = bob.batch("march").cancel()
    emulator.until(lambda: asked.total() > 5)
    assert (theirs.status().state, states(theirs.tasks())) == ("stopped", {"unsent": 20})
    silent = False
    theirs.wait("240s")
    assert states(theirs.tasks()) == SHOWN


@pytest.mark.parametrize("days", [29, 31])
def test_the_silence_of_a_complete_log(connect: Connect, emulator: Emulator, target: Target, days: int) -> None:
    """It tells that nothing was sent, for the thirty days in which the log has its entries."""
    ada = connect("ada")
    ada.queue("reports", create=True, max_attempts=1)
    mine = cell(ada, target.url, canary=5)
    assert reached(mine, lambda progress: progress.succeeded == 5)
    ada.close()
    emulator.advance(days * 86_400)
    theirs = cell(connect("bob"), target.url)
    progress = reached(theirs, lambda progress: progress.state in {"held", "succeeded"})
    assert progress.state == ("held" if days > 30 else "succeeded")
    assert len(target.received) == (5 if days > 30 else 20)


def test_a_queue_without_a_log_says_so_before_the_first_row(
    tasks: ct.Client, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: where the store is not shared, nothing tells what another disk has sent."""
    queue = tasks.queue("reports", create=True, log_sampling_ratio=0)
    capsys.readouterr()
    line = "rows that were sent from elsewhere cannot be seen: the queue writes no log"
    for rows, said in ((ROWS.head(3), True), (ROWS.tail(3), False)):
        queue.fan_out(rows, url=target.url, progress=False)
        assert (line in capsys.readouterr().out) is said
    half = tasks.queue("half", create=True, log_sampling_ratio=0.5)
    half.fan_out(ROWS, url=target.url, progress=False)
    assert "queue half logs 50 % of its operations" in capsys.readouterr().out


@cases(
    ("march", ROWS, "the plan is not compared with what was sent of batch"),
    (None, ROWS, "the plan is not compared with what was sent of batch"),
    ids=["named", "unnamed"],
)
def test_a_dry_run_says_that_it_is_not_compared(
    connect: Connect, handler: ct.Handler, capsys: pytest.CaptureFixture[str], name: Any, rows: pd.DataFrame, line: str
) -> None:
    """Only where another home has sent rows of the batch, and it brings nothing here."""
    ada, bob = connect("ada"), connect("bob")
    cell(ada, handler, rows, name=name, dry_run=True)
    assert line not in capsys.readouterr().out
    cell(ada, handler, name=name).wait("240s")
    for home, said in ((ada, False), (bob, True)):
        cell(home, handler, rows, name=name, dry_run=True)
        assert (line in capsys.readouterr().out) is said
    assert bob.batches()["bytes"].isna().all()


def test_a_service_that_does_not_answer_is_asked_once(
    connect: Connect, handler: ct.Handler, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each method says what is not read, and does not wait for it again."""
    tasks, asked = connect("ada"), list[object]()
    batch = cell(tasks, handler)
    batch.wait("240s")

    async def silent(*of: object) -> bool:
        asked.append(of)
        raise EndpointError("nothing answers")

    monkeypatch.setattr(tasks._connection.watcher, "is_logged", silent)
    capsys.readouterr()
    assert states(batch.tasks()) == states(batch.results()) == SHOWN
    line = f"batch {batch.id} is not read yet: the log could not be read: nothing answers\n"
    assert (capsys.readouterr().out, len(asked)) == (2 * line, 1)


async def _set(event: asyncio.Event) -> None:
    event.set()
