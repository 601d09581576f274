"""Load one emulator for minutes and record its memory, its files, and how often each task was delivered: `make soak`.

The client, the target and the reader run in one process, the emulator in its own.
"""

import asyncio
import datetime as dt
import itertools
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcAsyncIOTransport

from cloudtasks_nb._names import QueueName
from cloudtasks_nb.service.auth import Auth
from cloudtasks_nb.service.clock import now_micros
from cloudtasks_nb.service.connection import Connection
from cloudtasks_nb.service.endpoint import resolve
from cloudtasks_nb.service.watch import Snapshot
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.machine import resident_mb
from tests.benchmarks.servers import LOCATION, Emulator

# Tasks that are created in each second, 150 together.
_NOW, _LATER, _RETRIED, _FAILING, _BATCH, _DELETED = 70, 20, 20, 5, 30, 5
#: Tasks a second.
RATE = _NOW + _LATER + _RETRIED + _FAILING + _BATCH + _DELETED
_LATEST = 10.0  # seconds; the longest delay of a task that is due later
_MOST_TRIES = 4  # attempts of a task that always fails
_BODY = b'{"payload": "' + b"x" * 300 + b'"}'
_MB = 1 << 20
_LISTED = 1000  # tasks on the page that the reader lists
_END = 60.0  # seconds in which the last tasks must end
_FEWEST_ENTRIES = 20_000  # of the log: the reader must have read an entry before it is deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The emulator's memory and files at one time, in MB."""

    at: float  #: seconds since the start
    memory: float
    database: float
    wal: float
    folder: float  #: all files of the data folder together


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a soak has shown."""

    seconds: float
    tasks: int = 0
    deliveries: int = 0
    lost: int = 0  #: tasks that were delivered less often than they had to be
    repeated: int = 0  #: tasks that were delivered more often
    logged: int = 0  #: attempts that the reader found in the log
    calls: list[float] = field(default_factory=list)  #: milliseconds of each CreateTask call
    delays: list[float] = field(default_factory=list)  #: milliseconds from when an attempt was due until it arrived
    samples: list[Sample] = field(default_factory=list)

    def level(self, what: str, share: float) -> float:
        """Return the median of a column of the samples before a share of the time: those of a twentieth of it."""
        before = [getattr(one, what) for one in self.samples if one.at <= share * self.seconds]
        return float(statistics.median(before[-math.ceil(len(self.samples) / 20) :]))

    def values(self) -> dict[str, float]:
        """Return the values of the table by their keys."""
        half, end = ({name: self.level(name, share) for name in _SIZES} for share in (0.5, 1.0))
        values = {
            "memory growth": 100 * end["memory"] / half["memory"],
            "folder growth": 100 * end["folder"] / half["folder"],
            "exact": 100 * (1 - (self.lost + self.repeated) / self.tasks),
            "logged": 100 * (1 - abs(self.deliveries - self.logged) / self.deliveries),
            "lost": self.lost,
            "repeated": self.repeated,
            "deliveries": self.deliveries,
            "rate": self.tasks / self.seconds,
            "wal peak": max(one.wal for one in self.samples),
            **{f"{name} half": half[name] for name in _SIZES},
            **{f"{name} end": end[name] for name in _SIZES},
        }
        for name, numbers in (("call", self.calls), ("delay", self.delays)):
            values |= {f"{name} {share}": float(np.percentile(numbers, share)) for share in (50, 99)}
        return values


_SIZES = ("memory", "database", "wal", "folder")


class _Target:
    """Answers each task with failures until it was delivered as often as its URL says, and counts deliveries."""

    def __init__(self, delays: list[float]) -> None:
        self.counts: Counter[int] = Counter()
        self._delays = delays

    async def answer(self, request: web.Request) -> web.Response:
        """Count a delivery and answer it."""
        self._delays.append(1000 * (time.time() - float(request.headers["X-CloudTasks-TaskETA"])))
        number, times = int(request.match_info["number"]), int(request.query["times"])
        self.counts[number] += 1
        return web.Response(status=int(request.query["last"]) if self.counts[number] >= times else 500)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen, and yield the URL."""
        app = web.Application()
        app.router.add_post("/{number}", self.answer)
        async with TestServer(app, backlog=1024) as server:
            yield str(server.make_url("")).rstrip("/")


class _Reader:
    """Reads as an open panel does: statistics and log of each queue once a second, and a page of its tasks.

    Parameters
    ----------
    target : str
        ``host:port`` of the emulator.
    queues : iterable of str
        Full names.
    """

    def __init__(self, target: str, queues: Iterable[str]) -> None:
        self.attempts = 0
        self._connection = Connection(resolve("bench", "us-central1", target), Auth())
        self._queues = [QueueName.parse(name) for name in queues]
        watcher, since = self._connection.watcher, now_micros()
        self._subscriptions = [watcher.subscribe(queue, self._read, since=since) for queue in self._queues]

    def list_tasks(self) -> None:
        """List a page of each queue."""
        for queue in self._queues:
            self._connection.call("ListTasks", parent=str(queue), page_size=_LISTED)

    def refresh(self) -> None:
        """Read the log once more."""
        for queue in self._queues:
            self._connection.watcher.refresh(queue)

    def close(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            subscription.close()
        self._connection.close()

    def _read(self, snapshot: Snapshot) -> None:
        self.attempts += sum(not entry.deleted for entry in snapshot.entries)


class Soak:
    """One soak.

    Parameters
    ----------
    seconds : float
        How long tasks are created.
    folder : Path
        The emulator's data folder.
    """

    def __init__(self, seconds: float, folder: Path) -> None:
        self._seconds = seconds
        self._folder = folder
        self._verdict = Verdict(seconds=seconds)
        self._target = _Target(self._verdict.delays)
        self._random = random.Random(0)
        self._numbers = itertools.count()
        self._expected: dict[int, int] = {}  # number of a task -> how often it has to be delivered
        self._client: Any = None
        self._url = ""

    @property
    def arguments(self) -> list[str]:
        """The options of the emulator: names and entries expire early enough for a steady state at half time."""
        entries = max(_FEWEST_ENTRIES, round(80 * self._seconds))
        return ["--quiet", "--task-tombstone", f"{self._seconds / 10:g}", "--log-limit", str(entries)]

    def run(self) -> Verdict:
        """Load an emulator, and return what was found."""
        with Emulator(*self.arguments, folder=self._folder) as emulator:
            asyncio.run(self._run(emulator))
        return self._verdict

    async def _run(self, emulator: Emulator) -> None:
        async with self._target.listening() as self._url, grpc.aio.insecure_channel(emulator.grpc) as channel:
            self._client = tasks_v2.CloudTasksAsyncClient(transport=CloudTasksGrpcAsyncIOTransport(channel=channel))
            for queue in ("mixed", "failing"):
                await self._client.create_queue(parent=LOCATION, queue=_queue(queue))
            reader = await asyncio.to_thread(_Reader, emulator.grpc, map(_name, ("mixed", "failing")))
            try:
                begin = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    watching = group.create_task(self._watch(emulator.pid, begin))
                    reading = group.create_task(_every_second(lambda: asyncio.to_thread(reader.list_tasks)))
                    await self._load(begin)
                    for one in (watching, reading):
                        one.cancel()
                await self._finish(reader)
            finally:
                await asyncio.to_thread(reader.close)

    async def _load(self, begin: float) -> None:
        """Create and delete tasks until the time is over, evenly spread over each second."""
        calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
            *[partial(self._create, "mixed")] * _NOW,
            *[self._create_later] * _LATER,
            *[self._create_retried] * _RETRIED,
            *[partial(self._create, "failing", times=_MOST_TRIES, last=500)] * _FAILING,
            self._create_batch,
            *[partial(self._create_and_delete, at_once=at_once) for at_once in (False, True)],
        ]
        async with asyncio.TaskGroup() as group:
            for second in range(math.ceil(self._seconds)):
                self._random.shuffle(calls)
                for place, call in enumerate(calls):
                    await asyncio.sleep(begin + second + place / len(calls) - time.monotonic())
                    group.create_task(call())

    def _task(self, *, times: int = 1, last: int = 200, delay: float = 0) -> tasks_v2.Task:
        number = next(self._numbers)
        self._expected[number] = times
        url = f"{self._url}/{number}?times={times}&last={last}"
        headers = {"Content-Type": "application/json"}
        task = tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=url, body=_BODY, headers=headers))
        if delay:
            task.schedule_time = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=delay)
        return task

    async def _create(self, queue: str, **options: Any) -> str:
        task, start = self._task(**options), time.perf_counter()
        made = await self._client.create_task(parent=_name(queue), task=task)
        self._verdict.calls.append(1000 * (time.perf_counter() - start))
        return str(made.name)

    async def _create_later(self) -> None:
        await self._create("mixed", delay=self._random.uniform(1, min(_LATEST, self._seconds / 2)))

    async def _create_retried(self) -> None:
        await self._create("mixed", times=self._random.randint(2, _MOST_TRIES))

    async def _create_batch(self) -> None:
        requests = [{"parent": _name("mixed"), "task": self._task()} for _ in range(_BATCH)]
        await self._client.batch_create_tasks({"parent": _name("mixed"), "requests": requests})

    async def _create_and_delete(self, *, at_once: bool) -> None:
        """Create some tasks that are due in an hour, and delete them after some seconds."""
        count = _DELETED - 2 if at_once else 2
        names = [await self._create("mixed", times=0, delay=3600) for _ in range(count)]
        await asyncio.sleep(min(5, self._seconds / 4))
        if at_once:
            await self._client.batch_delete_tasks({"parent": _name("mixed"), "names": names})
            return
        for name in names:
            await self._client.delete_task(name=name)

    async def _watch(self, pid: int, begin: float) -> None:
        async def look() -> None:
            self._verdict.samples.append(_sample(pid, self._folder, time.monotonic() - begin))

        await _every_second(look)

    async def _finish(self, reader: _Reader) -> None:
        """Wait until all is delivered and read, then count what was delivered too rarely or too often."""
        verdict, counts = self._verdict, self._target.counts
        wanted, end = sum(self._expected.values()), time.monotonic() + _END
        while (counts.total() < wanted or reader.attempts < counts.total()) and time.monotonic() < end:
            await asyncio.sleep(0.1)
            reader.refresh()
        verdict.tasks, verdict.deliveries, verdict.logged = len(self._expected), counts.total(), reader.attempts
        verdict.lost = sum(counts[number] < times for number, times in self._expected.items())
        verdict.repeated = sum(counts[number] > times for number, times in self._expected.items())


async def _every_second(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await work()
        await asyncio.sleep(1)


def _name(queue: str) -> str:
    return f"{LOCATION}/queues/{queue}"


def _queue(queue: str) -> dict[str, Any]:
    retry = {"min_backoff": dt.timedelta(seconds=0.5), "max_backoff": dt.timedelta(seconds=2)}
    return {
        "name": _name(queue),
        "retry_config": retry | {"max_attempts": _MOST_TRIES if queue == "failing" else 100},
        "stackdriver_logging_config": {"sampling_ratio": 1.0},
    }


def _sample(pid: int, folder: Path, at: float) -> Sample:
    sizes = {file.name: file.stat().st_size / _MB for file in folder.iterdir() if file.is_file()}
    return Sample(
        at=at,
        memory=resident_mb(pid),
        database=sum(size for name, size in sizes.items() if name.endswith(".sqlite3")),
        wal=sum(size for name, size in sizes.items() if name.endswith("-wal")),
        folder=sum(sizes.values()),
    )


def _measure(bench: Bench) -> None:
    soak = Soak(bench.size.soak, bench.folder / "emulator")
    verdict = soak.run()
    for key, value in verdict.values().items():
        bench.report(key, value)
    bench.note(f"{bench.size.soak / 60:g} minutes, with the options `{' '.join(soak.arguments)}` of the emulator.")
    bench.note(
        "By these, names of finished tasks, operations of batch calls and log entries are deleted before the half: a "
        "steady state is possible. With the defaults, names and operations take more space for an hour."
    )


SOAK = case(
    "soak",
    "Soak",
    _measure,
    f"By `make soak`: {RATE} tasks a second on one emulator on a folder, every attempt logged. Each second {_NOW} "
    f"tasks are due at once, {_LATER} up to {_LATEST:g} s later, {_RETRIED} fail one to {_MOST_TRIES - 1} times "
    f"before they succeed, {_FAILING} fail {_MOST_TRIES} times and are given up, {_BATCH} come in a batch call, "
    f"and {_DELETED} are deleted before they are due. A reader reads statistics, log and a page of tasks a second, "
    "as a panel does. Sizes are medians of a twentieth of the time before the half and the end.",
    """
    memory growth | memory at the end | % of that at the half  | 95 to 105
    folder growth | files at the end  | % of those at the half | 95 to 105
    exact         | tasks delivered exactly as often as they had to be | % | ≥ 100
    logged        | attempts that the reader found in the log          | % | ≥ 100
    lost          | tasks delivered less often than they had to be     | tasks
    repeated      | tasks delivered more often than they had to be     | tasks
    deliveries    | attempts that arrived                   | attempts
    rate          | tasks created                           | tasks/s
    memory half   | memory at the half                      | MB
    memory end    | memory at the end                       | MB
    folder half   | all files at the half                   | MB
    folder end    | all files at the end                    | MB
    database half | database, the log included, at the half | MB
    database end  | database, the log included, at the end  | MB
    wal half      | write-ahead log at the half             | MB
    wal end       | write-ahead log at the end              | MB
    wal peak      | write-ahead log, its peak               | MB
    call 50       | CreateTask, median                      | ms
    call 99       | CreateTask, 99th percentile             | ms
    delay 50      | from the due time to the arrival, median          | ms
    delay 99      | from the due time to the arrival, 99th percentile | ms
    """,
    seconds=900,
    alone=True,
)
