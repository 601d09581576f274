"""Frames in and out: they join with the frame that was given, stand in files, and come of dicts that differ in keys."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import InvalidInputError
from cloudtasks_nb.fanout.plan.simulation import check_drain
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import Serve, reached, sent

URL = "http://127.0.0.1:9/run"
DAYS = pd.date_range("2026-03-28", periods=4, tz="Europe/Zurich", name="day")


def test_a_restart_and_a_longer_frame(emulator: Emulator, paused: ct.Queue) -> None:
    """Another client has the labels too; rows that a longer frame adds keep theirs; no failed row has the dtypes."""
    frame = pd.DataFrame({"n": range(4)}, index=DAYS)
    sent(paused.fan_out(frame.head(2), url=URL, name="days"))
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as later:
        batch = sent(later.queue(paused.id).fan_out(frame.iloc[::-1], url=URL, name="days"))
        tasks = batch.tasks()
        assert frame["n"].eq(tasks["n"].reindex(DAYS)).all()
        failed = batch.failed()
        assert failed.index.dtype == DAYS.dtype
        assert failed.drop(columns="error").dtypes.to_dict() == tasks.dtypes.to_dict()


BY_COLUMNS = "df.merge(batch.results(), on=[...])"


@pytest.mark.parametrize("labels", [[5, 6], ["a", "b"], None])
def test_frames_whose_indexes_are_not_unique_together(
    labels: list[Any] | None, paused: ct.Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    """The position is the index then, which is said once, also where the indexes only count rows."""
    frame = pd.DataFrame({"n": [1, 2, 3]}, index=labels and [*labels, 7])
    sent(paused.fan_out(frame.head(2), url=URL, name="both"))
    batch = sent(paused.fan_out(frame.tail(1).set_axis(frame.index[:1]), url=URL, name="both")).whole
    capsys.readouterr()
    for made in (batch.tasks(), batch.tasks(), batch.failed()):
        assert made.index.name == "row"
    said = capsys.readouterr().out
    assert said.count("several inputs") == said.count(BY_COLUMNS) == 1


def test_an_index_that_is_not_unique(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """The position is the index, and the reader learns how to join all the same."""
    frame = pd.concat([pd.DataFrame({"n": [4]}), pd.DataFrame({"n": [5]})])
    tasks = sent(paused.fan_out(frame, url=URL)).tasks()
    said = capsys.readouterr().out
    words = ["the index of the input is not unique", "by index is wrong", "df.reset_index(drop=True)", BY_COLUMNS]
    assert [word for word in words if word not in said] == []
    assert tasks.index.tolist() == [0, 1]


def test_a_renamed_column_is_said(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has a column `state` reads under which name it will be found."""
    plan = paused.fan_out(pd.DataFrame({"state": ["NY"]}), url=URL, dry_run=True)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert '"state" is "state_in"' in said
    assert sent(plan.submit()).tasks()["state_in"].tolist() == ["NY"]


def test_http_statuses_of_a_handler(once: ct.Queue, serve: Serve) -> None:
    """The handler has stored with which status it answered arguments that do not fit; an exception has none."""

    def work(day: dt.date) -> int:
        return {1: 5}[day.day]

    batch = once.fan_out(pd.DataFrame({"day": ["2013-01-01", "2013-01-02", "soon"]}), url=serve(work))
    batch.wait(timeout="240s")
    failed = batch.failed()
    assert failed["last_status"].tolist() == ["ERROR", "INVALID_ARGUMENT"]
    assert failed["last_http_status"].fillna(0).tolist() == [0, 400]
    assert str(failed["last_http_status"].dtype) == "Int64"


def test_http_statuses_of_other_targets(queue: ct.Queue, target: Target) -> None:
    """What a task in the queue shows is known; of a task that has left it, nothing is assumed."""
    queue.update(max_attempts=2, min_backoff="1h", max_backoff="1h")
    target.script(502, 500)
    batch = queue.fan_out(pd.DataFrame({"n": [1]}), url=target.url)
    reached(batch, lambda progress: progress.retrying)
    assert batch.tasks()["last_http_status"].tolist() == [502]
    queue.run(batch.tasks())
    batch.wait(timeout="240s")
    row = batch.failed().iloc[0]
    assert (row["last_status"], row["last_http_status"] is pd.NA) == ("INTERNAL", True)


class Made(NamedTuple):
    """What the frames come from."""

    tasks: ct.Client
    queue: ct.Queue
    batch: ct.Batch
    handler: ct.Handler
    plan: Any


@pytest.fixture
def made(tasks: ct.Client, once: ct.Queue, serve: Serve) -> Made:
    """Give a batch that is done, with a row that failed, and a queue with a task that waits."""

    def work(n: int, state: str) -> Any:
        return [{"parts": [1]}, None, {"half": 0.5}][n]

    handler = serve(work)
    rows = pd.DataFrame({"n": [0, 1, 2, 3], "state": pd.Categorical(list("abca"))})
    batch = once.fan_out(rows.set_index(pd.date_range("2026-03-28", periods=4, tz="Europe/Zurich")), url=handler)
    batch.wait(timeout="240s")
    once.enqueue("http://127.0.0.1:9/x", {"a": [1]}, delay="1h")
    once.enqueue("http://127.0.0.1:9/x", {"b": "text"}, delay="1h")
    plan = once.backfill("2026-01-01", "2026-01-03", freq="D", url="http://127.0.0.1:9/x", dry_run=True)
    return Made(tasks, once, batch, handler, plan)


FRAMES: dict[str, Callable[[Made], pd.DataFrame]] = {
    "queues": lambda made: made.tasks.queues(),
    "batches": lambda made: made.tasks.batches(),
    "doctor": lambda made: made.tasks.doctor(),
    "tasks": lambda made: made.queue.tasks(body=True),
    "tasks without bodies": lambda made: made.queue.tasks(limit=1),
    "attempts": lambda made: made.queue.attempts(),
    "actions": lambda made: made.queue.delete_tasks(made.queue.tasks()),
    "one task": lambda made: made.queue.enqueue("http://127.0.0.1:9/x", delay="1h"),
    "batch tasks": lambda made: made.batch.tasks(),
    "failed": lambda made: made.batch.failed(),
    "results": lambda made: made.batch.results(),
    "errors": lambda made: made.batch.errors(),
    "attempts of a batch": lambda made: made.batch.attempts(),
    "calls": lambda made: made.handler.calls(),
    "plan": lambda made: made.plan.frame,
    "tasks of a backfill": lambda made: made.plan.submit().tasks(),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_frame_in_every_format(frame: Callable[[Made], pd.DataFrame], made: Made, tmp_path: Path) -> None:
    """Parquet, Feather and JSON take each frame as it is; Parquet keeps the number of rows, the names and `attrs`."""
    written = frame(made)
    assert len(written)
    written.to_parquet(tmp_path / "frame.parquet")
    written.to_feather(tmp_path / "frame.feather")
    written.to_json(tmp_path / "frame.json", orient="split", date_format="iso")
    read = pd.read_parquet(tmp_path / "frame.parquet")
    assert (list(read), len(read), read.attrs) == (list(written), len(written), written.attrs)
    assert len(pd.read_feather(tmp_path / "frame.feather")) == len(written)
    assert len(pd.read_json(tmp_path / "frame.json", orient="split")) == len(written)


MIXED: list[dict[str, Any]] = [{"day": "a"}, {"day": "b", "kind": "x"}, {"day": "c", "kind": None}]


@pytest.mark.parametrize("body", [None, ["day", "kind"]])
def test_a_key_that_a_row_lacks_is_left_out(queue: ct.Queue, target: Target, body: Any) -> None:
    """The function's own default holds then; a key with None is sent as null."""
    batch = queue.fan_out(MIXED, url=target.url, body=body)
    batch.wait(240)
    found = sorted((json.loads(one.body) for one in target.received), key=lambda one: str(one["day"]))
    assert found == MIXED
    assert batch.tasks()["state"].tolist() == ["succeeded"] * 3


def test_the_default_of_a_function(queue: ct.Queue) -> None:
    """Also in a long input, whose later blocks lack other keys."""

    def kinds(day: int, kind: str = "default") -> str:
        return f"{day} {kind}"

    rows: list[dict[str, Any]] = [{"day": day, **({"kind": "x"} if day % 3 else {})} for day in range(3000)]
    plan = queue.fan_out(rows, url=ct.serve(kinds), dry_run=True)
    assert [plan.try_one(row=row).result for row in (2998, 2999)] == ["2998 x", "2999 x"]
    assert [plan.try_one(row=row).result for row in (0, 2997)] == ["0 default", "2997 default"]


def test_a_function_that_needs_the_key(queue: ct.Queue) -> None:
    """Only the rows that lack it are refused, whichever comes first."""

    def both(day: str, kind: str) -> str:
        return day + kind

    handler = ct.serve(both)
    for name, rows in {"lacking first": MIXED[:2], "lacking last": MIXED[1::-1]}.items():
        batch = queue.fan_out(rows, url=handler, errors="skip", name=name)
        batch.wait(240)
        assert sorted(batch.tasks()["state"]) == ["rejected", "succeeded"]


def test_rows_that_would_expire(tasks: ct.Client, target: Target) -> None:
    """A queue that needs more than 30 days is refused before anything is stored; the error has what would do."""
    queue = tasks.queue("slow", create=True, rate=0.001)
    rows = [{"day": day} for day in range(2593)]
    plan = queue.fan_out(rows, url=target.url, dry_run=True)
    assert "plan.submit() would raise: 2,593 tasks at 0.001 a second take 30 d" in repr(plan)
    for call in (plan.submit, lambda: queue.fan_out(rows, url=target.url)):
        with pytest.raises(InvalidInputError, match="deletes tasks that are 31 days old") as caught:
            call()
        assert 'tasks.queue("slow").update(rate=0.002), or send_rate=0.001' in (caught.value.hint or "")
    assert len(tasks.batches()) == 0
    thirds = tasks.queue("thirds", create=True, rate=2 / 3)
    check_drain(10_000_000, thirds.id, 2 / 3, 0.666666)  # what the hint says is taken
    with pytest.raises(InvalidInputError, match="10,000,000 tasks") as caught:
        check_drain(10_000_000, thirds.id, 2 / 3, None)
    assert "send_rate=0.666666:" in (caught.value.hint or "")
    batch = queue.fan_out(rows[:-1], url=target.url, send_rate=1)
    batch.cancel()
    paced = queue.fan_out(rows, url=target.url, send_rate=0.001, name="paced")
    assert paced.progress().total == 2593
    paced.cancel()
