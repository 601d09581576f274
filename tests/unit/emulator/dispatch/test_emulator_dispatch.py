"""The dispatcher, with a target that answers when the test says so."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from cloudtasks_nb.emulator.dispatch import dispatch
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NoSocketError, NotListeningError
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.dispatch.unreachable import UnreachableTargets
from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.attempts import AttemptResult
from cloudtasks_nb.emulator.model.clock import HOUR, Clock
from cloudtasks_nb.emulator.model.queues import PAUSED
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.oplog import Kind
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from tests.unit.emulator.conftest import LOG_ALL, NOW, QUEUE, URL, commit, new_queue, new_task, refused, with_settings


class Target(Deliverer):
    """Holds every request until the test answers it."""

    def __init__(self) -> None:
        self.calls: list[HttpCall] = []
        self.waiting: list[asyncio.Future[AttemptResult]] = []
        self.refuses = False
        self.full = 0  # so many requests more find no socket

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Note a request."""
        self.calls.append(call)
        if self.refuses:
            raise NotListeningError
        if self.full:
            self.full -= 1
            raise NoSocketError
        if connected:
            connected()
        answer: asyncio.Future[AttemptResult] = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        return await answer

    @property
    def ids(self) -> list[str]:
        """The tasks that were sent, in that order."""
        prefix = "X-CloudTasks-TaskName"
        return [call.headers[prefix] for call in self.calls]

    async def answer(self, status: int = 200, count: int = 1) -> None:
        """Answer the requests that wait longest."""
        for _ in range(count):
            self.waiting.pop(0).set_result(AttemptResult(http_status=status))
        await turn()


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass(kw_only=True)
class Harness:
    """A dispatcher with its store, clock and target."""

    store: Store
    clock: Clock
    target: Target = field(default_factory=Target)
    settings: Settings = field(default_factory=Settings)
    dispatcher: Dispatcher = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.store, self.clock, self.target, lambda *_: None, self.settings)

    async def add(self, queue: QueueState, *ids: str, due: int | None = None, url: str = URL) -> None:
        """Create tasks and let the dispatcher know."""
        for task_id in ids:
            self.store.add(queue, new_task(task_id, self.clock.now(), due=due, url=url), self.clock.now())
        commit(self.store)
        self.dispatcher.wake([queue])
        await turn()


@pytest.fixture
def harness(request: pytest.FixtureRequest, runner: asyncio.Runner, store: Store, clock: Clock) -> Iterator[Harness]:
    """Give a dispatcher with a queue; `with_settings` changes the queue's settings and `wait_for_loopback`."""
    settings = dict(getattr(request, "param", {}))

    async def start() -> Harness:
        wait = settings.pop("wait_for_loopback", False)
        return Harness(store=store, clock=clock, settings=Settings(wait_for_loopback=wait))

    harness = runner.run(start())
    new_queue(store, **settings)
    yield harness
    runner.run(harness.dispatcher.close())


@pytest.fixture
def queue(harness: Harness) -> QueueState:
    """Give the queue of the harness."""
    return harness.store.queue(QUEUE)


def limits(**given: float) -> dict[str, Any]:
    """Name the rate limits of a queue."""
    return {"rate_limits": beta.RateLimits(**given)}


async def test_without_a_socket_it_waits(harness: Harness, queue: QueueState, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent is no attempt; that it waits is told once."""
    told: list[str] = []
    harness.store.report = told.append
    monkeypatch.setattr(dispatch, "_NO_SOCKET_PAUSE", 0.0)
    harness.target.full = 3
    await harness.add(queue, "a", "b")
    assert len(harness.target.waiting) == 2
    await harness.target.answer(500, count=2)
    assert [queue.attempts[number].dispatches for number in queue.live.values()] == [1, 1]
    assert told == ["too many open files: attempts wait for a free one; ulimit -n raises the limit"]


async def test_a_few_at_a_time(harness: Harness, queue: QueueState) -> None:
    """Between two handfuls of tasks the loop has its turn, so that answers are seen and connections come free."""
    for number in range(25):
        harness.store.add(queue, new_task(f"t{number}"), NOW)
    commit(harness.store)
    harness.dispatcher.wake([queue])
    assert queue.in_flight == 10
    async with asyncio.timeout(240):
        while len(harness.target.calls) < 25:
            await turn()
    assert queue.in_flight == 25


async def test_the_clock_is_moved_when_an_attempt_has_just_ended(harness: Harness, queue: QueueState) -> None:
    """The deadline of an attempt that has ended is over: moving the clock moves those of the others."""
    await harness.add(queue, "a", "b")
    harness.dispatcher.changed = partial(harness.clock.advance, HOUR)
    await harness.target.answer()
    assert harness.target.waiting[0].cancelled()
    assert (list(queue.live), queue.in_flight) == (["b"], 1)


@with_settings("harness", **limits(max_concurrent_dispatches=1))
async def test_a_run_by_hand(harness: Harness, queue: QueueState) -> None:
    """A task can be run while its queue is paused and full, and while it runs; one that is not there cannot."""
    await harness.add(queue, "a", due=NOW + HOUR)
    queue.message.state = PAUSED
    harness.dispatcher.run_now(queue, "a")
    harness.dispatcher.run_now(queue, "a")
    await turn()
    assert (harness.target.ids, queue.in_flight) == (["a", "a"], 2)
    await harness.target.answer(200, 2)
    assert (queue.live, harness.dispatcher.ended) == ({}, 2)
    with refused("NOT_FOUND", "no longer exists"):
        harness.dispatcher.run_now(queue, "a")


@with_settings("harness", wait_for_loopback=True, **limits(max_dispatches_per_second=1, max_burst_size=2))
async def test_only_this_machine_is_waited_for(harness: Harness, queue: QueueState) -> None:
    """A refused connection here is no attempt and costs no token of the rate; one elsewhere or nowhere is one."""
    harness.target.refuses = True
    await harness.add(queue, "here")
    await harness.add(queue, "elsewhere", url="http://10.255.255.1/x")
    await harness.add(queue, "nowhere", url="http://[oops/")
    assert harness.target.ids == ["here", "elsewhere", "nowhere"]
    assert [queue.attempts[number].dispatches for number in queue.live.values()] == [0, 1, 1]


REFUSED = "127.0.0.1:9 refuses the connection"


@with_settings("harness", stackdriver_logging_config=LOG_ALL)
@pytest.mark.parametrize("in_container", [False, True])
async def test_the_cause_of_a_failure(
    harness: Harness, queue: QueueState, monkeypatch: pytest.MonkeyPatch, *, in_container: bool
) -> None:
    """The line of an attempt, the history and the log say why it has no answer; in a container, whose address it is."""
    monkeypatch.setattr(dispatch, "_in_container", lambda: in_container)
    lines: list[str] = []
    harness.dispatcher.failed = lines.append
    await harness.add(queue, "a")
    harness.target.waiting.pop().set_result(AttemptResult(http_status=0, cause=REFUSED))
    await turn()
    commit(harness.store)
    records = harness.store.log.read(0, NOW * 2, queues=[queue.q], kinds=list(Kind), now=NOW, ascending=True)
    assert [record.cause for record in records] == ["", "", REFUSED]
    assert [one.cause for one in harness.dispatcher.history.ended()] == [REFUSED]
    hint = r" \(in a container, .* host.docker.internal\)" if in_container else ""
    assert re.search(f" failed with UNKNOWN\\(2\\): {REFUSED}{hint}; next attempt ", lines[0])


async def test_holding(harness: Harness, queue: QueueState) -> None:
    """Attempts under way are cancelled without a result; during a hold nothing is sent, after it all due tasks are."""
    await harness.add(queue, "a")
    await harness.dispatcher.abort(hold=True)
    assert harness.target.waiting[0].cancelled()
    assert queue.live.keys() == {"a"}
    waiting = asyncio.create_task(harness.dispatcher.wait_released())
    await harness.add(queue, "b")
    harness.clock.advance(HOUR)
    await turn()
    assert (harness.target.ids, waiting.done()) == (["a"], False)
    harness.store.reload(keep_running=False)
    harness.dispatcher.release()
    await turn()
    assert (harness.target.ids, waiting.done()) == (["a", "a", "b"], True)
    assert [state.in_flight for state in harness.store.contents.by_number.values()] == [2]


async def test_nothing_is_sent_while_nothing_can_be_stored(harness: Harness, queue: QueueState) -> None:
    """A task whose result would be lost waits, also for RunTask; when the file can be written it is sent."""
    harness.store.unwritable = "disk full"
    await harness.add(queue, "a")
    with refused("INTERNAL", "^disk full$"):
        harness.dispatcher.run_now(queue, "a")
    assert (harness.target.ids, harness.dispatcher.next_dispatch()) == ([], None)
    harness.store.unwritable = ""
    harness.dispatcher.wake_all()
    await turn()
    assert harness.target.ids == ["a"]


async def test_probes_end_with_the_dispatcher() -> None:
    """The probes of unreachable targets stop when they are closed."""
    targets = UnreachableTargets(lambda _: None)
    targets.add("127.0.0.1:9")
    targets.add("127.0.0.1:9")
    (probe,) = targets.probes.values()
    await targets.close()
    assert (probe.cancelled(), targets.probes) == (True, {})
