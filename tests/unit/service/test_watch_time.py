"""Watching in simulated time: many queues within the quota of log reads, pauses, and the end of the work."""

import asyncio
import selectors
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from google.cloud import tasks_v2beta3
from google.cloud.logging_v2.types import logging as logging_types

from cloudtasks_nb import _loop
from cloudtasks_nb._names import QueueName
from cloudtasks_nb.errors import CloudTasksError, QuotaError, UnavailableError
from cloudtasks_nb.service.watch import Snapshot, Watcher
from tests.unit.service.conftest import raw_entry

QUEUES = [QueueName(project="p", location="l", queue=f"q{number}") for number in range(8)]
MINUTE = 60.0
START = 1_767_225_600.0


class Hurried(selectors.DefaultSelector):
    """Waits for nothing: the time that was to be waited for has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> Any:
        """Look for what is ready."""
        self.now += timeout or 0.0
        return super().select(0)


class Service:
    """A transport that notes when the log of which queue is read; answers take so many seconds."""

    logs_at_once = False

    def __init__(self, loop: asyncio.AbstractEventLoop, latency: float, pages: dict[str, int]) -> None:
        self._loop, self._latency = loop, latency
        self._pages = pages  # pages of each queue's log that nobody has read yet
        self.reads: list[float] = []
        self.by_queue: defaultdict[str, list[float]] = defaultdict(list)
        self.calls: list[float] = []
        self.errors: dict[str, list[CloudTasksError]] = {}  # by RPC, raised before it answers
        self.service_clock = SimpleNamespace(micros=lambda: int((START + loop.time()) * 1e6))

    async def call(self, rpc: str, **fields: Any) -> Any:
        """Answer a call."""
        self.calls.append(self._loop.time())
        await asyncio.sleep(self._latency)
        if self.errors.get(rpc):
            raise self.errors[rpc].pop(0)
        if rpc == "GetQueueStats":
            return tasks_v2beta3.Queue.pb()(name=fields["name"], state=1)
        assert rpc == "ListLogEntries"
        queue = next(one.queue for one in QUEUES if f'"{one.queue}"' in fields["filter"])
        self.reads.append(self._loop.time())
        self.by_queue[queue].append(self._loop.time())
        left = self._pages.get(queue, 0)
        if not left:
            return logging_types.ListLogEntriesResponse.pb()()
        self._pages[queue] = left - 1
        entry = raw_entry(f"{queue}-{left}", int(START * 1e6), int(START * 1e6))
        return logging_types.ListLogEntriesResponse.pb()(entries=[entry], next_page_token=str(left))


Story = Callable[[Watcher, Service], Awaitable[None]]
Simulate = Callable[..., Service]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Run a story with a watcher on a loop whose time passes at once; no task is left at the end."""

    def run(story: Story, latency: float = 0.0, pages: dict[str, int] | None = None) -> Service:
        selector = Hurried()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            loop = runner.get_loop()
            monkeypatch.setattr(loop, "time", lambda: selector.now)
            monkeypatch.setattr(_loop, "call_soon", loop.call_soon)
            transport: Any = Service(loop, latency, dict(pages or {}))
            watcher = Watcher(transport)

            async def tell() -> None:
                await story(watcher, transport)
                assert asyncio.all_tasks() == {asyncio.current_task()}

            runner.run(tell())
            return cast("Service", transport)

    return run


def watch(simulate: Simulate, **how: Any) -> tuple[Service, dict[str, list[Snapshot]]]:
    """Watch all queues for ten minutes."""
    heard: dict[str, list[Snapshot]] = {queue.queue: [] for queue in QUEUES}

    async def story(watcher: Watcher, _: Service) -> None:
        for queue in QUEUES:
            watcher.subscribe(queue, heard[queue.queue].append, since=int(START * 1e6), every=1.0)
        await asyncio.sleep(10 * MINUTE)
        await watcher.close()

    return simulate(story, **how), heard


@pytest.mark.parametrize("latency", [0.0, 0.08])
def test_no_minute_has_more_reads_than_the_quota(simulate: Simulate, latency: float) -> None:
    """Eight queues share what one may read, in turns, also when one is long; statistics come every second."""
    service, heard = watch(simulate, latency=latency, pages={"q3": 200})
    reads = service.reads
    assert max(bisect_right(reads, at + MINUTE - 0.001) - number for number, at in enumerate(reads)) <= 60
    assert len(reads) > 10 * 50
    assert min(len(snapshots) for snapshots in heard.values()) > 500
    assert all(snapshot.queue.queue == name for name, found in heard.items() for snapshot in found)
    for queue in QUEUES:
        times = [1_000.0, *service.by_queue[queue.queue], 1_600.0]
        assert max(after - before for before, after in pairwise(times)) < 15, queue


def test_without_subscriptions_nothing_is_called(simulate: Simulate) -> None:
    """The work ends with the last subscription, begins again with the next, and ends with `close()`."""

    async def story(watcher: Watcher, service: Service) -> None:
        heard: list[Snapshot] = []
        first, second = (watcher.subscribe(QUEUES[0], heard.append, since=0) for _ in range(2))
        await asyncio.sleep(MINUTE)
        for subscription in (first, first, second):
            subscription.close()
        await asyncio.sleep(1)
        calls, snapshots = len(service.calls), len(heard)
        await asyncio.sleep(MINUTE)
        assert (len(service.calls), len(heard)) == (calls, snapshots)
        watcher.subscribe(QUEUES[0], heard.append)
        await asyncio.sleep(MINUTE)
        assert len(heard) > snapshots + 50
        await watcher.close()
        calls, snapshots = len(service.calls), len(heard)
        await asyncio.sleep(MINUTE)
        assert (len(service.calls), len(heard)) == (calls, snapshots)

    simulate(story)


def test_many_that_subscribe_one_after_another_share_reads(simulate: Simulate) -> None:
    """The snapshots that a hundred batches get do not grow with the square of their number."""
    heard: list[Snapshot] = []

    async def story(watcher: Watcher, _: Service) -> None:
        for _number in range(100):
            watcher.subscribe(QUEUES[0], heard.append, every=1.0)
            watcher.refresh(QUEUES[0])
            await asyncio.sleep(0.01)
        await watcher.close()

    simulate(story)
    assert 0 < len(heard) < 100 * 100 / 10


@pytest.mark.parametrize("error", [QuotaError("wait"), UnavailableError("down")])
@pytest.mark.parametrize("rpc", ["GetQueueStats", "ListLogEntries"])
def test_an_overloaded_service_is_read_less_often(simulate: Simulate, error: CloudTasksError, rpc: str) -> None:
    """The pause doubles up to half a minute; after a success it is what the subscriber asked for."""

    async def story(watcher: Watcher, service: Service) -> None:
        service.errors[rpc] = [error] * 7
        watcher.subscribe(QUEUES[0], lambda _: None, since=int(START * 1e6), every=1.0)
        await asyncio.sleep(3 * MINUTE)
        await watcher.close()

    service = simulate(story)
    starts = sorted(set(service.calls))
    assert [after - before for before, after in pairwise(starts)][:8] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 1.0]
