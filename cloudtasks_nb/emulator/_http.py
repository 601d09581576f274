"""The HTTP face: what is not gRPC."""

from __future__ import annotations

import errno

from aiohttp import web

from cloudtasks_nb.errors import PortInUseError

__all__ = ["listen"]


async def listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Let a prepared application listen, and return its port.

    Raises
    ------
    PortInUseError
        If somebody else listens there.
    """
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortInUseError(
            f"port {port} is in use", hint="choose another one with --http-port; 0 takes a free one"
        ) from error
    return int(runner.addresses[0][1])
