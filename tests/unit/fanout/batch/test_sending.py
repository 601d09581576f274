"""The sending of one batch is supervised in the background, as often as rows are added to it."""

import asyncio
import math
import os
import threading
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from google.cloud.tasks_v2 import types

from cloudtasks_nb import _loop
from cloudtasks_nb._names import TAG_HEADER
from cloudtasks_nb.errors import EndpointError, PreconditionError, QueueNotFoundError, ServiceError, StoreError
from cloudtasks_nb.fanout.batch import sending as sending_module
from cloudtasks_nb.fanout.batch.gate import Cancels
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.store.batches import read_claim
from cloudtasks_nb.store.results import tag_of
from cloudtasks_nb.store.store import Store
from tests.cases import cases
from tests.unit.fanout.conftest import NOW, PLACE, FakeClock, Service, all_rows, assert_each_once, put_facts, raising

ROWS = 250


class Supervised:
    """A supervisor, and what it has reported."""

    def __init__(self, outbox: Outbox, batch: str, service: Service) -> None:
        self.service = service
        self.troubles: set[str | None] = set()
        self.changed = asyncio.Event()
        self.clock = FakeClock()
        self.store = Store(outbox.path.parent / "store")
        self.supervisor = Sending(
            SimpleNamespace(transport=service, endpoint=service.endpoint, store=self.store),  # type: ignore[arg-type]  # all of one
            Nothing(outbox, batch, self),  # type: ignore[arg-type]  # all that is used of one
            _loop.Supervisor("batch", lambda: None),
            Cancels(outbox, self.store, batch),
            lambda: None,
        )

    async def check(self) -> None:
        """Make sure that some process sends."""
        await self.supervisor.check(self.supervisor.outbox.batches.get(self.supervisor.record.id))

    async def run(self) -> None:
        """Begin, and wait for the end."""
        self.supervisor.begin()
        assert self.supervisor.active
        await self.supervisor.join()
        assert not self.supervisor.active

    def note(self) -> None:
        """Keep the trouble after a change."""
        self.troubles.add(None if self.supervisor.trouble is None else self.supervisor.trouble.message)
        self.changed.set()


class Nothing:
    """An adoption that finds nothing."""

    seen, newest = None, math.inf

    def __init__(self, outbox: Outbox, batch: str, supervised: Supervised) -> None:
        self.outbox, self.record = outbox, outbox.batches.get(batch)
        self.changed, self.clock = supervised.note, supervised.clock
        self.known_later, self.stale = False, False

    async def run(self) -> None:
        """Find nothing."""


def missing(count: int) -> Any:
    """Return what does not find the queue at the first calls."""

    def fail(_rpc: str, number: int) -> None:
        if number <= count:
            raise QueueNotFoundError("no queue", code="NOT_FOUND", resource=PLACE.queue_name)

    return fail


def broken(_rpc: str, _number: int) -> None:
    """Fail as our own code may."""
    raise IndexError("ours")


@pytest.fixture
def sending(outbox: Outbox, batch: str) -> Supervised:
    """Have what sends a batch of 250 rows."""
    return Supervised(outbox, batch, Service())


def sent_tags(service: Service) -> dict[str, str]:
    """Return the tag of each task that was sent."""
    calls = [types.BatchCreateTasksRequest.pb().FromString(request) for request in service.requests.values()]
    made = [one.task for call in calls for one in call.requests]
    return {task.name.rpartition("/")[2]: task.http_request.headers[TAG_HEADER] for task in made}


@pytest.mark.parametrize("silent", [True, False])
async def test_a_store_that_takes_no_claim(
    outbox: Outbox, batch: str, sending: Supervised, monkeypatch: Any, capsys: Any, *, silent: bool
) -> None:
    """Rows are sent with a key of this home, and a line says so; the next sending claims the batch with that key."""
    answered = threading.Event()

    def fail(*_: object) -> bool:
        if silent:
            answered.wait()
        raise StoreError("the bucket does not answer")

    monkeypatch.setattr(Store, "claim", fail)
    monkeypatch.setattr(sending_module, "_PATIENCE", 0.01 if silent else 60.0)
    await sending.run()
    answered.set()
    assert_each_once(outbox, batch, sending.service, ROWS)
    note = "did not answer in 0 s" if silent else "the bucket does not answer"
    assert f"until batch {batch} is claimed, its results count in this home only: " in (out := capsys.readouterr().out)
    assert note in out
    monkeypatch.undo()
    await sending.run()
    assert capsys.readouterr().out == ""
    claim = orjson.loads(read_claim(sending.store, batch) or b"")
    task, tag = sent_tags(sending.service).popitem()
    assert tag == tag_of(bytes.fromhex(claim["key"]), task)


async def test_what_ended_it_is_kept_until_it_begins_again(outbox: Outbox, batch: str, sending: Supervised) -> None:
    """A refusal is raised where one waits; begun again, the rows are sending."""
    sending.service.before = raising("PERMISSION_DENIED", range(1, 99))
    await sending.run()
    with pytest.raises(ServiceError, match="PERMISSION_DENIED"):
        await sending.check()
    sending.service.before = lambda _rpc, _number: None
    await sending.run()
    assert sending.supervisor.error is None
    assert_each_once(outbox, batch, sending.service, ROWS)


async def test_a_fault_of_ours_ends_it(batch: str, sending: Supervised, caplog: pytest.LogCaptureFixture) -> None:
    """An error of our own code is logged, and kept as an error of the toolkit."""
    sending.service.after = broken
    await sending.run()
    assert str(sending.supervisor.error).startswith(f"sending batch {batch} failed with IndexError")
    assert f"sending batch {batch}" in caplog.text


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_queue_that_is_not_there(sending: Supervised, *, fresh: bool) -> None:
    """A queue that was just made is waited for; another one ends the sending."""
    sending.service.before, sending.service.new = missing(3), fresh
    await sending.run()
    assert sum(sending.service.created.values()) == (ROWS if fresh else 0)
    assert isinstance(sending.supervisor.error, QueueNotFoundError) != fresh
    assert sending.supervisor.trouble is None
    assert ("no queue" in sending.troubles) == fresh


async def test_tasks_that_were_there_are_counted(outbox: Outbox, batch: str, sending: Supervised) -> None:
    """How many tasks another outbox has made already is kept with the batch."""
    for task in all_rows(outbox, batch, "tasks")[:10]:
        sending.service.create(task)
    await sending.run()
    assert outbox.batches.facts(batch).existing == 10


async def test_a_sender_that_is_about_to_begin(sending: Supervised) -> None:
    """Right after rows are stored nobody sends them yet; a moment later their process does."""

    class Later(FakeClock):
        async def sleep(self, seconds: float) -> None:
            sending.supervisor.begin()
            await super().sleep(seconds)

    sending.supervisor.clock = Later()
    await sending.check()
    await sending.supervisor.join()


async def test_no_process_sends(outbox: Outbox, batch: str, sending: Supervised) -> None:
    """Unsent rows that no process sends are an error."""
    with pytest.raises(PreconditionError, match=r"250 rows of batch .* are unsent, and no process sends them"):
        await sending.check()
    with Outbox(outbox.path) as elsewhere:
        announced = elsewhere.requests.announce_sender(batch)
        await sending.check()  # also while it does not hold the lock on sending
        announced.release()


async def test_no_process_looks_rows_in_doubt_up(outbox: Outbox, batch: str, sending: Supervised) -> None:
    """Of a killed sender's rows nobody would ever know more: a wait for them ends."""
    outbox.requests.queue(batch).turn([], 9, now=NOW)
    outbox.requests.find_doubtful(batch)
    doubt = "may have been sent by a process that has ended, and no process sends them"
    with pytest.raises(PreconditionError, match=f"250 rows of batch .* {doubt}"):
        await sending.check()


@cases(
    ({"pid": os.getpid(), "target": "127.0.0.1:1"}, "another connection of this kernel (127.0.0.1:1)"),
    ({"pid": 1, "target": "127.0.0.1:1"}, "process 1 (127.0.0.1:1)"),
    ({"pid": (1 << 31) - 1, "target": "127.0.0.1:1"}, "another process"),  # it has ended
    (None, "another process"),
)
async def test_another_sender_is_named(outbox: Outbox, batch: str, sending: Supervised, sender: Any, who: str) -> None:
    """A sending that waits for another one names it, and goes on when that one has ended."""
    put_facts(outbox, batch, sender=sender)
    lock: Any = outbox.requests.lock(batch)
    sending.supervisor.begin()
    await sending.changed.wait()
    assert str(sending.supervisor.other_sender_note).startswith(f"{who} sends the remaining rows")
    lock.release()
    await sending.supervisor.join()
    assert sending.supervisor.other_sender_note is None
    assert outbox.batches.facts(batch).sender == {"pid": os.getpid(), "target": "127.0.0.1:8123"}
    assert_each_once(outbox, batch, sending.service, ROWS)


async def test_nothing_answers_for_a_while(outbox: Outbox, batch: str, sending: Supervised) -> None:
    """Meanwhile other processes may send; when there is an answer again this one does."""
    calls: list[bool] = []

    def dead(rpc: str, number: int) -> None:
        lock = outbox.requests.lock(batch)
        calls.append(sending.supervisor.unanswered is not None and lock is not None)
        if lock is not None:
            lock.release()
        if number <= 5 or (rpc == "GetQueue" and number < 10):
            raise EndpointError("nothing answers", code="UNAVAILABLE")

    sending.service.before = dead
    await sending.run()
    assert sum(calls) >= 4
    assert not sending.supervisor.unanswered
    assert_each_once(outbox, batch, sending.service, ROWS)
