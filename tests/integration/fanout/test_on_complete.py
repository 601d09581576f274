"""A notification that a batch is done is created once a round, by any process that watches the batch."""

import datetime as dt
import json
import queue as queues
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import cli
from cloudtasks_nb.errors import InvalidInputError
from tests.integration.conftest import Emulator, Target
from tests.integration.fanout.conftest import Serve, fault, reached, sent

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

ROWS = pd.DataFrame({"row": range(4)})
ACCOUNT = "teller@demo.iam.gserviceaccount.com"
Connect = Callable[[], Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for another look."""
    monkeypatch.setattr("cloudtasks_nb.fanout.batch.completion._RETRY", 0.01)


@pytest.fixture
def connect(emulator: Emulator) -> Connect:
    """Give further connections to the file's emulator."""
    return lambda: ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"])


@pytest.fixture
def left(connect: Connect, paused: ct.Queue, target: Target) -> ct.Batch:
    """Give a batch whose end is to be notified, and which nobody watches any more."""
    with connect() as here:
        return sent(here.queue(paused.id).fan_out(ROWS, url=target.url).on_complete(done_url(target)))


def done_url(target: Target) -> str:
    """Return where the notifications go."""
    return target.url.replace("/job", "/done")


def notifications(target: Target, count: int) -> list[dict[str, Any]]:
    """Wait for so many notifications beside the requests of the rows, and return what they say."""
    end = time.monotonic() + 20
    total = count
    while True:
        found = [json.loads(one.body) for one in target.wait(total) if one.path == "/done"]
        if len(found) >= count:
            return found
        assert time.monotonic() < end
        total = len(target.received) + 1


def created(emulator: Emulator, queue: ct.Queue) -> list[str]:
    """Return the rounds of which a notification was carried by a queue, once its tasks have ended."""
    emulator.drained(queue.name)
    found = emulator.request("GET", f"/admin/history?queue={quote(queue.name)}")["tasks"]
    return sorted(task["task"].rpartition("-complete-")[2] for task in found if "-complete-" in task["task"])


def test_the_content_of_a_notification(once: ct.Queue, target: Target) -> None:
    """One task says how the batch ended, as JSON, without being a row of it."""
    batch = once.fan_out(ROWS, url=target.url, name="nightly")
    assert batch.on_complete(done_url(target)).wait("240s").succeeded == 4
    (summary,) = notifications(target, 1)
    times = [dt.datetime.fromisoformat(summary.pop(name)) for name in ("created", "completed")]
    assert times == sorted(times)
    assert all(at.tzinfo for at in times)
    assert summary == {
        "batch": batch.id,
        "name": "nightly",
        "queue": once.name,
        "round": 1,
        "total": 4,
        "succeeded": 4,
        "failed": 0,
        "rejected": 0,
        "cancelled": 0,
        "gone": 0,
    }
    assert len(batch.tasks()) == 4


def test_a_new_round(once: ct.Queue, emulator: Emulator, target: Target, serve: Serve) -> None:
    """What was retried or sent again has an end of its own, with its own notification."""
    broken = True

    def work(row: int) -> None:
        if broken and row == 0:
            raise RuntimeError("not yet")

    batch = once.fan_out(ROWS, url=serve(work)).on_complete(done_url(target))
    assert batch.wait("240s").failed == 1
    broken = False
    assert batch.retry_failed().wait("240s").failed == 0
    batch.retry_failed().wait("240s")  # there is nothing to retry, so no new round
    batch.resend(batch.tasks().head(2)).wait("240s")
    assert [(one["round"], one["succeeded"], one["failed"]) for one in notifications(target, 3)] == [
        (1, 3, 1),
        (2, 4, 0),
        (3, 4, 0),
    ]
    assert created(emulator, once) == ["1", "2", "3"]


def test_a_cancelled_batch(once: ct.Queue, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the last look at the queue comes while the cancelling is about to end."""
    batch = once.fan_out(ROWS, url="http://127.0.0.1:9/", delay="1h", progress=False)
    reached(batch, lambda progress: progress.scheduled == len(ROWS))
    batch.on_complete(done_url(target))
    watcher: Any = batch._connection.watcher
    tracker = batch._tracker
    refresh, seen = watcher.refresh, queues.SimpleQueue[Any]()
    watcher.subscribe(tracker.queue, seen.put)
    before = seen.get(timeout=240)

    def look_in_between(queue: Any) -> None:
        tracker._arrived(replace(before, entries=()))
        refresh(queue)

    monkeypatch.setattr(watcher, "refresh", look_in_between)
    batch.cancel().wait("240s")
    assert [one["cancelled"] for one in notifications(target, 1)] == [len(ROWS)]


def test_registered_after_the_end(once: ct.Queue, emulator: Emulator, target: Target) -> None:
    """A URL registered after the end is notified at once; the same cell again notifies nobody twice."""
    batch = once.fan_out(ROWS, url=target.url)
    batch.wait("240s")
    for _ in range(2):
        batch.on_complete(done_url(target)).wait("240s")
    assert len(notifications(target, 1)) == 1
    assert created(emulator, once) == ["1"]


@pytest.mark.parametrize("how", ["cloudtasks-nb watch", "tasks.batch(id)"])
def test_nobody_watched(
    left: ct.Batch, connect: Connect, paused: ct.Queue, emulator: Emulator, target: Target, capsys: Any, how: str
) -> None:
    """The call prints which process notifies; when all have left, the next that attaches does."""
    assert f"cloudtasks-nb watch {left.id}" in capsys.readouterr().out
    paused.resume()
    assert created(emulator, paused) == []
    if how == "tasks.batch(id)":
        with connect() as later:
            later.batch(left.id)
            notifications(target, 1)
    else:
        assert cli.main(["watch", left.id]) == 0
        assert "4 rows" in capsys.readouterr().out
    assert [summary["batch"] for summary in notifications(target, 1)] == [left.id]
    assert created(emulator, paused) == ["1"]


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "PERMISSION_DENIED"])
def test_the_service_does_not_take_it(once: ct.Queue, emulator: Emulator, target: Target, code: str) -> None:
    """It is tried again, and meanwhile the repr shows why no notification was created."""
    with fault(emulator, "CreateTask", code):
        batch = once.fan_out(ROWS, url=target.url).on_complete(done_url(target))
        reached(batch, lambda _: "a notification of the batch's end was not created" in repr(batch))
        if code == "PERMISSION_DENIED":  # does not come by waiting
            assert batch.wait("240s").succeeded == 4
    assert batch.wait("240s").succeeded == 4
    assert len(notifications(target, 1)) == 1
    reached(batch, lambda _: "was not created" not in repr(batch))
    assert created(emulator, once) == ["1"]


@pytest.mark.parametrize("logged", [1.0, 0.0])
def test_an_answer_is_lost(once: ct.Queue, emulator: Emulator, target: Target, logged: float) -> None:
    """A notification that was created without our knowing is not created twice: the log tells it, or else its name."""
    once.update(log_sampling_ratio=logged)
    emulator.request("POST", "/admin/faults", {"method": "CreateTask", "code": "UNAVAILABLE", "after": True})
    batch = once.fan_out(ROWS, url=target.url, delay="1h").on_complete(done_url(target))
    batch.cancel().wait("240s")
    assert len(notifications(target, 1)) == 1
    assert created(emulator, once) == ["1"]
    assert "was not created" not in repr(batch)


@pytest.mark.parametrize("kind", [LookupError, NameError])
def test_a_notification_that_fails_is_told(
    tasks: ct.Client, once: ct.Queue, target: Target, serve: Serve, connect: Connect, kind: type[Exception]
) -> None:
    """Status, repr and list say why, in other kernels too; the line that they show sends it again."""
    broken = True

    def finish(**_: Any) -> None:
        if broken:
            raise kind("no such month")

    batch = once.fan_out(ROWS, url=target.url).on_complete(serve(finish))
    assert batch.wait("240s").succeeded == 4
    reached(batch, lambda _: bool(batch.status().reason))
    told = f"all rows succeeded; the notification failed: {kind.__name__}: no such month"
    assert (batch.status().state, batch.status().reason) == ("succeeded", told)
    assert f"{told} → {batch.status().action}" in repr(batch)
    with connect() as other:
        assert other.batches()["reason"].tolist() == tasks.batches()["reason"].tolist() == [told]
    broken = False
    eval(str(batch.status().action), {"batch": batch})  # noqa: S307 - a line of ours
    reached(batch, lambda _: batch.status().reason is None)


def test_a_notification_that_fails_beside_rows(once: ct.Queue, serve: Serve) -> None:
    """Why the rows failed comes first, and the line that helps them."""

    def fail(**_: Any) -> None:
        raise LookupError("never")

    handler = serve(fail)
    batch = once.fan_out(ROWS, url=handler).on_complete(handler)
    batch.wait("240s")
    reached(batch, lambda _: "notification" in str(batch.status().reason))
    assert str(batch.status().reason).startswith("4 failed (LookupError")
    assert str(batch.status().reason).endswith("; the notification failed: LookupError: never")
    assert repr(batch).count("4 failed (LookupError") == 1
    assert batch.status().action == "batch.retry_failed()"


def test_a_handler_takes_it(tmp_path: Path, target: Target) -> None:
    """On the embedded emulator, a function that wants the token of an account gets the summary as its arguments."""
    heard: queues.Queue[dict[str, Any]] = queues.Queue()
    with ct.local(tmp_path / "emulator") as tasks:

        def done(**summary: Any) -> None:
            heard.put(summary)

        with ct.serve(done, service_account=ACCOUNT) as handler:
            batch = tasks.queue("nightly", create=True).fan_out(ROWS, url=target.url)
            batch.on_complete(handler, service_account=ACCOUNT).wait("240s")
            summary = heard.get(timeout=240)
    assert (summary["batch"], summary["succeeded"]) == (batch.id, 4)
    assert handler.calls()["status"].tolist() == [200]


def test_a_queue_that_sends_elsewhere(tasks: ct.Client, once: ct.Queue, emulator: Emulator, target: Target) -> None:
    """It would carry the notification away, so it is refused; another queue carries it."""
    once.route(target.url)
    batch = once.fan_out(ROWS, url="http://127.0.0.1:9/x")
    with pytest.raises(InvalidInputError, match="queue="):
        batch.on_complete(done_url(target))
    notices = tasks.queue("notices", create=True)
    batch.on_complete(done_url(target), queue=notices).wait("240s")
    assert [summary["queue"] for summary in notifications(target, 1)] == [once.name]
    assert (created(emulator, once), created(emulator, notices)) == ([], ["1"])
