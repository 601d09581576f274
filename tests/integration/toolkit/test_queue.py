"""The methods of `Queue`, over gRPC and REST to the emulator: what arrives at the target, and what is in the queue."""

import datetime as dt
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.cloud import tasks_v2, tasks_v2beta3
from google.cloud.logging_v2.types import ListLogEntriesResponse

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from cloudtasks_nb._frames import ATTEMPTS, TASKS
from cloudtasks_nb._frames import frame as declared
from cloudtasks_nb.service.costs import LOG_PRICE
from tests.cases import cases
from tests.integration.conftest import Emulator, Intercept, Target, attempted, dtypes
from tests.raising import raises

#: Each test runs over gRPC and over REST.
BOTH_TRANSPORTS = True

NOWHERE = "http://127.0.0.1:9/never"


@pytest.fixture
def filled(paused: ct.Queue) -> ct.Queue:
    """Give a paused queue with three tasks."""
    for number in range(3):
        paused.enqueue(NOWHERE, {"n": number}, task_id=f"task-{number}")
    return paused


def test_tasks_are_a_frame(paused: ct.Queue) -> None:
    """Columns and dtypes are the declared ones, the same when the queue is empty."""
    empty = paused.tasks()
    made = paused.enqueue("https://svc.example.com/run", {"day": 1}, task_id="t")
    full = paused.tasks()
    for frame in (empty, made, full):
        assert dtypes(frame) == dtypes(declared(TASKS, {}, index="task"))
        assert (frame.index.name, str(frame.index.dtype)) == ("task", "string")
    assert (len(empty), full.index.tolist()) == (0, ["t"])
    row = [paused.id, "ready", "POST", "https://svc.example.com/run"]
    assert full[["queue", "state", "method", "url"]].to_numpy().tolist() == [row]
    assert made["name"].tolist() == full["name"].tolist() == [f"{paused.name}/tasks/t"]
    assert full.attrs["truncated"] is False
    assert abs(pd.Timestamp(full.attrs["fetched_at"]) - pd.Timestamp.now("UTC")) < pd.Timedelta("1h")


@pytest.mark.parametrize("limit", [2, np.int64(2), 3, 1000, None])
def test_a_limit(filled: ct.Queue, capsys: pytest.CaptureFixture[str], limit: int | None) -> None:
    """A note and the frame's `attrs` report that there is more; a limit that is just enough cuts nothing."""
    found, cut = filled.tasks(limit), limit == 2
    assert (len(found), found.attrs["truncated"]) == (2 if cut else 3, cut)
    assert json.dumps([found.attrs, filled.attempts(limit=limit).attrs])  # with them frames are written to files
    note = "the first 2 tasks; there are more: queue.tasks(limit=None)\n"
    assert capsys.readouterr().out == (note if cut else "")


def test_run(filled: ct.Queue, target: Target) -> None:
    """Tasks of a paused queue are dispatched now, the others stay."""
    filled.route(target.url)
    done = filled.run(filled.tasks().head(2))
    assert done.ok.tolist() == [True, True]
    assert done.error.isna().all()
    ran = {request.headers["x-cloudtasks-taskname"] for request in target.wait(2)}
    assert ran == set(done.task)


@pytest.mark.parametrize("verb", ["run", "delete_tasks"])
def test_none(queue: ct.Queue, verb: str) -> None:
    """An empty frame is no error, and its verdicts have the same columns."""
    done = getattr(queue, verb)(queue.tasks())
    assert (len(done), dtypes(done)) == (0, {"task": "string", "ok": "boolean", "error": "string"})


def test_attempts(emulator: Emulator, queue: ct.Queue, target: Target) -> None:
    """One row an attempt, newest first; the message is that of the task's last attempt, while it is in the queue."""
    expected = dtypes(declared(ATTEMPTS, {}))
    assert dtypes(queue.attempts()) == expected
    queue.update(min_backoff="1h", max_backoff="1h")
    target.script(200, 503)
    queue.enqueue(target.url, task_id="good")
    target.wait(1)
    queue.enqueue(target.url, task_id="bad")
    found = attempted(emulator, queue, 2)
    assert dtypes(found) == expected
    rows = [[task, queue.id, 1, status, target.url] for task, status in (("bad", "UNAVAILABLE"), ("good", "OK"))]
    assert found[["task", "queue", "attempt", "status", "url"]].to_numpy().tolist() == rows
    bad, good = (row for _, row in found.iterrows())
    assert "503" in bad.message
    assert bad.retry_time - bad.time > pd.Timedelta("50min")
    assert good[["message", "retry_time"]].isna().all()
    assert good.duration >= pd.Timedelta(0)
    assert found.time.is_monotonic_decreasing


def test_attempts_since(emulator: Emulator, queue: ct.Queue, target: Target) -> None:
    """A duration counts back from now, a time is a time, and both cut."""
    queue.enqueue(target.url)
    at = attempted(emulator, queue, 1).time[0]
    assert len(queue.attempts(since=at)) == 1
    assert len(queue.attempts(since=(at + pd.Timedelta("1s")).isoformat())) == 0
    assert len(queue.attempts(since="0s")) == 0


@pytest.fixture
def tried(emulator: Emulator, queue: ct.Queue, target: Target) -> ct.Queue:
    """Give a queue with six attempts in its log."""
    for number in range(6):
        queue.enqueue(target.url, task_id=f"t{number}")
    attempted(emulator, queue, 6)
    return queue


@cases((2, 2, "the newest 2 attempts; there are more: queue.attempts(limit=None)\n"), (6, 6, ""), (None, 6, ""))
def test_the_newest_attempts(
    tried: ct.Queue, capsys: pytest.CaptureFixture[str], limit: int | None, count: int, printed: str
) -> None:
    """`limit` keeps the newest; a line and `attrs` report that there are more, and only then."""
    capsys.readouterr()
    found = tried.attempts(limit=limit)
    assert (len(found), found.attrs["truncated"]) == (count, bool(printed))
    assert capsys.readouterr().out == printed
    assert pd.Timestamp.now("UTC") - pd.Timestamp(found.attrs["fetched_at"]) < pd.Timedelta("1min")
    assert found.time.tolist() == tried.attempts(limit=None).time.tolist()[:count]


def test_a_shown_queue_prints_nothing(tried: ct.Queue, capsys: pytest.CaptureFixture[str]) -> None:
    """Its card has the last five attempts, without the line about more."""
    capsys.readouterr()
    assert "t5" in tried._repr_mimebundle_()["text/html"]
    assert capsys.readouterr().out == ""


@cases(
    ("2026-01-01", "2026-01-01 00:00:00+00:00"),
    ("2026-01-01 06:30", "2026-01-01 06:30:00+00:00"),
    (pd.Timestamp("2026-01-01"), "2026-01-01 00:00:00+00:00"),
    (dt.datetime(2026, 1, 1, 6), "2026-01-01 06:00:00+00:00"),  # noqa: DTZ001 - the subject
)
def test_a_time_without_a_zone(queue: ct.Queue, since: Any, offered: str) -> None:
    """The hint has a time that is accepted."""
    with pytest.raises(errors.NaiveTimeError, match=r"^since=.* has no time zone") as caught:
        queue.attempts(since=since)
    assert caught.value.hint == f'add an offset: since="{offered}"; or give a duration back from now: since="2h"'
    assert len(queue.attempts(since=offered)) == len(queue.attempts(since="2h")) == 0


def test_pause_and_resume(tasks: ct.Client, queue: ct.Queue, target: Target) -> None:
    """The queue is given back, so that verbs can be chained, and its state is the service's."""
    assert queue.pause() is queue
    assert tasks.queues().state[queue.id] == "PAUSED"
    queue.enqueue(target.url)
    assert target.received == []
    assert queue.resume() is queue
    assert len(target.wait(1)) == 1


def test_update(tasks: ct.Client, queue: ct.Queue) -> None:
    """Only what is named changes."""
    before = tasks.queues().loc[queue.id]
    assert queue.update(rate=3, max_attempts=7, min_backoff="2s") is queue
    after = tasks.queues().loc[queue.id]
    changed = [name for name in before.index if str(before[name]) != str(after[name])]
    assert sorted({"rate", "max_attempts", "min_backoff"} ^ set(changed)) == ["burst", "effective_rate"]
    assert (after.rate, after.max_attempts, after.min_backoff) == (3, 7, pd.Timedelta("2s"))
    assert queue.update() is queue


def test_route(tasks: ct.Client, filled: ct.Queue, target: Target) -> None:
    """Waiting and new tasks go elsewhere, until the routing is taken away."""
    assert filled.route(target.url) is filled
    assert tasks.queues().target[filled.id] == target.url
    filled.run("task-0")
    assert target.wait(1)[0].path == "/job"
    filled.route()
    assert tasks.queues().target.isna()[filled.id]
    assert filled.tasks().url["task-1"] == NOWHERE


def test_a_queue_is_routed_to_a_handler(tasks: ct.Client, queue: ct.Queue) -> None:
    """A handler stands for its URL."""

    def report() -> None:
        """Do nothing."""

    with ct.serve(report) as handler:
        queue.route(handler)
        assert tasks.queues()["target"].to_dict()[queue.id].removesuffix("/*") in handler.url


def test_google_cannot_be_routed_to_this_machine() -> None:
    """A loopback URL is refused for a queue at Google before any call."""
    with ct.connect("p", "l") as tasks, pytest.raises(errors.InvalidInputError, match="Google cannot reach"):
        tasks.queue("q").route("http://127.0.0.1:9/run")


@cases(
    *((verb, [], {}) for verb in ("tasks", "attempts", "pause", "resume", "purge", "route", "delete")),
    *((verb, [["a", "b"]], {}) for verb in ("run", "delete_tasks")),
    *((verb, [NOWHERE], words) for verb, words in (("enqueue", {}), ("schedule", {"delay": "1min"}))),
    ("update", [], {"rate": 5}),
    ("route", ["https://svc.example.com"], {}),
)
def test_a_queue_that_is_not_there(tasks: ct.Client, verb: str, values: list[Any], words: dict[str, Any]) -> None:
    """Every verb names the queue and the call that makes it; none makes it by itself."""
    queue = tasks.queue("reports")
    create = f'tasks.queue("{queue.id}", create=True)'
    said, facts = f'there is no queue "{queue.id}"', {"resource": queue.name, "code": "NOT_FOUND"}
    with raises(errors.QueueNotFoundError, said, hint=create, **facts):
        getattr(queue, verb)(*values, **words)
    assert queue.id not in tasks.queues().index


def test_a_deleted_queue(tasks: ct.Client) -> None:
    """Both the use of its name and its creation say that the name is blocked, and the two ways out work."""
    queue = tasks.queue("nightly", create=True)
    queue.delete()
    for act in (lambda: queue.map(len, [1]), lambda: tasks.queue("nightly", create=True)):
        with raises(errors.CloudTasksError, hint="blocked for up to 3 days") as caught:
            act()
        assert "creates it" not in str(caught.value)
        assert 'tasks.queue("nightly-2", create=True)' in str(caught.value)
        assert 'tasks.clock.advance("3d")' in str(caught.value)
    assert tasks.queue("nightly-2", create=True).tasks().empty
    tasks.clock.advance("3d")
    assert tasks.queue("nightly", create=True).tasks().empty


def test_how_a_queue_shows_itself(emulator: Emulator, queue: ct.Queue, target: Target) -> None:
    """State, depth, limits and the last attempts, and where finished tasks are to be found."""
    queue.enqueue(target.url, task_id="t")
    attempted(emulator, queue, 1)
    shown = queue._repr_mimebundle_()
    assert repr(queue) == f"<Queue {queue.name}>"
    for text in (shown["text/plain"], shown["text/html"]):
        for word in (queue.id, "LOCAL", "RUNNING", "500/s", "OK", "finished tasks are not in the queue"):
            assert word in text
        assert "log_sampling_ratio" not in text
    for fact in ("tasks", "running"):
        assert f"\n  {fact}: " in shown["text/plain"]


def test_whom_tasks_wait_for(emulator: Emulator, free_port: int) -> None:
    """A handler's function is named, by its very address; whatever else does not listen is no function to serve."""

    def report() -> None:
        """Do nothing."""

    with ct.local() as tasks:
        queue = tasks.queue("q", create=True)
        with ct.serve(report) as handler:
            address = handler.url.split("/")[2]
        queue.enqueue(f"{handler.url}?day=1")
        queue.enqueue(f"http://127.0.0.1:{free_port}/report")

        def lines() -> list[str]:
            shown = queue._repr_mimebundle_()["text/plain"].splitlines()
            return sorted(line for line in shown if line.startswith("no handler listens"))

        served = f"no handler listens at {address} (report): run ct.serve(report)"
        unserved = f"no handler listens at 127.0.0.1:{free_port}: its tasks wait, and no attempt is spent"
        emulator.until(lambda: lines() == sorted([served, unserved]))
        assert tasks.queues()["oldest_due"].notna().all()  # a task that is late has a time


def test_a_queue_without_a_log_says_so(queue: ct.Queue) -> None:
    """Outcomes cannot be known then, and the line that mends it is shown."""
    queue.update(log_sampling_ratio=0.0)
    assert f"queue.update(log_sampling_ratio=1.0); {LOG_PRICE}" in queue._repr_mimebundle_()["text/plain"]


def test_the_price_of_a_log(intercept: Intercept, capsys: pytest.CaptureFixture[str]) -> None:
    """On Google a new queue shows what its log costs, and a busy one what that is a day."""
    name, log = "projects/p/locations/us-central1/queues/reports", {"sampling_ratio": 1.0}
    busy = tasks_v2beta3.Queue(name=name, stackdriver_logging_config=log)
    busy.stats.executed_last_minute_count = 30_000
    made = tasks_v2.Queue.pb()(name=name, stackdriver_logging_config=log)
    answers = {"CreateQueue": made, "GetQueueStats": tasks_v2beta3.Queue.pb(busy)}
    answers["ListLogEntries"] = ListLogEntriesResponse.pb()()

    async def answer(_: Any, rpc: str, __: dict[str, Any]) -> Any:
        if rpc not in answers:
            answers[rpc] = made
            raise errors.QueueNotFoundError("no", resource=name)
        return answers[rpc]

    intercept(answer)
    with ct.connect("p", "us-central1") as tasks:
        queue = tasks.queue("reports", create=True)
        assert LOG_PRICE in capsys.readouterr().out
        assert "which costs $46.33 a day" in queue._repr_mimebundle_()["text/plain"]


def test_a_queue_that_is_not_there_shows_that(tasks: ct.Client) -> None:
    """Showing an object never raises."""
    queue = tasks.queue("reports")
    assert f'there is no queue "{queue.id}"' in queue._repr_mimebundle_()["text/plain"]


@cases(
    ({"day": "2026-01-01", "n": [1, None]}, b'{"day":"2026-01-01","n":[1,null]}', "application/json"),
    ("a={b}&c=1", b"a={b}&c=1", None),
    (b"grue\xc3\xa9zi {x}", b"grue\xc3\xa9zi {x}", None),
    (None, b"", None),
)
def test_bodies(queue: ct.Queue, target: Target, body: Any, sent: bytes, kind: str | None) -> None:
    """JSON values are sent as JSON, text and bytes as they are, braces included."""
    queue.enqueue(target.url, body)
    request = target.wait(1)[0]
    assert (request.method, request.path, request.body) == ("POST", "/job", sent)
    if kind is not None:
        assert request.headers["content-type"] == kind


def test_the_words_of_a_task(paused: ct.Queue, emulator: Emulator) -> None:
    """Every word reaches the service."""
    retry: dict[str, Any] = {"max_attempts": 3, "min_backoff": "2s"}
    account: dict[str, Any] = {"service_account": "sa@p.iam.gserviceaccount.com"}
    made = paused.enqueue(NOWHERE, task_id="t", audience="aud", dispatch_deadline="30s", retry=retry, **account)
    found = made[["dispatch_deadline", "service_account"]]
    assert found.to_dict("index") == {"t": {"dispatch_deadline": pd.Timedelta("30s"), **account}}
    stored = emulator.client.get_task(name=f"{paused.name}/tasks/t")
    assert stored.http_request.oidc_token.audience == "aud"
    assert (stored.retry_config.max_attempts, stored.retry_config.min_backoff.total_seconds()) == (3, 2)


@pytest.mark.parametrize("left", [False, True])
def test_an_answer_that_was_lost(paused: ct.Queue, emulator: Emulator, intercept: Intercept, *, left: bool) -> None:
    """A task whose creation was not confirmed is created once; one that has left the queue already is `gone`."""

    async def lose(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        answer = await call()
        if rpc != "CreateTask":
            return answer
        if left:
            emulator.client.delete_task(name=answer.name)
        raise errors.AlreadyExistsError("there", code="ALREADY_EXISTS")

    intercept(lose)
    made = paused.enqueue(NOWHERE, {"n": 1})
    assert made.state.tolist() == ["gone" if left else "ready"]
    assert made.url.tolist() == [NOWHERE]
    assert paused.tasks().index.tolist() == ([] if left else made.index.tolist())
