"""The HTTP client, with a real server on this machine."""

import asyncio
import errno
import re
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cloudtasks_nb.emulator.dispatch.deliver import Deliverer, NoSocketError, NotListeningError, is_loopback
from cloudtasks_nb.emulator.dispatch.request import HttpCall
from cloudtasks_nb.emulator.dispatch.tokens import TokenSigner
from cloudtasks_nb.emulator.model.attempts import AttemptResult, RetryPolicy
from cloudtasks_nb.emulator.model.clock import SECOND
from cloudtasks_nb.emulator.model.settings import Settings
from cloudtasks_nb.errors import EmulatorError
from tests.certificates import Authority
from tests.processes import free_port

TABLES = tomllib.loads(Path(__file__).with_name("deliveries.toml").read_text(encoding="utf-8"))


def call(url: str, *, method: str = "POST", body: bytes = b"", app_engine: bool = False, **headers: str) -> HttpCall:
    """Make a request."""
    task: dict[str, Any] = {"method": method, "url": url, "headers": headers, "body": body, "target": f"{method} {url}"}
    return HttpCall(**task, deadline=15 * SECOND, retry=RetryPolicy(), app_engine=app_engine)


@pytest.fixture
def received() -> list[Any]:
    """Give the list of the requests that the server received."""
    return []


@pytest.fixture
def url(runner: asyncio.Runner, received: list[Any]) -> Iterator[str]:
    """Give the URL of a server that answers as the request's query says."""

    async def answer(request: web.Request) -> web.Response:
        received.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        status = int(request.query.get("status", "200"))
        headers = {"Location": request.query["to"]} if "to" in request.query else {}
        return web.Response(status=status, headers=headers, body=b"x" * int(request.query.get("size", "0")))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app, host="127.0.0.1")
    runner.run(server.start_server())
    yield str(server.make_url("")).rstrip("/")
    runner.run(server.close())


@pytest.fixture
def https(runner: asyncio.Runner, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a server whose certificate nobody knows."""
    server = TestServer(web.Application(), host="localhost", scheme="https")
    runner.run(server.start_server(ssl=Authority(tmp_path).context()))
    yield str(server.make_url(""))
    runner.run(server.close())


@pytest.fixture
def deliverer(runner: asyncio.Runner) -> Iterator[Deliverer]:
    """Give a deliverer."""

    async def start() -> Deliverer:
        return Deliverer(Settings())

    deliverer = runner.run(start())
    yield deliverer
    runner.run(deliverer.close())


async def test_what_is_sent(deliverer: Deliverer, url: str, received: list[Any]) -> None:
    """The request has its own headers and body and no others; what is no escape in a URL is quoted."""
    connected: list[int] = []
    outcome = await deliverer.send(call(f"{url}/a%2Fb?q=1", body=b"hi", X="1"), lambda: connected.append(1))
    assert outcome == AttemptResult(http_status=200)
    ((method, path, headers, content),) = received
    assert (method, path, content, connected) == ("POST", "/a%2Fb?q=1", b"hi", [1])
    assert headers.keys() == {"Host", "X", "Content-Length"}


@pytest.mark.parametrize(("part", "path"), TABLES["urls"])
async def test_urls(deliverer: Deliverer, url: str, received: list[Any], part: str, path: str) -> None:
    """What cannot stand in a URL is quoted; escapes and all else are sent as the task has them."""
    await deliverer.send(call(f"{url}{part}"))
    assert received[0][1] == path


@pytest.mark.parametrize(("query", "app_engine", "status", "requests"), TABLES["answers"])
async def test_answers(
    deliverer: Deliverer, url: str, received: list[Any], query: str, status: int, requests: int, *, app_engine: bool
) -> None:
    """The answer's status counts; redirects are followed to where they lead, but not by App Engine tasks."""
    outcome = await deliverer.send(call(f"{url}/?{query}", app_engine=app_engine, body=b"kept"))
    assert (outcome.http_status, len(received)) == (status, requests)
    assert [received[-1][at] for at in (0, 3)] == (
        ["GET", b""] if (status, requests) == (200, 2) else ["POST", b"kept"]
    )


CLOSED, NO_HTTP = "the target closed the connection without an answer", "the answer is not HTTP: .+"
ODD = [
    (b"", 0, CLOSED),
    (b"hello\r\n\r\n", 0, NO_HTTP),
    (b"HTTP/1.1 banana\r\n\r\n", 0, NO_HTTP),
    (b"HTTP/1.1 200 OK\r\nContent-Le", 0, CLOSED),
    (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 300_000, 200, ""),  # an old server ends its answer by closing
]


@pytest.mark.parametrize(
    ("reply", "status", "cause"), ODD, ids=["closed", "not http", "no status", "cut in the head", "1.0"]
)
async def test_odd_answers(deliverer: Deliverer, reply: bytes, status: int, cause: str) -> None:
    """What is not HTTP, and a head that is cut, are no answer; the request is sent once."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        outcome = await deliverer.send(call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
    assert (outcome.http_status, len(received)) == (status, 1)
    assert re.fullmatch(cause, outcome.cause)


@pytest.mark.parametrize(("to", "headers", "cause"), TABLES["causes"])
async def test_causes(
    deliverer: Deliverer, url: str, received: list[Any], to: str, headers: dict[str, str], cause: str
) -> None:
    """A request without an answer says why: each cause is told from the others, and nothing was sent."""
    to = to.replace("{rest}", url[4:]).replace("{url}", url)
    outcome = await deliverer.send(replace(call(to), headers=headers))
    assert (outcome.http_status, received) == (0, [])
    assert re.fullmatch(cause, outcome.cause)


async def test_a_certificate_that_is_not_known(deliverer: Deliverer, https: str) -> None:
    """The cause names the host, and in OpenSSL's words what is wrong with its certificate."""
    outcome = await deliverer.send(call(https))
    assert outcome.cause == "the certificate of localhost is not accepted: unable to get local issuer certificate"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection(deliverer: Deliverer, host: str) -> None:
    """The error names the address; a host with several addresses is refused at all of them."""
    with free_port() as port, pytest.raises(NotListeningError, match=f"^{host}:{port} refuses the connection$"):
        await deliverer.send(call(f"http://{host}:{port}/"))


async def test_no_socket_can_be_opened(deliverer: Deliverer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no answer of the target."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as full:
        full.setattr(socket, "socket", refuse)
        with pytest.raises(NoSocketError):
            await deliverer.send(call(url))
    assert (await deliverer.send(call(url))).http_status == 200


async def test_a_kept_connection_may_have_been_closed(deliverer: Deliverer) -> None:
    """When a server closes a kept connection at the moment of its reuse, the request is sent on a new one."""
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        served.append(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        if await reader.read(1):  # the second request on this connection gets no answer
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        to = call(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        outcomes = [await deliverer.send(one) for one in (to, replace(to, body=b"x"))]
        await deliverer.close()
    assert (outcomes, len(served)) == ([AttemptResult(http_status=200)] * 2, 2)


async def test_unreadable_certificates(tmp_path: Path) -> None:
    """A file without certificates is named; one with them is trusted; without checks none are needed."""
    (tmp_path / "bad.pem").write_text("nonsense")
    for file in ("none.pem", "bad.pem"):
        with pytest.raises(EmulatorError, match="cannot be read as certificates"):
            Deliverer(Settings(https_ca=tmp_path / file))
    (tmp_path / "good.pem").write_text(next(iter(TokenSigner(tmp_path, "i").certificates().values())))
    for settings in (Settings(https_ca=tmp_path / "good.pem"), Settings(https_insecure=True)):
        await Deliverer(settings).close()


@pytest.mark.parametrize(("address", "loopback"), TABLES["loopback"])
def test_loopback(address: str, *, loopback: bool) -> None:
    """A machine is this one by its whole address, not by a part of it."""
    assert is_loopback(address) is loopback
