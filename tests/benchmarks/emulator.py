"""The emulator alone: how fast it creates tasks, and what a million of them cost."""

import asyncio
import statistics
import time
from pathlib import Path

from google.cloud.tasks_v2 import types
from google.protobuf.field_mask_pb2 import FieldMask

from tests.benchmarks import callers, flights
from tests.benchmarks.figures import Bench, case
from tests.benchmarks.servers import LOCATION, Cost, Emulator

_QUEUE = f"{LOCATION}/queues/q"
_TAIL = 0.1  # share of the tasks that is the tail
_WARM = 100  # calls before the clock starts
_PAGE = 1000


def _paused(folder: Path | None = None, *arguments: str) -> Emulator:
    """Start an emulator with a paused queue."""
    emulator = Emulator("--queue", _QUEUE, *arguments, folder=folder)
    with callers.google_client(emulator.grpc) as client:
        client.pause_queue(name=_QUEUE)
    return emulator


def _batch_create(bench: Bench) -> None:
    bodies = flights.bodies(len(flights.frame(bench.size.flights)))
    requests = list(callers.batch_requests(_QUEUE, flights.URL, bodies, "batch"))
    for folder in bench.rounds():
        for kind in ("", " logged"):
            with _paused(folder / f"emulator{kind}") as emulator:
                if kind:
                    _log_all(emulator)
                cost = Cost(emulator)
                start, *answered = callers.by_batches(emulator.grpc, requests)
                bench.report(f"cpu{kind}", 1e6 * cost.emulator_cpu / len(bodies))
                _check(emulator, len(bodies))
            bench.report(f"rate{kind}", len(bodies) / (answered[-1] - start))
            bench.report(f"tail{kind}", _tail(start, answered))


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
    """Check that every task was created: a batch call is answered even when tasks of it were refused."""
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

    for folder in bench.rounds():
        for kind, arguments in (("", ()), (" single", ("--single-port",))):
            with _paused(folder / f"emulator{kind}", *arguments) as emulator:
                callers.by_raw_loop(emulator.grpc, requests("warm", _WARM))
                bench.report(f"one{kind}", callers.by_raw_loop(emulator.grpc, requests("one", few)))
                cost = Cost(emulator)
                bench.report(f"many{kind}", callers.by_raw_calls(emulator.grpc, requests("many", many), 64))
                bench.report(f"cpu{kind}", 1e6 * cost.emulator_cpu / many)
        with _paused() as emulator:
            callers.by_raw_loop(emulator.grpc, requests("warm", _WARM))
            bench.report("temporary", callers.by_raw_loop(emulator.grpc, requests("one", few)))


def _pending(bench: Bench) -> None:
    folder, count = bench.folder / "emulator", bench.size.pending
    bodies = flights.bodies(count)
    bench.note(f"{count:,} tasks, every second one due within an hour, the others at once; the queue is paused.")
    emulator = _paused(folder)
    try:
        later = int(time.time()) + 3600
        callers.fill(emulator.grpc, _QUEUE, bodies, later=later)
        bench.report("filled", emulator.memory)
        for _ in bench.rounds():
            emulator.kill()
            emulator = Emulator(folder=folder)
            bench.report("ready", emulator.ready_after)
            cpu, wall, first, found = asyncio.run(_pages(emulator, bench.size.pages))
            bench.report("first", first)
            bench.report("page", cpu)
            bench.report("page wall", wall)
            bench.report("memory", emulator.memory)
            if found != min(count, (bench.size.pages + 1) * _PAGE):
                raise AssertionError(f"the pages hold {found:,} of {count:,} tasks")
        disk = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        bench.report("disk", disk / 2**20)
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
        cost = Cost(emulator)
        for _ in range(pages + 1):
            request = types.ListTasksRequest.pb(_listing(token)).SerializeToString()
            start = time.perf_counter()
            answer = await call(request)
            walls.append(1000 * (time.perf_counter() - start))
            if len(walls) == 1:
                cost = Cost(emulator)
            page = types.ListTasksResponse.pb().FromString(answer)
            found, token = found + len(page.tasks), page.next_page_token
            if not token:
                break
    first, *rest = walls
    return 1000 * cost.emulator_cpu / max(1, len(rest)), statistics.median(rest or walls), first, found


_PEER = "best peer 1.6 KB a task, so 1,600 MB, nothing on disk (quoted)"

BATCH_CREATE = case(
    "batch-create",
    "Emulator: BatchCreateTasks",
    _batch_create,
    "336,776 tasks with random names and about 310 bytes of body, 100 a call, serialized before, 16 calls in "
    "flight over `grpc.aio`; emulator on a folder, queue paused. The tail is the last tenth, the head the rest. "
    "The queue logs nothing, Cloud Tasks' default, and then everything, which is what `create=True` sets.",
    """
    rate | tasks a second | tasks/s | ≥ 75,000 | Go emulators' CreateTask: 2,464/s (quoted)
    tail | rate of the tail | x | ≥ 0.9 | the head
    cpu | CPU of the emulator | µs a task | ≤ 9
    rate logged | tasks a second, every creation logged | tasks/s
    tail logged | rate of the tail, every creation logged | x |  | the head
    cpu logged | CPU of the emulator, every creation logged | µs a task
    """,
)

CREATE = case(
    "create",
    "Emulator: CreateTask",
    _create,
    "Serialized calls over a synchronous channel one after the other, or over `grpc.aio` with 64 in flight.",
    """
    one | on a folder, one caller | calls/s | ≥ 700 | Go emulators: 2,464/s, nothing on disk (quoted)
    many | on a folder, 64 callers | calls/s | ≥ 3,500 | same
    temporary | temporary, one caller | calls/s | ≥ 1,300 | same
    cpu | CPU of the emulator, on a folder, 64 callers | µs a call
    one single | on a folder, one caller, `--single-port` | calls/s
    many single | on a folder, 64 callers, `--single-port` | calls/s
    cpu single | CPU of the emulator, the same | µs a call
    """,
)

PENDING = case(
    "pending",
    "Emulator: a million pending tasks",
    _pending,
    "On a folder; killed with SIGKILL and started again in each round, with what is on disk still in the system's "
    "cache. Ready counts from the start of the interpreter to the line that says so. Pages are listed one after "
    "the other in BASIC view; the first one after a start sorts the names.",
    f"""
    memory | memory after a restart and the pages | MB | ≤ 300 | {_PEER}
    filled | memory when all were created | MB | ≤ 300 | same
    ready | ready after SIGKILL | s | ≤ 3
    page | page of 1,000: CPU of the emulator | ms | ≤ 5
    page wall | page of 1,000: by the caller's clock | ms
    first | first page after a start: by the caller's clock | ms
    disk | on disk | MB
    """,
    seconds=300,
)
