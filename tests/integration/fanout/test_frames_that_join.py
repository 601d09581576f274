"""Frames of a batch join to its input: by the labels of the input's own index."""

import datetime as dt
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
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
