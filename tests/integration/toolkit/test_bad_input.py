"""Bad input: one clear error that names the thing and the next step, and nothing half-done stays behind."""

import datetime as dt
import re
from collections.abc import Awaitable, Callable
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
    ({"headers": {"X": None}}, 'header "X" has no value', "leave it"),
    ({"task_id": "a b"}, "task_id='a b' is not the id", "letters"),
    ({"task_id": ""}, "task_id='' is not the id", "leave it out"),
)
def test_a_bad_task(paused: ct.Queue, options: dict[str, Any], text: str, hint: str) -> None:
    """The argument is named, the hint shows the way out, and no task is created."""
    with raises(errors.InvalidInputError, re.escape(text), hint=hint):
        paused.enqueue(URL, **options)
    assert len(paused.tasks()) == 0


@pytest.mark.parametrize("words", [{}, {"at": "2026-01-02 06:00Z", "delay": "1h"}])
def test_a_schedule_without_a_time(paused: ct.Queue, words: dict[str, Any]) -> None:
    """`schedule` wants one time: neither none nor two."""
    with pytest.raises(errors.InvalidInputError, match="needs at= or delay="):
        paused.schedule(URL, **words)


@cases(("headerz", '"headerz"; did you mean "headers"?'), ("foo", '"foo"'), ("rate", '"rate"'))
def test_an_unknown_word_of_schedule(paused: ct.Queue, word: str, rest: str) -> None:
    """The verb that was called is named, with near words, as `fan_out` does."""
    words: dict[str, Any] = {"delay": 5, word: 1}
    with pytest.raises(TypeError, match=re.escape(f"schedule() has no argument {rest}")):
        paused.schedule(URL, **words)


def test_an_id_that_is_taken(paused: ct.Queue) -> None:
    """The error names the id and the time when it is free again."""
    paused.enqueue(URL, {"n": 1}, task_id="t")
    with raises(errors.AlreadyExistsError, 'a task "t" in queue', hint="another task_id"):
        paused.enqueue(URL, {"n": 2}, task_id="t")
    assert paused.tasks(body=True).body.to_list() == [{"n": 1}]


@cases(
    ({"headers": ["x"]}, errors.InvalidInputError, "headers=['x'] is not a dictionary"),
    ({"url": URL + "/{n}"}, errors.RowsError, "row 1"),
    ({"body": {"n": 1}}, errors.DuplicateRowsError, "2"),
    ({"rate": 5}, TypeError, "queue.update(rate=5)"),
    ({"at": "{when}"}, errors.InvalidInputError, "no time zone"),
)
def test_a_bad_fan_out(
    tasks: ct.Client, paused: ct.Queue, words: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Nothing was sent, and there is no batch."""
    with pytest.raises(kind, match=re.escape(text)):
        paused.fan_out(FRAME, **{"url": URL, **words})
    assert len(paused.tasks()) == 0
    assert len(tasks.batches()) == 0


def test_a_bad_update(tasks: ct.Client, queue: ct.Queue) -> None:
    """A slip among several words changes none of them, and no queue is created."""
    for slip, words in (({"rat": 5}, 'did you mean "rate"'), ({"rate": 0}, "rate=0 is not more than 0")):
        with pytest.raises(errors.InvalidInputError, match=words):
            queue.update(max_concurrent=3, **slip)
        with pytest.raises(errors.InvalidInputError, match=words):
            tasks.queue("another", create=True, **slip)
    assert tasks.queues().max_concurrent.to_dict() == {queue.id: 1000}


def test_settings_without_create(tasks: ct.Client, queue: ct.Queue) -> None:
    """Settings that would be ignored are refused, with the two ways to apply them."""
    way = f'tasks.queue("{queue.id}").update(…)'
    with raises(errors.InvalidInputError, "rate= changes nothing without create=True", hint=way):
        tasks.queue(queue.id, rate=5)
    assert tasks.queues().rate[queue.id] == 500


@pytest.mark.parametrize("name", ["", "a_b", "a b", "q" * 101, "projects/p/queues/q", "a/b"])
@pytest.mark.parametrize("create", [False, True])
def test_a_bad_name(tasks: ct.Client, name: str, create: bool) -> None:  # noqa: FBT001 - a table's column
    """A malformed queue name is refused at once, with the rule for names."""
    with raises(errors.InvalidInputError, "is not a queue name", hint="1 to 100 letters, digits or hyphens"):
        tasks.queue(name, create=create)


@pytest.mark.parametrize("name", [None, 5, ["q"]])
def test_a_name_that_is_no_text(tasks: ct.Client, name: Any) -> None:
    """It is named, with what is meant."""
    words = f"^{re.escape(str(name))}.*is not a queue name"
    with raises(errors.InvalidInputError, words, hint='tasks.queue("reports")'):
        tasks.queue(name)


def test_a_queue_for_a_name(tasks: ct.Client, queue: ct.Queue) -> None:
    """A Queue is as good as its full name, also to change its settings."""
    assert tasks.queue(queue, create=True, rate=5).name == queue.name
    assert tasks.queues().rate[queue.id] == 5


def test_a_route_that_is_none(tasks: ct.Client, queue: ct.Queue) -> None:
    """Neither half of a route changes the queue."""
    wrong: list[dict[str, Any]] = [{"url": "svc"}, {"audience": "aud"}, {"url": 5}]
    wrong += [{"url": URL, "service_account": account} for account in (5, "", "caller")]
    for words in wrong:
        with pytest.raises(errors.InvalidInputError):
            queue.route(**words)
    assert tasks.queues().target.isna()[queue.id]


def test_an_emulator_of_the_environment_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """The error says that a variable leads there."""
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", f"127.0.0.1:{free_port}")
    with impatient() as tasks, pytest.raises(errors.EndpointError, match="which CLOUD_TASKS_EMULATOR_HOST names"):
        tasks.queues()


@pytest.mark.parametrize("word", ["project", "location", "endpoint", "impersonate", "quota_project"])
def test_what_is_no_text(word: str) -> None:
    """`connect` names the argument at once, not the first verb somewhere below."""
    with raises(errors.InvalidInputError, f"{word}=5 is not a string", hint=f"{word}="):
        ct.connect(**{word: 5})  # type: ignore[arg-type]  # the subject


@pytest.mark.parametrize("words", [{"folder": 5}, {"folder": ""}, {"folder": True}, {"project": 5}, {"location": 5}])
def test_what_no_emulator_is_started_for(words: dict[str, Any]) -> None:
    """`local` names the argument; "" is not taken for the working directory."""
    with raises(errors.InvalidInputError, rf"{next(iter(words))}=.* is not a .*\n  → ."):
        ct.local(**words)


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
