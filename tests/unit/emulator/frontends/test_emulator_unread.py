"""Clients that do not read their answers: what they can make the emulator keep is bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cloudtasks_nb.emulator.api import replies
from cloudtasks_nb.emulator.frontends import http as http_module
from cloudtasks_nb.emulator.model.protobuf import v2
from tests.unit.emulator.conftest import QUEUE
from tests.unit.emulator.frontends.test_emulator_http import Running, emulator

LIST_TASKS = "/google.cloud.tasks.v2.CloudTasks/ListTasks"
LIST = v2.ListTasksRequest(parent=QUEUE, response_view=2).SerializeToString()
PATH = f"/v2/{QUEUE}/tasks?responseView=FULL"
GET = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
#: The most that the system takes over for the reader, which is less than a page.
BUFFER = 65_536


@asynccontextmanager
async def full_emulator() -> AsyncIterator[Running]:
    """Run an emulator with a queue of more than a page of large tasks."""
    async with emulator(queues=(QUEUE,)) as running:
        await running.http("POST", f"/v2/{QUEUE}:pause")
        task = {"httpRequest": {"url": "http://127.0.0.1:9/", "body": "AAAA" * 10_000}}
        batch = {"requests": [{"parent": QUEUE, "task": task}] * 20}
        for _ in range(10):
            assert (await running.http("POST", f"/v2/{QUEUE}/tasks:batchCreate", batch))[0] == 200
        yield running


def absent_reader(http: str) -> socket.socket:
    """Ask for a page of tasks and do not read the answer."""
    host, port = http.removeprefix("http://").rsplit(":", 1)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    reader.connect((host, int(port)))
    reader.sendall(GET)
    reader.setblocking(False)
    return reader


async def until(ask: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Ask again and again until the answer is the wanted one."""
    async with asyncio.timeout(60):
        while await ask() != wanted:
            continue


async def test_lists_are_refused_while_too_much_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are refused over both protocols while clients do not read, other calls are answered; then all are again."""
    monkeypatch.setattr(replies, "_MOST", 1)
    monkeypatch.setattr(replies, "_PATIENCE", 0.01)
    async with full_emulator() as running, grpc.aio.insecure_channel(running.endpoint["grpc"]) as channel:

        async def status(path: str = PATH) -> int:
            return (await running.http("GET", path))[0]

        async def code() -> str:
            name: str = (await channel.unary_unary(LIST_TASKS)(LIST).code()).name
            return name

        with absent_reader(running.endpoint["http"]):
            await until(status, 429)
            assert (await code(), await status("/admin/history")) == ("RESOURCE_EXHAUSTED", 429)
            assert (await status("/health"), await status(f"/v2/{QUEUE}")) == (200, 200)
        await until(status, 200)
        await until(code, "OK")


async def test_an_absent_reader_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of REST that does not read its answer in time gets only a part of it."""
    monkeypatch.setattr(http_module, "_READ_WITHIN", 0)
    loop = asyncio.get_running_loop()
    async with full_emulator() as running, asyncio.timeout(60):
        with absent_reader(running.endpoint["http"]) as reader:
            received = b""
            while part := await loop.sock_recv(reader, 1 << 20):
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert 0 < len(body) < length
