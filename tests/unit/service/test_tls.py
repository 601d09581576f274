"""A server that is called as Google is, with TLS and credentials, at an address of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.cloud.logging_v2.types import ListLogEntriesResponse
from google.cloud.tasks_v2 import types

from cloudtasks_nb import errors
from cloudtasks_nb._settings import resolve
from cloudtasks_nb.service.transport import Transport
from tests.certificates import Authority
from tests.unit.service.conftest import QUEUE, Fakes, call, login, use

SECURE = {"local": False}
ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


def test_a_custom_endpoint_is_called_as_google_is(fake: Fakes, trusted: Authority) -> None:
    """With ``https://`` calls have a token; the log and the other interfaces are those of the same server."""
    server = fake(types.Queue.pb()(name=QUEUE), instance="0b7c", tls=trusted.grpc())
    endpoint = resolve("p", "l", f"https://127.0.0.1:{server.port}")

    async def story(transport: Transport) -> tuple[Any, ...]:
        await transport.call("GetQueue", name=QUEUE)
        server.script.append(ListLogEntriesResponse.pb()())
        server.script.pop(0)
        await transport.call("ListLogEntries", filter="x")
        return await transport.identity(), await transport.http(), transport.google

    found = use(server.port, story, place={"local": endpoint.local}, auth=login())
    assert found == ("0b7c", "https://127.0.0.1:80", False)
    assert [one.name for one in server.calls] == ["GetQueue", "ListLogEntries", "ListQueues"]
    assert {one.metadata["authorization"] for one in server.calls} == {"Bearer a-token"}


def test_googles_client_calls_the_same_endpoint(fake: Fakes, trusted: Authority) -> None:
    """`tasks.client` has the endpoint, the authorities and the credentials of the connection."""
    server = fake(types.Queue.pb()(name=QUEUE), tls=trusted.grpc())

    async def story(transport: Transport) -> str:
        return str((await asyncio.to_thread(transport.client().get_queue, name=QUEUE)).name)

    assert use(server.port, story, place=SECURE, auth=login()) == QUEUE
    assert server.calls[0].metadata["authorization"] == "Bearer a-token"


def test_a_file_of_authorities_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the variable: nothing in the cell shows where the path came from."""
    monkeypatch.setenv(ROOTS, str(tmp_path / "none.pem"))
    with pytest.raises(errors.ConfigurationError, match=f"{ROOTS} names .*none.pem, which cannot be read"):
        use(1, call("GetQueue", name=QUEUE), place=SECURE, auth=login())


class Sleeper:
    """Relays connections to a port; those that are open when it falls asleep stay open and carry nothing more."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._links: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Sleeper]:
        """Accept connections."""
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                self.sleep()
                for writer in self._writers:
                    writer.transport.abort()

    def sleep(self) -> None:
        """Carry nothing more over the open connections."""
        for link in self._links:
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]
        self._links += [asyncio.ensure_future(_copy(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


def test_a_connection_that_broke_in_a_sleep_is_replaced(fake: Fakes, trusted: Authority) -> None:
    """After the sleep of a laptop the old connection answers nothing, and nothing reports that it is broken."""
    server = fake(types.Queue.pb()(name=QUEUE), tls=trusted.grpc())

    async def story(transport: Transport) -> int:
        async with Sleeper(server.port).listen() as relay:
            transport.endpoint = resolve("p", "l", f"https://127.0.0.1:{relay.port}")
            await transport.call("GetQueue", name=QUEUE)
            relay.sleep()
            await transport.call("GetQueue", name=QUEUE, timeout=60.0)
            await transport.close()
        return len(server.calls)

    assert use(server.port, story, place=SECURE, auth=login(), keepalive=(1.0, 1.0)) == 2
