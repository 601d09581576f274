"""Backfills against the emulator and a function: what is called for which days, and what is called again."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.cases import cases
from tests.integration.fanout.conftest import PATIENCE

QUEUE = {"rate": 500, "max_concurrent": 8, "max_attempts": 1}


class Days:
    """A function that is called for each partition, and fails for those in a list."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.bad: set[str] = set()
        self._lock = threading.Lock()
        self.handler = ct.serve(self.report, name="days")

    def report(self, **body: Any) -> str:
        """Do the work of one partition."""
        with self._lock:
            self.bodies.append(body)
        if body["partition"] in self.bad:
            raise IndexError(body["partition"])
        return str(body["partition"])

    def called(self) -> dict[str, int]:
        """Return how often each partition was called since this was asked for the last time."""
        with self._lock:
            found = Counter(body["partition"] for body in self.bodies)
            self.bodies.clear()
        return dict(sorted(found.items()))


@pytest.fixture
def days() -> Iterator[Days]:
    """Serve a function."""
    made = Days()
    yield made
    made.handler.close()


@pytest.fixture
def quick(queue: ct.Queue) -> ct.Queue:
    """Give a queue that runs 8 at once, and tries each task once."""
    return queue.update(**QUEUE)


def run(queue: ct.Queue, days: Days, start: str, end: str, **words: Any) -> ct.Batch:
    """Backfill to the end."""
    arguments: dict[str, Any] = {"freq": "D", "url": days.handler, **words}
    batch: ct.Batch = queue.backfill(start, end, **arguments)
    batch.wait(PATIENCE)
    return batch


@cases(
    ("2026-03-08", "2026-03-08 23:59", "h", "America/New_York", 23, "2026-03-08T00:00:00-05:00"),
    ("2026-11-01", "2026-11-01 23:59", "h", "America/New_York", 25, "2026-11-01T00:00:00-04:00"),
    ("2018-11-04", "2018-11-05", "D", "America/Sao_Paulo", 2, "2018-11-04T01:00:00-02:00"),
    ("2026-01-15", "2026-02-20", "W", "Europe/Zurich", 6, "2026-01-11T00:00:00+01:00"),
    ("2026-01-15", "2026-04-20", "MS", "Europe/Zurich", 4, "2026-01-01T00:00:00+01:00"),
)
def test_periods_arrive_whole_and_without_holes(
    quick: ct.Queue, days: Days, start: str, end: str, freq: str, tz: str, count: int, first: str
) -> None:
    """The function gets each period once, as times with their offsets; each ends where the next one starts."""
    batch = run(quick, days, start, end, freq=freq, tz=tz)
    assert batch.progress().succeeded == count
    bodies = sorted(days.bodies, key=lambda body: pd.Timestamp(body["start"]))
    assert len(bodies) == count
    assert bodies[0]["start"] == first
    assert [body["end"] for body in bodies[:-1]] == [body["start"] for body in bodies[1:]]
    assert str(batch.tasks()["start"].dtype) == f"datetime64[us, {tz}]"


def test_growing_series(quick: ct.Queue, days: Days, capsys: pytest.CaptureFixture[str]) -> None:
    """The same cell again calls nothing, a longer range only what is new, another value only its own."""
    batch = run(quick, days, "2026-01-01", "2026-01-05", across={"shop": ["a"]})
    assert days.called() == {f"2026-01-0{day}": 1 for day in range(1, 6)}
    capsys.readouterr()
    again = run(quick, days, "2026-01-01", "2026-01-05", across={"shop": ["a"]})
    assert (again.id, days.called()) == (batch.id, {})
    assert (
        f"batch {batch.name} ({batch.id}) has 5 of these rows already; nothing new to send" in capsys.readouterr().out
    )
    longer = run(quick, days, "2025-12-31", "2026-01-06", across={"shop": ["a"]}, newest_first=True)
    assert (longer.id, days.called()) == (batch.id, {"2025-12-31": 1, "2026-01-06": 1})
    wider = run(quick, days, "2026-01-04", "2026-01-05", across={"shop": ["a", "b"]})
    assert (wider.id, days.called()) == (batch.id, {"2026-01-04": 1, "2026-01-05": 1})
    assert (wider.progress().succeeded, wider.whole.progress().succeeded) == (4, 9)
    capsys.readouterr()
    assert (len(longer.tasks()), len(longer.whole.results())) == (7, 9)
    assert "join" not in capsys.readouterr().out


def test_failed_days_are_retried(quick: ct.Queue, days: Days) -> None:
    """What failed is found, stays failed when the cell runs again, and is retried when that is asked for."""
    days.bad = {"2026-01-02", "2026-01-04"}
    batch = run(quick, days, "2026-01-01", "2026-01-05")
    failed = batch.failed()
    assert failed["start"].dt.strftime("%Y-%m-%d").tolist() == sorted(days.bad)
    assert failed["last_status"].tolist() == ["NOT_FOUND", "NOT_FOUND"]
    days.called()
    days.bad = set()
    run(quick, days, "2026-01-01", "2026-01-05")
    assert days.called() == {}
    assert batch.retry_failed().wait(PATIENCE).succeeded == 5
    assert days.called() == {"2026-01-02": 1, "2026-01-04": 1}


def test_two_days_resent(quick: ct.Queue, days: Days) -> None:
    """Rows of the batch are sent again whatever became of them; the same rows a second time are not."""
    batch = run(quick, days, "2026-01-01", "2026-01-05")
    days.called()
    tasks = batch.tasks()
    rows = tasks[tasks["start"].between("2026-01-02", "2026-01-03")]
    batch.resend(rows).wait(PATIENCE)
    assert days.called() == {"2026-01-02": 1, "2026-01-03": 1}
    batch.resend(rows).wait(PATIENCE)
    assert days.called() == {}
    assert batch.tasks()["try"].tolist() == [1, 2, 2, 1, 1]


def test_stops_after_failures(quick: ct.Queue, days: Days) -> None:
    """After so many failures the rest is cancelled, and the batch says why."""
    days.bad = {day.strftime("%Y-%m-%d") for day in pd.date_range("2026-01-01", "2026-03-31")}
    quick.update(rate=5, max_concurrent=1)
    batch = run(quick, days, "2026-01-01", "2026-03-31", stop_after_failures=3)
    progress = batch.progress()
    assert progress.failed >= 3
    assert progress.cancelled > 0
    assert progress.failed + progress.cancelled + progress.gone == 90
    assert "stop_after_failures=3" in repr(batch)


def test_repr(tasks: ct.Client, quick: ct.Queue, days: Days) -> None:
    """A batch, also one that is found again, shows its partitions in a line and as a calendar."""
    days.bad = {"2026-01-31"}
    made = run(quick, days, "2026-01-30", "2026-02-02 12:00", tz="Europe/Zurich")
    for batch in (made, tasks.batch(made.id)):
        assert repr(batch).splitlines()[1] == (
            "2026-01-30 … 2026-02-02, 4 days in Europe/Zurich; "
            "the last partition ends 2026-02-03, after 2026-02-02 12:00"
        )
        html = batch._repr_mimebundle_()["text/html"]
        assert 'title="2026-01-31: 1 row: 1 failed"' in html
        assert html.count(": 1 row: 1 ") == 4
        assert "4 days in Europe/Zurich" in html


def test_unknown_queue(tasks: ct.Client, days: Days) -> None:
    """A queue that is not there is named, and no batch is left behind."""
    with pytest.raises(ct.errors.QueueNotFoundError, match="nowhere"):
        tasks.queue("nowhere").backfill("2026-01-01", "2026-01-02", freq="D", url=days.handler)
    assert len(tasks.batches()) == 0
