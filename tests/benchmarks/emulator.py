"""The emulator alone: how fast it takes tasks, and what a million of them cost."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from google.cloud.tasks_v2 import types
from google.protobuf.field_mask_pb2 import FieldMask

from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, Case, Figure
from tests.benchmarks.servers import LOCATION, Emulator

__all__ = ["BATCH_CREATE", "CREATE", "PENDING"]

_QUEUE = f"{LOCATION}/queues/q"
_TAIL = 0.1  # share of the tasks that is the tail
_WARM = 100  # calls before the clock starts
_PAGE = 1000


def _paused(folder: Path | None = None) -> Emulator:
    """Start an emulator with a paused queue that is ready to take tasks."""
    place = [] if folder is None else ["--data-dir", str(folder)]
    emulator = Emulator(*place, "--queue", _QUEUE)
    with callers.google_client(emulator.grpc) as client:
        client.pause_queue(name=_QUEUE)
    return emulator


def _batch_create(bench: Bench) -> None:
    bodies = flights.bodies(len(flights.frame(bench.size.flights)))
    requests = list(callers.batch_requests(_QUEUE, flights.URL, bodies, "batch"))
    for number in bench.rounds():
        for kind in ("", " logged"):
            with _paused(bench.folder / f"emulator-{number}{kind}") as emulator:
                if kind:
                    _log_all(emulator)
                before = emulator.cpu
                start, *answered = callers.by_batches(emulator.grpc, requests)
                bench.note(f"cpu{kind}", 1e6 * (emulator.cpu - before) / len(bodies))
                _check(emulator, len(bodies))
            bench.note(f"rate{kind}", len(bodies) / (answered[-1] - start))
            bench.note(f"tail{kind}", _tail(start, answered))


def _tail(start: float, answered: list[float]) -> float:
    """Return the rate of the last tenth of the calls as a share of that of those before."""
    cut = round(len(answered) * (1 - _TAIL)) - 1
    head = (cut + 1) / (answered[cut] - start)
    return (len(answered) - cut - 1) / (answered[-1] - answered[cut]) / head


def _log_all(emulator: Emulator) -> None:
    """Have every operation logged, as on queues that the toolkit makes."""
    queue = types.Queue(name=_QUEUE, stackdriver_logging_config=types.StackdriverLoggingConfig(sampling_ratio=1.0))
    with callers.google_client(emulator.grpc) as client:
        client.update_queue(queue=queue, update_mask=FieldMask(paths=["stackdriver_logging_config"]))


def _check(emulator: Emulator, expected: int) -> None:
    """See that every task is there: a batch call is answered also when tasks of it were refused."""
    with callers.google_client(emulator.grpc) as client:
        found = sum(1 for page in client.list_tasks(request=_listing()).pages for _ in page.tasks)
    if found != expected:
        raise AssertionError(f"{found} tasks are there and not {expected}")


def _listing(token: str = "") -> types.ListTasksRequest:
    return types.ListTasksRequest(parent=_QUEUE, page_size=_PAGE, page_token=token)


def _create(bench: Bench) -> None:
    few, many = bench.size.compared, 3 * bench.size.compared
    bodies = flights.bodies(_WARM + many)

    def requests(salt: str, count: int) -> list[bytes]:
        return callers.create_requests(_QUEUE, flights.URL, bodies[:count], salt)

    for number in bench.rounds():
        with _paused(bench.folder / f"emulator-{number}") as emulator:
            callers.by_raw_loop(emulator.grpc, requests("warm", _WARM))
            bench.note("one", callers.by_raw_loop(emulator.grpc, requests("one", few)))
            before = emulator.cpu
            bench.note("many", callers.by_raw_calls(emulator.grpc, requests("many", many), 64))
            bench.note("cpu", 1e6 * (emulator.cpu - before) / many)
        with _paused() as emulator:
            callers.by_raw_loop(emulator.grpc, requests("warm", _WARM))
            bench.note("temporary", callers.by_raw_loop(emulator.grpc, requests("one", few)))


def _pending(bench: Bench) -> None:
    folder, count = bench.folder / "emulator", bench.size.pending
    bodies = flights.bodies(count)
    bench.remark(f"{count:,} tasks, every second one due within an hour, the others at once; the queue is paused.")
    emulator = _paused(folder)
    try:
        later = int(time.time()) + 3600
        callers.by_batches(emulator.grpc, callers.batch_requests(_QUEUE, flights.URL, bodies, "pending", later))
        bench.note("filled", emulator.memory)
        for _ in bench.rounds():
            emulator.kill()
            emulator = Emulator("--data-dir", str(folder))
            bench.note("ready", emulator.ready_after)
            cpu, wall, first, found = asyncio.run(_pages(emulator, bench.size.pages))
            bench.note("first", first)
            bench.note("page", cpu)
            bench.note("page wall", wall)
            bench.note("memory", emulator.memory)
            if found != min(count, (bench.size.pages + 1) * _PAGE):
                raise AssertionError(f"the pages hold {found:,} of {count:,} tasks")
        disk = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        bench.note("disk", disk / 2**20)
    finally:
        emulator.end()


async def _pages(emulator: Emulator, pages: int) -> tuple[float, float, float, int]:
    """List pages one after the other.

    Returns
    -------
    tuple
        Milliseconds a page of the emulator's CPU, and by the clock (median); by the clock the first one; tasks found.
    """
    found, token = 0, ""
    walls = []
    async with callers.raw_calls(emulator.grpc, "ListTasks") as call:
        before = emulator.cpu
        for _ in range(pages + 1):
            request = types.ListTasksRequest.pb(_listing(token)).SerializeToString()
            start = time.perf_counter()
            answer = await call(request)
            walls.append(1000 * (time.perf_counter() - start))
            if len(walls) == 1:
                before = emulator.cpu
            page = types.ListTasksResponse.pb().FromString(answer)
            found, token = found + len(page.tasks), page.next_page_token
            if not token:
                break
    first, *rest = walls
    return 1000 * (emulator.cpu - before) / max(1, len(rest)), statistics.median(rest or walls), first, found


BATCH_CREATE = Case(
    name="batch-create",
    title="Emulator: BatchCreateTasks",
    how=(
        "336,776 tasks with random names and about 310 bytes of body, 100 a call, serialized before, 16 calls in "
        "flight over `grpc.aio`; emulator on a folder, queue paused. The tail is the last tenth, the head the rest. "
        "The queue logs nothing, Cloud Tasks' default, and then everything, which is what `create=True` sets."
    ),
    figures=(
        Figure(
            key="rate",
            what="tasks a second",
            against="Go emulators' CreateTask: 2,464/s (quoted)",
            unit="tasks/s",
            low=75_000,
        ),
        Figure(key="tail", what="rate of the tail", against="the head", unit="x", low=0.9),
        Figure(key="cpu", what="CPU of the emulator", unit="µs a task", high=9),
        Figure(key="rate logged", what="tasks a second, every creation logged", unit="tasks/s"),
        Figure(key="tail logged", what="rate of the tail, every creation logged", against="the head", unit="x"),
        Figure(key="cpu logged", what="CPU of the emulator, every creation logged", unit="µs a task"),
    ),
    run=_batch_create,
)

CREATE = Case(
    name="create",
    title="Emulator: CreateTask",
    how="Serialized calls over a synchronous channel one after the other, or over `grpc.aio` with 64 in flight.",
    figures=(
        Figure(
            key="one",
            what="on a folder, one caller",
            against="Go emulators: 2,464/s, nothing on disk (quoted)",
            unit="calls/s",
            low=700,
        ),
        Figure(key="many", what="on a folder, 64 callers", against="same", unit="calls/s", low=3_500),
        Figure(key="temporary", what="temporary, one caller", against="same", unit="calls/s", low=1_300),
        Figure(key="cpu", what="CPU of the emulator, on a folder, 64 callers", unit="µs a call"),
    ),
    run=_create,
)

PENDING = Case(
    name="pending",
    title="Emulator: a million pending tasks",
    how=(
        "On a folder; killed with SIGKILL and started again in each round, with what is on disk still in the system's "
        "cache. Ready counts from the start of the interpreter to the line that says so. Pages are listed one after "
        "the other in BASIC view; the first one after a start sorts the names."
    ),
    figures=(
        Figure(
            key="memory",
            what="memory after a restart and the pages",
            against="best peer 1.6 KB a task, so 1,600 MB, nothing on disk (quoted)",
            unit="MB",
            high=300,
        ),
        Figure(key="filled", what="memory when all were created", against="same", unit="MB", high=300),
        Figure(key="ready", what="ready after SIGKILL", unit="s", high=3),
        Figure(key="page", what="page of 1,000: CPU of the emulator", unit="ms", high=5),
        Figure(key="page wall", what="page of 1,000: by the caller's clock", unit="ms"),
        Figure(key="first", what="first page after a start: by the caller's clock", unit="ms"),
        Figure(key="disk", what="on disk", unit="MB"),
    ),
    run=_pending,
    seconds=300,
)
