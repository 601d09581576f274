"""An HTTP proxy that leads the names of Google's hosts and of services to a strict emulator (``--proxy-port``).

With ``HTTPS_PROXY`` a client that knows only Google's own addresses uses the emulator: no endpoint is configured, and
the files of ``gcloud auth application-default login`` work.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from cloudtasks_nb.emulator.frontends.http import cannot_listen
from cloudtasks_nb.emulator.frontends.single_port import relay
from cloudtasks_nb.emulator.strict.permissions import GOOGLE_HOSTS

__all__ = ["Proxy"]

_MOST = 1 << 20  # bytes: more than a stream keeps
_RUN = ".run.app"  # services of Cloud Run
_WITHIN = 10.0  # seconds
# As a client offers it in its first TLS message. gRPC offers nothing else, and HTTP clients of Python do not offer it.
_HTTP2 = b"\x02h2"


class Proxy:
    """Answers ``CONNECT`` requests.

    Parameters
    ----------
    host : str
        The emulator's address.
    grpc, http : int
        The emulator's ports.
    only : bool
        Refuse connections to all other hosts.
    """

    def __init__(self, host: str, grpc: int, http: int, *, only: bool) -> None:
        self._only = only
        self._host = host
        self._grpc = grpc
        self._http = http
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> int:
        """Start to listen, and return the port.

        Raises
        ------
        PortInUseError
            If another program listens there.
        """
        try:
            self._server = await asyncio.start_server(self._serve, self._host, port)
        except OSError as error:
            raise cannot_listen(error, self._host, port, "--proxy-port") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                host, _, port = rest.partition(" ")[0].rpartition(":")
                ours = host in GOOGLE_HOSTS or (self._only and host.endswith(_RUN))
                if method != "CONNECT" or not (ours or (port.isdecimal() and not self._only)):
                    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    writer.close()
                    return
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                first = await reader.read(_MOST)
            transport: Any = writer.transport
            address = (
                (self._host, self._grpc if _HTTP2 in first else self._http) if ours else (host.strip("[]"), int(port))
            )
            await relay(transport, first, *address)
        writer.close()
