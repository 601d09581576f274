"""Notifications that a batch is done: each URL gets one a round, whoever watches the batch."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb._names import TaskName
from cloudtasks_nb.errors import AlreadyExistsError
from cloudtasks_nb.fanout.batch.completion import CompletionNotifier, registered, store_registration
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.plan.identity import round_of
from cloudtasks_nb.fanout.states import State
from cloudtasks_nb.service.clock import ServiceClock
from tests.unit.fanout.conftest import EmptyLog, chunks, put, refs, spool

URL, OTHER = "https://svc/done", "https://svc/other"
OPTIONS = {"service_account": None, "audience": None, "queue": "q"}


@pytest.fixture
def batch(outbox: Outbox) -> str:
    """Make a batch of four rows that have succeeded."""
    made = spool(outbox, chunks(range(4))).batch
    put(outbox, made, refs(outbox, made), State.SUCCEEDED)
    return made


def told(outbox: Outbox, batch: str, watchers: int = 1) -> list[tuple[str, int | None]]:
    """Let processes notify; return the URL and the round of each task, whose name can be used once."""
    names, made = set[str](), list[tuple[str, int | None]]()

    async def call(_rpc: str, *, task: Any, **_: Any) -> None:
        if task.name in names:
            raise AlreadyExistsError("the task exists")
        names.add(task.name)
        made.append((task.http_request.url, round_of(TaskName.parse(task.name).task)))

    connection: Any = SimpleNamespace(
        clock=ServiceClock(lambda: ""), watcher=EmptyLog(), transport=SimpleNamespace(call=call)
    )

    def notifier() -> CompletionNotifier:
        supervisor = _loop.Supervisor("the batch", lambda: None)
        return CompletionNotifier(connection, outbox, batch, supervisor, lambda: None)

    async def run() -> None:
        await asyncio.gather(*(notifier().finish() for _ in range(watchers)))

    asyncio.run(run())
    return made


@pytest.mark.parametrize("watchers", [1, 3])
def test_a_url_is_notified_once_a_round(outbox: Outbox, batch: str, watchers: int) -> None:
    """Several watchers create one task; a new round brings another, and so does another URL, at once."""
    for _ in range(2):  # the cell may be run again
        store_registration(outbox, batch, URL, **OPTIONS)
    assert told(outbox, batch, watchers) == [(URL, 1)]
    assert told(outbox, batch, watchers) == []
    store_registration(outbox, batch, OTHER, **OPTIONS)
    assert told(outbox, batch, watchers) == [(OTHER, 1)]
    put(outbox, batch, refs(outbox, batch)[0], State.FAILED)
    outbox.outcomes.new_try(batch)
    assert told(outbox, batch, watchers) == [], "a row is not final"
    put(outbox, batch, refs(outbox, batch)[0], State.SUCCEEDED)
    assert told(outbox, batch, watchers) == [(URL, 2), (OTHER, 2)]


def test_the_newest_options_count(outbox: Outbox, batch: str) -> None:
    """Registered again with another account or queue it is the same URL, which is not notified of this round again."""
    store_registration(outbox, batch, URL, **OPTIONS)
    told(outbox, batch)
    store_registration(outbox, batch, URL, **{**OPTIONS, "service_account": "sa@p", "queue": "other"})
    assert registered(outbox.batches.get(batch)) == {
        URL: {"told": 1, "service_account": "sa@p", "audience": None, "queue": "other"}
    }
    assert told(outbox, batch) == []
