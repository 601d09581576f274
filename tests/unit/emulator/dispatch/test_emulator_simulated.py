"""A simulated plan ends when the emulator's dispatcher ends with the same rows; time passes from event to event."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any

import numpy as np
import pytest

from cloudtasks_nb.emulator.dispatch.deliver import Deliverer
from cloudtasks_nb.emulator.dispatch.dispatch import Dispatcher
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.model.apis import beta
from cloudtasks_nb.emulator.model.attempts import AttemptResult
from cloudtasks_nb.emulator.model.clock import SECOND, Clock
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.store import Store
from cloudtasks_nb.fanout.plan.simulation import Simulation, simulate
from tests.unit.emulator.conftest import commit, new_queue, new_task

ROWS = 150


@dataclass(frozen=True, kw_only=True)
class Case:
    """A queue, and what the target of its tasks does; durations are seconds."""

    rate: float = 500
    burst: int = 10
    max_concurrent: int = 1000
    max_attempts: int = 3
    max_retry_duration: float = 0
    min_backoff: float = 0.5
    max_backoff: float = 60
    max_doublings: int = 3
    seconds: float = 0.5
    failures: float = 0.0
    spread: float = 0.0  #: within which the rows are due

    def half(self, limit: str) -> "Case":
        """Return the case with half of a limit; half of the pace of retries is twice the backoff."""
        if limit == "backoff":
            return replace(self, min_backoff=2 * self.min_backoff, max_backoff=2 * self.max_backoff)
        return replace(
            self, **{limit: getattr(self, limit) / 2} if limit == "rate" else {limit: self.max_concurrent // 2}
        )

    def simulate(self) -> Simulation:
        """Simulate the batch."""
        settings = asdict(self)
        duration, failures, spread = (settings.pop(name) for name in ("seconds", "failures", "spread"))
        arrivals = np.linspace(0, spread, ROWS)
        return simulate(settings, deadline=600, arrivals=arrivals, duration=duration, failures=failures)


def drawn(seed: int) -> Case:
    """Draw a case; if rows fail, some use up their attempts: the end is a matter of luck otherwise."""
    rng = random.Random(seed)
    return Case(
        rate=rng.choice([2, 5, 20, 100]),
        burst=rng.choice([1, 10, 40]),
        max_concurrent=rng.choice([2, 8, 20]),
        max_attempts=rng.choice([2, 3, 4]),
        min_backoff=rng.choice([0.5, 5, 30]),
        max_doublings=rng.choice([0, 2]),
        seconds=rng.choice([0.2, 1, 4]),
        failures=rng.choice([0, 0.4, 0.5]),
        spread=rng.choice([0, 5]),
    )


CASES = {
    "rate": Case(rate=5),
    "rate and retries": Case(rate=5, failures=0.5),
    "places": Case(max_concurrent=8, seconds=2),
    "places and retries": Case(max_concurrent=4, failures=0.4),
    "backoff": Case(min_backoff=10, max_attempts=5, failures=0.6),
    "retries for a time": Case(rate=5, min_backoff=10, max_attempts=2, max_retry_duration=30, failures=0.5),
    **{f"drawn {seed}": drawn(seed) for seed in range(6)},
}


class Target(Deliverer):
    """Answers each request after some time of the emulator's clock."""

    def __init__(self, case: Case, clock: Clock) -> None:
        self._case, self._clock, self._rng = case, clock, random.Random(1)
        self._numbers = count()
        self.waiting: list[tuple[int, int, asyncio.Future[AttemptResult]]] = []

    async def send(self, call: HttpCall, connected: Callable[[], None] | None = None) -> AttemptResult:  # noqa: ARG002 - the base class's
        """Wait for the end of the attempt."""
        answer: asyncio.Future[AttemptResult] = asyncio.get_running_loop().create_future()
        end = self._clock.now() + round(self._case.seconds * SECOND)
        heappush(self.waiting, (end, next(self._numbers), answer))
        return await answer

    def answer(self) -> None:
        """Answer the requests whose time has come."""
        while self.waiting and self.waiting[0][0] <= self._clock.now():
            status = 500 if self._rng.random() < self._case.failures else 200
            heappop(self.waiting)[2].set_result(AttemptResult(http_status=status))


def make_queue(store: Store, case: Case, name: str) -> Any:
    """Make the queue of a case."""
    retry = beta.RetryConfig(max_attempts=case.max_attempts, max_doublings=case.max_doublings)
    retry.max_retry_duration.FromMicroseconds(round(case.max_retry_duration * SECOND))
    retry.min_backoff.FromMicroseconds(round(case.min_backoff * SECOND))
    retry.max_backoff.FromMicroseconds(round(case.max_backoff * SECOND))
    limits = beta.RateLimits(
        max_dispatches_per_second=case.rate,
        max_burst_size=case.burst,
        max_concurrent_dispatches=case.max_concurrent,
    )
    return new_queue(store, f"projects/p/locations/us-central1/queues/{name}", rate_limits=limits, retry_config=retry)


async def run(store: Store, clock: Clock, case: Case, name: str) -> float:
    """Let the emulator dispatch a batch; return the seconds until its last row is final."""
    target, queue, began = Target(case, clock), make_queue(store, case, name), clock.now()
    dispatcher = Dispatcher(store, clock, target, lambda *_: None, Settings())
    if case.max_doublings == 0:
        store.configure(queue, _without_doublings(queue))
    for due in np.linspace(0, case.spread, ROWS):
        store.add(queue, new_task("", began, due=began + round(float(due) * SECOND)), began)
    commit(store)
    dispatcher.wake([queue])
    while True:
        for _ in range(8):  # what can run does
            await asyncio.sleep(0)
        due, ends = dispatcher.next_dispatch(), [end for end, _, _ in target.waiting[:1]]
        times = [*ends, *([due] if due is not None else [])]
        if not times:
            await dispatcher.close()
            return (clock.now() - began) / SECOND
        clock.advance(max(0, min(times) - clock.now()))
        target.answer()


def _without_doublings(queue: Any) -> Any:
    message = beta.Queue()
    message.CopyFrom(queue.message)
    message.retry_config.max_doublings = 0  # a new queue has the default in its place
    return message


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_batch_ends_as_simulated(case: Case, runner: asyncio.Runner, store: Store, clock: Clock) -> None:
    """It ends within 10 %, and with half of the limit that binds a quarter later at least."""
    simulation = case.simulate()
    ended = runner.run(run(store, clock, case, "whole"))
    assert ended == pytest.approx(simulation.duration.total_seconds(), rel=0.1)
    assert runner.run(run(store, clock, case.half(simulation.limit), "half")) >= 1.25 * ended
