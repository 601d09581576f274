"""Fixtures of fan-outs against a real emulator."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cloudtasks_nb as ct
from tests.integration.conftest import Emulator
from tests.proxy import Proxy

Serve = Callable[..., ct.Handler]
Connect = Callable[..., ct.Client]

PATIENCE = 240.0  # seconds after which something that should happen counts as not happening


def reached(batch: ct.Batch, condition: Callable[[Any], bool]) -> Any:
    """Wait until the progress of a batch fulfils a condition, and return it."""
    news = threading.Event()
    end, last = batch._tracker.listen(news.set), time.monotonic() + PATIENCE
    try:
        while not condition(batch.progress()):
            assert news.wait(last - time.monotonic()), f"still {batch.progress()!r}"
            news.clear()
        return batch.progress()
    finally:
        end()


def sent(batch: ct.Batch) -> ct.Batch:
    """Return a batch as soon as none of its rows is unsent."""
    reached(batch, lambda progress: not progress.unsent)
    return batch


def outcomes(batch: ct.Batch) -> tuple[int, int, int]:
    """Wait for the end; return how many rows succeeded, failed and are gone."""
    progress = batch.wait("240s")
    return progress.succeeded, progress.failed, progress.gone


@contextmanager
def fault(emulator: Emulator, method: str, code: str, **more: Any) -> Iterator[None]:
    """Let all calls of a method fail until the end of the block."""
    emulator.request("POST", "/admin/faults", {"method": method, "code": code, "count": None, **more})
    try:
        yield
    finally:
        emulator.request("DELETE", "/admin/faults")


def rows_in(queue: ct.Queue) -> list[int]:
    """Return the rows whose tasks are in the queue, sorted; one that is there twice stands there twice."""
    return sorted(body["row"] for body in queue.tasks(limit=None, body=True)["body"])


@pytest.fixture
def proxy(emulator: Any) -> Iterator[Proxy]:
    """Give a proxy in front of the emulator."""
    made = Proxy(emulator.ready["grpc"])
    yield made
    made.close()


@pytest.fixture
def other(emulator: Emulator) -> Iterator[ct.Client]:
    """Give the connection of another kernel with the same home."""
    with ct.connect("demo", "us-central1", endpoint=emulator.ready["grpc"]) as connection:
        yield connection


@pytest.fixture
def serve(emulator: Emulator) -> Serve:
    """Serve functions; the tokens they take are the emulator's."""
    tasks = SimpleNamespace(certs_url=f"{emulator.ready['http']}/oauth2/v1/certs")
    return lambda fn, **words: ct.serve(fn, tasks=tasks, **words)


@pytest.fixture
def once(tasks: ct.Client) -> ct.Queue:
    """Give a queue whose tasks are tried once."""
    return tasks.queue("reports", create=True, max_attempts=1)


@pytest.fixture
def connect(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Give connections of homes with different names that share a store."""
    with ExitStack() as stack:

        def make(home: str, store: str = "store") -> ct.Client:
            monkeypatch.setenv("CLOUDTASKS_NB_HOME", str(tmp_path / home))
            monkeypatch.setenv("JUPYTERHUB_USER", home)
            endpoint = emulator.ready["grpc"]
            tasks = stack.enter_context(ct.connect("demo", "us-central1", endpoint=endpoint, store=tmp_path / store))
            tasks.batches()
            return tasks

        yield make
