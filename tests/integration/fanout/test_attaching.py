"""The same cell again, another cell, another kernel, another endpoint: nothing sent twice, nothing silently dropped."""

from __future__ import annotations

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb.errors import (
    BatchExistsError,
    BatchNotFoundError,
    DuplicateRowsError,
    InvalidInputError,
    OutboxError,
    RowsError,
    TemplateError,
)
from cloudtasks_nb.fanout.batch.catalog import outbox_path
from cloudtasks_nb.fanout.outbox.records import Outcome, State
from tests.integration.conftest import Emulator, StartEmulator
from tests.integration.fanout.conftest import reached

URL = "http://127.0.0.1:9/run"
ROWS = pd.DataFrame({"day": range(300)})


def sent(progress: Any) -> bool:
    """Tell whether every row has been acknowledged."""
    return not progress.unsent


def in_queue(queue: ct.Queue) -> int:
    """Return how many tasks are in the queue."""
    return len(queue.tasks(limit=None))


def test_the_same_cell_three_times(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """The second and third attach and say so."""
    batches = []
    for _ in range(3):
        batches.append(paused.fan_out(ROWS, url=URL))
        reached(batches[-1], sent)
    assert len({batch.id for batch in batches}) == 1
    assert in_queue(paused) == 300
    assert capsys.readouterr().out.count("has 300 of these rows already; nothing new to send") == 2


def test_a_longer_frame_under_the_same_name(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the rows that the batch does not have are sent."""
    paused.fan_out(ROWS.head(200), url=URL, name="growing")
    batch = paused.fan_out(ROWS, url=URL, name="growing")
    reached(batch, sent)
    assert in_queue(paused) == 300
    assert "has 200 of these rows already; 100 new ones will be sent" in capsys.readouterr().out
    assert list(batch.tasks()["day"]) == list(range(300))


def test_an_order_of_rows_is_no_other_batch(paused: ct.Queue) -> None:
    """Rows are a set; unused columns and dtypes change nothing either."""
    first = paused.fan_out(ROWS, url=URL, body=["day"])
    shuffled = ROWS.sample(frac=1, random_state=1).assign(unused=1).astype({"day": "Int64"})
    second = paused.fan_out(shuffled, url=URL, body=["day"])
    assert first.id == second.id


def test_what_is_said_counts_in_words(paused: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """One row is, several are; a batch that has no other name than its id is said once, and no rows are no rows."""
    rows = pd.DataFrame({"day": [1, 2, 2, None]})
    batch = paused.fan_out(rows, url=f"{URL}/{{day}}", errors="skip", name="words")
    assert capsys.readouterr().out == ("1 row is rejected: batch.tasks() has the reasons; 1 duplicate is left out\n")
    reached(batch, lambda progress: not progress.unsent)
    paused.fan_out(pd.DataFrame({"day": [1.0, 2, 3]}), url=f"{URL}/{{day}}", name=batch.id)
    assert capsys.readouterr().out == f"batch {batch.id} has 2 of these rows already; 1 new one will be sent\n"
    batch.cancel()
    reached(batch, lambda progress: progress.cancelled == 3)
    paused.fan_out(pd.DataFrame({"day": [1.0]}), url=f"{URL}/{{day}}", name="words")
    assert capsys.readouterr().out.endswith("already; nothing new to send; 1 cancelled is left\n")
    paused.fan_out(rows.head(0), url=f"{URL}/{{day}}", name="words")
    assert capsys.readouterr().out == f"there are no rows here; batch words ({batch.id}) stays as it is\n"


def test_an_overlap_without_a_name(paused: ct.Queue) -> None:
    """It is not clear what is meant, so nothing is sent, and both ways out are named."""
    batch = paused.fan_out(ROWS, url=URL)
    reached(batch, sent)
    more = pd.DataFrame({"day": range(302)})
    with pytest.raises(BatchExistsError) as caught:
        paused.fan_out(more, url=URL)
    text = str(caught.value)
    assert f"300 of 302 are in {batch.id}" in text
    assert f'name="{batch.id}" sends the other 2' in text
    assert in_queue(paused) == 300
    reached(paused.fan_out(more, url=URL, name=batch.id), sent)
    assert in_queue(paused) == 302


def test_a_name_with_other_templates(paused: ct.Queue) -> None:
    """A batch is made of one recipe; another one under its name sends nothing."""
    paused.fan_out(ROWS, url=URL, name="n")
    with pytest.raises(BatchExistsError, match="other templates"):
        paused.fan_out(ROWS, url=f"{URL}/other", name="n")


def test_a_key_with_another_request(paused: ct.Queue) -> None:
    """The row is known, but it would send something else now."""
    rows = ROWS.assign(value=1)
    reached(paused.fan_out(rows, url=URL, key=["day"], name="n"), sent)
    with pytest.raises(BatchExistsError):
        paused.fan_out(rows.assign(value=2), url=URL, key=["day"], name="n")
    assert in_queue(paused) == 300


def test_a_new_name_sends_all_again(paused: ct.Queue) -> None:
    """On purpose."""
    for name in ("one", "two"):
        reached(paused.fan_out(ROWS, url=URL, name=name), sent)
    assert in_queue(paused) == 600


def test_rehearsed_on_one_emulator_then_run_on_another(start_emulator: StartEmulator) -> None:
    """A batch of one endpoint never answers for another."""
    counts = []
    for _ in range(2):
        emulator = start_emulator()
        with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as tasks:
            queue = tasks.queue("same", create=True).pause()
            reached(queue.fan_out(ROWS, url=URL, name="same"), sent)
            counts.append((in_queue(queue), len(tasks.batches())))
    assert counts == [(300, 1), (300, 1)]


def finish(batch: ct.Batch, state: State) -> None:
    """Let every row of a batch end in a state."""
    refs = [ref for page in batch._outbox.rows.pages(batch.id) for ref in page.refs]
    batch._outbox.outcomes.record(batch.id, [Outcome(ref=ref, attempt=1, state=state) for ref in refs])


def test_the_same_frame_resent_twice_sends_once(paused: ct.Queue) -> None:
    """The frame names the tasks that it was made of; a row that has a newer one is left."""
    batch = paused.fan_out(ROWS, url=URL)
    reached(batch, sent)
    finish(batch, State.GONE)
    frame = batch.tasks().head(10)
    batch.resend(frame).resend(frame)
    reached(batch, sent)
    assert batch.tasks()["try"].value_counts().to_dict() == {1: 290, 2: 10}
    assert in_queue(paused) == 310


def test_retry_failed_twice_sends_once(paused: ct.Queue) -> None:
    """The second call finds no failed rows."""
    batch = paused.fan_out(ROWS, url=URL)
    reached(batch, sent)
    finish(batch, State.FAILED)
    batch.retry_failed().retry_failed()
    reached(batch, sent)
    assert set(batch.tasks()["try"]) == {2}
    assert in_queue(paused) == 600


def test_retry_failed_from_two_connections_at_once_sends_once(
    paused: ct.Queue, tasks: ct.Client, emulator: Emulator
) -> None:
    """Whoever is first opens the new tries; the other one finds none that failed."""
    batch = paused.fan_out(ROWS, url=URL)
    reached(batch, sent)
    finish(batch, State.FAILED)
    start = threading.Barrier(2)

    def retry(other: ct.Batch) -> None:
        start.wait()
        other.retry_failed()

    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as second, ThreadPoolExecutor(2) as pool:
        list(pool.map(retry, [tasks.batch(batch.id), second.batch(batch.id)]))
        reached(second.batch(batch.id), sent)
    reached(batch, sent)
    assert set(batch.tasks()["try"]) == {2}
    assert in_queue(paused) == 600


def test_batches_are_found_again(tasks: ct.Client, paused: ct.Queue) -> None:
    """By the beginning of the id, by the name, or the newest."""
    first = paused.fan_out(ROWS, url=URL, name="first")
    second = paused.fan_out(ROWS, url=URL, name="second")
    assert list(tasks.batches().index) == [second.id, first.id]
    assert tasks.batch().id == second.id
    assert tasks.batch("first").id == first.id
    assert tasks.batch(first.id[:6]).id == first.id
    with pytest.raises(BatchNotFoundError, match="zzz"):
        tasks.batch("zzz")


BAD: list[tuple[str, pd.DataFrame, dict[str, Any], type[Exception], str]] = [
    ("missing column", ROWS, {"url": URL + "/{dya}"}, TemplateError, 'did you mean "day"'),
    ("not http", ROWS, {"url": "ftp://x"}, InvalidInputError, "ftp://x"),
    ("nan in the url", pd.DataFrame({"a": [1.5, np.nan]}), {"url": URL + "/{a}"}, RowsError, "row 1"),
    ("unserializable", pd.DataFrame({"a": [{1, 2}]}), {"url": URL}, RowsError, '"a"'),
    ("over 1 MiB", pd.DataFrame({"a": ["x", "x" * 1_100_000]}), {"url": URL}, RowsError, "row 1"),
    ("duplicates", pd.DataFrame({"a": [1, 2, 2, 2]}), {"url": URL}, DuplicateRowsError, "2"),
    (
        "too far ahead",
        pd.DataFrame({"a": [1], "at": [pd.Timestamp.now("UTC") + pd.Timedelta(days=31)]}),
        {"url": URL, "at": "{at}"},
        RowsError,
        "30",
    ),
    ("naive time", ROWS, {"url": URL, "at": dt.datetime(2030, 1, 1)}, InvalidInputError, "time zone"),  # noqa: DTZ001
    ("a queue's word", ROWS, {"url": URL, "rate": 5}, TypeError, "queue.update(rate=5)"),
]


@pytest.mark.parametrize(("what", "data", "words", "error", "says"), BAD, ids=[what for what, *_ in BAD])
def test_bad_input(
    tasks: ct.Client,
    paused: ct.Queue,
    what: str,
    data: pd.DataFrame,
    words: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    """One clear error that names the thing; no batch, no task."""
    with pytest.raises(error) as caught:
        paused.fan_out(data, **words)
    assert says in str(caught.value)
    assert tasks.batches().empty
    assert in_queue(paused) == 0


def test_bad_rows_can_be_skipped(paused: ct.Queue) -> None:
    """They are listed as rejected, with their reasons; the others are sent."""
    data = pd.DataFrame({"a": [1.5, np.nan, 2.5], "state": ["x", "y", "z"]})
    batch = paused.fan_out(data, url=URL + "/{a}", body=["state"], errors="skip")
    reached(batch, sent)
    table = batch.tasks()
    assert list(table["state"]) == ["ready", "rejected", "ready"]
    assert list(table["state_in"]) == ["x", "y", "z"]
    assert "missing" in table["last_message"][1]
    assert in_queue(paused) == 2


def test_a_dry_run_sends_nothing(tasks: ct.Client, paused: ct.Queue) -> None:
    """It shows what would be sent, and submit() sends it."""
    plan = paused.fan_out(ROWS, url=URL, dry_run=True)
    assert (plan.rows, plan.sendable) == (300, 300)
    assert tasks.batches().empty
    batch = plan.submit()
    reached(batch, sent)
    assert in_queue(paused) == 300


def test_a_damaged_outbox(paused: ct.Queue) -> None:
    """It is said before anything is sent, with what to do."""
    outbox_path().write_bytes(b"this is not a database" * 1000)
    with pytest.raises(OutboxError, match="damaged") as caught:
        paused.fan_out(ROWS, url=URL)
    assert "CLOUDTASKS_NB_HOME" in str(caught.value)
    assert in_queue(paused) == 0
