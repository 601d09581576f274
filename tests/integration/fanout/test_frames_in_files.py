"""Every frame of the public API whose values are alike can be written to a file, and is read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

import cloudtasks_nb as ct
from tests.integration.fanout.conftest import Serve


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
