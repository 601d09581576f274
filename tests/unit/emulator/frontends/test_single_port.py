"""One port for two protocols: which server a connection goes to, and how bytes are relayed to the gRPC server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from cloudtasks_nb.emulator.frontends import single_port
from cloudtasks_nb.emulator.frontends.single_port import BEHIND, SinglePort
from tests.cases import cases

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE = 240.0
CHUNK = bytes(range(256)) * 4096  # 1 MiB
#: What one end of a relay may hold: a buffer that is nearly full, and what is read at once.
SMALL = 1 << 20
Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Http(asyncio.Protocol):
    """A connection to an HTTP server, which collects what it gets."""

    def __init__(self, heard: asyncio.Queue[bytes]) -> None:
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        self._heard.put_nowait(data)


class Buffered:
    """What the ends of relays hold in their buffers."""

    def __init__(self) -> None:
        self.full = asyncio.Event()  #: the buffer of one is full
        self.most = 0  #: bytes


@pytest.fixture
def buffered(monkeypatch: pytest.MonkeyPatch) -> Buffered:
    """Watch the buffers of all relays of the test."""
    held = Buffered()

    class Watched(single_port._End):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            held.most = max(held.most, self.other.transport.get_write_buffer_size())

        def pause_writing(self) -> None:
            super().pause_writing()
            held.full.set()

    monkeypatch.setattr(single_port, "_End", Watched)
    return held


class Fronted:
    """A single port before a gRPC server of the test."""

    def __init__(self, single: SinglePort, port: int, heard: asyncio.Queue[bytes]) -> None:
        self.single = single
        self.port = port
        self.heard = heard  #: what went to the HTTP server

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect a client."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def fronted(behave: Behave) -> AsyncIterator[Fronted]:
    """Listen on one port; the gRPC server behind it behaves as given."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with asyncio.timeout(PATIENCE), await asyncio.start_server(serve, BEHIND, 0) as server:
        single = SinglePort(lambda: _Http(heard), server.sockets[0].getsockname()[1])
        try:
            yield Fronted(single, await single.listen("127.0.0.1", 0), heard)
        finally:
            await single.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back after the client has ended its side."""
    writer.write(await reader.read())
    await writer.drain()


async def relay_something_else() -> None:
    """Let the event loop run for as long as it takes to relay 16 MiB on another connection, which is read at once."""
    async with fronted(echo) as front, front.connect() as (reader, writer):
        writer.write(PREFACE + CHUNK * 8)
        writer.write_eof()
        assert len(await reader.read()) == len(PREFACE) + 8 * len(CHUNK)


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut into single bytes."""
    return (data[at : at + 1] for at in range(len(data)))


@cases(b"GET / HTTP/1.1\r\n", b"POST", b"PRI * HTTP/1.1\r\n", b"PRIVATE", b"\x16\x03\x01", b"\n")
async def test_everything_else_is_http(start: bytes) -> None:
    """What does not begin as HTTP/2 goes to the HTTP server from its first byte, however it is cut."""
    async with fronted(echo) as front, front.connect() as (_, writer):
        for piece in pieces(start):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        received = b""
        while received != start:
            received += await front.heard.get()


async def test_an_answer_that_is_not_read_waits_at_the_server(buffered: Buffered) -> None:
    """Of 100 MiB the relay holds little while the client does not read; then all arrive in order."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        for _ in range(100):
            writer.write(CHUNK)
            await writer.drain()

    async with fronted(answer) as front, front.connect() as (reader, writer):
        writer.write(PREFACE)
        await buffered.full.wait()
        await relay_something_else()
        assert await reader.read() == CHUNK * 100
    assert buffered.most < SMALL


async def test_the_last_answers_are_delivered() -> None:
    """`close` delivers what the gRPC server sent before it closed its connections."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(CHUNK)

    async with fronted(answer) as front, front.connect() as (reader, writer):
        writer.write(PREFACE)
        first = await reader.readexactly(1)
        closing = asyncio.create_task(front.single.close())
        assert first + await reader.read() == CHUNK
        await closing


async def test_a_client_that_goes_frees_the_server() -> None:
    """The gRPC server sees that a client was disconnected."""
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(b"answer")
        with suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with fronted(wait) as front:
        async with front.connect() as (reader, writer):
            writer.write(PREFACE)
            assert await reader.readexactly(6) == b"answer"
            writer.transport.abort()
        await gone.wait()


async def test_a_server_that_has_stopped_ends_the_connection() -> None:
    """A client is disconnected at once if no gRPC server listens any more."""
    server = await asyncio.start_server(echo, BEHIND, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
    single = SinglePort(asyncio.Protocol, port)
    reader, writer = await asyncio.open_connection("127.0.0.1", await single.listen("127.0.0.1", 0))
    writer.write(PREFACE)
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    await single.close()
