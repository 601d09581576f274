"""What is done to many tasks: which tasks are meant, and a verdict for each."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from google.cloud.tasks_v2 import types
from google.longrunning import operations_pb2
from google.rpc import status_pb2

from cloudtasks_nb._frames import ACTION_RESULTS, ATTEMPTS, TASKS, frame
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.client.task_verbs import delete_tasks, run_tasks, task_ids
from cloudtasks_nb.errors import CloudTasksError, InvalidInputError, ServiceError, TaskNotFoundError
from cloudtasks_nb.service import bulk
from cloudtasks_nb.service.bulk import delete
from tests.cases import cases
from tests.raising import raises
from tests.unit.service.conftest import Pauses

QUEUE = QueueName(project="p", location="l", queue="q")
A, B = f"{QUEUE}/tasks/a", f"{QUEUE}/tasks/b"
ROWS = {"task": ["a", "b", "a"], "queue": ["q", "q", "q"]}
BATCH = pd.DataFrame({"queue": ["of", "the", "user"], "task": ["a", "b", None], "try": [1, 1, 1]})


LISTED = frame(TASKS, {"task": ["a", "b"], "queue": ["q", "q"], "name": [A, B]}, index="task")


@cases(
    *(LISTED, LISTED[["queue", "state"]], LISTED[["state"]]),
    *(frame(ATTEMPTS, ROWS), frame(ATTEMPTS, ROWS)[["task", "status"]], frame(ACTION_RESULTS, {"task": ["a", "b"]})),
    *(BATCH, pd.Series([A, None, B]), pd.Index(["a", "b"]), ["a", A, "b"], ("a", "b")),
    *(np.array(["a", "b"]), pd.Series(["a", B, None], dtype="string").unique()),
)
def test_what_names_tasks(tasks: Any) -> None:
    """Every frame that a verb returns, and lists of ids or names; each task once, gaps left out; a text is one task."""
    assert task_ids(tasks, QUEUE) == ["a", "b"]
    assert task_ids("a", QUEUE) == task_ids(A, QUEUE) == ["a"]


@cases(
    frame(TASKS, {"task": ["a"], "name": ["projects/p/locations/l/queues/r/tasks/a"]}, index="task"),
    frame(TASKS, {"task": ["a"], "queue": ["r"]}, index="task")[["queue"]],
    frame(ATTEMPTS, {"task": ["a"], "queue": ["r"]}),
    ["a", "projects/p/locations/l/queues/r/tasks/a"],
)
def test_tasks_of_another_queue(tasks: Any) -> None:
    """They are refused; the hint leads to their own queue."""
    with raises(InvalidInputError, "queues/r, not of projects/p/locations/l/queues/q", hint='tasks.queue("r")'):
        task_ids(tasks, QUEUE)


def connect(answer: Any, *, local: bool = True) -> Any:
    """Give a connection whose calls a function answers."""

    async def call(rpc: str, **fields: Any) -> Any:
        return answer(rpc, **fields)

    return Mock(**{"transport.call": call, "endpoint.local": local})


def operation(*, failed: dict[int, str] | None = None, error: str = "", done: bool = True) -> Any:
    """Make a batch delete's operation."""
    facts = types.BatchDeleteTasksMetadata.pb()()
    for index, reason in (failed or {}).items():
        facts.failed_requests[index].CopyFrom(status_pb2.Status(code=5, message=reason))
    made = operations_pb2.Operation(name="o", done=done)
    made.metadata.Pack(facts)
    if error:
        made.error.message = error
    return made


def run_delete(answer: Any, ids: list[str]) -> tuple[list[str | None], list[int]]:
    """Delete, and count as it goes."""
    counted: list[int] = []
    return asyncio.run(delete(connect(answer), QUEUE, ids, counted.append)), counted


def test_deleting_by_the_thousand() -> None:
    """A call takes a thousand names; a reason goes to the task that it is about."""
    answer = Mock(return_value=operation(failed={1: "not there"}))
    errors, counted = run_delete(answer, [f"t{n}" for n in range(1001)])
    assert [(one.args[0], one.kwargs["parent"]) for one in answer.mock_calls] == [("BatchDeleteTasks", str(QUEUE))] * 2
    assert ([len(one.kwargs["names"]) for one in answer.mock_calls], counted) == ([1000, 1], [1000, 1])
    assert {n: error for n, error in enumerate(errors) if error} == {1: "not there"}


def test_an_operation_that_takes_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for until it is done."""
    pauses = Pauses()
    monkeypatch.setattr(bulk, "asyncio", pauses)
    answers = [operation(done=False), operation(done=False), operation(failed={0: "gone"})]
    errors, _ = run_delete(Mock(side_effect=answers), ["a", "b"])
    assert (errors, pauses) == (["gone", None], [0.5, 0.5])


@pytest.mark.parametrize(("failed", "expected"), [({}, ["all failed", "all failed"]), ({0: "gone"}, ["gone", None])])
def test_an_operation_that_failed(failed: dict[int, str], expected: list[str | None]) -> None:
    """A failure of the whole call is the failure of each task, unless the error names those that failed."""
    errors, _ = run_delete(lambda *_, **__: operation(failed=failed, error="all failed"), ["a", "b"])
    assert errors == expected


def test_a_call_that_fails_does_not_stop_the_next() -> None:
    """The tasks of a thousand that was refused have the reason, the others their own verdict."""

    def answer(_: str, *, names: list[str], **__: Any) -> Any:
        if len(names) == 1000:
            raise CloudTasksError("quota")
        return operation()

    errors, counted = run_delete(answer, [f"t{n}" for n in range(1001)])
    assert (errors[0], errors[999], errors[1000], counted) == ("quota", "quota", None, [1000, 1])


def one_by_one(rpc: str, **fields: Any) -> Any:
    """Answer as an endpoint without batch calls, where `b` is missing."""
    if rpc == "BatchDeleteTasks":
        raise ServiceError("no", code="UNIMPLEMENTED")
    if fields["name"] == B:
        raise TaskNotFoundError("b is not there", hint="look elsewhere")
    return None


@pytest.mark.parametrize("verb", [run_tasks, delete_tasks])
def test_verdicts(verb: Any) -> None:
    """A row a task, in the order in which they were named."""
    made = verb(connect(one_by_one), QUEUE, ["c", "b", "a"])
    assert made.task.tolist() == ["c", "b", "a"]
    assert made.ok.tolist() == [True, False, True]
    assert made.error.fillna("").tolist() == ["", "b is not there", ""]


def test_running_keeps_to_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Google one task a second is run, on an emulator as fast as it goes."""
    pauses = Pauses()
    monkeypatch.setattr(bulk, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pauses.sleep}))
    for local in (True, False):
        run_tasks(connect(lambda *_, **__: None, local=local), QUEUE, ["a", "b"])
    assert pauses == [0.0, 1.0]


def test_many_tasks_wait_as_ids() -> None:
    """A coroutine is made for each of the few tasks that are in flight, and for none that waits."""
    most = 0

    async def call(_rpc: str, **__: Any) -> None:
        nonlocal most
        coroutines: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
        files = [coroutine.cr_code.co_filename for coroutine in coroutines]
        most = max(most, files.count(bulk.__file__))
        for _ in range(50):  # a service that answers more slowly than tasks are started
            await asyncio.sleep(0)

    connection = connect(None)
    connection.transport.call = call
    assert run_tasks(connection, QUEUE, [f"t{n}" for n in range(1000)]).ok.all()
    assert most <= 20


@pytest.mark.parametrize("batching", [True, False])
def test_a_refusal_is_heard_of(*, batching: bool) -> None:
    """Who deletes in the background learns what is wrong with all tasks; one that is not there is no refusal."""

    def answer(rpc: str, **fields: Any) -> Any:
        if rpc == "BatchDeleteTasks" and not batching:
            raise ServiceError("unknown", code="UNIMPLEMENTED")
        if fields.get("name") == A:
            raise TaskNotFoundError("not there", code="NOT_FOUND")
        raise ServiceError("no right", code="PERMISSION_DENIED")

    heard = Mock()
    asyncio.run(delete(connect(answer), QUEUE, ["a", "b"], lambda _: None, heard))
    assert [call.args[0].message for call in heard.mock_calls] == ["no right"]
