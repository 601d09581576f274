"""A server that is called as Google is, with TLS and credentials, at an address of its own."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from google.cloud.logging_v2.types import ListLogEntriesResponse
from google.cloud.tasks_v2 import types

from cloudtasks_nb import _loop, errors
from cloudtasks_nb.service import transport as transport_module
from cloudtasks_nb.service.endpoint import resolve
from cloudtasks_nb.service.no_connection import no_connection
from cloudtasks_nb.service.transport import Transport
from tests.cases import cases
from tests.certificates import Authority
from tests.proxy import Proxy
from tests.raising import raises
from tests.unit.service.conftest import QUEUE, Fakes, call, login, use

SECURE = {"local": False}
ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


def test_a_custom_endpoint_is_called_as_google_is(fake: Fakes, trusted: Authority) -> None:
    """With ``https://`` calls have a token; the log and the other interfaces are those of the same server."""
    server = fake(types.Queue.pb()(name=QUEUE), instance="0b7c", tls=trusted.grpc())
    endpoint = resolve("p", "l", f"https://127.0.0.1:{server.port}")

    async def story(transport: Transport) -> tuple[Any, ...]:
        await transport.call("GetQueue", name=QUEUE)
        server.script[:] = [ListLogEntriesResponse.pb()()]
        await transport.call("ListLogEntries", filter="x")
        return await transport.identity(), await transport.http(), transport.google

    found = use(server.port, story, place={"local": endpoint.local}, auth=login())
    assert found == ("0b7c", "https://127.0.0.1:80", False)
    assert [one.name for one in server.calls] == ["GetQueue", "ListLogEntries", "ListQueues"]
    assert {one.metadata["authorization"] for one in server.calls} == {"Bearer a-token"}


def test_a_file_of_authorities_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the variable: nothing in the cell shows where the path came from."""
    monkeypatch.setenv(ROOTS, str(tmp_path / "none.pem"))
    with pytest.raises(errors.ConfigurationError, match=f"{ROOTS} names .*none.pem, which cannot be read"):
        use(1, call("GetQueue", name=QUEUE), place=SECURE, auth=login())


def test_a_connection_that_broke_in_a_sleep_is_replaced(
    fake: Fakes, trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the sleep of a laptop the old connection answers nothing, and nothing reports that it is broken."""
    options = [(name, min(value, 1_000)) for name, value in transport_module._SECURE_OPTIONS]
    monkeypatch.setattr(transport_module, "_SECURE_OPTIONS", options)
    server = fake(tls=trusted.grpc())
    with closing(Proxy(f"127.0.0.1:{server.port}")) as proxy:

        async def story(transport: Transport) -> None:
            await transport.call("GetQueue", name=QUEUE)
            proxy.sleep()
            await transport.call("GetQueue", name=QUEUE, timeout=60.0)

        use(server.port, story, place={**SECURE, "target": proxy.address}, auth=login())
    assert len(server.calls) == 2


#: Puts an obstacle of a kind between a client and the service; returns the port, and the address that is called.
Obstacles = Callable[[str], tuple[int, dict[str, str]]]


@pytest.fixture
def obstacle(
    fake: Fakes, trusted: Authority, closed: int, tmp_path: Path, http1: Callable[..., int], monkeypatch: Any
) -> Obstacles:
    """Return a function that puts an obstacle of a kind in the way."""
    other = Authority(tmp_path / "other")

    def unnamed() -> int:
        monkeypatch.setenv(ROOTS, "")
        return fake(tls=other.grpc()).port

    def proxy(port: int, user: str = "") -> int:
        monkeypatch.setenv("https_proxy", f"http://{user}127.0.0.1:{port}")
        return port

    kinds: dict[str, Callable[[], int]] = {
        "certificate of an unknown authority": lambda: fake(tls=other.grpc()).port,
        "unknown authority, none named": unnamed,
        "no HTTP/2": lambda: http1(tls=trusted),
        "no TLS": lambda: fake().port,
        "nothing listens": lambda: closed,
        "no answer": http1,
        "unknown host": lambda: 1,
        "proxy that refuses": lambda: proxy(http1(b"HTTP/1.1 403 Forbidden\r\n\r\n")),
        "proxy that wants a password": lambda: proxy(http1(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")),
        "proxy that is not there": lambda: proxy(closed, "ann:secret@"),
    }
    hosts = {"unknown": "cloudtasks.nowhere.invalid:443", "proxy": "cloudtasks.googleapis.com:443"}
    targets = {kind: {"target": hosts[kind.split()[0]]} for kind in kinds if kind.startswith(("unknown host", "proxy"))}
    return lambda kind: (kinds[kind](), targets.get(kind, {}))


@pytest.fixture
def http1() -> Iterator[Callable[..., int]]:
    """Start servers that give one answer, or none, to whatever comes; return their port."""
    started: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []

    def start(answer: bytes = b"", tls: Authority | None = None) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await reader.read(1)
            writer.write(answer)

        context = None if tls is None else tls.context()
        started.append(_loop.run(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)))
        return int(started[-1].sockets[0].getsockname()[1])

    async def stop() -> None:
        for server in started:
            server.close()
        for writer in writers:
            writer.transport.abort()

    yield start
    _loop.run(stop())


@cases(
    ("certificate of an unknown authority", "is not trusted: .*CERTIFICATE_VERIFY_FAILED", "ca.pem, which lacks"),
    ("unknown authority, none named", "is not trusted: .*CERTIFICATE_VERIFY_FAILED", f"set {ROOTS} to a PEM file"),
    ("no HTTP/2", "does not speak HTTP/2: .*ALPN", 'transport="rest"'),
    ("no TLS", "does not speak TLS: .*WRONG_VERSION_NUMBER", "without https://"),
    ("nothing listens", "nothing answers at 127.0.0.1:.*Connection refused", "check the network"),
    ("no answer", "nothing answers at 127.0.0.1:.*: Deadline Exceeded", "a firewall may drop"),
    ("unknown host", "the host of cloudtasks.nowhere.invalid:443 is not found: errors resolving", "VPN, DNS"),
    ("proxy that refuses", "the proxy that https_proxy names, http://127.*, does not let .* 403", "no_proxy"),
    ("proxy that wants a password", "wants a password: .*407", "USER:PASSWORD@HOST"),
    ("proxy that is not there", "https_proxy names, http://127.* does not answer: .*refused", "unset the variable"),
)
def test_why_no_connection_comes_about(obstacle: Obstacles, kind: str, message: str, hint: str) -> None:
    """The error says what gRPC says of it, and what helps; a password in the address of a proxy is not shown."""
    port, target = obstacle(kind)
    with raises(errors.EndpointError, message, hint=hint) as caught:
        use(port, call("GetQueue", name=QUEUE), place={**SECURE, **target}, auth=login(), connect_timeout=0.3)
    assert "secret" not in str(caught.value)


def test_a_server_with_tls_that_is_called_without(fake: Fakes, trusted: Authority) -> None:
    """An address without ``https://`` is an emulator's; the hint is the address that works."""
    port = fake(tls=trusted.grpc()).port
    with raises(errors.EndpointError, hint=f'if it speaks TLS: endpoint="https://127.0.0.1:{port}"'):
        use(port, call("GetQueue", name=QUEUE), connect_timeout=0.3)


@cases("http://ann:secret@proxy:3128", "http://ann:a@secret@proxy:3128", "http://ann:secret/@proxy:port")
def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """Nor is any other part of it; an address without a good port is explained too."""
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("grpc_proxy", raising=False)
    for details in ("HTTP proxy returned response code 407", "ipv4:127.0.0.1:3128: Connection refused"):
        shown = str(no_connection(resolve("p", "l", "https://host:1"), "host:1", details))
        assert "secret" not in shown
        assert ("http://proxy:" in shown) == ("407" in details or ":3128" in proxy)
