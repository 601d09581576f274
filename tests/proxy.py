"""A TCP proxy on loopback, for connections that break."""

import asyncio

from cloudtasks_nb import _loop

_PATIENCE = 240.0  # seconds after which something that should happen counts as not happening


class Proxy:
    """A proxy that can cut and hold up what goes through it; it runs on the toolkit's loop."""

    def __init__(self, target: str) -> None:
        host, port = target.split(":")
        self._target = (host, int(port))
        self._writers: set[asyncio.StreamWriter] = set()
        self._asleep: set[asyncio.StreamWriter] = set()
        self.connections = 0
        self._server = _loop.run(asyncio.start_server(self._serve, "127.0.0.1", 0), _PATIENCE)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def reset(self) -> None:
        """Cut every connection."""
        _loop.run(self._cut(), _PATIENCE)

    def sleep(self) -> None:
        """Carry nothing more over the connections that are open, which stay open."""
        self._asleep |= self._writers

    def close(self) -> None:
        """Cut every connection and end."""
        _loop.call_soon(self._server.close)
        self.reset()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                if sink not in self._asleep:
                    sink.write(piece)
                    await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()
