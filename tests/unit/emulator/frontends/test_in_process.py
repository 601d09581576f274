"""An emulator in the process of the test: what needs a limit or a function of it changed, and cheap restarts."""

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest

from cloudtasks_nb.emulator import server as server_module
from cloudtasks_nb.emulator.api import replies
from cloudtasks_nb.emulator.frontends import http as http_module
from cloudtasks_nb.emulator.frontends.http import host_and_port
from cloudtasks_nb.emulator.model.apis import v2
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.emulator.store.database import TaskDatabase
from cloudtasks_nb.errors import EmulatorError, InvalidInputError, PortInUseError
from tests.cases import cases
from tests.unit.emulator.conftest import QUEUE

LIST_TASKS = "/google.cloud.tasks.v2.CloudTasks/ListTasks"
LIST = v2.ListTasksRequest(parent=QUEUE, response_view=2).SerializeToString()
PATH = f"/v2/{QUEUE}/tasks?responseView=FULL"
GET = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
#: The most that the system takes over for the reader, which is less than a page.
BUFFER = 65_536


@dataclass(kw_only=True)
class Running:
    """An emulator in this process."""

    endpoint: dict[str, Any]
    session: aiohttp.ClientSession
    server: asyncio.Task[None]

    async def http(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request and return status and JSON."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with self.session.request(verb, self.endpoint["http"] + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read())

    async def ahead(self) -> int:
        """Return the whole hours by which the clock is ahead of this machine's."""
        _, clock = await self.http("GET", "/admin/clock")
        return round((int(clock["now_us"]) - time.time_ns() // 1000) / 3_600_000_000)


@asynccontextmanager
async def emulator(**settings: Any) -> AsyncIterator[Running]:
    """Run an emulator."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    server = asyncio.create_task(server_module.run(Settings(**{"port": 0, **settings}), ready.set_result, stop, stop))
    await asyncio.wait([server, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await server  # raises what is wrong
    async with aiohttp.ClientSession() as session:
        try:
            yield Running(endpoint=ready.result(), session=session, server=server)
        finally:
            stop.set()
            await server


async def test_the_garbage_collector_is_left_alone(tmp_path: Path) -> None:
    """An emulator in a process that does other things, too, takes none of its objects from the garbage collector."""
    before = gc.get_freeze_count()
    async with emulator(data_dir=tmp_path):
        assert gc.get_freeze_count() == before


async def test_a_sweep_goes_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one step of a sweep leaves does not wait for the next sweep; at the end memory is given back."""
    steps, done = iter((True, True)), asyncio.Event()
    monkeypatch.setattr(server_module, "_SWEEP_EVERY", 3600)
    monkeypatch.setattr(server_module, "sweep", lambda *_, **__: next(steps, False))
    monkeypatch.setattr(server_module, "_trim_heap", done.set)
    async with emulator(), asyncio.timeout(240):
        await done.wait()


@cases(
    ("google.protobuf.json_format.MessageToDict", f"/v2/{QUEUE}", "Unexpected ZeroDivisionError: nobody's fault"),
    ("cloudtasks_nb.emulator.dispatch.tokens.TokenSigner.keys", "/oauth2/v3/certs", "Internal error encountered."),
)  # fmt: skip
async def test_unexpected_errors_in_json(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str, path: str, message: str
) -> None:
    """An exception that is no refusal is answered in JSON and logged, on REST and on the routes beside it."""

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("nobody's fault")

    async with emulator(queues=(QUEUE,)) as running:
        with monkeypatch.context() as patch:
            patch.setattr(broken, fail)
            status, content = await running.http("GET", path)
    assert (status, content) == (500, {"error": {"code": 500, "message": message, "status": "INTERNAL"}})
    assert "ZeroDivisionError: nobody's fault" in caplog.text


async def test_a_body_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the server reads is 413, in JSON too."""
    monkeypatch.setattr(http_module, "_MAX_BODY", 1000)
    async with emulator(queues=(QUEUE,)) as running:
        status, content = await running.http("POST", f"/v2/{QUEUE}/tasks", b" " * 1001)
    assert (status, content["error"]["code"], content["error"]["status"]) == (413, 413, "INVALID_ARGUMENT")


async def test_the_clock_stays_with_the_folder(tmp_path: Path) -> None:
    """An advanced clock is as far ahead after a restart and after a restore; a reset brings it back."""
    async with emulator(data_dir=tmp_path) as running:
        await running.http("POST", "/admin/snapshot", {"name": "before"})
        await running.http("POST", "/admin/clock", {"advance_s": 10 * 3600})
        await running.http("POST", "/admin/restore", {"name": "before"})
        assert await running.ahead() == 10
    async with emulator(data_dir=tmp_path) as running:
        assert await running.ahead() == 10
        await running.http("POST", "/admin/reset", {})
        assert await running.ahead() == 0
        await running.http("POST", "/admin/clock", {"advance_s": 7200})
    async with emulator(data_dir=tmp_path) as running:
        assert await running.ahead() == 2


async def test_a_restart_while_the_clock_catches_up(tmp_path: Path) -> None:
    """A task that an advance has left to be sent is still there after a restart."""
    settings: dict[str, Any] = {"queues": (QUEUE,), "data_dir": tmp_path, "wait_for_loopback": True}
    task = {"name": f"{QUEUE}/tasks/a", "httpRequest": {"url": "http://127.0.0.1:9/"}}
    async with emulator(**settings) as running:
        now = datetime.fromisoformat((await running.http("GET", "/admin/clock"))[1]["now"])
        due = {"scheduleTime": (now + timedelta(days=20)).isoformat()}
        await running.http("POST", f"/v2/{QUEUE}/tasks", {"task": task | due})
        await running.http("POST", "/admin/clock", {"advance_s": 40 * 86_400})
        assert (await running.http("GET", f"/v2/{QUEUE}/tasks/a"))[0] == 200
    async with emulator(**settings) as running:
        assert (await running.http("GET", f"/v2/{QUEUE}/tasks/a"))[0] == 200


async def test_a_first_lease_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emulator with leases ends if no client takes one."""
    monkeypatch.setattr(http_module, "_FIRST_WITHIN", 0.01)
    async with emulator(lease=True) as running, asyncio.timeout(240):
        await running.server


@cases(
    ({"port": "taken"}, PortInUseError, "--port 0"),
    ({"http_port": "taken"}, PortInUseError, "--http-port 0"),
    ({"port": "taken", "single_port": True}, PortInUseError, "--port 0"),
    ({"host": "203.0.113.1"}, EmulatorError, ""),
    ({"host": "203.0.113.1", "named_by": {"host": "variable HOST"}}, EmulatorError, ""),
    ({"port": "taken", "named_by": {"port": "variable PORT", "host": "variable HOST"}}, PortInUseError, "--port 0"),
    ({"strict": True, "allow_hosts": ("my_service",)}, InvalidInputError, ""),
    ({"data_dir": Path("/dev/null/x")}, EmulatorError, ""),
)
async def test_errors_at_the_start(settings: dict[str, Any], error: type[EmulatorError], hint: str) -> None:
    """A port in use, a foreign address, a name for no certificate and a folder that cannot be made are errors."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(error) as refused:
            async with emulator(**{name: port if value == "taken" else value for name, value in settings.items()}):
                pass
    assert hint in (refused.value.hint or "")
    assert (f"port {port} is in use" in refused.value.message) is (error is PortInUseError)
    assert ("(from variable " in refused.value.message) is ("named_by" in settings)


@pytest.mark.parametrize(("port", "next_one"), [(0, 0), (8123, 8124), (65_535, 0)])
async def test_the_http_port_is_the_next_one(monkeypatch: pytest.MonkeyPatch, port: int, next_one: int) -> None:
    """With a chosen gRPC port the HTTP port is the one after it, and after the last one any."""

    async def listen(_runner: None, _host: str, asked: int, *_: object) -> int:
        return asked

    monkeypatch.setattr(server_module, "grpc_server", lambda *_: (None, port or 40_000))
    monkeypatch.setattr(server_module, "listen", listen)
    web: Any = SimpleNamespace(runner=None)
    parts: Any = SimpleNamespace(settings=Settings(port=port), credentials=None, interceptors=(), tls=None)
    bound = await server_module._bind_two_ports(parts, web, AsyncExitStack())
    assert bound == (None, port or 40_000, next_one)


def test_hosts_with_colons() -> None:
    """An IPv6 address stands in brackets before its port."""
    assert [host_and_port(host, 80) for host in ("127.0.0.1", "::1")] == ["127.0.0.1:80", "[::1]:80"]


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
    async with asyncio.timeout(240):
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

        with absent_reader(running.endpoint["http"]) as reader:
            await asyncio.get_running_loop().sock_recv(reader, 1)  # its answer is under way, not that of another list
            assert (await status(), await code()) == (429, "RESOURCE_EXHAUSTED")
            assert await status("/admin/history") == 429
            assert (await status("/health"), await status(f"/v2/{QUEUE}")) == (200, 200)
        await until(status, 200)
        await until(code, "OK")


async def test_an_absent_reader_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of REST that does not read its answer in time gets only a part of it."""
    monkeypatch.setattr(http_module, "_READ_WITHIN", 0)
    loop = asyncio.get_running_loop()
    async with full_emulator() as running, asyncio.timeout(240):
        with absent_reader(running.endpoint["http"]) as reader:
            received = b""
            while part := await loop.sock_recv(reader, 1 << 20):
                received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    assert 0 < len(body) < length


@pytest.mark.parametrize("kept", [False, True])
async def test_what_is_kept_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """Tasks in a folder are on the disk before their call is answered; those of a temporary emulator need not be."""
    durable: list[bool] = []

    def opened(path: Path, **words: bool) -> TaskDatabase:
        durable.append(words["durable"])
        return TaskDatabase(path, **words)

    monkeypatch.setattr(server_module, "TaskDatabase", opened)
    async with emulator(**({"data_dir": tmp_path} if kept else {})):
        assert durable == [kept]
