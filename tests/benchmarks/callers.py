"""The ways to create many tasks that are compared, and raw calls that use almost no CPU of the client."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
from google.cloud import tasks_v2
from google.cloud.tasks_v2 import types
from google.cloud.tasks_v2.services.cloud_tasks import transports

from tests.benchmarks.flights import URL

#: Tasks in a batch call, the most that the service takes.
BATCH = 100
IN_FLIGHT = 16  # batch calls, as many as the toolkit's sender has

_SERVICE = "/google.cloud.tasks.v2.CloudTasks/"
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_Batch = types.BatchCreateTasksRequest.pb()
_Create = types.CreateTaskRequest.pb()


@contextmanager
def google_client(target: str) -> Iterator[tasks_v2.CloudTasksClient]:
    """Connect Google's client to an emulator."""
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        yield tasks_v2.CloudTasksClient(transport=transports.CloudTasksGrpcTransport(channel=channel))


def task(url: str, body: bytes) -> tasks_v2.Task:
    """Return a task as the documentation of Google's client makes it."""
    headers = {"Content-Type": "application/json"}
    request = tasks_v2.HttpRequest(http_method=tasks_v2.HttpMethod.POST, url=url, headers=headers, body=body)
    return tasks_v2.Task(http_request=request)


def by_loop(target: str, queue: str, url: str, bodies: Sequence[bytes]) -> float:
    """Create tasks in a loop over `client.create_task`, and return tasks a second."""
    with google_client(target) as client:
        start = time.perf_counter()
        for body in bodies:
            client.create_task(parent=queue, task=task(url, body))
        return len(bodies) / (time.perf_counter() - start)


def by_threads(target: str, queue: str, url: str, bodies: Sequence[bytes], threads: int = 64) -> float:
    """Create tasks with `client.create_task` in a pool of threads, and return tasks a second."""
    with google_client(target) as client, ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda body: client.create_task(parent=queue, task=task(url, body)), bodies))
        return len(bodies) / (time.perf_counter() - start)


def by_async_client(target: str, queue: str, url: str, bodies: Sequence[bytes], in_flight: int = 64) -> float:
    """Create tasks with `CloudTasksAsyncClient`, and return tasks a second."""

    async def create() -> float:
        async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
            transport = transports.CloudTasksGrpcAsyncIOTransport(channel=channel)
            client = tasks_v2.CloudTasksAsyncClient(transport=transport)
            start = time.perf_counter()
            await _send(lambda body: client.create_task(parent=queue, task=task(url, body)), bodies, in_flight)
            return len(bodies) / (time.perf_counter() - start)

    return asyncio.run(create())


def by_batches(target: str, requests: Iterable[bytes]) -> list[float]:
    """Send serialized batch calls in a bare loop; return when it began and when each was answered."""
    return asyncio.run(_raw_moments(target, "BatchCreateTasks", requests, IN_FLIGHT))


def by_raw_calls(target: str, requests: Sequence[bytes], in_flight: int) -> float:
    """Send serialized `CreateTask` calls, and return calls a second."""
    start, *answered = asyncio.run(_raw_moments(target, "CreateTask", requests, in_flight))
    return len(requests) / (answered[-1] - start)


def fill(target: str, queue: str, bodies: Sequence[bytes], url: str = URL, later: int = 0) -> None:
    """Create tasks in a queue as fast as possible; the parameters are those of `batch_requests`."""
    by_batches(target, batch_requests(queue, url, bodies, queue, later))


async def _raw_moments(target: str, method: str, requests: Iterable[bytes], in_flight: int) -> list[float]:
    async with raw_calls(target, method) as call:
        moments = [time.perf_counter()]

        async def send(request: bytes) -> None:
            await call(request)
            moments.append(time.perf_counter())

        await _send(send, requests, in_flight)
        return moments


async def _send(send: Callable[[bytes], Awaitable[object]], items: Iterable[bytes], in_flight: int) -> None:
    """Send items, so many at a time."""
    waiting = iter(items)

    async def one_by_one() -> None:
        for item in waiting:
            await send(item)

    await asyncio.gather(*(one_by_one() for _ in range(in_flight)))


def by_raw_loop(target: str, requests: Sequence[bytes]) -> float:
    """Send serialized `CreateTask` calls one after the other, and return calls a second."""
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        call = channel.unary_unary(_SERVICE + "CreateTask")
        start = time.perf_counter()
        for request in requests:
            call(request)
        return len(requests) / (time.perf_counter() - start)


@asynccontextmanager
async def raw_calls(target: str, method: str) -> AsyncIterator[Any]:
    """Open a channel and yield a function that calls a method with serialized messages."""
    async with grpc.aio.insecure_channel(target, options=_OPTIONS) as channel:
        yield channel.unary_unary(_SERVICE + method)


def batch_requests(queue: str, url: str, bodies: Sequence[bytes], salt: str, later: int = 0) -> Iterator[bytes]:
    """Yield serialized batch calls for tasks with random ids.

    Parameters
    ----------
    salt : str
        The ids are derived from it.
    later : int
        Seconds since 1970 at which every second task is due; 0: all are due at once.
    """
    for first in range(0, len(bodies), BATCH):
        batch = _Batch(parent=queue, request_id=str(uuid.uuid4()))
        for at, body in enumerate(bodies[first : first + BATCH], first):
            one = batch.requests.add(parent=queue).task
            _fill(one, queue, url, body, f"{salt}/{at}")
            if later and at % 2:
                one.schedule_time.seconds = later + at % 3600
        yield batch.SerializeToString()


def create_requests(queue: str, url: str, bodies: Sequence[bytes], salt: str) -> list[bytes]:
    """Return serialized `CreateTask` calls for tasks with random ids."""
    requests = []
    for at, body in enumerate(bodies):
        request = _Create(parent=queue)
        _fill(request.task, queue, url, body, f"{salt}/{at}")
        requests.append(request.SerializeToString())
    return requests


def _fill(one: Any, queue: str, url: str, body: bytes, seed: str) -> None:
    one.name = f"{queue}/tasks/{hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()}"
    one.http_request.http_method = types.HttpMethod.POST
    one.http_request.url = url
    one.http_request.headers["Content-Type"] = "application/json"
    one.http_request.body = body
