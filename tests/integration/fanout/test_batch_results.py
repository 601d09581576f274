"""`batch.results()`: what came back, beside what went in, whatever happened in between."""

import datetime as dt
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.display import progress_bar
from cloudtasks_nb.display.notify import Output, redirect
from cloudtasks_nb.errors import PreconditionError, StoreError
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.store.results import ResultWriter, StoredResult, tag_of
from cloudtasks_nb.store.store import Store
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import Connect, Serve

ROWS = pd.DataFrame({"x": range(20)})


def square(x: int) -> dict[str, int]:
    """Return a dict; a quarter of the rows fail."""
    if x % 4 == 3:
        raise ValueError(f"{x} is no good")
    return {"y": x * x}


def test_a_sweep_is_one_expression(tasks: ct.Client, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 combinations, and the best of them; pages have one bar, which shows the rows that are done of all."""
    queue = tasks.queue("reports", create=True, rate=500)
    grid = pd.MultiIndex.from_product([range(50), range(40)], names=["a", "b"]).to_frame(index=False)
    handler = serve(lambda a, b: {"score": (a - 7) ** 2 + (b - 3.5) ** 2}, name=f"score-{queue.id}")
    batch = queue.fan_out(grid, url=handler, progress=False)
    batch.wait("240s")
    best = batch.results().nsmallest(2, "score")
    assert best[["a", "b", "score"]].to_numpy().tolist() == [[7, 3, 0.25], [7, 4, 0.25]]
    assert pd.concat(batch.results(page=300)).equals(batch.results())
    for page in (0, 2.5, "300", True):
        with pytest.raises(ct.errors.InvalidInputError, match="is not a number of rows"):
            batch.results(page=page)  # type: ignore[arg-type]
    monkeypatch.setattr(progress_bar, "_DELAY", 0)
    monkeypatch.setattr(progress_bar, "_PACE", 0)
    shown: list[tuple[str, int, int | None]] = []
    with redirect(Output(message=print, progress=lambda *facts: shown.append(facts))):
        assert [len(page) for page in batch.results(page=900)] == [900, 900, 200]
        assert len(batch.results()) == len(grid)
    done = (900, 1_800, 2_000, 2_000)
    assert [facts for facts in shown if "results" in facts[0]] == [
        (f"results of batch {batch.id}", n, 2_000) for n in done
    ]


def test_columns_of_the_input_keep_their_types(tasks: ct.Client, serve: Serve) -> None:
    """Dates, times, periods and Decimals come back as they went in, also in a later cell: a merge finds them."""
    rows = pd.DataFrame(
        {
            "day": [dt.date(2026, 1, 1), None],
            "time": [dt.time(6, 30), dt.time(7)],
            "month": pd.period_range("2026-01", periods=2, freq="M"),
            "price": [Decimal("1.10"), Decimal(2)],
            "waited": pd.to_timedelta([1, 2], unit="h"),
        }
    )
    queue = tasks.queue("reports", create=True)
    handler = serve(lambda **row: row["month"], name=f"month-{queue.id}")
    batch = queue.fan_out(rows, url=handler, progress=False)
    batch.wait("240s")
    for found in (batch.results(), tasks.batch(batch.id).results(), pd.concat(batch.as_completed())):
        pd.testing.assert_frame_equal(found[[*rows]], rows, check_names=False)
        assert len(rows.merge(found, on=[*rows])) == len(rows)


def test_results_as_they_come(tasks: ct.Client, serve: Serve) -> None:
    """A frame has the rows that have ended since the last one, each row once; the loop ends with the last row."""
    others_seen = threading.Event()

    def late(x: int) -> dict[str, int]:
        if x == 1:
            assert others_seen.wait(240)
        return square(x)

    queue = tasks.queue("reports", create=True, max_attempts=1)
    batch = queue.fan_out(ROWS.head(5), url=serve(late, name=f"late-{queue.id}", workers=8), progress=False)
    frames = []
    for part in batch.as_completed():
        frames.append(part)
        if sum(map(len, frames)) == 4:
            others_seen.set()
    assert len(frames[-1]) == 1
    assert frames[-1]["x"].tolist() == [1]
    whole = batch.results()
    pd.testing.assert_frame_equal(pd.concat(frames).sort_index()[["x", "state", "y"]], whole[["x", "state", "y"]])
    (again,) = batch.as_completed()
    assert again.equals(whole)


def test_a_loop_over_results_can_be_left(tasks: ct.Client, serve: Serve) -> None:
    """The batch goes on; what holds it back is an error after the rows that have ended."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    handler = serve(square, name=f"square-{queue.id}")
    batch = queue.fan_out(ROWS, url=handler, progress=False)
    next(batch.as_completed())
    assert batch.wait("240s").done == len(ROWS)
    held = queue.fan_out(ROWS, url=handler, name="held", canary=4, progress=False)
    parts: list[pd.DataFrame] = []
    with pytest.raises(PreconditionError, match="canary"):
        parts.extend(held.as_completed())
    assert sum(map(len, parts)) == 4


def test_an_api_stores_no_results(once: ct.Queue, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks that call it directly have states alone, and the one reason is said."""
    batch = once.fan_out(ROWS.head(2), url=target.url, progress=False)
    batch.wait("240s")
    capsys.readouterr()
    assert batch.results()["state"].tolist() == ["succeeded"] * 2
    assert capsys.readouterr().out.endswith("the target is no handler of this package and stores no results\n")


def test_a_store_that_does_not_answer(
    once: ct.Queue, emulator: Emulator, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no owner of a batch, so nothing is stored; later `results()` says so, and outcomes come from the log."""
    store = tmp_path / "store"
    store.write_text("no folder")
    monkeypatch.setenv("CLOUDTASKS_NB_STORE", str(store))
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as tasks:
        handler = serve(square, name=f"square-{once.id}", store=tmp_path / "other")
        send = partial(tasks.queue(once.id).fan_out, ROWS, url=handler, progress=False)
        with pytest.raises(PreconditionError, match="a batch needs an owner in the store"):
            send()
        assert tasks.batches().empty
        store.unlink()
        batch = send()
        assert batch.wait("240s").failed == 5
        store.rename(tmp_path / "away")
        store.write_text("no folder")
        with pytest.raises(StoreError, match="store"):
            batch.results()


TAGS: list[Callable[[str], str | None]] = [lambda _: None, lambda _: "", lambda task: tag_of(bytes(16), task)]


def cell(tasks: ct.Client, target: Target | ct.Handler) -> ct.Batch:
    """Run the cell."""
    queue = tasks.queue("reports", create=True, max_attempts=1)
    return queue.fan_out(ROWS, url=target.url, body=["x"], name="march", progress=False)


def forge(store: Path, tasks: Iterable[str], tag: Callable[[str], str | None], result: object = "forged") -> None:
    """Store successes of tasks."""
    writer, started = ResultWriter(Store(store)), dt.datetime.now(dt.UTC)
    for task in tasks:
        fields = {"task": task, "attempt": 9, "status": 200, "started": started, "duration": 0.1, "error": None}
        writer.put(StoredResult(**fields, result=result, tag=tag(task)))  # type: ignore[arg-type]  # a dict of all


def test_no_row_is_held_back(connect: Connect, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of tasks can be known before any is sent; results under these ids do not make a row a sent one."""
    with monkeypatch.context() as patched:
        patched.setattr(Sending, "begin", lambda _: None)
        known = list(cell(connect("mallory", "mallory-store"), target).tasks()["task"])
    for tag in TAGS:
        forge(tmp_path / "store", known, tag)
    batch = cell(connect("ada"), target)
    assert batch.wait("240s").succeeded == 20
    assert len(target.received) == 20
    assert batch.results()["result"].isna().all()  # a target that is not ours stores none
