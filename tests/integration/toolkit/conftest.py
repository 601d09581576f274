"""Fixtures of the toolkit's tests against a real emulator."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import cloudtasks_nb as ct
from cloudtasks_nb._settings import resolve
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.transport import Transport
from tests.integration.conftest import Emulator

__all__ = ["Intercept", "MakeName", "attempted", "dtypes", "impatient"]

MakeName = Callable[[], str]
#: Is called in place of each RPC, with a function that does the call, the name of the RPC and its fields.
Hook = Callable[[Callable[[], Awaitable[Any]], str, dict[str, Any]], Awaitable[Any]]
Intercept = Callable[[Hook], None]
_numbers = itertools.count(1)


def dtypes(made: pd.DataFrame) -> dict[str, str]:
    """Name the dtypes of the columns, in their order."""
    return {str(name): str(dtype) for name, dtype in made.dtypes.items()}


def attempted(emulator: Emulator, queue: ct.Queue, count: int) -> pd.DataFrame:
    """Wait until the log has so many attempts of a queue, and return them."""
    emulator.until(lambda: len(queue.attempts()) >= count)
    return queue.attempts()


def impatient(project: str | None = None, location: str | None = None, endpoint: str | None = None) -> ct.Client:
    """Connect as `ct.connect` does, but wait only a moment for an endpoint that does not answer."""
    connection = Connection(resolve(project, location, endpoint), Auth())
    connection.transport.connect_timeout = 0.3
    return ct.Client(connection)


@pytest.fixture
def tasks(emulator: Emulator, transport: str) -> Iterator[ct.Client]:
    """Give a connection to the file's emulator."""
    endpoint = emulator.ready["http" if transport == "rest" else "grpc"]
    with ct.connect("demo", "us-central1", endpoint=endpoint, transport=transport) as connection:
        yield connection


@pytest.fixture
def make_name() -> MakeName:
    """Give names of queues that no other test has."""
    return lambda: f"reports-{next(_numbers)}"


@pytest.fixture
def queue(tasks: ct.Client, make_name: MakeName, capsys: pytest.CaptureFixture[str]) -> ct.Queue:
    """Give a new queue, without the notes of its creation in the captured output."""
    made = tasks.queue(make_name(), create=True)
    capsys.readouterr()
    return made


@pytest.fixture
def paused(queue: ct.Queue) -> ct.Queue:
    """Give a queue whose tasks stay where they are."""
    return queue.pause()


@pytest.fixture
def intercept(monkeypatch: pytest.MonkeyPatch) -> Intercept:
    """Put a function between the toolkit and the service."""
    call = Transport.call

    def begin(hook: Hook) -> None:
        async def intercepted(transport: Transport, rpc: str, /, **fields: Any) -> Any:
            return await hook(lambda: call(transport, rpc, **fields), rpc, fields)

        monkeypatch.setattr(Transport, "call", intercepted)

    return begin
