"""How well the emulator keeps a queue's rate, and how long a task waits until it is dispatched."""

import time

import numpy as np
from google.cloud import tasks_v2

import cloudtasks_nb as ct
from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import Cost, Emulator, Target, connected

_RATE = 500  # dispatches a second, the most that a queue may have
_SPARE = 1.2  # times the tasks that are needed
_BURST = 1_000  # tasks that may leave at once at the start
_QUEUES = 4
_SECOND = 1_000_000_000


def _dispatch(bench: Bench) -> None:
    for folder in bench.rounds():
        for count in (1, _QUEUES):
            with Target() as target, connected(folder=folder / f"emulator-{count}") as (emulator, tasks):
                names = [f"q{queue}" for queue in range(count)]
                queues = [_filled(bench, emulator, tasks, name, f"{target.url}/{name}") for name in names]
                start, cost = time.monotonic_ns(), Cost(emulator)
                for queue in queues:
                    queue.resume()
                time.sleep(bench.size.window[1] + 0.5)  # the time that is measured
                used = cost.emulator_cpu
                arrivals = target.arrivals()
            shares = [100 * _share(bench, arrivals[f"/{name}"], start) for name in names]
            bench.report("one" if count == 1 else "four", max(shares, key=lambda share: abs(share - 100)))
            done = sum(map(len, arrivals.values()))
            bench.report(f"cpu {count}", 1e6 * used / done)


def _filled(bench: Bench, emulator: Emulator, tasks: ct.Client, name: str, url: str) -> ct.Queue:
    """Make a paused queue with more tasks than can be dispatched while it is watched."""
    queue = tasks.queue(name, create=True, rate=_RATE, max_concurrent=1_000).pause()
    bodies = flights.bodies(round(_SPARE * _RATE * bench.size.window[1]) + _BURST)
    callers.fill(emulator.grpc, queue.name, bodies, url)
    return queue


def _share(bench: Bench, arrivals: list[int], start: int) -> float:
    """Return how many requests arrived within the window, as a share of those that should have."""
    first, last = (start + round(second * _SECOND) for second in bench.size.window)
    arrived = sum(1 for moment in arrivals if first <= moment < last)
    return arrived / (_RATE * (last - first) / _SECOND)


def _delay(bench: Bench) -> None:
    body = flights.bodies(1)[0]
    for folder in bench.rounds():
        with Target() as target, connected(folder=folder / "emulator") as (emulator, tasks):
            queue = tasks.queue("idle", create=True, rate=_RATE).name
            with callers.google_client(emulator.grpc) as client:
                delays = [_delayed(client, target, queue, f"/warm{at}", body) for at in range(10)]
                delays = [_delayed(client, target, queue, f"/task{at}", body) for at in range(bench.size.delays)]
        bench.report("median", float(np.median(delays)))
        bench.report("p99", float(np.percentile(delays, 99)))


def _delayed(client: tasks_v2.CloudTasksClient, target: Target, queue: str, path: str, body: bytes) -> float:
    """Create a task and return the milliseconds from the answer until its request arrived."""
    client.create_task(parent=queue, task=callers.task(target.url + path, body))
    answered = time.monotonic_ns()
    return (target.arrival(path) - answered) / 1e6


DISPATCH = case(
    "dispatch",
    "Emulator: dispatch at 500 a second",
    _dispatch,
    "Emulator on a folder, every attempt logged, queues filled and resumed at second 0; requests are counted from "
    "second 5 to 35 at an aiohttp target in its own process. Of four queues the one farthest from its rate counts.",
    """
    one   | one queue                        | % of 500/s | 98 to 102 | peers: 417, 518, 525 a second (quoted)
    four  | four queues, the worst           | % of 500/s | 95 to 105
    cpu 1 | CPU of the emulator, one queue   | µs a task
    cpu 4 | CPU of the emulator, four queues | µs a task
    """,
    seconds=420,
)

DELAY = case(
    "delay",
    "Emulator: from CreateTask to the request",
    _delay,
    "Google's client creates a task in an idle queue on a folder, waits until its request has come to an aiohttp "
    "target in its own process, and creates the next, 200 times; from the answer of CreateTask to the request. It "
    "can be negative: the request may be there before the caller has read the answer.",
    """
    median | median          | ms | ≤ 5  | peers: 0.9, 1.2, 78, 1,000 ms (quoted)
    p99    | 99th percentile | ms | ≤ 20
    """,
)
