"""Bad input: one clear error that names the thing and the next step, and nothing half-done stays behind."""

import datetime as dt
import re
from collections.abc import Awaitable, Callable
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb import errors
from tests.cases import cases
from tests.integration.conftest import Intercept, impatient
from tests.interrupts import interrupt, interruptible
from tests.raising import raises

URL = "https://svc.example.com/run"
NAIVE = dt.datetime(2026, 1, 2, 6)  # noqa: DTZ001 - the subject
FRAME = pd.DataFrame({"day": ["a", "b", "c"], "when": [NAIVE] * 3, "n": [1.5, None, 2.5]})


@cases(
    ("queue.enqueue", {"url": URL, "headers": {"X": None}}, 'header "X" has no value', "leave it"),
    ("queue.enqueue", {"url": URL, "task_id": "a b"}, "task_id='a b' is not the id", "letters"),
    ("queue.enqueue", {"url": URL, "task_id": ""}, "task_id='' is not the id", "leave it out"),
    ("queue.schedule", {"url": URL}, "needs at= or delay=", ""),
    ("queue.schedule", {"url": URL, "at": "2026-01-02 06:00Z", "delay": "1h"}, "needs at= or delay=", ""),
    *(
        ("queue.schedule", {"url": URL, "delay": 5, word: 1}, f'schedule() has no argument "{word}"{near}', "")
        for word, near in (("headerz", '; did you mean "headers"?'), ("foo", ""), ("rate", ""))
    ),
    ("queue.fan_out", {"data": FRAME, "url": URL, "headers": ["x"]}, "headers=['x'] is not a dictionary", ""),
    ("queue.fan_out", {"data": FRAME, "url": URL + "/{n}"}, "row 1", ""),
    ("queue.fan_out", {"data": FRAME, "url": URL, "body": {"n": 1}}, "2", ""),
    ("queue.fan_out", {"data": FRAME, "url": URL, "rate": 5}, "queue.update(rate=5)", ""),
    ("queue.fan_out", {"data": FRAME, "url": URL, "at": "{when}"}, "no time zone", ""),
    ("queue.update", {"max_concurrent": 3, "rat": 5}, 'did you mean "rate"', ""),
    ("queue.update", {"max_concurrent": 3, "rate": 0}, "rate=0 is not more than 0", ""),
    ("tasks.queue", {"name": "new", "create": True, "rat": 5}, 'did you mean "rate"', ""),
    ("tasks.queue", {"name": "new", "create": True, "rate": 0}, "rate=0 is not more than 0", ""),
    ("tasks.queue", {"name": "q", "rate": 5}, "rate= changes nothing without", 'tasks.queue("q").update(…)'),
    ("tasks.queue", {"name": "a_b", "create": True}, "is not a queue name", "1 to 100 letters, digits or hyphens"),
    ("tasks.queue", {"name": "projects/p/queues/q"}, "is not a queue name", "1 to 100 letters, digits or hyphens"),
    *(("tasks.queue", {"name": name}, f"{name}", 'tasks.queue("reports")') for name in (None, 5, ["q"])),
    *(("queue.route", {"url": url}, f"{url}", "") for url in ("svc", 5)),
    *(("queue.route", {"url": URL, "service_account": who}, f"account={who!r}", "") for who in (5, "", "caller")),
    ("queue.route", {"audience": "aud"}, "audience=", ""),
    *(
        (verb, {"limit": limit}, f"limit={limit!r} is not a whole number from 1 on", "")
        for verb, limit in (*(("queue.tasks", one) for one in (0, -1, "5", 1.5, True)), ("queue.attempts", 0))
    ),
    *(("tasks.clock.advance", {"duration": span}, "duration=", "") for span in ("soon", -1, "-1h")),
    ("tasks.clock.run_until_idle", {"limit": "soon"}, "limit=", ""),
    *(
        ("ct.connect", {word: 5}, f"{word}=5 is not a string", f"{word}=")
        for word in ("project", "location", "endpoint", "impersonate", "quota_project")
    ),
    *(
        ("ct.local", {word: value}, f"{word}={value!r} is not a ", " ")
        for word, value in (("folder", 5), ("folder", ""), ("folder", True), ("project", 5), ("location", 5))
    ),
)
def test_a_bad_argument(
    tasks: ct.Client, paused: ct.Queue, call: str, words: dict[str, Any], text: str, hint: str
) -> None:
    """It is named with the next step, and nothing is changed: no queue, no setting, no task, no batch, no clock."""
    before = tasks.queues()
    with pytest.raises((errors.CloudTasksError, TypeError), match=re.escape(text)) as caught:
        attrgetter(call)(SimpleNamespace(ct=ct, tasks=tasks, queue=paused))(**words)
    assert hint in (getattr(caught.value, "hint", "") or "")
    assert tasks.queues().equals(before)
    assert len(paused.tasks()) == len(tasks.batches()) == 0
    assert tasks.clock.now - pd.Timestamp.now("UTC") < pd.Timedelta("30min")


def test_an_id_that_is_taken(paused: ct.Queue) -> None:
    """The error names the id and the time when it is free again."""
    paused.enqueue(URL, {"n": 1}, task_id="t")
    with raises(errors.AlreadyExistsError, 'a task "t" in queue', hint="another task_id"):
        paused.enqueue(URL, {"n": 2}, task_id="t")
    assert paused.tasks(body=True).body.to_list() == [{"n": 1}]


def test_a_queue_for_a_name(tasks: ct.Client, queue: ct.Queue) -> None:
    """A Queue is as good as its full name, also to change its settings."""
    assert tasks.queue(queue, create=True, rate=5).name == queue.name
    assert tasks.queues().rate[queue.id] == 5


def test_an_emulator_of_the_environment_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """The error says that a variable leads there."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"127.0.0.1:{free_port}")
    with impatient() as tasks, pytest.raises(errors.EndpointError, match="which CLOUD_TASKS_EMULATOR_HOST names"):
        tasks.queues()


def test_an_interrupted_verb_leaves_the_connection_usable(queue: ct.Queue, intercept: Intercept) -> None:
    """After an interrupt the next cell works."""
    calls: list[str] = []

    async def interrupt_first(call: Callable[[], Awaitable[Any]], rpc: str, _: dict[str, Any]) -> Any:
        calls.append(rpc)
        if len(calls) == 1:
            interrupt()
        return await call()

    def cell() -> None:
        for _ in range(1000):
            queue.tasks()

    intercept(interrupt_first)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        cell()
    assert len(queue.tasks()) == 0
