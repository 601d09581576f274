"""The dispatcher: what is sent when, with a target under the test's control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloudtasks_nb.emulator.dispatch import unreachable
from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NotListeningError
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.model.attempts import AttemptResult
from cloudtasks_nb.emulator.model.clock import HOUR, SECOND, Clock
from cloudtasks_nb.emulator.model.protobuf import beta
from cloudtasks_nb.emulator.model.queues import PAUSED, RUNNING
from cloudtasks_nb.emulator.model.refusal import RefusedError
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.model.tasks import accept_task
from cloudtasks_nb.emulator.store.state import QueueState
from cloudtasks_nb.emulator.store.store import Store
from tests.unit.emulator.conftest import NOW, QUEUE, commit, http_task, new_queue, new_task, with_settings


class Target(Deliverer):
    """Holds every request until the test answers it."""

    def __init__(self) -> None:
        self.calls: list[HttpCall] = []
        self.waiting: list[asyncio.Future[AttemptResult]] = []
        self.arrivals: asyncio.Queue[HttpCall] = asyncio.Queue()
        self.refuses = False

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:
        """Note a request."""
        self.calls.append(call)
        self.arrivals.put_nowait(call)
        if self.refuses:
            raise NotListeningError
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

    async def add(self, queue: QueueState, *ids: str, due: int | None = None) -> None:
        """Create tasks and let the dispatcher know."""
        for task_id in ids:
            self.store.add(queue, new_task(task_id, self.clock.now(), due=due), self.clock.now())
        self.commit()
        self.dispatcher.wake([queue])
        await turn()

    async def set_state(self, queue: QueueState, state: int) -> None:
        """Pause or resume the queue."""
        queue.message.state = state
        self.dispatcher.wake([queue])
        await turn()

    async def wait(self, duration: int) -> None:
        """Let time pass."""
        self.clock.advance(duration)
        await turn()

    def commit(self) -> None:
        """Commit the store."""
        commit(self.store)


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


def retries(attempts: int) -> dict[str, Any]:
    """Name the retry configuration of a queue: a second between attempts."""
    config = beta.RetryConfig(max_attempts=attempts, max_doublings=1)
    config.min_backoff.seconds = config.max_backoff.seconds = 1
    return {"retry_config": config}


async def test_a_due_task_is_sent_and_done(harness: Harness, queue: QueueState) -> None:
    """A task that is due is sent at once; a good answer ends it."""
    await harness.add(queue, "a")
    assert (harness.target.ids, queue.in_flight) == (["a"], 1)
    await harness.target.answer(204)
    assert (queue.live, queue.in_flight) == ({}, 0)


async def test_a_scheduled_task_waits(harness: Harness, queue: QueueState) -> None:
    """A task for later is sent when its time has come, not before."""
    await harness.add(queue, "a", due=NOW + HOUR)
    await harness.wait(HOUR - 1)
    assert harness.target.ids == []
    await harness.wait(1)
    assert harness.target.ids == ["a"]


@with_settings("harness", **limits(max_concurrent_dispatches=2))
async def test_no_more_at_once_than_allowed(harness: Harness, queue: QueueState) -> None:
    """No more tasks are in flight than the queue allows; each answer makes room for one."""
    await harness.add(queue, "a", "b", "c", "d")
    assert harness.target.ids == ["a", "b"]
    await harness.target.answer()
    assert harness.target.ids == ["a", "b", "c"]
    await harness.target.answer(500)
    assert harness.target.ids == ["a", "b", "c", "d"]


@with_settings("harness", **limits(max_dispatches_per_second=2, max_burst_size=10))
async def test_no_faster_than_allowed(harness: Harness, queue: QueueState) -> None:
    """After a burst tasks are sent at the queue's rate; retries need tokens too."""
    await harness.add(queue, *(f"t{number}" for number in range(14)))
    assert len(harness.target.calls) == 10
    await harness.wait(SECOND)
    assert len(harness.target.calls) == 12
    await harness.target.answer(500)
    await harness.wait(SECOND // 2)
    assert len(harness.target.calls) == 13


@with_settings("harness", **limits(max_burst_size=500))
async def test_many_due_tasks(harness: Harness, queue: QueueState) -> None:
    """More tasks than are looked at in one turn are all sent."""
    await harness.add(queue, *(f"t{number}" for number in range(450)))
    async with asyncio.timeout(20):
        while len(harness.target.calls) < 450:
            await turn()
    assert harness.target.ids == [f"t{number}" for number in range(450)]


async def test_a_few_at_a_time(harness: Harness, queue: QueueState) -> None:
    """Between two handfuls of tasks the loop has its turn, so that answers are seen and connections come free."""
    for number in range(25):
        harness.store.add(queue, new_task(f"t{number}"), NOW)
    harness.commit()
    harness.dispatcher.wake([queue])
    assert queue.in_flight == 10
    for _ in range(25):
        await harness.target.arrivals.get()
    assert queue.in_flight == 25


async def test_a_paused_queue_sends_nothing(harness: Harness, queue: QueueState) -> None:
    """A paused queue takes tasks and sends none; what is in flight ends; resumed it goes on."""
    await harness.add(queue, "a")
    await harness.set_state(queue, PAUSED)
    await harness.add(queue, "b")
    await harness.target.answer()
    assert (harness.target.ids, set(queue.live)) == (["a"], {"b"})
    await harness.set_state(queue, RUNNING)
    assert harness.target.ids == ["a", "b"]


@with_settings("harness", **limits(max_concurrent_dispatches=1))
async def test_new_limits_hold_at_once(harness: Harness, queue: QueueState) -> None:
    """A queue that is given more room uses it."""
    await harness.add(queue, "a", "b", "c")
    assert harness.target.ids == ["a"]
    message = beta.Queue.FromString(queue.message.SerializeToString())
    message.rate_limits.max_concurrent_dispatches = 3
    harness.store.configure(queue, message)
    harness.dispatcher.wake([queue])
    await turn()
    assert harness.target.ids == ["a", "b", "c"]


@with_settings("harness", **retries(2))
async def test_a_failed_task_is_tried_again(harness: Harness, queue: QueueState) -> None:
    """A failed task is due again after its backoff, counted from the answer, and dropped after the last attempt."""
    await harness.add(queue, "a")
    await harness.wait(5 * SECOND)
    await harness.target.answer(500)
    harness.commit()
    assert queue.attempts[1].due == NOW + 6 * SECOND
    await harness.wait(SECOND - 1)
    assert len(harness.target.calls) == 1
    await harness.wait(1)
    assert [call.headers["X-CloudTasks-TaskRetryCount"] for call in harness.target.calls] == ["0", "1"]
    await harness.target.answer(404)
    assert (queue.live, queue.attempts) == ({}, {})


@with_settings("harness", **retries(5))
async def test_history(harness: Harness, queue: QueueState) -> None:
    """A finished task is remembered with every attempt; bodies are shown when asked for."""
    harness.store.add(queue, new_task("a", NOW, body=b"hi"), NOW)
    await harness.add(queue, "b")
    await harness.target.answer(503, 2)
    assert harness.dispatcher.history.newest("", 9, bodies=False) == []
    harness.commit()
    await harness.wait(SECOND)
    await harness.target.answer(200, 2)
    newest, oldest = harness.dispatcher.history.newest("q", 9, bodies=True)
    assert (newest["task"], oldest["task"], oldest["queue"], oldest["status"]) == ("b", "a", QUEUE, "OK")
    assert [attempt["status"] for attempt in oldest["attempts"]] == ["UNAVAILABLE", "OK"]
    assert oldest["attempts"][0]["body"] == "hi"
    assert oldest["attempts"][1]["headers"]["X-CloudTasks-TaskPreviousResponse"] == "503"
    (only,) = harness.dispatcher.history.newest(QUEUE, 1, bodies=False)
    assert "body" not in only["attempts"][0]
    assert harness.dispatcher.history.newest("other", 9, bodies=False) == []


async def test_a_deadline(harness: Harness, queue: QueueState) -> None:
    """When the deadline passes on the emulator's clock, the request is dropped and the attempt has failed."""
    await harness.add(queue, "a")
    await harness.wait(599 * SECOND)
    assert queue.in_flight == 1
    await harness.wait(2 * SECOND)
    async with asyncio.timeout(20):
        while queue.in_flight:
            await turn()
    assert harness.target.waiting[0].cancelled()
    attempts = queue.attempts[1]
    assert (attempts.code, attempts.http_status, attempts.responses) == (4, 504, 0)


@with_settings("harness", **limits(max_concurrent_dispatches=1))
async def test_a_run_by_hand(harness: Harness, queue: QueueState) -> None:
    """A task can be run while its queue is paused and full, and while it runs; one that is not there cannot."""
    await harness.add(queue, "a", due=NOW + HOUR)
    await harness.set_state(queue, PAUSED)
    harness.dispatcher.run_now(queue, "a")
    harness.dispatcher.run_now(queue, "a")
    await turn()
    assert (harness.target.ids, queue.in_flight) == (["a", "a"], 2)
    await harness.target.answer(200, 2)
    assert queue.live == {}
    with pytest.raises(RefusedError, match="no longer exists"):
        harness.dispatcher.run_now(queue, "a")


@with_settings("harness", stackdriver_logging_config=beta.StackdriverLoggingConfig(sampling_ratio=1.0))
async def test_log_entries(harness: Harness, queue: QueueState) -> None:
    """Dispatch and answer are logged, with the target, and the commit is asked for."""
    changes: list[int] = []
    harness.dispatcher.changed = lambda: changes.append(1)
    await harness.add(queue, "a")
    await harness.target.answer()
    harness.commit()
    rows = harness.store.database.read("SELECT kind, task, target, target_type, dispatches FROM log ORDER BY seq")
    target = ("a", "POST http://127.0.0.1:9/run", "HTTP")
    assert rows == [(1, *target, 0), (2, *target, 1), (3, *target, 1)]
    assert changes == [1, 1]


async def test_nobody_listens(harness: Harness, queue: QueueState) -> None:
    """A refused connection is an attempt like any other, as long as nothing else was asked for."""
    harness.target.refuses = True
    await harness.add(queue, "a")
    assert (queue.attempts[1].code, queue.attempts[1].dispatches) == (2, 1)
    assert harness.dispatcher.unreachable() == []


@with_settings("harness", wait_for_loopback=True)
async def test_waiting_for_a_target(harness: Harness, queue: QueueState, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody listens on this machine no attempt is spent; tasks are sent when somebody does."""
    monkeypatch.setattr(unreachable, "_PROBE_EVERY", 0.001)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    harness.target.refuses = True
    for task_id in ("a", "b"):
        task = http_task(task_id)
        task.http_request.url = f"http://127.0.0.1:{port}/x"
        harness.store.add(queue, accept_task(task, QUEUE, NOW), NOW)
    harness.commit()
    harness.dispatcher.wake([queue])
    await turn()
    assert (queue.attempts, set(queue.live), queue.in_flight) == ({}, {"a", "b"}, 0)
    assert harness.dispatcher.unreachable() == [{"address": f"127.0.0.1:{port}", "queue": QUEUE, "tasks": 2}]
    asked = len(harness.target.calls)
    harness.target.refuses = False
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port), asyncio.timeout(20):
        for _ in range(asked + 2):
            await harness.target.arrivals.get()
    assert sorted(harness.target.ids[asked:]) == ["a", "b"]
    assert harness.dispatcher.unreachable() == []


@with_settings("harness", wait_for_loopback=True)
async def test_a_parked_task_can_be_purged(harness: Harness, queue: QueueState) -> None:
    """Tasks that wait for a target are purged like others."""
    harness.target.refuses = True
    await harness.add(queue, "a")
    await harness.add(queue, "b")
    assert harness.dispatcher.unreachable()[0]["tasks"] == 2
    harness.store.purge(queue)
    harness.dispatcher.wake([queue])
    assert harness.dispatcher.unreachable() == []


@with_settings("harness", wait_for_loopback=True)
async def test_other_machines_are_not_waited_for(harness: Harness, queue: QueueState) -> None:
    """A refused connection elsewhere is an attempt, also for an emulator that waits for this machine."""
    harness.target.refuses = True
    task = http_task("a")
    task.http_request.url = "http://10.255.255.1/x"
    harness.store.add(queue, accept_task(task, QUEUE, NOW), NOW)
    harness.commit()
    harness.dispatcher.wake([queue])
    await turn()
    assert queue.attempts[1].dispatches == 1


async def test_forgetting(harness: Harness, queue: QueueState) -> None:
    """What is under way can be broken off: it has no result."""
    await harness.add(queue, "a")
    await harness.dispatcher.abort()
    assert harness.target.waiting[0].cancelled()
    assert queue.live.keys() == {"a"}
    harness.store.reload(keep_running=False)
    harness.dispatcher.wake_all()
    await turn()
    assert harness.target.ids == ["a", "a"]


async def test_holding(harness: Harness, queue: QueueState) -> None:
    """While it is held nothing is sent, whoever asks for it; then all that is due."""
    await harness.add(queue, "a")
    await harness.dispatcher.abort(hold=True)
    waiting = asyncio.create_task(harness.dispatcher.wait_released())
    await harness.add(queue, "b")
    await harness.wait(HOUR)
    assert (harness.target.ids, waiting.done()) == (["a"], False)
    harness.store.reload(keep_running=False)
    harness.dispatcher.release()
    await turn()
    assert (harness.target.ids, waiting.done()) == (["a", "a", "b"], True)
    assert [state.in_flight for state in harness.store.contents.by_number.values()] == [2]


async def test_a_deleted_queue(harness: Harness, queue: QueueState) -> None:
    """An attempt whose queue was deleted ends without a trace."""
    await harness.add(queue, "a")
    harness.store.delete_queue(QUEUE)
    harness.dispatcher.wake([queue])
    await harness.target.answer(500)
    assert harness.store.contents.queues == {}
