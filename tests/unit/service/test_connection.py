"""What all parts of a connection share: patience with a new queue, work side by side, what was last seen of a task."""

import asyncio
import queue
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import QueueNotFoundError, TaskNotFoundError
from cloudtasks_nb.service import connection as connection_module
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import Endpoint
from tests.cases import cases

QUEUE = "projects/p/locations/l/queues/q"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """Give a connection to nobody, that waits for nothing."""
    monkeypatch.setattr(connection_module, "_NEW_QUEUE_PAUSE", 0.0)
    made = Connection(Endpoint(project="p", location="l", target="127.0.0.1:1", local=True), Auth())
    monkeypatch.setattr(made.transport, "call", AsyncMock())
    yield made
    made.close()


def calls(connection: Connection) -> Any:
    """Return the calls of a connection, whose answers a test may set."""
    return connection.transport.call


def test_a_new_queue_is_waited_for(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that we have just made is asked for again, and one line says why, however long it takes."""
    calls(connection).side_effect = [QueueNotFoundError(resource=QUEUE)] * 3 + ["there"]
    connection.transport.mark_new(QUEUE)
    assert connection.call("GetQueue", name=QUEUE) == "there"
    assert [call.args for call in calls(connection).mock_calls] == [("GetQueue",)] * 4
    assert capsys.readouterr().out.count("waiting for the new queue") == 1


@cases(QueueNotFoundError(resource=f"{QUEUE}2"), QueueNotFoundError(), TaskNotFoundError(resource=QUEUE))
def test_nothing_else_is_waited_for(connection: Connection, capsys: Any, error: Exception) -> None:
    """Another queue, or a task, that is not there is not there."""
    calls(connection).side_effect = [error]
    connection.transport.mark_new(QUEUE)
    with pytest.raises(type(error)):
        connection.call("GetQueue", name=QUEUE)
    assert (len(calls(connection).mock_calls), capsys.readouterr().out) == (1, "")


def columns(*rows: tuple[str, str, int, str | None]) -> dict[str, list[Any]]:
    """Make the columns of some tasks."""
    names = ("queue", "task", "attempts", "last_message")
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


def test_a_message_is_of_a_queue_a_task_and_an_attempt(connection: Connection) -> None:
    """The message of one attempt is not returned for another, and stays when a task without a message is read."""
    connection.remember(columns(("q", "t", 2, "INTERNAL(13)"), ("q", "u", 1, None)))
    connection.remember(columns(("q", "t", 3, None)))
    assert connection.message("q", "t", 2) == "INTERNAL(13)"
    asked = [("q", "t", 1), ("q", "t", 3), ("other", "t", 2), ("q", "u", 1)]
    assert [connection.message(*one) for one in asked] == [None] * 4
    connection.remember(columns(("q", "t", 4, "NOT_FOUND(5)")))
    assert (connection.message("q", "t", 4), connection.message("q", "t", 2)) == ("NOT_FOUND(5)", None)


def test_the_newest_messages_are_kept(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: the messages that were seen longest ago go first."""
    monkeypatch.setattr(connection_module, "_MAX_MESSAGES", 2)
    for task in ("a", "b", "a", "c"):
        connection.remember(columns(("q", task, 1, task)))
    assert [connection.message("q", task, 1) for task in "abc"] == ["a", None, "c"]


def test_a_closed_connection_watches_nothing(connection: Connection) -> None:
    """The read of a watched queue that is under way ends, and no other follows."""
    reading: queue.Queue[Any] = queue.Queue()

    async def read(*_: Any, **__: Any) -> None:
        reading.put(asyncio.current_task())
        await asyncio.Event().wait()

    calls(connection).side_effect = read
    connection.watcher.subscribe(QueueName.parse(QUEUE), print)
    work = reading.get(timeout=240)
    connection.close()
    assert work.done()


def test_an_emulators_log_has_no_quota() -> None:
    """Google's log is read 60 times a minute at most; an emulator's as often as there is something to read."""
    for local, reads in ((False, 60), (True, 60_000)):
        made = Connection(Endpoint(project="p", location="l", target="127.0.0.1:1", local=local), Auth())
        assert made.watcher.log_budget.per_minute == reads
        made.close()


@pytest.mark.parametrize(("place", "noted"), [("gs://team/tasks", True), (None, False), ("mine", False)])
def test_another_store_is_noted(connection: Connection, capsys: Any, place: str | None, *, noted: bool) -> None:
    """Results that the connection would not read are said before anything is sent; a URL has no store."""
    mine = connection.store.url
    handler = SimpleNamespace(name="report", url="http://127.0.0.1:1/report", store=mine if place == "mine" else place)
    connection.check_store(handler.url if place is None else handler)
    printed = capsys.readouterr()
    words = f"report stores results in gs://team/tasks, but batch.results() of this connection reads {mine}"
    assert (words in printed.out + printed.err) is noted
