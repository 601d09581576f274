"""Fixtures of the toolkit's tests against a real emulator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator

__all__ = ["MakeName"]

MakeName = Callable[[], str]
_numbers = itertools.count(1)


@pytest.fixture
def tasks(emulator: Emulator) -> Iterator[ct.Client]:
    """Give a connection to the file's emulator."""
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as connection:
        yield connection


@pytest.fixture
def make_name() -> MakeName:
    """Give names of queues that no other test has."""
    return lambda: f"reports-{next(_numbers)}"


@pytest.fixture
def queue(tasks: ct.Client, make_name: MakeName, capsys: pytest.CaptureFixture[str]) -> ct.Queue:
    """Give a queue that was just made; what that said is not the test's."""
    made = tasks.queue(make_name(), create=True)
    capsys.readouterr()
    return made


@pytest.fixture
def paused(queue: ct.Queue) -> ct.Queue:
    """Give a queue whose tasks stay where they are."""
    return queue.pause()
