"""One batch is sent in the background, as often as rows come to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from cloudtasks_nb import _loop
from cloudtasks_nb.errors import CloudTasksError, EndpointError, PreconditionError, QueueNotFoundError, ServiceError
from cloudtasks_nb.fanout.batch import sending as sending_module
from cloudtasks_nb.fanout.batch.sending import Sending
from cloudtasks_nb.fanout.outbox.outbox import Outbox
from cloudtasks_nb.fanout.sender.sender import send
from tests.unit.fanout.conftest import PLACE, Clock, Service, all_rows, assert_each_once, raising

ROWS = 250


class Transport:
    """A connection's channels, with a service of a few lines behind them."""

    google = False

    def __init__(self, service: Service, *, fresh: bool = False) -> None:
        self.service, self.fresh = service, fresh
        self.resource_names: set[str | None] = set()
        self.endpoint = SimpleNamespace(target="127.0.0.1:8123")

    async def raw(self, rpc: str, request: bytes, *, timeout: float | None, resource_name: str | None) -> bytes:
        """Answer one call, and keep about which queue it was."""
        self.resource_names.add(resource_name)
        return await self.service.raw(rpc, request, timeout=timeout)

    def is_new(self, queue: str) -> bool:
        """Tell whether the queue was just made."""
        return self.fresh and queue == PLACE.queue_name


class Sent:
    """A sending, and what is heard of it."""

    def __init__(self, outbox: Outbox, batch: str, service: Service, *, fresh: bool = False) -> None:
        self.transport = Transport(service, fresh=fresh)
        self.rows: list[int] = []
        self.heard: list[CloudTasksError | None] = []
        self.ends = 0
        self.sending = Sending(
            self.transport,  # type: ignore[arg-type]  # all that it uses of one
            outbox,
            outbox.batches.get(batch),
            lookup=self._lookup,
            sent=self.rows.append,
            heard=self.heard.append,
            ended=self._ended,
        )

    def run(self, times: int = 1) -> None:
        """Begin, and wait for the end."""
        _loop.run(self._run(times))

    def check(self, unsent: int) -> None:
        """Make sure that somebody sends."""
        _loop.run(self.sending.check(unsent))

    async def _run(self, times: int) -> None:
        self._over = asyncio.Event()
        for _ in range(times):
            self.sending.begin()
        assert self.sending.active
        await self.sending.settle()
        async with asyncio.timeout(30):
            await self._over.wait()
        await asyncio.sleep(0)  # what is called at the end is done
        assert not self.sending.active

    async def _ended(self) -> None:
        self.ends += 1
        self._over.set()

    @staticmethod
    async def _lookup(names: Sequence[str]) -> Mapping[str, bool | None]:
        return dict.fromkeys(names)


def missing(count: int) -> Any:
    """Return what does not find the queue at the first calls."""

    def fail(_rpc: str, number: int) -> None:
        if number <= count:
            raise QueueNotFoundError("no queue", code="NOT_FOUND", resource=PLACE.queue_name)

    return fail


def broken(_rpc: str, _number: int) -> None:
    """Fail as our own code may."""
    raise IndexError("ours")


def test_rows_are_sent_and_counted(outbox: Outbox, batch: str) -> None:
    """Each row is sent once and heard of, every call names the queue, and the end is called."""
    service = Service()
    sent = Sent(outbox, batch, service)
    sent.run()
    assert_each_once(outbox, batch, service, ROWS)
    assert sum(sent.rows) == ROWS
    assert sent.transport.resource_names == {PLACE.queue_name}
    assert (sent.ends, sent.heard, sent.sending.stopped) == (1, [None], None)


def test_asked_twice_it_ends_once(outbox: Outbox, batch: str) -> None:
    """Who asks while it is under way starts no second sender."""
    service = Service()
    sent = Sent(outbox, batch, service)
    sent.run(times=2)
    assert sent.ends == 1
    assert_each_once(outbox, batch, service, ROWS)


def test_what_ended_it_is_kept_until_it_begins_again(outbox: Outbox, batch: str) -> None:
    """A refusal is raised for who waits; begun again, the rows are sent."""
    service = Service(before=raising("PERMISSION_DENIED", range(1, 99)))
    sent = Sent(outbox, batch, service)
    sent.run()
    with pytest.raises(ServiceError, match="PERMISSION_DENIED"):
        sent.check(ROWS)
    service.before = lambda _rpc, _number: None
    sent.run()
    assert sent.sending.stopped is None
    assert_each_once(outbox, batch, service, ROWS)


def test_a_fault_of_ours_ends_it_with_an_error(outbox: Outbox, batch: str, caplog: pytest.LogCaptureFixture) -> None:
    """An error that is none of the service is logged, and kept under our own name."""
    sent = Sent(outbox, batch, Service(after=broken))
    sent.run()
    assert str(sent.sending.stopped).startswith("sending ended with IndexError")
    assert f"sending batch {batch} failed" in caplog.text


@pytest.mark.parametrize("fresh", [True, False])
def test_a_queue_that_is_not_there(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch, *, fresh: bool) -> None:
    """A queue that was just made is waited for; another one ends the sending."""
    monkeypatch.setattr(sending_module, "send", partial(send, sleep=Clock().sleep))
    sent = Sent(outbox, batch, Service(before=missing(3)), fresh=fresh)
    sent.run()
    assert sum(sent.rows) == (ROWS if fresh else 0)
    assert isinstance(sent.sending.stopped, QueueNotFoundError) != fresh
    assert sent.heard[-1] is None
    assert any(isinstance(error, QueueNotFoundError) for error in sent.heard) == fresh


def test_tasks_that_were_there_are_written_down(outbox: Outbox, batch: str) -> None:
    """How many tasks another outbox has made already is kept with the batch."""
    service = Service()
    for task in all_rows(outbox, batch, "tasks")[:10]:
        service.create(task)
    Sent(outbox, batch, service).run()
    assert outbox.batches.settings(batch)["already"] == 10


def test_nobody_sends(outbox: Outbox, batch: str) -> None:
    """Who waits for unsent rows is told so, unless there are none, or another process sends them."""
    sent = Sent(outbox, batch, Service())
    with pytest.raises(PreconditionError, match=r"250 rows of batch .* are unsent, and nobody sends them"):
        sent.check(ROWS)
    sent.check(0)
    with Outbox(outbox.path, timeout=5.0) as elsewhere:
        hold = elsewhere.requests.lock(batch)
        assert hold is not None
        try:
            sent.check(ROWS)
        finally:
            hold.release()


@pytest.mark.parametrize(
    ("sender", "who"),
    [
        ({"pid": os.getpid(), "target": "127.0.0.1:1"}, "another connection of this kernel (127.0.0.1:1)"),
        ({"pid": 1, "target": "127.0.0.1:1"}, "process 1 (127.0.0.1:1)"),
        (None, "another process"),
    ],
)
def test_who_sends_instead(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch, sender: Any, who: str) -> None:
    """A sending that waits for another tells whom it waits for, and goes on when that one has ended."""
    service = Service()
    sent = Sent(outbox, batch, service)
    outbox.batches.set_setting(batch, "sender", sender)
    hold = outbox.requests.lock(batch)
    assert hold is not None

    async def wait_for_it() -> str | None:
        news, sent._over = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(sent.sending, "_heard", lambda _: news.set())
        sent.sending.begin()
        await news.wait()
        told = sent.sending.rival
        hold.release()
        await sent.sending.settle()
        return told

    told = _loop.run(wait_for_it())
    assert told is not None
    assert told.startswith(f"{who} sends the rest")
    assert sent.sending.rival is None
    assert outbox.batches.settings(batch)["sender"] == {"pid": os.getpid(), "target": "127.0.0.1:8123"}
    assert_each_once(outbox, batch, service, ROWS)


def test_nothing_answers_for_a_while(outbox: Outbox, batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile others may send; when there is an answer again this one does."""
    calls: list[bool] = []

    def dead(rpc: str, number: int) -> None:
        free = outbox.requests.lock(batch)
        calls.append(sent.sending.unanswered and free is not None)
        if free is not None:
            free.release()
        if number <= 5 or (rpc == "GetQueue" and number < 10):
            raise EndpointError("nothing answers", code="UNAVAILABLE")

    monkeypatch.setattr(sending_module, "send", partial(send, sleep=Clock().sleep))
    service = Service(before=dead)
    sent = Sent(outbox, batch, service)
    sent.run()
    assert sum(calls) >= 4
    assert not sent.sending.unanswered
    assert_each_once(outbox, batch, service, ROWS)


def test_closed_while_it_sends(outbox: Outbox, batch: str) -> None:
    """Closing ends it at once; what was not sent is sent by the next."""
    service = Service()
    sent = Sent(outbox, batch, service)

    async def begin_and_close() -> None:
        sent.sending.begin()
        await sent.sending.close()

    _loop.run(begin_and_close())
    assert not sent.sending.active
    assert sent.ends == 0
    Sent(outbox, batch, service).run()
    assert_each_once(outbox, batch, service, ROWS)
