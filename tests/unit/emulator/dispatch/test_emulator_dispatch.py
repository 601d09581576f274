"""The dispatcher: what is sent when, with a target under the test's control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
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
from tests.unit.emulator.conftest import NOW, QUEUE, commit, http_task, new_queue, new_task


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
class Stage:
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


Body = Callable[[Stage, QueueState], Coroutine[Any, Any, None]]


@pytest.fixture
def play(store: Store, clock: Clock) -> Callable[..., None]:
    """Give a function that runs a test on a stage with one queue."""

    def run(body: Body, settings: Settings | None = None, **queue_settings: Any) -> None:
        async def main() -> None:
            stage = Stage(store=store, clock=clock, settings=settings or Settings())
            queue = new_queue(store, **queue_settings)
            try:
                await body(stage, queue)
            finally:
                await stage.dispatcher.close()

        asyncio.run(main())

    return run


def limits(**given: float) -> dict[str, Any]:
    """Name the rate limits of a queue."""
    return {"rate_limits": beta.RateLimits(**given)}


def retries(attempts: int) -> dict[str, Any]:
    """Name the retry configuration of a queue: a second between attempts."""
    config = beta.RetryConfig(max_attempts=attempts, max_doublings=1)
    config.min_backoff.seconds = config.max_backoff.seconds = 1
    return {"retry_config": config}


def test_a_due_task_is_sent_and_done(play: Callable[..., None]) -> None:
    """A task that is due is sent at once; a good answer ends it."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        assert (stage.target.ids, queue.in_flight) == (["a"], 1)
        await stage.target.answer(204)
        assert (queue.live, queue.in_flight) == ({}, 0)

    play(body)


def test_a_scheduled_task_waits(play: Callable[..., None]) -> None:
    """A task for later is sent when its time has come, not before."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a", due=NOW + HOUR)
        await stage.wait(HOUR - 1)
        assert stage.target.ids == []
        await stage.wait(1)
        assert stage.target.ids == ["a"]

    play(body)


def test_no_more_at_once_than_allowed(play: Callable[..., None]) -> None:
    """No more tasks are in flight than the queue allows; each answer makes room for one."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a", "b", "c", "d")
        assert stage.target.ids == ["a", "b"]
        await stage.target.answer()
        assert stage.target.ids == ["a", "b", "c"]
        await stage.target.answer(500)
        assert stage.target.ids == ["a", "b", "c", "d"]

    play(body, **limits(max_concurrent_dispatches=2))


def test_no_faster_than_allowed(play: Callable[..., None]) -> None:
    """After a burst tasks are sent at the queue's rate; retries need tokens too."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, *(f"t{number}" for number in range(14)))
        assert len(stage.target.calls) == 10
        await stage.wait(SECOND)
        assert len(stage.target.calls) == 12
        await stage.target.answer(500)
        await stage.wait(SECOND // 2)
        assert len(stage.target.calls) == 13

    play(body, **limits(max_dispatches_per_second=2, max_burst_size=10))


def test_many_due_tasks(play: Callable[..., None]) -> None:
    """More tasks than are looked at in one turn are all sent."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, *(f"t{number}" for number in range(450)))
        async with asyncio.timeout(20):
            while len(stage.target.calls) < 450:
                await turn()
        assert stage.target.ids == [f"t{number}" for number in range(450)]

    play(body, **limits(max_burst_size=500))


def test_a_few_at_a_time(play: Callable[..., None]) -> None:
    """Between two handfuls of tasks the loop has its turn, so that answers are seen and connections come free."""

    async def body(stage: Stage, queue: QueueState) -> None:
        for number in range(25):
            stage.store.add(queue, new_task(f"t{number}"), NOW)
        stage.commit()
        stage.dispatcher.wake([queue])
        assert queue.in_flight == 10
        for _ in range(25):
            await stage.target.arrivals.get()
        assert queue.in_flight == 25

    play(body)


def test_a_paused_queue_sends_nothing(play: Callable[..., None]) -> None:
    """A paused queue takes tasks and sends none; what is in flight ends; resumed it goes on."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        await stage.set_state(queue, PAUSED)
        await stage.add(queue, "b")
        await stage.target.answer()
        assert (stage.target.ids, set(queue.live)) == (["a"], {"b"})
        await stage.set_state(queue, RUNNING)
        assert stage.target.ids == ["a", "b"]

    play(body)


def test_new_limits_hold_at_once(play: Callable[..., None]) -> None:
    """A queue that is given more room uses it."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a", "b", "c")
        assert stage.target.ids == ["a"]
        message = beta.Queue.FromString(queue.message.SerializeToString())
        message.rate_limits.max_concurrent_dispatches = 3
        stage.store.configure(queue, message)
        stage.dispatcher.wake([queue])
        await turn()
        assert stage.target.ids == ["a", "b", "c"]

    play(body, **limits(max_concurrent_dispatches=1))


def test_a_failed_task_is_tried_again(play: Callable[..., None]) -> None:
    """A failed task is due again after its backoff, counted from the answer, and dropped after the last attempt."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        await stage.wait(5 * SECOND)
        await stage.target.answer(500)
        stage.commit()
        assert queue.attempts[1].due == NOW + 6 * SECOND
        await stage.wait(SECOND - 1)
        assert len(stage.target.calls) == 1
        await stage.wait(1)
        assert [call.headers["X-CloudTasks-TaskRetryCount"] for call in stage.target.calls] == ["0", "1"]
        await stage.target.answer(404)
        assert (queue.live, queue.attempts) == ({}, {})

    play(body, **retries(2))


def test_history(play: Callable[..., None]) -> None:
    """A finished task is remembered with every attempt; bodies are shown when asked for."""

    async def body(stage: Stage, queue: QueueState) -> None:
        stage.store.add(queue, new_task("a", NOW, body=b"hi"), NOW)
        await stage.add(queue, "b")
        await stage.target.answer(503, 2)
        assert stage.dispatcher.history.newest("", 9, bodies=False) == []
        stage.commit()
        await stage.wait(SECOND)
        await stage.target.answer(200, 2)
        newest, oldest = stage.dispatcher.history.newest("q", 9, bodies=True)
        assert (newest["task"], oldest["task"], oldest["queue"], oldest["status"]) == ("b", "a", QUEUE, "OK")
        assert [attempt["status"] for attempt in oldest["attempts"]] == ["UNAVAILABLE", "OK"]
        assert oldest["attempts"][0]["body"] == "hi"
        assert oldest["attempts"][1]["headers"]["X-CloudTasks-TaskPreviousResponse"] == "503"
        (only,) = stage.dispatcher.history.newest(QUEUE, 1, bodies=False)
        assert "body" not in only["attempts"][0]
        assert stage.dispatcher.history.newest("other", 9, bodies=False) == []

    play(body, **retries(5))


def test_a_deadline(play: Callable[..., None]) -> None:
    """When the deadline passes on the emulator's clock, the request is dropped and the attempt has failed."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        await stage.wait(599 * SECOND)
        assert queue.in_flight == 1
        await stage.wait(2 * SECOND)
        async with asyncio.timeout(20):
            while queue.in_flight:
                await turn()
        assert stage.target.waiting[0].cancelled()
        attempts = queue.attempts[1]
        assert (attempts.code, attempts.http_status, attempts.responses) == (4, 504, 0)

    play(body)


def test_a_run_by_hand(play: Callable[..., None]) -> None:
    """A task can be run while its queue is paused and full, and while it runs; one that is not there cannot."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a", due=NOW + HOUR)
        await stage.set_state(queue, PAUSED)
        stage.dispatcher.run_now(queue, "a")
        stage.dispatcher.run_now(queue, "a")
        await turn()
        assert (stage.target.ids, queue.in_flight) == (["a", "a"], 2)
        await stage.target.answer(200, 2)
        assert queue.live == {}
        with pytest.raises(RefusedError, match="no longer exists"):
            stage.dispatcher.run_now(queue, "a")

    play(body, **limits(max_concurrent_dispatches=1))


def test_log_entries(play: Callable[..., None]) -> None:
    """Dispatch and answer are logged, with the target, and the commit is asked for."""

    async def body(stage: Stage, queue: QueueState) -> None:
        changes: list[int] = []
        stage.dispatcher.changed = lambda: changes.append(1)
        await stage.add(queue, "a")
        await stage.target.answer()
        stage.commit()
        rows = stage.store.database.read("SELECT kind, task, target, target_type, dispatches FROM log ORDER BY seq")
        target = ("a", "POST http://127.0.0.1:9/run", "HTTP")
        assert rows == [(1, *target, 0), (2, *target, 1), (3, *target, 1)]
        assert changes == [1, 1]

    play(body, stackdriver_logging_config=beta.StackdriverLoggingConfig(sampling_ratio=1.0))


def test_nobody_listens(play: Callable[..., None]) -> None:
    """A refused connection is an attempt like any other, as long as nothing else was asked for."""

    async def body(stage: Stage, queue: QueueState) -> None:
        stage.target.refuses = True
        await stage.add(queue, "a")
        assert (queue.attempts[1].code, queue.attempts[1].dispatches) == (2, 1)
        assert stage.dispatcher.unreachable() == []

    play(body)


WAITING = Settings(wait_for_loopback=True)


def test_waiting_for_a_target(play: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody listens on this machine no attempt is spent; tasks are sent when somebody does."""
    monkeypatch.setattr(unreachable, "_PROBE_EVERY", 0.001)

    async def body(stage: Stage, queue: QueueState) -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        stage.target.refuses = True
        for task_id in ("a", "b"):
            task = http_task(task_id)
            task.http_request.url = f"http://127.0.0.1:{port}/x"
            stage.store.add(queue, accept_task(task, QUEUE, NOW), NOW)
        stage.commit()
        stage.dispatcher.wake([queue])
        await turn()
        assert (queue.attempts, set(queue.live), queue.in_flight) == ({}, {"a", "b"}, 0)
        assert stage.dispatcher.unreachable() == [{"address": f"127.0.0.1:{port}", "queue": QUEUE, "tasks": 2}]
        asked = len(stage.target.calls)
        stage.target.refuses = False
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port), asyncio.timeout(20):
            for _ in range(asked + 2):
                await stage.target.arrivals.get()
        assert sorted(stage.target.ids[asked:]) == ["a", "b"]
        assert stage.dispatcher.unreachable() == []

    play(body, WAITING)


def test_a_parked_task_can_be_purged(play: Callable[..., None]) -> None:
    """Tasks that wait for a target are purged like others."""

    async def body(stage: Stage, queue: QueueState) -> None:
        stage.target.refuses = True
        await stage.add(queue, "a")
        await stage.add(queue, "b")
        assert stage.dispatcher.unreachable()[0]["tasks"] == 2
        stage.store.purge(queue)
        stage.dispatcher.wake([queue])
        assert stage.dispatcher.unreachable() == []

    play(body, WAITING)


def test_other_machines_are_not_waited_for(play: Callable[..., None]) -> None:
    """A refused connection elsewhere is an attempt, also for an emulator that waits for this machine."""

    async def body(stage: Stage, queue: QueueState) -> None:
        stage.target.refuses = True
        task = http_task("a")
        task.http_request.url = "http://10.255.255.1/x"
        stage.store.add(queue, accept_task(task, QUEUE, NOW), NOW)
        stage.commit()
        stage.dispatcher.wake([queue])
        await turn()
        assert queue.attempts[1].dispatches == 1

    play(body, WAITING)


def test_forgetting(play: Callable[..., None]) -> None:
    """What is under way can be broken off: it has no result."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        await stage.dispatcher.abort()
        assert stage.target.waiting[0].cancelled()
        assert queue.live.keys() == {"a"}
        stage.store.reload(keep_running=False)
        stage.dispatcher.wake_all()
        await turn()
        assert stage.target.ids == ["a", "a"]

    play(body)


def test_holding(play: Callable[..., None]) -> None:
    """While it is held nothing is sent, whoever asks for it; then all that is due."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        await stage.dispatcher.abort(hold=True)
        waiting = asyncio.create_task(stage.dispatcher.wait_released())
        await stage.add(queue, "b")
        await stage.wait(HOUR)
        assert (stage.target.ids, waiting.done()) == (["a"], False)
        stage.store.reload(keep_running=False)
        stage.dispatcher.release()
        await turn()
        assert (stage.target.ids, waiting.done()) == (["a", "a", "b"], True)
        assert [state.in_flight for state in stage.store.contents.by_number.values()] == [2]

    play(body)


def test_a_deleted_queue(play: Callable[..., None]) -> None:
    """An attempt whose queue was deleted ends without a trace."""

    async def body(stage: Stage, queue: QueueState) -> None:
        await stage.add(queue, "a")
        stage.store.delete_queue(QUEUE)
        stage.dispatcher.wake([queue])
        await stage.target.answer(500)
        assert stage.store.contents.queues == {}

    play(body)
