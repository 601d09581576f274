"""A simulated plan ends when the emulator's dispatcher ends with the same rows; time passes from event to event."""

import random
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cloudtasks_nb.emulator.model.apis import beta, v2
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.fanout.plan.simulation import Simulation, simulate
from tests.simulation.cloud import Cloud
from tests.simulation.world import Process, World
from tests.unit.emulator.conftest import LOCATION, QUEUE, http_task

FOREVER = 1e6  # seconds
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


async def begin(cloud: Cloud, case: Case) -> None:
    """Make the queue of a case, and create its tasks."""
    retry = beta.RetryConfig(max_attempts=case.max_attempts, max_doublings=case.max_doublings)
    for name in ("max_retry_duration", "min_backoff", "max_backoff"):
        getattr(retry, name).FromMicroseconds(round(getattr(case, name) * SECOND))
    limits = beta.RateLimits(
        max_dispatches_per_second=case.rate,
        max_burst_size=case.burst,
        max_concurrent_dispatches=case.max_concurrent,
    )
    queue = beta.Queue(name=QUEUE, rate_limits=limits, retry_config=retry)
    doublings = {"paths": ["retry_config.max_doublings"]}  # of which a new queue has the default in place of 0
    began = cloud.clock.now()
    tasks = [http_task() for _ in range(ROWS)]
    for task, due in zip(tasks, np.linspace(0, case.spread, ROWS), strict=True):
        task.schedule_time.FromMicroseconds(began + round(float(due) * SECOND))
    items = [v2.CreateTaskRequest(parent=QUEUE, task=task) for task in tasks]
    for path, request in (
        ("v2beta3.CloudTasks/CreateQueue", beta.CreateQueueRequest(parent=LOCATION, queue=queue)),
        ("v2beta3.CloudTasks/UpdateQueue", beta.UpdateQueueRequest(queue=queue, update_mask=doublings)),
        *(
            ("v2.CloudTasks/BatchCreateTasks", v2.BatchCreateTasksRequest(parent=QUEUE, requests=items[start::2]))
            for start in (0, 1)
        ),
    ):
        await cloud.answer(cloud.process, f"/google.cloud.tasks.{path}", request.SerializeToString())


def run(case: Case, folder: Path) -> float:
    """Let the emulator dispatch a batch; return the seconds until its last row is final."""
    world, rng = World(), random.Random(1)
    with world.patched():
        process = Process(world, folder)
        target = lambda _: 500 if rng.random() < case.failures else 200  # noqa: E731 - of this case
        with closing(Cloud(process, target, case.seconds, before=lambda *_: 0.0, after=lambda *_: 0.0)) as cloud:
            process.run(begin(cloud, case))
            queue = cloud.engine.store.queue(QUEUE)
            while queue.live:
                assert world.step(FOREVER)
            return world.elapsed


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_batch_ends_as_simulated(case: Case, tmp_path: Path) -> None:
    """It ends within 10 %, and with half of the limit that binds a quarter later at least."""
    simulation = case.simulate()
    ended = run(case, tmp_path / "whole")
    assert ended == pytest.approx(simulation.duration.total_seconds(), rel=0.1)
    assert run(case.half(simulation.limit), tmp_path / "half") >= 1.25 * ended
