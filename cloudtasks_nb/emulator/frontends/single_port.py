"""gRPC and HTTP on one port (``--single-port``): the first bytes of a connection tell which of them it speaks.

A connection of HTTP is handed to the HTTP server. One of gRPC is relayed to the gRPC server, which listens on a port of
the loopback, because it takes no connection that was accepted elsewhere.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from cloudtasks_nb.emulator.frontends.http import cannot_listen

__all__ = ["BEHIND", "SinglePort", "relay"]

#: Where the gRPC server listens.
BEHIND = "127.0.0.1"
# How every connection of HTTP/2 begins (https://www.rfc-editor.org/rfc/rfc9113#section-3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n"
# The first of the two that a client offers too is taken. Web browsers and curl offer both, and gRPC offers h2 only.
_PROTOCOLS = ("http/1.1", "h2")
_BACKLOG = 1024
# Seconds.
_GRACE = 1.0
# The gRPC server disconnects a client that leaves its answers unread for this time, but sees only the relay.
_READ_WITHIN = 90.0


class SinglePort:
    """Accepts connections and passes them to the server of their protocol.

    Parameters
    ----------
    http : callable
        Returns the protocol of a new HTTP connection.
    grpc_port : int
        The gRPC server's port at `BEHIND`, without TLS.
    """

    def __init__(self, http: Callable[[], asyncio.Protocol], grpc_port: int) -> None:
        self._http = http
        self._grpc_port = grpc_port
        self._server: asyncio.Server | None = None
        self._undecided: set[asyncio.Transport] = set()
        self._relays: dict[asyncio.Task[None], asyncio.Transport] = {}

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Start to listen, and return the port.

        Raises
        ------
        PortInUseError
            If another program listens there.
        """
        if tls is not None:
            tls.set_alpn_protocols(_PROTOCOLS)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Undecided(self._undecided, self._decide), host, port, ssl=tls, backlog=_BACKLOG
            )
        except OSError as error:
            raise cannot_listen(error, host, port, "--port") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Close all connections but those of HTTP; the gRPC server has stopped, and its last answers are delivered."""
        if self._server is not None:
            self._server.close()
        for transport in self._undecided:
            transport.abort()
        if self._relays:
            await asyncio.wait(self._relays, timeout=_GRACE)
        for task, transport in self._relays.items():
            task.cancel()
            transport.abort()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _decide(self, transport: asyncio.Transport, received: bytes) -> None:
        """Pass a connection on, with what was received so far."""
        if received.startswith(_PREFACE):
            task = asyncio.create_task(relay(transport, received, BEHIND, self._grpc_port))
            self._relays[task] = transport
            task.add_done_callback(self._relays.pop)
        else:
            _hand_over(transport, self._http(), received)


class _Undecided(asyncio.Protocol):
    """A connection that has not shown its protocol yet."""

    def __init__(self, undecided: set[asyncio.Transport], decide: Callable[[asyncio.Transport, bytes], None]) -> None:
        self._undecided = undecided
        self._decide = decide
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._undecided.add(transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.startswith(_PREFACE) or not _PREFACE.startswith(self._received):
            self._undecided.discard(self._transport)
            self._decide(self._transport, self._received)

    def connection_lost(self, _: Exception | None) -> None:
        self._undecided.discard(self._transport)


def _hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol, received: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(received)


async def relay(transport: asyncio.Transport, received: bytes, host: str, port: int) -> None:
    """Connect a client, of whom so much was received, with a server until both ends are closed."""
    transport.pause_reading()
    client = _End()
    try:
        _, server = await asyncio.get_running_loop().create_connection(_End, host, port)
    except OSError:  # the server has stopped
        transport.abort()
        return
    if transport.is_closing():
        server.transport.abort()
        return
    client.other, server.other = server, client
    _hand_over(transport, client, received)
    transport.resume_reading()
    await asyncio.wait((client.closed, server.closed))


class _End(asyncio.Protocol):
    """One end of a relayed connection: what it receives is sent to the other end, as fast as that one takes it."""

    other: _End

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = asyncio.get_running_loop().create_future()
        self.ended = False  # it sends no more
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        """End the other direction's input; return whether the connection stays open for answers."""
        self.ended = True
        # TLS has no connections that are closed in one direction only.
        if self.other.ended or not (self.transport.can_write_eof() and self.other.transport.can_write_eof()):
            return False
        self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()
        self._start_timer()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()
        self._stop_timer()

    def connection_lost(self, _: Exception | None) -> None:
        self._stop_timer()
        if not self.closed.done():
            self.closed.set_result(None)
        self.other.finish()

    def finish(self) -> None:
        """Close the connection as soon as everything is sent."""
        self.transport.close()
        if not self.closed.done():
            self._start_timer()

    def _start_timer(self) -> None:
        # A reader that is paused does not see that its connection was closed, so that the time must be limited here.
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_READ_WITHIN, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
